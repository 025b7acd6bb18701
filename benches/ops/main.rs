//! Every operation at the sizes it has in a guided step (two images) of Stable Diffusion 1.5 at 512 × 512, in its text
//! encoder and in its VAE, on `BENCH_THREADS` threads (one).
//!
//! Rates are floating-point operations a second by the definition of the layer, or bytes read and written where little is
//! computed. `peak` is what the machine can do of either, measured in the same run on as many threads, and
//! `tools/bench_table.py` sets one against the other: convolutions by Winograd, which need fewer operations, come out
//! above it, and so do bytes that are still in the caches.
//!
//! `LIBDIFFUSION_CPU=avx2` keeps all of it to AVX2.

#![allow(clippy::expect_used)]

mod peak;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use diffusion::backend::cpu::{Cpu, CpuAffine, CpuConv2d, CpuLinear, CpuTensor};
use diffusion::backend::{
    Activation, Backend, ConvGeometry, DType, Epilogue, Shape, Tensor, Weight, WeightFormat,
};

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

fn weight_bytes(dtype: DType, len: usize) -> Vec<u8> {
    match dtype {
        DType::F32 => values(len).into_iter().flat_map(f32::to_le_bytes).collect(),
        _ => values(len).into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn linear_weight(cpu: &Cpu, k: usize, n: usize) -> CpuLinear {
    let weight = Weight { dtype: DType::F16, shape: &[n, k], bytes: &weight_bytes(DType::F16, n * k) };
    cpu.prepare_linear(weight, None).expect("the weight is well formed")
}

fn conv_weight(cpu: &Cpu, shape: [usize; 4], dtype: DType, geometry: ConvGeometry) -> CpuConv2d {
    let bytes = weight_bytes(dtype, shape.iter().product());
    cpu.prepare_conv2d(Weight { dtype, shape: &shape, bytes: &bytes }, None, geometry)
        .expect("the weight is well formed")
}

fn affine(cpu: &Cpu, channels: usize) -> CpuAffine {
    let bytes = weight_bytes(DType::F16, channels);
    let weight = Weight { dtype: DType::F16, shape: &[channels], bytes: &bytes };
    cpu.prepare_affine(weight, weight).expect("the weight is well formed")
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    group
}

fn flops(flops: usize) -> Throughput {
    Throughput::Elements(flops as u64)
}

fn bytes_of(values: usize) -> Throughput {
    Throughput::Bytes((values * size_of::<f32>()) as u64)
}

/// What a layer adds to its product before it stores it.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    Residual,
    TimeEmbedding,
    Function(Activation),
}

impl After {
    fn name(self) -> &'static str {
        match self {
            After::Nothing => "",
            After::Residual => " +residual",
            After::TimeEmbedding => " +time embedding",
            After::Function(Activation::Silu) => " silu",
            After::Function(_) => " gelu",
        }
    }

    /// The epilogue, with `tensor` for what it needs; see [`After::shape`].
    fn epilogue(self, tensor: &CpuTensor) -> Epilogue<'_, CpuTensor> {
        match self {
            After::Nothing => Epilogue::default(),
            After::Residual => Epilogue::residual(tensor),
            After::TimeEmbedding => Epilogue::channel_bias(tensor),
            After::Function(activation) => Epilogue::activation(activation),
        }
    }

    /// Of what the epilogue of an `output` needs.
    fn shape(self, output: Shape) -> Shape {
        match self {
            After::Residual => output,
            _ => Shape::vector(output.n, output.c),
        }
    }
}

