//! Fast convolutions on every instruction set against the naive `f64` backend.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Instant;

use super::conv::{Method, Source, run_method};
use super::finish::Finish;
use super::*;
use crate::backend::reference::Reference;
use crate::testing::relative_l2;

/// Values that look normal, from a seed (splitmix64, sums of four).
fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.7).collect()
}

fn bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    let values = values.iter().copied();
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::Bf16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// A 3×3 convolution that keeps the size, or doubles it.
#[derive(Debug, Clone, Copy)]
struct Case {
    n: usize,
    h: usize,
    w: usize,
    inputs: usize,
    outputs: usize,
    dtype: DType,
    /// The size of the output of an enlarging one.
    enlarged: Option<(usize, usize)>,
}

impl Case {
    const fn same(n: usize, h: usize, w: usize, inputs: usize, outputs: usize) -> Self {
        Self { n, h, w, inputs, outputs, dtype: DType::F16, enlarged: None }
    }

    fn geometry(&self) -> ConvGeometry {
        ConvGeometry { upsample: self.enlarged.is_some(), ..ConvGeometry::same(3) }
    }

    fn input<B: Backend>(&self, b: &B) -> B::Tensor {
        let len = self.h * self.w * self.inputs;
        let values: Vec<f32> = (0..self.n).flat_map(|image| random(len, 3 + 1000 * image as u64)).collect();
        b.upload(Shape::image(self.n, self.h, self.w, self.inputs), &values).unwrap()
    }

    fn weight<B: Backend>(&self, b: &B) -> B::Conv2d {
        let shape = [self.outputs, self.inputs, 3, 3];
        let weight = bytes(&random(shape.iter().product(), 1), self.dtype);
        let bias = bytes(&random(self.outputs, 2), self.dtype);
        b.prepare_conv2d(
            Weight { dtype: self.dtype, shape: &shape, bytes: &weight },
            Some(Weight { dtype: self.dtype, shape: &shape[..1], bytes: &bias }),
            self.geometry(),
        )
        .unwrap()
    }

    fn output(&self) -> Shape {
        let (h, w) = self.enlarged.unwrap_or((self.h, self.w));
        Shape::image(self.n, h, w, self.outputs)
    }

    fn expected(&self) -> Vec<f32> {
        let b = Reference::default();
        let (x, weight) = (self.input(&b), self.weight(&b));
        let y = match self.enlarged {
            None => b.conv2d(&x, &weight, Epilogue::default()),
            Some((h, w)) => b.upsample_conv2d(&x, &weight, h, w),
        };
        y.unwrap().values
    }

    fn computed(&self, cpu: &Cpu, method: Method) -> Vec<f32> {
        let mut out = cpu.tensor(self.output(), "test").unwrap();
        let (x, weight) = (self.input(cpu), self.weight(cpu));
        let target = Target(out.values_mut().as_mut_ptr());
        run_method(cpu, method, &Source::whole(&x), &weight, self.output(), &Finish::default(), target)
            .unwrap();
        out.values().to_vec()
    }
}

const METHODS: [Method; 4] = [Method::Winograd4, Method::Winograd2, Method::Enlarged, Method::Phases];

/// Relative L2 that a method may be off, about twice what was measured: the direct one is at 3e-7.
fn bound(method: Method) -> f64 {
    match method {
        Method::Direct | Method::Phases => 5e-7,
        Method::Winograd2 => 1e-6,
        Method::Winograd4 => 3e-6,
        Method::Enlarged => 5e-6,
    }
}

