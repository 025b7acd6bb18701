//! What a sampler costs besides the model: the time of a step with a model that answers at once, for the latents
//! of models/emoji-64 (16×16×4) and Stable Diffusion's (64×64×4). Divide by a guided U-Net step of `benches/models.rs`.

#![allow(clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use diffusion::sampling::{
    Evaluation, Noise, NoiseStream, Options, Plan, PredictionType, Run, SAMPLERS, SchedulerConfig,
};

const STEPS: usize = 20;
const CONFIG: &str = r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}"#;

/// Time of one whole run but for its start.
fn run(plan: &Arc<Plan>, len: usize) -> Duration {
    let stream = NoiseStream::new(Noise::Philox, 1);
    let noise = plan.noise_source(vec![stream.clone()], &[1], len).expect("there is memory");
    let mut latents = vec![0.0; len];
    stream.clone().normal(&mut latents);
    let mut run = Run::new(plan.clone(), latents, 1, noise).expect("there is memory");
    let mut answer = |_: Evaluation<'_>, _: &mut [f32], _: &mut [f32]| Ok(());
    let start = Instant::now();
    while !run.is_done() {
        run.step(&mut answer).expect("zeros are finite");
    }
    start.elapsed()
}

fn sampling(c: &mut Criterion) {
    let config = SchedulerConfig::parse(CONFIG).expect("the config is valid");
    assert_eq!(config.prediction_type, PredictionType::VPrediction);
    let mut group = c.benchmark_group("sampler step");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    for info in SAMPLERS {
        let options = Options { sampler: Some(info.sampler), ..Options::new(STEPS) };
        let plan = Arc::new(Plan::new(&config, &options).expect("every sampler takes v_prediction"));
        for len in [16 * 16 * 4, 64 * 64 * 4] {
            group.bench_with_input(BenchmarkId::new(info.name, len), &len, |b, len| {
                b.iter_custom(|runs| {
                    (0..runs).map(|_| run(&plan, *len)).sum::<Duration>() / plan.len() as u32
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sampling);
criterion_main!(benches);
