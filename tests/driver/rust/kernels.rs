//! The kernels of `kernels/*.cu`, launched as the backend launches them, against naive f64.

use cudarc::driver::sys::{CUfunction_attribute, CUresult};
use cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg};
use half::f16;

use crate::support::*;

const NULL: u64 = 0;
const F16: f64 = 1.05 / 2048.0;

fn to_f16(values: &[f32]) -> Vec<f16> {
    values.iter().copied().map(f16::from_f32).collect()
}

fn from_f16(gpu: &Gpu, values: &CudaSlice<f16>) -> Vec<f32> {
    gpu.stream.clone_dtoh(values).unwrap().into_iter().map(f16::to_f32).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    // ∫ φ by Simpson's rule: the standard library has no error function.
    let steps = 400;
    let phi = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let h = x / f64::from(steps);
    let inner: f64 =
        (1..steps).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * phi(f64::from(i) * h)).sum::<f64>();
    x * (0.5 + h / 3.0 * (phi(0.0) + inner + phi(x)))
}

#[test]
fn elementwise() {
    for eager in [0, 1] {
        let stand_in = StandIn::new();
        stand_in.set("eager", eager);
        let gpu = stand_in.gpu();
        let kernel = gpu.kernel("silu_f16");
        let values = to_f16(&numbers(1003, 1));
        let x = gpu.stream.clone_htod(&values).unwrap();
        let mut y = gpu.stream.alloc_zeros::<f16>(values.len()).unwrap();
        let mut launch = gpu.stream.launch_builder(&kernel);
        let count = values.len() as u64;
        launch.arg(&x).arg(&mut y).arg(&count);
        // SAFETY: the parameters are the kernel's.
        unsafe { launch.launch(config((1, 1, 1), 256, 0)) }.unwrap();
        let expected: Vec<f64> = values.iter().map(|x| silu(x.to_f64())).collect();
        expect_close(from_f16(&gpu, &y), &expected, F16);
        assert_eq!((stand_in.get("launches"), stand_in.get("kernels")), (1, 1));
    }
}

#[test]
fn group_norm() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let (n, pixels, c, groups, chunks, eps) = (2u32, 35u32, 24u32, 8u32, 3u32, 1e-5f32);
    let x = numbers((n * pixels * c) as usize, 1);
    let (weight, bias) = (numbers(c as usize, 2), numbers(c as usize, 3));
    let x_device = gpu.stream.clone_htod(&x).unwrap();
    let weight_device = gpu.stream.clone_htod(&weight).unwrap();
    let bias_device = gpu.stream.clone_htod(&bias).unwrap();
    let mut partial = gpu.stream.alloc_zeros::<f32>((n * chunks * groups * 3) as usize).unwrap();
    let mut y = gpu.stream.alloc_zeros::<f32>(x.len()).unwrap();

    let (moments, apply) = (gpu.kernel("group_norm_moments_f32"), gpu.kernel("group_norm_apply_f32"));
    let mut launch = gpu.stream.launch_builder(&moments);
    launch.arg(&x_device).arg(&mut partial).arg(&pixels).arg(&c).arg(&groups);
    // SAFETY: the parameters are the kernel's.
    unsafe { launch.launch(config((chunks, n, 1), 256, 0)) }.unwrap();
    let mut launch = gpu.stream.launch_builder(&apply);
    launch.arg(&x_device).arg(&partial).arg(&weight_device).arg(&bias_device).arg(&mut y);
    launch.arg(&pixels).arg(&c).arg(&groups).arg(&chunks).arg(&eps).arg(&1u32);
    // SAFETY: the parameters are the kernel's.
    unsafe { launch.launch(config((2, n, 1), 256, 12 * c)) }.unwrap();

    let (width, c) = ((c / groups) as usize, c as usize);
    let members = |of: usize| {
        let (image, group) = (of / (pixels as usize * c), of % c / width);
        (0..pixels as usize * c)
            .filter(move |i| i % c / width == group)
            .map(move |i| image * pixels as usize * c + i)
    };
    let expected: Vec<f64> = (0..x.len())
        .map(|i| {
            let count = (width * pixels as usize) as f64;
            let mean = members(i).map(|j| f64::from(x[j])).sum::<f64>() / count;
            let variance = members(i).map(|j| (f64::from(x[j]) - mean).powi(2)).sum::<f64>() / count;
            let scaled = (f64::from(x[i]) - mean) / (variance + f64::from(eps)).sqrt();
            silu(scaled * f64::from(weight[i % c]) + f64::from(bias[i % c]))
        })
        .collect();
    expect_close(gpu.stream.clone_dtoh(&y).unwrap(), &expected, 4e-6);
}