fn linear(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "linear");
    for (m, k, n, after) in [
        (8192, 320, 320, After::Nothing),
        (8192, 320, 320, After::Residual),
        (8192, 1280, 320, After::Residual),
        (8192, 960, 320, After::Nothing),
        (2048, 640, 640, After::Nothing),
        (2048, 640, 640, After::Residual),
        (2048, 2560, 640, After::Residual),
        (512, 1280, 1280, After::Nothing),
        (512, 1280, 1280, After::Residual),
        (512, 5120, 1280, After::Residual),
        (128, 1280, 1280, After::Nothing),
        (154, 768, 320, After::Nothing),
        (154, 768, 1280, After::Nothing),
        (154, 768, 3072, After::Function(Activation::QuickGelu)),
        (2, 1280, 1280, After::Function(Activation::Silu)),
    ] {
        let x = input(&cpu, Shape::tokens(1, m, k));
        let weight = linear_weight(&cpu, k, n);
        let more = input(&cpu, after.shape(Shape::tokens(1, m, n)));
        group.throughput(flops(2 * m * k * n));
        group.bench_function(format!("{m} k{k} n{n}{}", after.name()), |b| {
            b.iter(|| cpu.linear(&x, &weight, after.epilogue(&more)).expect("the shapes fit"));
        });
    }
    for (m, k) in [(8192, 320), (2048, 640), (512, 1280), (128, 1280)] {
        let x = input(&cpu, Shape::tokens(1, m, k));
        let weight = linear_weight(&cpu, k, 8 * k);
        group.throughput(flops(2 * m * k * 8 * k));
        group.bench_function(format!("{m} k{k} n{} geglu", 8 * k), |b| {
            b.iter(|| cpu.linear_geglu(&x, &weight).expect("the shapes fit"));
        });
    }
    let (m, k) = (512, 1280);
    let x = input(&cpu, Shape::tokens(1, m, k));
    let weight = linear_weight(&cpu.with_weights(WeightFormat::Int8), k, k);
    group.throughput(flops(2 * m * k * k));
    group.bench_function(format!("{m} k{k} n{k} int8"), |b| {
        b.iter(|| cpu.linear(&x, &weight, Epilogue::default()).expect("the shapes fit"));
    });
}

/// `strict` keeps to the definition.
fn conv2d(c: &mut Criterion) {
    let fast = cpu();
    let strict = fast.with_strict(true);
    let mut group = group(c, "conv2d");
    let halving = ConvGeometry { stride: 2, ..ConvGeometry::same(3) };
    for (geometry, n, side, inputs, outputs, dtype, after) in [
        // The U-Net.
        (ConvGeometry::same(3), 2, 64, 320, 320, DType::F16, After::TimeEmbedding),
        (ConvGeometry::same(3), 2, 64, 320, 320, DType::F16, After::Residual),
        (ConvGeometry::same(3), 2, 64, 320, 320, DType::F32, After::Residual),
        (ConvGeometry::same(3), 2, 64, 960, 320, DType::F16, After::TimeEmbedding),
        (ConvGeometry::same(3), 2, 32, 640, 640, DType::F16, After::Residual),
        (ConvGeometry::same(3), 2, 16, 1280, 1280, DType::F16, After::Residual),
        (ConvGeometry::same(3), 2, 8, 1280, 1280, DType::F16, After::Residual),
        (ConvGeometry::same(3), 2, 64, 4, 320, DType::F16, After::Nothing),
        (ConvGeometry::same(3), 2, 64, 320, 4, DType::F16, After::Nothing),
        (halving, 2, 64, 320, 320, DType::F16, After::Nothing),
        (halving, 2, 32, 640, 640, DType::F16, After::Nothing),
        (ConvGeometry::same(1), 2, 64, 640, 320, DType::F16, After::Nothing),
        (ConvGeometry::same(1), 2, 16, 2560, 1280, DType::F16, After::Nothing),
        // The VAE's decoder.
        (ConvGeometry::same(3), 1, 64, 512, 512, DType::F16, After::Residual),
        (ConvGeometry::same(3), 1, 128, 512, 512, DType::F16, After::Residual),
        (ConvGeometry::same(3), 1, 256, 256, 256, DType::F16, After::Residual),
        (ConvGeometry::same(3), 1, 512, 128, 128, DType::F16, After::Residual),
        (ConvGeometry::same(3), 1, 512, 128, 3, DType::F16, After::Nothing),
    ] {
        let kernel = 2 * geometry.padding[0] + 1;
        let x = input(&fast, Shape::image(n, side, side, inputs));
        let weight = conv_weight(&fast, [outputs, inputs, kernel, kernel], dtype, geometry);
        let output = side / geometry.stride;
        let more = input(&fast, after.shape(Shape::image(n, output, output, outputs)));
        group.throughput(flops(2 * n * output * output * kernel * kernel * inputs * outputs));
        let stride = if geometry.stride == 1 { "" } else { " stride 2" };
        let dtype = if dtype == DType::F16 { "" } else { " f32" };
        let name =
            format!("{kernel}x{kernel}{stride} {n}x{side}x{side} {inputs}->{outputs}{dtype}{}", after.name());
        group.bench_function(&name, |b| {
            b.iter(|| fast.conv2d(&x, &weight, after.epilogue(&more)).expect("the shapes fit"));
        });
        // Elsewhere there is one algorithm.
        if kernel == 3 && geometry.stride == 1 {
            group.bench_function(format!("{name} strict"), |b| {
                b.iter(|| strict.conv2d(&x, &weight, after.epilogue(&more)).expect("the shapes fit"));
            });
        }
    }
    for (n, side, channels) in
        [(2, 8, 1280), (2, 16, 1280), (2, 32, 640), (1, 64, 512), (1, 128, 512), (1, 256, 256)]
    {
        let x = input(&fast, Shape::image(n, side, side, channels));
        let geometry = ConvGeometry { upsample: true, ..ConvGeometry::same(3) };
        let weight = conv_weight(&fast, [channels, channels, 3, 3], DType::F16, geometry);
        let side = 2 * side;
        group.throughput(flops(2 * n * side * side * 9 * channels * channels));
        for (cpu, mode) in [(&fast, ""), (&strict, " strict")] {
            group.bench_function(format!("3x3 enlarged to {n}x{side}x{side} {channels}{mode}"), |b| {
                b.iter(|| cpu.upsample_conv2d(&x, &weight, side, side).expect("the shapes fit"));
            });
        }
    }
}

