//! Every operation at the sizes it has in Stable Diffusion 1.5 at 512 × 512, in SDXL at 1024 × 1024 and in their VAE, on
//! `BENCH_THREADS` threads (one). Rates are floating-point operations a second, or bytes read and written where little
//! is computed; `peak` is what the machine can do of either, measured in the same run on as many threads, and
//! `tools/bench_table.py` sets one against the other.
//!
//! `LIBDIFFUSION_CPU=avx2` keeps all of it to AVX2.

#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use diffusion::backend::cpu::{Cpu, CpuConv2d, CpuTensor};
use diffusion::backend::{Activation, Backend, ConvGeometry, DType, Epilogue, Shape, Weight};

fn threads() -> usize {
    std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn cpu() -> Cpu {
    Cpu::new(threads(), None).expect("the engine starts")
}

/// Small values of both signs, none of them denormal.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5).collect()
}

fn input(cpu: &Cpu, shape: Shape) -> CpuTensor {
    cpu.upload(shape, &values(shape.len())).expect("the input fits")
}

fn f16_bytes(len: usize) -> Vec<u8> {
    values(len).into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect()
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    group
}

/// The time of `runs` runs of `body` on all threads at once, on the slowest of them.
fn on_all_threads(runs: u64, body: impl Fn() + Sync) -> Duration {
    let one = || {
        let start = Instant::now();
        (0..runs).for_each(|_| body());
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads()).map(|_| scope.spawn(one)).collect();
        let mine = one();
        others.into_iter().map(|other| other.join().expect("the body does not panic")).fold(mine, Duration::max)
    })
}

/// Independent multiply-adds in registers, the most that any product can reach, and copies of more than caches hold.
fn peak(c: &mut Criterion) {
    let mut group = group(c, "peak");
    #[cfg(target_arch = "x86_64")]
    {
        let flops = |lanes| Throughput::Elements((threads() * fma::FLOPS_A_LANE * lanes) as u64);
        let wide = !std::env::var("LIBDIFFUSION_CPU").is_ok_and(|cap| cap != "avx512");
        if wide && is_x86_feature_detected!("avx512f") {
            group.throughput(flops(16));
            group.bench_function("fma avx512", |b| {
                // SAFETY: the instructions were just detected.
                b.iter_custom(|runs| on_all_threads(runs, || _ = black_box(unsafe { fma::avx512(black_box(0.5)) })));
            });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            group.throughput(flops(8));
            group.bench_function("fma avx2", |b| {
                // SAFETY: the instructions were just detected.
                b.iter_custom(|runs| on_all_threads(runs, || _ = black_box(unsafe { fma::avx2(black_box(0.5)) })));
            });
        }
    }
    const VALUES: usize = 32 << 20;
    let source = vec![1.0f32; VALUES];
    group.throughput(Throughput::Bytes((threads() * 8 * VALUES) as u64));
    group.bench_function("copy", |b| {
        b.iter_custom(|runs| {
            on_all_threads(runs, || {
                thread_local!(static TARGET: RefCell<Vec<f32>> = RefCell::new(vec![0.0; VALUES]));
                TARGET.with_borrow_mut(|target| target.copy_from_slice(black_box(&source)));
            })
        });
    });
}

#[cfg(target_arch = "x86_64")]
mod fma {
    use std::arch::x86_64::*;

    const ROUNDS: usize = 1 << 16;
    /// Enough to keep two units with a latency of four or five busy.
    const CHAINS: usize = 12;
    pub const FLOPS_A_LANE: usize = 2 * CHAINS * ROUNDS;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(value: f32) -> f32 {
        let a = _mm512_set1_ps(value);
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, a);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(value: f32) -> f32 {
        let a = _mm256_set1_ps(value);
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, a);
            }
        }
        sums.into_iter().map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
    }
}

fn linear(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "linear");
    for (m, k, n) in
        [(4096, 320, 320), (4096, 320, 2560), (4096, 1280, 320), (154, 768, 1280), (2, 1280, 1280)]
    {
        let x = input(&cpu, Shape::tokens(1, m, k));
        let weight = Weight { dtype: DType::F16, shape: &[n, k], bytes: &f16_bytes(n * k) };
        let weight = cpu.prepare_linear(weight, None).expect("the weight is well formed");
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(format!("m{m} k{k} n{n}"), |b| {
            b.iter(|| cpu.linear(&x, &weight, Epilogue::default()).expect("the shapes fit"));
        });
    }
    let (m, k, n) = (4096, 320, 1280);
    let x = input(&cpu, Shape::tokens(1, m, k));
    let weight = Weight { dtype: DType::F16, shape: &[2 * n, k], bytes: &f16_bytes(2 * n * k) };
    let weight = cpu.prepare_linear(weight, None).expect("the weight is well formed");
    group.throughput(Throughput::Elements(4 * (m * k * n) as u64));
    group.bench_function(format!("geglu m{m} k{k} n{n}"), |b| {
        b.iter(|| cpu.linear_geglu(&x, &weight).expect("the shapes fit"));
    });
}