#[test]
fn gemm_with_more_shared_memory_than_there_is_by_default() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let kernel = gpu.kernel("gemm_f16_128x160");
    let (rows, columns, depth) = (129u32, 161u32, 40u32);
    let x = to_f16(&numbers((rows * depth) as usize, 1));
    let w = to_f16(&numbers((columns * depth) as usize, 2));
    let bias = numbers(columns as usize, 3);
    let x_device = gpu.stream.clone_htod(&x).unwrap();
    let w_device = gpu.stream.clone_htod(&w).unwrap();
    let bias_device = gpu.stream.clone_htod(&bias).unwrap();
    let mut y = gpu.stream.alloc_zeros::<f16>((rows * columns) as usize).unwrap();
    let mut launch = |threads, shared_bytes| {
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&x_device).arg(&w_device).arg(&bias_device).arg(&NULL).arg(&NULL).arg(&mut y).arg(&NULL);
        let gelu = 2u32;
        launch.arg(&rows).arg(&columns).arg(&depth).arg(&1u32).arg(&gelu);
        // SAFETY: the parameters are the kernel's.
        unsafe {
            launch.launch(config((rows.div_ceil(128), columns.div_ceil(160), 1), threads, shared_bytes))
        }
    };
    expect_error(launch(256, 73728), CUresult::CUDA_ERROR_INVALID_VALUE);
    let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    expect_error(kernel.set_attribute(limit, (163 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    kernel.set_attribute(limit, 73728).unwrap();
    expect_error(launch(512, 73728), CUresult::CUDA_ERROR_INVALID_VALUE);
    launch(256, 73728).unwrap();

    let expected: Vec<f64> = (0..(rows * columns) as usize)
        .map(|i| {
            let (row, column, depth) = (i / columns as usize, i % columns as usize, depth as usize);
            let products = (0..depth).map(|k| x[row * depth + k].to_f64() * w[column * depth + k].to_f64());
            gelu(f64::from(bias[column]) + products.sum::<f64>())
        })
        .collect();
    expect_close(from_f16(&gpu, &y), &expected, F16);
}

/// `AttentionShape` of kernels/attention.cuh.
#[repr(C)]
struct AttentionShape {
    queries: u32,
    keys: u32,
    heads: u32,
    head_size: u32,
    q_stride: u32,
    k_stride: u32,
    v_stride: u32,
    causal: u32,
    scale: f32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for AttentionShape {}

#[test]
fn attention_with_a_structure_as_parameter() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let (queries, keys, heads, head_size) = (65usize, 77usize, 2usize, 40usize);
    let width = heads * head_size;
    let [q, k, v] = [(queries, 1), (keys, 2), (keys, 3)].map(|(n, seed)| to_f16(&numbers(n * width, seed)));
    let [q_device, k_device, v_device] = [&q, &k, &v].map(|values| gpu.stream.clone_htod(values).unwrap());
    let mut y = gpu.stream.alloc_zeros::<f16>(queries * width).unwrap();
    let stride = width as u32;
    let shape = AttentionShape {
        queries: queries as u32,
        keys: keys as u32,
        heads: heads as u32,
        head_size: head_size as u32,
        q_stride: stride,
        k_stride: stride,
        v_stride: stride,
        causal: 0,
        scale: 1.0 / (head_size as f32).sqrt(),
    };
    let kernel = gpu.kernel("attention_f16_40");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&q_device).arg(&k_device).arg(&v_device).arg(&mut y).arg(&shape);
    // SAFETY: the parameters are the kernel's.
    unsafe { launch.launch(config((queries.div_ceil(64) as u32, heads as u32, 1), 128, 21504)) }.unwrap();

    let mut expected = vec![0.0; queries * width];
    for query in 0..queries {
        for head in 0..heads {
            let at = |token: usize, i: usize| token * width + head * head_size + i;
            let score = |key: usize| -> f64 {
                (0..head_size).map(|i| q[at(query, i)].to_f64() * k[at(key, i)].to_f64()).sum::<f64>()
                    / (head_size as f64).sqrt()
            };
            let weights: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..head_size {
                expected[at(query, i)] =
                    (0..keys).map(|key| weights[key] / total * v[at(key, i)].to_f64()).sum();
            }
        }
    }
    expect_close(from_f16(&gpu, &y), &expected, 2.0 * F16);
}