/// Sizes that are no multiple of a tile, and channels that are none of a vector and several blocks, as `method` needs
/// them; the enlarging methods also where the one before makes an odd size.
fn cases(method: Method) -> Vec<Case> {
    let sizes =
        [(1, 1, 8, 8), (1, 9, 17, 3), (9, 1, 130, 33), (7, 5, 40, 70), (8, 13, 530, 16), (4, 4, 1, 1)];
    let mut cases = Vec::new();
    for (i, (h, w, inputs, outputs)) in sizes.into_iter().enumerate() {
        let dtype = [DType::F32, DType::F16, DType::Bf16][i % 3];
        let case = Case { dtype, ..Case::same(3, h, w, inputs, outputs) };
        let enlarged = |height, width| Case { enlarged: Some((height, width)), ..case };
        match method {
            Method::Enlarged | Method::Phases => cases.push(enlarged(2 * h, 2 * w)),
            _ => {
                cases.extend([case, enlarged(2 * h - 1, 2 * w), enlarged(2 * h, 2 * w - 1)]);
            }
        }
    }
    cases
}

#[test]
fn every_method_is_close_to_f64() {
    for method in METHODS {
        for case in cases(method) {
            let expected = case.expected();
            for simd in Simd::available() {
                let cpu = Cpu::with_simd(2, None, simd).unwrap();
                let error = relative_l2(&case.computed(&cpu, method), &expected);
                assert!(
                    error < bound(method),
                    "{case:?} by {method:?} with {simd:?}: relative error {error:e}"
                );
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_threads_or_batch() {
    for simd in Simd::available() {
        let one = Cpu::with_simd(1, None, simd).unwrap();
        for method in METHODS {
            for case in cases(method) {
                let batch = case.computed(&one, method);
                for threads in [2, 7] {
                    let several = Cpu::with_simd(threads, None, simd).unwrap();
                    assert!(case.computed(&several, method) == batch, "{case:?} by {method:?} with {simd:?}");
                }
                // The first images alone, and with one more.
                for n in [1, 2] {
                    let some = Case { n, ..case }.computed(&one, method);
                    assert!(some == batch[..some.len()], "{case:?} by {method:?} with {simd:?}, {n} images");
                }
            }
        }
    }
}

/// Many tiles and panels, so that one thread has several tasks, and threads cut them otherwise.
#[test]
fn large_images_do_not_depend_on_threads() {
    let case = Case::same(1, 61, 64, 96, 200);
    let one = Cpu::new(1, None).unwrap();
    let expected = case.computed(&one, Method::Winograd4);
    assert!(relative_l2(&expected, &case.computed(&one, Method::Direct)) < bound(Method::Winograd4));
    for threads in [2, 3, 16] {
        let several = Cpu::new(threads, None).unwrap();
        assert!(case.computed(&several, Method::Winograd4) == expected, "{threads} threads");
    }
}

/// `conv2d` with everything that an epilogue has.
fn with_epilogue<B: Backend>(b: &B, case: &Case) -> Vec<f32> {
    let shape = case.output();
    let residual = b.upload(shape, &random(shape.len(), 7)).unwrap();
    let vector = b.upload(Shape::vector(shape.n, shape.c), &random(shape.n * shape.c, 8)).unwrap();
    let epilogue = Epilogue {
        activation: Some(Activation::Silu),
        channel_bias: Some(&vector),
        residual: Some(&residual),
    };
    let y = b.conv2d(&case.input(b), &case.weight(b), epilogue).unwrap();
    let mut values = vec![0.0; shape.len()];
    b.download(&y, &mut values).unwrap();
    values
}

#[test]
fn epilogues_are_applied() {
    for (side, chosen) in [(6, Method::Winograd2), (16, Method::Winograd4)] {
        let case = Case::same(2, side, side, 33, 70);
        let expected = with_epilogue(&Reference::default(), &case);
        for simd in Simd::available() {
            for strict in [false, true] {
                let cpu = Cpu::with_simd(2, None, simd).unwrap().with_strict(strict);
                let method = case.weight(&cpu).method(cpu.device.kernels, side, side, strict);
                assert_eq!(method, if strict { Method::Direct } else { chosen }, "{case:?} with {simd:?}");
                let error = relative_l2(&with_epilogue(&cpu, &case), &expected);
                assert!(error < bound(method), "{case:?} with {simd:?}, {strict}: relative error {error:e}");
            }
        }
    }
}

/// `upsample_conv2d` as models call it.
fn enlarged(cpu: &Cpu, case: &Case) -> Vec<f32> {
    let Shape { h, w, .. } = case.output();
    let y = cpu.upsample_conv2d(&case.input(cpu), &case.weight(cpu), h, w).unwrap();
    y.values().to_vec()
}

#[test]
fn enlarging_works_at_odd_sizes_too() {
    let cpu = Cpu::new(2, None).unwrap();
    for (h, w) in [(12, 14), (11, 14), (12, 13), (11, 13)] {
        let case = Case { enlarged: Some((h, w)), ..Case::same(2, 6, 7, 40, 20) };
        let expected = case.expected();
        let weight = case.weight(&cpu);
        for strict in [false, true] {
            let method = weight.method(cpu.device.kernels, h, w, strict);
            let even = h % 2 == 0 && w % 2 == 0;
            assert_eq!(matches!(method, Method::Enlarged | Method::Phases), even, "{h} × {w}");
            let error = relative_l2(&enlarged(&cpu.with_strict(strict), &case), &expected);
            assert!(error < bound(method), "{h} × {w} by {method:?}: relative error {error:e}");
        }
    }
}

#[test]
fn strict_is_the_definition_and_stays_with_sessions() {
    let cpu = Cpu::new(2, None).unwrap();
    let case = Case::same(1, 16, 16, 32, 32);
    let strict = cpu.with_strict(true);
    let (direct, fast) = (case.computed(&strict, Method::Direct), case.computed(&cpu, Method::Winograd4));
    assert!(direct != fast);
    let run = |cpu: &Cpu| {
        cpu.conv2d(&case.input(cpu), &case.weight(cpu), Epilogue::default()).unwrap().values().to_vec()
    };
    assert!(run(&cpu) == fast && run(&cpu.session().unwrap()) == fast);
    assert!(run(&strict) == direct && run(&strict.with_strict(false)) == fast);
    assert!(run(&strict.session().unwrap()) == direct);
    assert!(run(&strict.with_cancel(&Cancel::default())) == direct);
}

#[test]
fn an_empty_batch_is_no_work() {
    for simd in Simd::available() {
        let cpu = Cpu::with_simd(2, None, simd).unwrap();
        for method in METHODS.into_iter().chain([Method::Direct]) {
            for case in cases(method) {
                assert!(Case { n: 0, ..case }.computed(&cpu, method).is_empty(), "{case:?} by {method:?}");
            }
        }
    }
}

#[test]
fn the_choice_is_as_measured() {
    let cpu = Cpu::new(1, None).unwrap();
    let method =
        |case: Case| case.weight(&cpu).method(cpu.device.kernels, case.output().h, case.output().w, false);
    for (h, w, inputs, outputs, expected) in [
        (64, 64, 320, 320, Method::Winograd4),
        (32, 32, 640, 640, Method::Winograd4),
        (8, 8, 320, 640, Method::Winograd4),
        (6, 6, 320, 320, Method::Winograd2),
        (4, 4, 320, 320, Method::Winograd2),
        (3, 3, 320, 320, Method::Direct),
        (1, 64, 320, 320, Method::Direct),
        (64, 64, 4, 320, Method::Direct),
        (64, 64, 320, 4, Method::Winograd4),
    ] {
        // The batch makes no difference.
        for n in [0, 1, 9] {
            assert_eq!(
                method(Case::same(n, h, w, inputs, outputs)),
                expected,
                "{h} × {w}, {inputs} → {outputs}"
            );
        }
    }
    for geometry in [
        ConvGeometry { stride: 2, ..ConvGeometry::same(3) },
        ConvGeometry { padding: [0, 1, 1, 1], ..ConvGeometry::same(3) },
        ConvGeometry { upsample: true, padding: [0, 1, 2, 1], ..ConvGeometry::same(3) },
    ] {
        let weight = CpuConv2d { geometry, ..Case::same(1, 64, 64, 32, 32).weight(&cpu) };
        assert_eq!(weight.method(cpu.device.kernels, 64, 64, false), Method::Direct, "{geometry:?}");
    }
}

#[test]
fn working_memory_is_bounded() {
    // 640 channels at 32 × 32 from 1920, the most that Stable Diffusion 1.5 has at that size.
    let case = Case::same(1, 32, 32, 1920, 640);
    for threads in [1, 3] {
        let cpu = Cpu::new(threads, None).unwrap();
        let weight = case.weight(&cpu);
        let x = case.input(&cpu);
        let before = cpu.memory_used() + 4 * case.output().len() as u64;
        cpu.conv2d(&x, &weight, Epilogue::default()).unwrap();
        let grown = cpu.memory_peak() - before;
        assert!(grown <= threads as u64 * (6 << 20), "{grown} bytes for {threads} threads");
    }
}

#[test]
fn cancelling_stops_a_convolution() {
    let cpu = Cpu::new(1, None).unwrap();
    let cancel = Cancel::default();
    let case = Case::same(1, 128, 128, 256, 256);
    let (x, weight) = (case.input(&cpu), case.weight(&cpu));
    let job = cpu.with_cancel(&cancel);
    let error = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // Long enough to be stopped in the middle; the first error ends it.
            (0..1000).find_map(|_| job.conv2d(&x, &weight, Epilogue::default()).err())
        });
        std::thread::sleep(std::time::Duration::from_millis(30));
        cancel.cancel();
        worker.join().unwrap().unwrap()
    });
    assert_eq!(error.status(), crate::util::error::Status::Cancelled);
}

