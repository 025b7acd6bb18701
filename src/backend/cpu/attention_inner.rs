//! Attention by Winograd's inner product: the copies of keys and values are brought to one size, keys one by one and values
//! channel by channel. See [`inner`](super::inner).
//!
//! Both products have rows side by side: a tile's keys are turned, a row of them for each channel, and its values are rows of
//! channels as they were.

use super::attention_copy::for_each_tile;
use super::attention_kernel::ONES;
use super::attention_sizes::Sizes;
use super::inner::{InnerKernels, InnerTile, scale_columns, scale_matrix};
use super::kernel::{Kernels, for_each_part};
use super::pack::{Target, WIDEST};
use super::pool::Block;
use super::simd::Simd;
use super::transpose::gather;
use super::{Cpu, CpuTensor};
use crate::util::error::Result;

/// The size of values, as an exponent of two: weights are at most 1, and mostly smaller.
const VALUES: i32 = -2;

/// From a row of a tile to the next: an odd number of cache lines, so that rows share few places in the L1 cache.
fn step(columns: usize) -> usize {
    (columns.div_ceil(16) | 1) * 16
}

/// Values of a tile of keys, and of one of values: the rows, then for each column what a kernel begins with and ends with.
fn tile_len(sizes: &Sizes) -> [usize; 2] {
    [(sizes.d + 2) * step(sizes.tile), (sizes.tile + 2) * step(sizes.d)]
}

/// Values of all keys of a head, and of all its values.
pub(super) fn copy_len(sizes: &Sizes) -> [usize; 2] {
    tile_len(sizes).map(|len| sizes.keys.div_ceil(sizes.tile) * len)
}

/// Copies keys, tile by tile.
pub(super) fn copy_keys(
    cpu: &Cpu,
    sizes: &Sizes,
    inner: &InnerKernels,
    from: &CpuTensor,
    bytes: usize,
) -> Result<Block> {
    let mut block = cpu.pool.take(bytes, "attention")?;
    let target = Target(block.as_mut_ptr().cast::<f32>());
    let ([len, _], [all, _]) = (tile_len(sizes), copy_len(sizes));
    let (width, channels) = (step(sizes.tile), from.shape.c);
    for_each_tile(cpu, sizes, from.shape.n, |first, keys, start, head| {
        // SAFETY: this task alone writes this tile of this head.
        let to = unsafe { target.slice(head * all + first / sizes.tile * len, len) };
        let (rows, ends) = to.split_at_mut(sizes.d * width);
        let (sums, scales) = ends.split_at_mut(width);
        gather(&from.values()[start + first * channels..], channels, keys, 1.0, width, rows);
        scale_matrix(cpu.device.simd, inner, rows, 0, sums, scales);
    })?;
    Ok(block)
}

/// Copies values, tile by tile.
pub(super) fn copy_values(
    cpu: &Cpu,
    sizes: &Sizes,
    inner: &InnerKernels,
    from: &CpuTensor,
    bytes: usize,
) -> Result<Block> {
    let mut block = cpu.pool.take(bytes, "attention")?;
    let target = Target(block.as_mut_ptr().cast::<f32>());
    let ([_, len], [_, all]) = (tile_len(sizes), copy_len(sizes));
    let (width, channels) = (step(sizes.d), from.shape.c);
    for_each_tile(cpu, sizes, from.shape.n, |first, keys, start, head| {
        // SAFETY: this task alone writes this tile of this head.
        let to = unsafe { target.slice(head * all + first / sizes.tile * len, len) };
        let (rows, ends) = to.split_at_mut(sizes.tile * width);
        let (sums, scales) = ends.split_at_mut(width);
        let rows = &mut rows[..keys * width];
        for (key, row) in (first..).zip(rows.chunks_exact_mut(width)) {
            let (row, rest) = row.split_at_mut(sizes.d);
            row.copy_from_slice(&from.values()[start + key * channels..][..sizes.d]);
            rest.fill(0.0);
        }
        scale_matrix(cpu.device.simd, inner, rows, VALUES, sums, scales);
    })?;
    Ok(block)
}

/// The queries of a panel, brought to one size, with what kernels begin and end with for each.
pub(super) struct Queries<'a> {
    pub(super) rows: &'a [f32],
    pub(super) sums: &'a [f32],
    pub(super) scales: &'a [f32],
}

/// The scores of a panel of queries with the first `count` keys of the tile that begins with key `start`.
pub(super) fn score(
    (kernels, inner): (&Kernels, &InnerKernels),
    sizes: &Sizes,
    (keys, start, count): (&[f32], usize, usize),
    queries: &Queries<'_>,
    scores: &mut [f32],
) {
    let ([len, _], step) = (tile_len(sizes), step(sizes.tile));
    let (rows, ends) = keys[start / sizes.tile * len..][..len].split_at(sizes.d * step);
    let (sums, scales) = ends.split_at(step);
    let stride = queries.sums.len();
    for_each_part(count, kernels.mr, |key, count| {
        let tile = InnerTile {
            a: rows[key..].as_ptr(),
            step,
            k: sizes.d,
            b: queries.rows.as_ptr(),
            row_sums: sums[key..].as_ptr(),
            column_sums: queries.sums.as_ptr(),
            row_scales: scales[key..].as_ptr(),
            column_scales: queries.scales.as_ptr(),
            c: scores[key * stride..][..count * stride].as_mut_ptr(),
            stride,
            accumulate: false,
        };
        // SAFETY: the tile has so many keys of `d` channels, the panel has rows of the kernel's width for each of these, and
        // there is a row of scores for each key.
        unsafe { kernels.inner_tile(&inner.turned, count, stride)(&tile) };
    });
}

/// `sums = sums · fades + values · weights` of the tile that begins with key `start`, without the sums if that is the first.
pub(super) fn weigh(
    (simd, kernels, inner): (Simd, &Kernels, &InnerKernels),
    sizes: &Sizes,
    (values, start, count): (&[f32], usize, usize),
    weights: &[f32],
    fades: &[f32],
    sums: &mut [f32],
) {
    let ([_, len], step) = (tile_len(sizes), step(sizes.d));
    let (rows, ends) = values[start / sizes.tile * len..][..len].split_at(sizes.tile * step);
    let (row_sums, row_scales) = ends.split_at(step);
    let stride = kernels.nr;
    let mut column_sums = [0.0; WIDEST];
    // SAFETY: there are `count` rows of weights.
    unsafe { (inner.column_sums)(weights.as_ptr(), count, stride, column_sums.as_mut_ptr()) };
    if start > 0 {
        scale_columns(simd, sums, fades);
    }
    for_each_part(sizes.d, kernels.mr, |channel, channels| {
        let tile = InnerTile {
            a: rows[channel..].as_ptr(),
            step,
            k: count,
            b: weights.as_ptr(),
            row_sums: row_sums[channel..].as_ptr(),
            column_sums: column_sums.as_ptr(),
            row_scales: row_scales[channel..].as_ptr(),
            column_scales: ONES.as_ptr(),
            c: sums[channel * stride..][..channels * stride].as_mut_ptr(),
            stride,
            accumulate: start > 0,
        };
        // SAFETY: the tile has `count` rows of so many channels, there is a row of weights for each, and a row of sums for each
        // channel.
        unsafe { kernels.inner_tile(&inner.turned, channels, stride)(&tile) };
    });
}