/// Rates are those of the definition's operations: Winograd's algorithms need fewer, and `strict` keeps to the definition.
fn conv2d(c: &mut Criterion) {
    let fast = cpu();
    let strict = fast.with_strict(true);
    let mut group = group(c, "conv2d");
    for (kernel, n, side, input_channels, output_channels, dtype) in [
        // The U-Net.
        (3, 1, 64, 320, 320, DType::F16),
        (3, 1, 64, 320, 320, DType::F32),
        (3, 2, 64, 320, 320, DType::F16),
        (3, 1, 64, 640, 320, DType::F16),
        (3, 2, 64, 640, 320, DType::F16),
        (3, 1, 32, 640, 640, DType::F16),
        (3, 2, 32, 640, 640, DType::F16),
        (3, 1, 16, 1280, 1280, DType::F16),
        (3, 2, 16, 1280, 1280, DType::F16),
        (3, 1, 8, 1280, 1280, DType::F16),
        (3, 2, 8, 1280, 1280, DType::F16),
        (3, 1, 64, 4, 320, DType::F16),
        (1, 1, 64, 640, 320, DType::F16),
        // The VAE's decoder.
        (3, 1, 64, 512, 512, DType::F16),
        (3, 1, 128, 512, 512, DType::F16),
        (3, 1, 256, 256, 256, DType::F16),
        (3, 1, 512, 128, 128, DType::F16),
        (3, 1, 512, 128, 3, DType::F16),
    ] {
        let x = input(&fast, Shape::image(n, side, side, input_channels));
        let weight = conv_weight(&fast, kernel, input_channels, output_channels, dtype, false);
        let flops = 2 * n * side * side * kernel * kernel * input_channels * output_channels;
        group.throughput(Throughput::Elements(flops as u64));
        let modes: &[_] = if kernel == 3 { &[(&fast, ""), (&strict, " strict")] } else { &[(&fast, "")] };
        for (cpu, mode) in modes {
            let name = format!(
                "{kernel}x{kernel} {n}x{side}x{side} {input_channels}->{output_channels} {dtype:?}{mode}"
            );
            group.bench_function(name, |b| {
                b.iter(|| cpu.conv2d(&x, &weight, Epilogue::default()).expect("the shapes fit"));
            });
        }
    }
    for (n, side, channels) in [(2, 8, 1280), (2, 16, 1280), (2, 32, 640), (1, 64, 512), (1, 256, 256)] {
        let x = input(&fast, Shape::image(n, side, side, channels));
        let weight = conv_weight(&fast, 3, channels, channels, DType::F16, true);
        let side = 2 * side;
        group.throughput(Throughput::Elements((2 * n * side * side * 9 * channels * channels) as u64));
        for (cpu, mode) in [(&fast, ""), (&strict, " strict")] {
            group.bench_function(format!("enlarged to {n}x{side}x{side} {channels}{mode}"), |b| {
                b.iter(|| cpu.upsample_conv2d(&x, &weight, side, side).expect("the shapes fit"));
            });
        }
    }
}

fn conv_weight(
    cpu: &Cpu,
    kernel: usize,
    inputs: usize,
    outputs: usize,
    dtype: DType,
    upsample: bool,
) -> CpuConv2d {
    let shape = [outputs, inputs, kernel, kernel];
    let len = shape.iter().product();
    let bytes = match dtype {
        DType::F32 => values(len).into_iter().flat_map(f32::to_le_bytes).collect(),
        _ => f16_bytes(len),
    };
    let geometry = ConvGeometry { upsample, ..ConvGeometry::same(kernel) };
    cpu.prepare_conv2d(Weight { dtype, shape: &shape, bytes: &bytes }, None, geometry)
        .expect("the weight is well formed")
}

fn attention(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "attention");
    for (queries, keys, heads, d) in [
        (4096, 4096, 8, 40),
        (1024, 1024, 8, 80),
        (256, 256, 8, 160),
        (4096, 77, 8, 40),
        (4096, 4096, 1, 512),
    ] {
        let q = input(&cpu, Shape::tokens(1, queries, heads * d));
        let k = input(&cpu, Shape::tokens(1, keys, heads * d));
        group.throughput(Throughput::Elements((4 * queries * keys * heads * d) as u64));
        group.bench_function(format!("{queries}x{keys} {heads}x{d}"), |b| {
            b.iter(|| cpu.attention(&q, &k, &k, heads, false).expect("the shapes fit"));
        });
    }
}

fn norms(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "norm");
    for (side, channels) in [(64, 320), (16, 1280), (256, 128)] {
        let x = input(&cpu, Shape::image(1, side, side, channels));
        let bytes = f16_bytes(channels);
        let weight = Weight { dtype: DType::F16, shape: &[channels], bytes: &bytes };
        let affine = cpu.prepare_affine(weight, weight).expect("the weight is well formed");
        group.throughput(Throughput::Bytes((8 * x_len(side, channels)) as u64));
        group.bench_function(format!("group_norm silu {side}x{side}x{channels}"), |b| {
            b.iter(|| cpu.group_norm(&x, &affine, 32, 1e-5, true).expect("the shapes fit"));
        });
        group.bench_function(format!("layer_norm {side}x{side}x{channels}"), |b| {
            b.iter(|| cpu.layer_norm(&x, &affine, 1e-5).expect("the shapes fit"));
        });
    }
}

fn x_len(side: usize, channels: usize) -> usize {
    side * side * channels
}

criterion_group!(benches, fma, linear, conv2d, attention, norms);
criterion_main!(benches);
