//! Once its first step is done, a run asks the allocator for nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use diffusion::sampling::{
    Clip, Noise, NoiseStream, Options, Plan, PredictionType, Run, SAMPLERS, SchedulerConfig,
};

thread_local! {
    // Each test has a thread of its own, so that others do not count.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to `System` as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are `System`'s, where `ptr` comes from.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steps_do_not_allocate() {
    const SEEDS: [u64; 2] = [1, 2];
    for sampler in SAMPLERS.iter().map(|info| info.sampler) {
        for (prediction_type, clip) in
            [("epsilon", Clip::None), ("flow_prediction", Clip::Dynamic { ratio: 0.9, max: 2.0 })]
        {
            let json =
                format!(r#"{{"_class_name": "DDIMScheduler", "prediction_type": "{prediction_type}"}}"#);
            let config = SchedulerConfig::parse(&json).unwrap();
            assert_eq!(config.prediction_type.name(), prediction_type);
            let options = Options {
                sampler: Some(sampler),
                eta: Some(1.0),
                s_churn: 4.0,
                clip: Some(clip),
                // A flow's spaced levels are another matter.
                sigmas: (config.prediction_type == PredictionType::Flow)
                    .then(|| (0..=40).map(|i| 1.0 - f64::from(i) / 40.0).collect()),
                ..Options::new(40)
            };
            let plan = Arc::new(Plan::new(&config, &options).unwrap());
            let streams = SEEDS.map(|seed| NoiseStream::new(Noise::Mt19937, seed)).to_vec();
            let noise = plan.noise_source(streams, &SEEDS, 2 * 1031).unwrap();
            let mut run = Run::new(plan, vec![0.5; 2 * 1031], SEEDS.len(), noise).unwrap();
            let mut first = None;
            while !run.is_done() {
                run.step(&mut |evaluation, prediction, unconditional| {
                    for out in [prediction, unconditional] {
                        out.iter_mut().zip(evaluation.input).for_each(|(out, x)| *out = 0.5 * x);
                    }
                    Ok(())
                })
                .unwrap();
                first.get_or_insert(ALLOCATIONS.get());
            }
            let allocations = ALLOCATIONS.get() - first.unwrap();
            assert_eq!(allocations, 0, "{sampler:?} {prediction_type}");
        }
    }
    assert!(ALLOCATIONS.get() > 0, "the allocator does not count");
}
