//! GroupNorm (with SiLU) and LayerNorm.

use super::math::{fma, sum, swish};
use super::pack::Target;
use super::simd::vectorized;
use super::{Cpu, CpuAffine, CpuTensor};
use crate::backend::Shape;
use crate::util::error::{Result, bail};

/// Pixels whose sums are taken together. The cut is fixed, so that the order of every sum, and with it the
/// result, does not depend on threads.
const PIXELS: usize = 128;
/// Values in a task that writes.
const CHUNK: usize = 1 << 16;

/// Bytes that a GroupNorm works in: sums of chunks, then what to do to each channel.
pub(super) fn work(x: Shape) -> [usize; 2] {
    let sums = x.n * x.pixels().div_ceil(PIXELS) * 2 * x.c * size_of::<f64>();
    [sums, x.n * 3 * x.c * size_of::<f32>()]
}

/// GroupNorm (Wu and He 2018), then SiLU if asked. Sums are `f64`: over 512 × 512 pixels `f32` would lose digits.
pub(super) fn group_norm(
    cpu: &Cpu,
    x: &CpuTensor,
    affine: &CpuAffine,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Result<CpuTensor> {
    let channels = x.shape.c;
    if groups == 0 || !channels.is_multiple_of(groups) || affine.channels != channels {
        bail!(Internal, "group_norm: {groups} groups and {} scales for {}", affine.channels, x.shape);
    }
    let (n, pixels) = (x.shape.n, x.shape.pixels());
    let mut out = cpu.tensor(x.shape, "group_norm")?;
    let values = x.values();

    // For each image and chunk of pixels: the sum and the sum of squares of each channel, as f64.
    let chunks = pixels.div_ceil(PIXELS);
    let [partial_bytes, coefficient_bytes] = work(x.shape);
    let mut partial = cpu.pool.take(partial_bytes, "group_norm")?;
    let sums = Target(partial.as_mut_ptr().cast::<f64>());
    cpu.parallel(n * chunks, |task, _| {
        let first = task / chunks * pixels + task % chunks * PIXELS;
        let count = PIXELS.min(pixels - task % chunks * PIXELS);
        // SAFETY: each task has its own part of the sums.
        let (sum, square) = unsafe { target_pair(sums, task, channels) };
        channel_sums(cpu.device.simd, &values[first * channels..][..count * channels], sum, square);
    })?;

    // For each image and channel: what to subtract, to multiply with, and to add.
    let mut coefficients = cpu.pool.take(coefficient_bytes, "group_norm")?;
    let size = channels / groups;
    let count = (pixels * size) as f64;
    for (image, coefficients) in
        coefficients.f32_mut(n * 3 * channels).chunks_exact_mut(3 * channels.max(1)).enumerate()
    {
        let (means, rest) = coefficients.split_at_mut(channels);
        let (scale, shift) = rest.split_at_mut(channels);
        for group in 0..groups {
            let (mut sum, mut square) = (0.0, 0.0);
            for chunk in image * chunks..(image + 1) * chunks {
                // SAFETY: the tasks have finished; nothing else refers to the sums.
                let (sums, squares) = unsafe { target_pair(sums, chunk, channels) };
                sum += sums[group * size..][..size].iter().sum::<f64>();
                square += squares[group * size..][..size].iter().sum::<f64>();
            }
            let mean = sum / count;
            let variance = square / count - mean * mean;
            // Rounding may leave a constant group a little below zero; NaN stays NaN.
            let variance = if variance < 0.0 { 0.0 } else { variance };
            let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
            for channel in group * size..(group + 1) * size {
                let weight = f64::from(affine.weight()[channel]) * inverse;
                // Subtracting comes first, where values near the mean lose nothing; what rounding the mean
                // leaves is put right in the shift.
                means[channel] = mean as f32;
                scale[channel] = weight as f32;
                let left = mean - f64::from(means[channel]);
                shift[channel] = (f64::from(affine.bias()[channel]) - left * weight) as f32;
            }
        }
    }

    let coefficients = coefficients.f32(n * 3 * channels);
    let rows = (CHUNK / channels.max(1)).max(1);
    let tasks = pixels.div_ceil(rows);
    let target = Target(out.values_mut().as_mut_ptr());
    cpu.parallel(n * tasks, |task, _| {
        let image = task / tasks;
        let first = task % tasks * rows;
        let start = (image * pixels + first) * channels;
        let len = rows.min(pixels - first) * channels;
        let (means, rest) = coefficients[image * 3 * channels..][..3 * channels].split_at(channels);
        let (scale, shift) = rest.split_at(channels);
        // SAFETY: each task has its own rows of the output.
        let out = unsafe { target.slice(start, len) };
        normalize(cpu.device.simd, &values[start..][..len], means, scale, shift, silu, out);
    })?;
    Ok(out)
}

/// The two rows of channel sums of one chunk.
///
/// # Safety
/// The chunk is within the memory, and no other slice of it is in use.
unsafe fn target_pair<'a>(
    sums: Target<f64>,
    chunk: usize,
    channels: usize,
) -> (&'a mut [f64], &'a mut [f64]) {
    // SAFETY: passed on to the caller.
    unsafe { sums.slice(chunk * 2 * channels, 2 * channels) }.split_at_mut(channels)
}