fn attention(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "attention");
    for (n, queries, keys, heads, d) in [
        (2, 4096, 4096, 8, 40),
        (2, 1024, 1024, 8, 80),
        (2, 256, 256, 8, 160),
        (2, 64, 64, 8, 160),
        (2, 4096, 77, 8, 40),
        (2, 1024, 77, 8, 80),
        (2, 256, 77, 8, 160),
        (2, 64, 77, 8, 160),
        (1, 4096, 4096, 1, 512),
    ] {
        let q = input(&cpu, Shape::tokens(n, queries, heads * d));
        let k = input(&cpu, Shape::tokens(n, keys, heads * d));
        group.throughput(flops(4 * n * queries * keys * heads * d));
        group.bench_function(format!("{n}x{queries}x{keys} {heads}x{d}"), |b| {
            b.iter(|| cpu.attention(&q, &k, &k, heads, false).expect("the shapes fit"));
        });
    }
}

/// Each value read once and written once, though a group norm reads them twice.
fn norms(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "norm");
    for (n, side, channels) in [(2, 64, 320), (2, 32, 640), (2, 16, 1280), (1, 256, 256), (1, 512, 128)] {
        let x = input(&cpu, Shape::image(n, side, side, channels));
        let affine = affine(&cpu, channels);
        group.throughput(bytes_of(2 * x.shape().len()));
        group.bench_function(format!("group_norm silu {n}x{side}x{side}x{channels}"), |b| {
            b.iter(|| cpu.group_norm(&x, &affine, 32, 1e-5, true).expect("the shapes fit"));
        });
        if n == 2 {
            group.bench_function(format!("layer_norm {n}x{side}x{side}x{channels}"), |b| {
                b.iter(|| cpu.layer_norm(&x, &affine, 1e-5).expect("the shapes fit"));
            });
        }
    }
}

fn elementwise(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(c, "elementwise");
    for (side, left, right) in [(64, 320, 320), (32, 1280, 640), (16, 1280, 1280)] {
        let a = input(&cpu, Shape::image(2, side, side, left));
        let b = input(&cpu, Shape::image(2, side, side, right));
        group.throughput(bytes_of(2 * (a.shape().len() + b.shape().len())));
        group.bench_function(format!("concat_channels 2x{side}x{side} {left}+{right}"), |bench| {
            bench.iter(|| cpu.concat_channels(&a, &b).expect("the shapes fit"));
        });
    }
    let [a, b] = [(); 2].map(|()| input(&cpu, Shape::image(2, 64, 64, 320)));
    group.throughput(bytes_of(3 * a.shape().len()));
    group.bench_function("add 2x64x64x320", |bench| {
        bench.iter(|| cpu.add(&a, &b).expect("the shapes fit"));
    });
}

criterion_group!(benches, peak::peak, linear, conv2d, attention, norms, elementwise);
criterion_main!(benches);