/// The threads to measure with.
fn bench_threads() -> usize {
    std::env::var("BENCH_THREADS").map_or(1, |threads| threads.parse().unwrap())
}

/// The fastest of many calls of the micro-kernel on data in the L1 cache, in operations a second: the most that a direct
/// convolution can reach on one thread.
fn micro_kernel_rate(simd: Simd) -> f64 {
    let kernels = Kernels::new(simd);
    let (mr, nr, k) = (kernels.mr, kernels.nr, 64);
    let (a, b, mut c) = (vec![0.5; mr * k], vec![0.25; nr * k], vec![0.0; mr * nr]);
    let rows: Vec<*const f32> = a.chunks_exact(k).map(<[f32]>::as_ptr).collect();
    let mut best = f64::INFINITY;
    for _ in 0..200 {
        let start = Instant::now();
        for _ in 0..100 {
            let tile = kernel::Tile {
                rows: rows.as_ptr(),
                next: rows[0],
                offset: 0,
                taps: 1,
                k,
                b: b.as_ptr(),
                c: c.as_mut_ptr(),
                stride: nr,
                add: std::ptr::null(),
                add_stride: 0,
                bias: std::ptr::null(),
            };
            // SAFETY: a tile of `mr` rows and `nr` columns, whose sizes are those of the vectors.
            unsafe { kernels.tile(mr, nr)(&tile) };
        }
        best = best.min(start.elapsed().as_secs_f64() / 100.0);
    }
    (2 * mr * nr * k) as f64 / best
}