vectorized! {
    /// The sum and the sum of squares of each channel over rows of channels.
    fn channel_sums(x: &[f32], sum: &mut [f64], square: &mut [f64]) = channel_sums_body
}

#[inline(always)]
fn channel_sums_body<const FMA: bool>(x: &[f32], sum: &mut [f64], square: &mut [f64]) {
    sum.fill(0.0);
    square.fill(0.0);
    for row in x.chunks_exact(sum.len()) {
        for ((x, sum), square) in row.iter().zip(&mut *sum).zip(&mut *square) {
            let x = f64::from(*x);
            *sum += x;
            *square += x * x;
        }
    }
}

vectorized! {
    /// `out = silu?((x - mean) · scale + shift)` by channel, over rows of channels.
    fn normalize(
        x: &[f32],
        means: &[f32],
        scale: &[f32],
        shift: &[f32],
        silu: bool,
        out: &mut [f32],
    ) = normalize_body
}

#[inline(always)]
fn normalize_body<const FMA: bool>(
    x: &[f32],
    means: &[f32],
    scale: &[f32],
    shift: &[f32],
    silu: bool,
    out: &mut [f32],
) {
    let channels = scale.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        let values = x.iter().zip(means).zip(scale).zip(shift);
        let values = values.map(|(((x, mean), scale), shift)| fma::<FMA>(x - mean, *scale, *shift));
        if silu {
            out.iter_mut().zip(values).for_each(|(out, y)| *out = swish::<FMA>(y, 1.0));
        } else {
            out.iter_mut().zip(values).for_each(|(out, y)| *out = y);
        }
    }
}

/// LayerNorm (Ba et al. 2016) over channels.
pub(super) fn layer_norm(cpu: &Cpu, x: &CpuTensor, affine: &CpuAffine, eps: f32) -> Result<CpuTensor> {
    let channels = x.shape.c;
    if affine.channels != channels {
        bail!(Internal, "layer_norm: {} scales for {}", affine.channels, x.shape);
    }
    let mut out = cpu.tensor(x.shape, "layer_norm")?;
    let chunk = (CHUNK / channels.max(1)).max(1) * channels.max(1);
    let len = x.shape.len();
    let target = Target(out.values_mut().as_mut_ptr());
    cpu.parallel(len.div_ceil(chunk), |task, _| {
        let start = task * chunk;
        let part = chunk.min(len - start);
        // SAFETY: each task has its own rows of the output.
        let out = unsafe { target.slice(start, part) };
        let x = &x.values()[start..][..part];
        layer_norm_rows(cpu.device.simd, x, affine.weight(), affine.bias(), eps, out);
    })?;
    Ok(out)
}

vectorized! {
    /// Normalises each row of channels.
    fn layer_norm_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) = layer_norm_rows_body
}

#[inline(always)]
fn layer_norm_rows_body<const FMA: bool>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let channels = weight.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        let mean = sum(x, |x| x) / channels as f64;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / channels as f64;
        let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
        let rounded = mean as f32;
        // What rounding the mean leaves, see `group_norm`.
        let left = ((f64::from(rounded) - mean) * inverse) as f32;
        let inverse = inverse as f32;
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = fma::<FMA>(fma::<FMA>(x - rounded, inverse, left), *weight, *bias);
        }
    }
}
