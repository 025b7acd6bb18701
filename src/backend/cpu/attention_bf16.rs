//! Long attention's products in bf16: the copies of keys and values are bf16, and queries and weights are rounded when they
//! are there. Scores, their softmax and the sums stay `f32`.
//!
//! Keys are rows of pairs of channels. A tile's values are turned, rows of pairs of keys for each channel, so that both
//! products are those of the micro-kernel. Pairs lie in memory for `f32`, which has their size.

use super::attention_copy::for_each_tile;
use super::attention_sizes::Sizes;
use super::inner::scale_columns;
use super::kernel::{Kernels, PairKernels, PairTile, for_each_part};
use super::pack::Target;
use super::pool::Block;
use super::prefetch::LINE;
use super::simd::Simd;
use super::{Cpu, CpuTensor};
use crate::util::error::Result;

/// As wide as the widest panel.
const ZEROS: [f32; 32] = [0.0; 32];

/// Pairs of a tile's values of a head.
fn tile_len(sizes: &Sizes) -> usize {
    sizes.d * sizes.tile.div_ceil(2)
}

/// From one key to the next: an odd number of cache lines, so that rows share few places in the L1 cache.
fn step(sizes: &Sizes) -> usize {
    (sizes.d.div_ceil(2).div_ceil(LINE) | 1) * LINE
}

/// Pairs of all keys of a head, and of all its values.
pub(super) fn copy_len(sizes: &Sizes) -> [usize; 2] {
    [sizes.keys * step(sizes), sizes.keys.div_ceil(sizes.tile) * tile_len(sizes)]
}

/// The values of the tile that begins with key `start`.
pub(super) fn tile<'a>(sizes: &Sizes, values: &'a [f32], start: usize) -> &'a [f32] {
    &values[start / sizes.tile * tile_len(sizes)..][..tile_len(sizes)]
}

/// Copies keys.
pub(super) fn copy_keys(
    cpu: &Cpu,
    sizes: &Sizes,
    pairs: &PairKernels,
    from: &CpuTensor,
    bytes: usize,
) -> Result<Block> {
    let mut block = cpu.pool.take(bytes, "attention")?;
    let target = Target(block.as_mut_ptr().cast::<u32>());
    let (channels, step) = (from.shape.c, step(sizes));
    for_each_tile(cpu, sizes, from.shape.n, |first, keys, start, head| {
        for key in first..first + keys {
            let from = &from.values()[start + key * channels..][..sizes.d];
            let to = target.at((head * sizes.keys + key) * step);
            // SAFETY: this task alone writes this row of this head, which has room for the pairs of `d` values.
            unsafe { (pairs.narrow)(from.as_ptr(), to, sizes.d) };
        }
    })?;
    Ok(block)
}

/// Copies values, tile by tile.
pub(super) fn copy_values(
    cpu: &Cpu,
    sizes: &Sizes,
    pairs: &PairKernels,
    from: &CpuTensor,
    bytes: usize,
) -> Result<Block> {
    let mut block = cpu.pool.take(bytes, "attention")?;
    let target = Target(block.as_mut_ptr().cast::<u32>());
    let (d, channels, row) = (sizes.d, from.shape.c, sizes.tile.div_ceil(2));
    let [_, all] = copy_len(sizes);
    for_each_tile(cpu, sizes, from.shape.n, |first, keys, start, head| {
        let at = head * all + first / sizes.tile * tile_len(sizes);
        // SAFETY: this task alone writes this tile of this head.
        let to = unsafe { target.slice(at, tile_len(sizes)) };
        let value = |key: usize| &from.values()[start + key * channels..][..d];
        let zeros = vec![0.0; d];
        let mut pair = vec![0; d];
        for index in 0..keys.div_ceil(2) {
            let key = first + 2 * index;
            let second = if key + 1 < first + keys { value(key + 1) } else { &zeros };
            // SAFETY: all have `d` values.
            unsafe { (pairs.pair_rows)(value(key).as_ptr(), second.as_ptr(), pair.as_mut_ptr(), d) };
            for (to, pair) in to[index..].iter_mut().step_by(row).zip(&pair) {
                *to = *pair;
            }
        }
    })?;
    Ok(block)
}

/// Rounds rows of `width` values, and puts each two into the place of one. A last one without another has zeros beside it.
pub(super) fn pair_rows(pairs: &PairKernels, rows: &mut [f32], width: usize) {
    let start = rows.as_mut_ptr();
    let count = rows.len() / width;
    for pair in 0..count.div_ceil(2) {
        let first = start.wrapping_add(2 * pair * width);
        let second = if 2 * pair + 1 < count { first.wrapping_add(width) } else { ZEROS.as_ptr() };
        let to: *mut u32 = start.wrapping_add(pair * width).cast();
        // SAFETY: both rows have `width` values, 32 at the most, and the pairs go where rows were read before, or where the
        // first of them is.
        unsafe { (pairs.pair_rows)(first, second, to, width) };
    }
}

/// `scores = keys · queries` of the `count` keys from `start`, the queries as [`pair_rows`] left them.
pub(super) fn score(
    (kernels, pairs): (&Kernels, &PairKernels),
    sizes: &Sizes,
    (keys, start, count): (&[f32], usize, usize),
    (queries, width): (&[f32], usize),
    scores: &mut [f32],
) {
    let step = step(sizes);
    for_each_part(count, kernels.mr, |key, rows| {
        let tile = PairTile {
            a: keys[(start + key) * step..][..rows * step].as_ptr().cast(),
            a_stride: step,
            pairs: sizes.d.div_ceil(2),
            b: queries.as_ptr().cast(),
            c: scores[key * width..][..rows * width].as_mut_ptr(),
            stride: width,
            accumulate: false,
        };
        // SAFETY: the slices are what the tile says.
        unsafe { kernels.pair_tile(pairs, rows, width)(&tile) };
    });
}

/// `sums = sums · fades + values · weights`, without the sums if there are no fades. Leaves the weights as pairs.
pub(super) fn weigh(
    (simd, kernels, pairs): (Simd, &Kernels, &PairKernels),
    values: &[f32],
    (weights, width): (&mut [f32], usize),
    fades: Option<&[f32]>,
    sums: &mut [f32],
) {
    let d = sums.len() / width;
    let a_stride = values.len() / d;
    let count = (weights.len() / width).div_ceil(2);
    pair_rows(pairs, weights, width);
    if let Some(fades) = fades {
        scale_columns(simd, sums, fades);
    }
    for_each_part(d, kernels.mr, |channel, rows| {
        let tile = PairTile {
            a: values[channel * a_stride..][..rows * a_stride].as_ptr().cast(),
            a_stride,
            pairs: count,
            b: weights.as_ptr().cast(),
            c: sums[channel * width..][..rows * width].as_mut_ptr(),
            stride: width,
            accumulate: fades.is_some(),
        };
        // SAFETY: the slices are what the tile says.
        unsafe { kernels.pair_tile(pairs, rows, width)(&tile) };
    });
}
