//! Fast convolutions on every instruction set against the naive `f64` backend.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::time::Instant;

use super::conv::{Method, run_method};
use super::gemm::Finish;
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
        run_method(cpu, method, &self.input(cpu), &self.weight(cpu), &Finish::default(), &mut out).unwrap();
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

/// Sizes that are no multiple of a tile, and channels that are none of a vector, as `method` needs them; the enlarging
/// methods also where the one before makes an odd size.
fn cases(method: Method) -> Vec<Case> {
    let sizes =
        [(1, 1, 8, 8), (1, 9, 17, 3), (9, 1, 130, 33), (7, 5, 40, 70), (4, 4, 1, 1), (8, 13, 300, 16)];
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
    let (direct, fast) = (case.computed(&cpu, Method::Direct), case.computed(&cpu, Method::Winograd4));
    assert!(direct != fast);
    let run = |cpu: &Cpu| {
        cpu.conv2d(&case.input(cpu), &case.weight(cpu), Epilogue::default()).unwrap().values().to_vec()
    };
    let strict = cpu.with_strict(true);
    assert!(run(&cpu) == fast && run(&cpu.session().unwrap()) == fast);
    assert!(run(&strict) == direct && run(&strict.with_strict(false)) == fast);
    assert!(run(&strict.session().unwrap()) == direct);
    assert!(run(&strict.with_cancel(&Cancel::default())) == direct);
}

#[test]
fn an_empty_batch_is_no_work() {
    for simd in Simd::available() {
        let cpu = Cpu::with_simd(2, None, simd).unwrap();
        for method in METHODS {
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
        assert!(grown < threads as u64 * (6 << 20), "{grown} bytes for {threads} threads");
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

#[test]
#[ignore = "a measurement"]
fn fast_against_direct() {
    let threads = std::env::var("BENCH_THREADS").map_or(1, |n| n.parse().unwrap());
    let rounds = std::env::var("BENCH_ROUNDS").map_or(7, |n| n.parse().unwrap());
    let mut cases = Vec::new();
    for n in [1, 2] {
        for (side, i, o) in
            [(64, 320, 320), (64, 640, 320), (32, 640, 640), (16, 1280, 1280), (8, 1280, 1280)]
        {
            cases.push((Case::same(n, side, side, i, o), vec![Method::Winograd4, Method::Winograd2]));
        }
    }
    for (side, i) in [(64, 512), (128, 512), (256, 256), (512, 128)] {
        cases.push((Case::same(1, side, side, i, i), vec![Method::Winograd4]));
    }
    let only = std::env::var("BENCH_ONLY")
        .ok()
        .map(|n| n.split(',').map(|n| n.parse::<usize>().unwrap()).collect::<Vec<_>>());
    for simd in Simd::available().into_iter().rev().take(2) {
        if std::env::var("BENCH_SIMD").is_ok_and(|name| name != simd.name()) {
            continue;
        }
        let cpu = Cpu::with_simd(threads, None, simd).unwrap();
        for (index, (case, methods)) in cases.iter().enumerate() {
            if only.as_ref().is_some_and(|only| !only.contains(&index)) {
                continue;
            }
            let (x, weight) = (case.input(&cpu), case.weight(&cpu));
            let mut out = cpu.tensor(case.output(), "test").unwrap();
            let mut time = |method| {
                let start = Instant::now();
                run_method(&cpu, method, &x, &weight, &Finish::default(), &mut out).unwrap();
                start.elapsed().as_secs_f64()
            };
            let flops = (2 * 9 * case.inputs * case.output().len()) as f64;
            let mut times = vec![Vec::new(); methods.len() + 1];
            for _ in 0..rounds {
                times[0].push(time(Method::Direct));
                for (i, method) in methods.iter().enumerate() {
                    times[i + 1].push(time(*method));
                }
            }
            let medians: Vec<f64> = times
                .into_iter()
                .map(|mut times| {
                    times.sort_by(f64::total_cmp);
                    times[times.len() / 2]
                })
                .collect();
            let rates: Vec<String> = medians
                .iter()
                .map(|t| format!("{:.2} ms {:.0} GF/s x{:.2}", t * 1e3, flops / t * 1e-9, medians[0] / t))
                .collect();
            println!(
                "{:<8} {}x{}x{} {}->{}: {}",
                simd.name(),
                case.n,
                case.h,
                case.w,
                case.inputs,
                case.outputs,
                rates.join(" | ")
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn choices() {
    let rounds: usize = std::env::var("BENCH_ROUNDS").map_or(9, |n| n.parse().unwrap());
    for simd in Simd::available().into_iter().rev().take(2) {
        let cpu = Cpu::with_simd(1, None, simd).unwrap();
        for (i, o) in [
            (32, 32),
            (64, 64),
            (128, 128),
            (320, 320),
            (640, 640),
            (1280, 1280),
            (4, 320),
            (320, 4),
            (3, 128),
            (128, 3),
            (512, 8),
            (16, 16),
            (2560, 1280),
        ] {
            for (h, w) in [
                (1, 1),
                (2, 2),
                (3, 3),
                (4, 4),
                (5, 5),
                (6, 6),
                (7, 7),
                (8, 8),
                (9, 9),
                (12, 12),
                (13, 13),
                (16, 16),
                (64, 64),
                (1, 64),
            ] {
                if h * w * i * o > 64 * 64 * 320 * 320 {
                    continue;
                }
                let case = Case::same(1, h, w, i, o);
                let (x, weight) = (case.input(&cpu), case.weight(&cpu));
                let mut out = cpu.tensor(case.output(), "test").unwrap();
                let repeats = (2_000_000 / (h * w * i * o)).max(1);
                let mut times = [(); 3].map(|()| Vec::new());
                for _ in 0..rounds {
                    for (method, times) in
                        [Method::Direct, Method::Winograd4, Method::Winograd2].into_iter().zip(&mut times)
                    {
                        let start = Instant::now();
                        for _ in 0..repeats {
                            run_method(&cpu, method, &x, &weight, &Finish::default(), &mut out).unwrap();
                        }
                        times.push(start.elapsed().as_secs_f64() / repeats as f64);
                    }
                }
                let m = times.map(|mut t| {
                    t.sort_by(f64::total_cmp);
                    t[t.len() / 2]
                });
                let choice = weight.method(cpu.device.kernels, h, w, false);
                let chosen = match choice {
                    Method::Direct => m[0],
                    Method::Winograd4 => m[1],
                    _ => m[2],
                };
                let best = m.iter().copied().fold(f64::INFINITY, f64::min);
                println!(
                    "{:<8} {h}x{w} {i}->{o}: direct {:.3} ms, F4 x{:.2}, F2 x{:.2}; {choice:?}{}",
                    simd.name(),
                    m[0] * 1e3,
                    m[0] / m[1],
                    m[0] / m[2],
                    if chosen > 1.1 * best { format!(" REGRET {:.2}", chosen / best) } else { String::new() }
                );
            }
        }
    }
}