/// Median times of the methods in turn, in seconds.
fn medians(cpu: &Cpu, case: &Case, methods: &[Method], rounds: usize) -> Vec<f64> {
    let (x, weight) = (case.input(cpu), case.weight(cpu));
    let mut out = cpu.tensor(case.output(), "test").unwrap();
    // Small ones several times, for the clock's sake.
    let repeats = (4_000_000 / (case.output().len() * case.inputs)).max(1);
    let mut times = vec![Vec::new(); methods.len()];
    for _ in 0..rounds {
        for (method, times) in methods.iter().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..repeats {
                let target = Target(out.values_mut().as_mut_ptr());
                let source = Source::whole(&x);
                run_method(cpu, *method, &source, &weight, case.output(), &Finish::default(), target)
                    .unwrap();
            }
            times.push(start.elapsed().as_secs_f64() / repeats as f64);
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

/// What benches/results/2026-11-25-winograd.md shows: `cargo test --release --lib fast_against_direct -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn fast_against_direct() {
    let threads = bench_threads();
    for simd in Simd::available().into_iter().rev().take(2) {
        let cpu = Cpu::with_simd(threads, None, simd).unwrap();
        let run = |case: Case, methods: &[Method]| {
            // Measured here and now: other work on the machine slows both.
            let peak = micro_kernel_rate(simd) * threads as f64;
            let times = medians(&cpu, &case, methods, 7);
            let Shape { n, h, w, c } = case.output();
            let flops = (2 * 9 * case.inputs * n * h * w * c) as f64;
            let columns = methods.iter().zip(&times).map(|(method, time)| {
                let (rate, share) = (flops / time * 1e-9, flops / time / peak * 100.0);
                format!(
                    "{method:?} {:.1} ms, {rate:.0} GFLOP/s, {share:.0} %, ×{:.2}",
                    time * 1e3,
                    times[0] / time
                )
            });
            let columns: Vec<String> = columns.collect();
            println!("{} | {n}×{h}×{w} {}→{c} | {}", simd.name(), case.inputs, columns.join(" | "));
        };
        for n in [1, 2] {
            for (side, inputs, outputs) in
                [(64, 320, 320), (64, 640, 320), (32, 640, 640), (16, 1280, 1280), (8, 1280, 1280)]
            {
                let methods = [Method::Direct, Method::Winograd4, Method::Winograd2];
                run(Case::same(n, side, side, inputs, outputs), &methods);
            }
        }
        for (side, channels) in [(64, 512), (128, 512), (256, 256), (512, 128)] {
            run(Case::same(1, side, side, channels, channels), &[Method::Direct, Method::Winograd4]);
        }
        for (n, side, channels) in [(2, 8, 1280), (2, 16, 1280), (2, 32, 640), (1, 64, 512), (1, 128, 512)] {
            let case = Case::same(n, side, side, channels, channels);
            let case = Case { enlarged: Some((2 * side, 2 * side)), ..case };
            run(case, &[Method::Direct, Method::Phases, Method::Enlarged]);
        }
    }
}

/// How often the rule of `conv.rs` chooses something slower than the best by more than a tenth.
#[test]
#[ignore = "a measurement"]
fn choices_against_times() {
    let pairs =
        [(16, 16), (32, 32), (64, 64), (128, 128), (320, 320), (640, 640), (1280, 1280), (2560, 1280)];
    let ends = [(4, 320), (320, 4), (3, 128), (128, 3), (512, 8)];
    let mut sizes: Vec<_> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 64].map(|side| (side, side)).to_vec();
    sizes.push((1, 64));
    let methods = [Method::Direct, Method::Winograd4, Method::Winograd2];
    for simd in Simd::available().into_iter().rev().take(2) {
        let cpu = Cpu::with_simd(bench_threads(), None, simd).unwrap();
        for (inputs, outputs) in pairs.into_iter().chain(ends) {
            for &(h, w) in sizes.iter().filter(|(h, w)| h * w * inputs * outputs <= 64 * 64 * 320 * 320) {
                let case = Case::same(1, h, w, inputs, outputs);
                let times = medians(&cpu, &case, &methods, 7);
                let choice = case.weight(&cpu).method(cpu.device.kernels, h, w, false);
                let chosen = methods.iter().position(|method| *method == choice).unwrap();
                let best = times.iter().copied().fold(f64::INFINITY, f64::min);
                let [_, four, two] = [0, 1, 2].map(|i| times[0] / times[i]);
                let lost = if times[chosen] > 1.1 * best { times[chosen] / best } else { 1.0 };
                println!(
                    "{} | {h}×{w} {inputs}→{outputs} | direct {:.3} ms | F(4×4) ×{four:.2} | F(2×2) ×{two:.2} | \
                     {choice:?} | {lost:.2}",
                    simd.name(),
                    times[0] * 1e3,
                );
            }
        }
    }
}
