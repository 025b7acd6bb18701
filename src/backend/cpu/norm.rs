//! GroupNorm (with SiLU) and LayerNorm.

use super::math::{fma, sum, swish};
use super::pack::Target;
use super::pool::Block;
use super::simd::vectorized;
use super::{Cpu, CpuAffine, CpuTensor};
use crate::backend::{Norm, Shape};
use crate::util::error::{Result, bail};

/// About how many pixels' sums are taken together.
const PIXELS: usize = 128;
/// Values in a task that writes.
const CHUNK: usize = 1 << 16;

/// Rows of an image of this width whose sums are taken together: a part of [`super::strips::LAG`]. The cut is fixed, so
/// that the order of every sum, and with it the result, depends neither on threads nor on strips.
fn together(width: usize) -> usize {
    match PIXELS / width.max(1) {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

/// Bytes that a GroupNorm works in: sums of chunks, then what to do to each channel.
pub(super) fn work(x: Shape) -> [usize; 2] {
    let sums = x.n * x.h.div_ceil(together(x.w)) * 2 * x.c * size_of::<f64>();
    [sums, x.n * 3 * x.c * size_of::<f32>()]
}

/// The sums that a GroupNorm needs, gathered from as many rows at a time as one likes. They are `f64`: over 512 × 512
/// pixels `f32` would lose digits.
pub(super) struct Statistics {
    shape: Shape,
    /// For each image and chunk of rows: the sum and the sum of squares of each channel.
    sums: Block,
}

impl Statistics {
    /// Of images of `shape`.
    pub(super) fn new(cpu: &Cpu, shape: Shape) -> Result<Self> {
        Ok(Self { shape, sums: cpu.pool.take(work(shape)[0], "group_norm")? })
    }

    /// Adds whole rows of an image, from `first` on: a multiple of [`super::strips::LAG`].
    pub(super) fn gather(&mut self, cpu: &Cpu, image: usize, first: usize, rows: &[f32]) -> Result<()> {
        let Shape { h, w, c, .. } = self.shape;
        let together = together(w);
        let chunk = image * h.div_ceil(together) + first / together;
        let len = together * w * c;
        let sums = Target(self.sums.as_mut_ptr().cast::<f64>());
        cpu.parallel(rows.len().div_ceil(len.max(1)), |task, _| {
            let rows = &rows[task * len..rows.len().min((task + 1) * len)];
            // SAFETY: each task has its own part of the sums.
            let (sum, square) = unsafe { target_pair(sums, chunk + task, c) };
            channel_sums(cpu.device.simd, rows, sum, square);
        })
    }

    /// What GroupNorm does to each channel, from the sums of all rows.
    pub(super) fn coefficients(mut self, cpu: &Cpu, norm: &Norm<'_, CpuAffine>) -> Result<Coefficients> {
        let Shape { n, h, w, c: channels } = self.shape;
        let Norm { affine, groups, eps, silu } = *norm;
        if groups == 0 || !channels.is_multiple_of(groups) || affine.channels != channels {
            bail!(Internal, "group_norm: {groups} groups and {} scales for {}", affine.channels, self.shape);
        }
        let sums = Target(self.sums.as_mut_ptr().cast::<f64>());
        let chunks = h.div_ceil(together(w));
        let mut block = cpu.pool.take(work(self.shape)[1], "group_norm")?;
        let size = channels / groups;
        let count = (h * w * size) as f64;
        for (image, coefficients) in
            block.f32_mut(n * 3 * channels).chunks_exact_mut(3 * channels.max(1)).enumerate()
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
        Ok(Coefficients { channels, silu, block })
    }
}

/// For each image and channel: what to subtract, to multiply with, and to add.
pub(super) struct Coefficients {
    channels: usize,
    silu: bool,
    block: Block,
}

impl Coefficients {
    /// Those of `x`.
    pub(super) fn of(cpu: &Cpu, x: &CpuTensor, norm: &Norm<'_, CpuAffine>) -> Result<Self> {
        let mut statistics = Statistics::new(cpu, x.shape)?;
        let image = x.shape.pixels() * x.shape.c;
        for (i, rows) in x.values().chunks_exact(image.max(1)).enumerate() {
            statistics.gather(cpu, i, 0, rows)?;
        }
        statistics.coefficients(cpu, norm)
    }

    /// Normalises `x`, pixels of an image, to as many values from `out` on.
    ///
    /// # Safety
    /// Nothing else refers to them.
    pub(super) unsafe fn apply(&self, cpu: &Cpu, image: usize, x: &[f32], out: Target<f32>) -> Result<()> {
        let channels = self.channels;
        let end = 3 * channels * (image + 1);
        let (means, rest) = self.block.f32(end)[end - 3 * channels..].split_at(channels);
        let (scale, shift) = rest.split_at(channels);
        let chunk = (CHUNK / channels.max(1)).max(1) * channels.max(1);
        cpu.parallel(x.len().div_ceil(chunk), |task, _| {
            let x = &x[task * chunk..x.len().min((task + 1) * chunk)];
            // SAFETY: each task has its own part of the output, which the caller vouches for.
            let out = unsafe { out.slice(task * chunk, x.len()) };
            normalize(cpu.device.simd, x, means, scale, shift, self.silu, out);
        })
    }
}

/// GroupNorm (Wu and He 2018), then SiLU if asked.
pub(super) fn group_norm(cpu: &Cpu, x: &CpuTensor, norm: &Norm<'_, CpuAffine>) -> Result<CpuTensor> {
    let mut out = cpu.tensor(x.shape, "group_norm")?;
    let coefficients = Coefficients::of(cpu, x, norm)?;
    let image = x.shape.pixels() * x.shape.c;
    let target = Target(out.values_mut().as_mut_ptr());
    for (i, x) in x.values().chunks_exact(image.max(1)).enumerate() {
        // SAFETY: the output was just made, and this is the part of this image.
        unsafe { coefficients.apply(cpu, i, x, Target(target.at(i * image)))? };
    }
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
