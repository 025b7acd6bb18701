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

#[test]
fn every_method_is_close_to_f64() {
    let mut worst = [0.0_f64; 4];
    for simd in Simd::available() {
        let cpu = Cpu::with_simd(2, None, simd).unwrap();
        for (h, w, inputs, outputs) in
            [(1, 1, 8, 8), (5, 7, 130, 40), (8, 8, 64, 70), (1, 9, 17, 3), (9, 1, 300, 33), (12, 12, 320, 16)]
        {
            let case = Case::same(2, h, w, inputs, outputs);
            let enlarged = Case { enlarged: Some((2 * h, 2 * w)), ..case };
            let odd = Case { enlarged: Some((2 * h - 1, 2 * w)), ..case };
            for (i, (case, method)) in [
                (case, Method::Winograd4),
                (case, Method::Winograd2),
                (enlarged, Method::Enlarged),
                (enlarged, Method::Phases),
                (odd, Method::Winograd4),
                (odd, Method::Winograd2),
            ]
            .into_iter()
            .enumerate()
            {
                let e = relative_l2(&case.computed(&cpu, method), &case.expected());
                let i = if i > 3 { i - 4 } else { i };
                worst[i] = worst[i].max(e);
                if e > 1e-4 {
                    println!("{case:?} {method:?} {simd:?} {e:.2e}");
                }
            }
        }
    }
    println!("worst {worst:?}");
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
