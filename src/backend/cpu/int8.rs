//! Weights as 8-bit integers with scales.
//!
//! Each output has one scale for every [`GROUP`] consecutive inputs of a filter tap; a weight is its integer, -127 to
//! 127, times that. A panel holds for each tap and each group the scales of its columns and then a row of integers for
//! each input, so that widening reads it from front to back.

use std::ops::Range;

use super::kernel::Kernels;
use super::pack::KBlock;
use super::simd::{Simd, vectorized};
use crate::backend::DType;

/// Inputs that share a scale. Half as many make the errors a twelfth smaller, and the scales twice as many.
pub(super) const GROUP: usize = 64;
/// Bytes of a scale.
const SCALE: usize = size_of::<f32>();
/// The largest integer.
const MOST: f32 = 127.0;
/// The largest scale that [`MOST`] can be multiplied by.
const TOP: f32 = (f32::MAX / MOST).next_down();
/// A group whose weights are all smaller is zeros: its scale would leave the normal numbers.
const LEAST: f32 = 1e-30;

/// Bytes of one column of a tap of `k` inputs.
pub(super) fn tap_len(k: usize) -> usize {
    k + k.div_ceil(GROUP) * SCALE
}

/// Whether `k` inputs take less memory so than as `dtype`: few of them are not worth their scale.
pub(super) fn is_smaller(k: usize, dtype: DType) -> bool {
    tap_len(k) < k * dtype.size()
}

/// Rounds the columns of one panel from `[n, k, taps]` to the nearest integers; columns past the last are zeros.
pub(super) fn pack_panel(
    (simd, kernels): (Simd, &Kernels),
    (dtype, from): (DType, &[u8]),
    to: &mut [u8],
    columns: Range<usize>,
    [k, taps, width]: [usize; 3],
) {
    let size = dtype.size();
    let most = GROUP.min(k);
    // The inputs of a group of one column, and those of all columns tap by tap.
    let mut column = vec![0.0; most * taps];
    let mut rows = vec![0.0; most * taps * width];
    for start in (0..k).step_by(GROUP) {
        let count = GROUP.min(k - start);
        for (i, n) in columns.clone().enumerate() {
            let from = &from[(n * k + start) * taps * size..][..count * taps * size];
            let column = &mut column[..count * taps];
            kernels.widen(dtype, from, column);
            for (input, values) in column.chunks_exact(taps).enumerate() {
                for (tap, value) in values.iter().enumerate() {
                    rows[(tap * count + input) * width + i] = *value;
                }
            }
        }
        for (tap, rows) in rows[..count * taps * width].chunks_exact(count * width).enumerate() {
            let at = (tap * tap_len(k) + tap_len(start)) * width;
            let (scales, values) = to[at..][..tap_len(count) * width].split_at_mut(SCALE * width);
            quantise(simd, rows, scales, values);
        }
    }
}

vectorized! {
    /// Scales of the columns and integers of the rows of one group.
    fn quantise(rows: &[f32], scales: &mut [u8], values: &mut [u8]) = quantise_body
}

#[inline(always)]
fn quantise_body<const FMA: bool>(rows: &[f32], scales: &mut [u8], values: &mut [u8]) {
    /// As wide as the widest panel.
    const WIDEST: usize = 32;
    // Added to a small number it leaves the nearest integer, ties to even, in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let (scales, _) = scales.as_chunks_mut::<SCALE>();
    let width = scales.len();
    let mut largest = [0.0f32; WIDEST];
    let largest = &mut largest[..width];
    for row in rows.chunks_exact(width) {
        for (largest, value) in largest.iter_mut().zip(row) {
            *largest = largest.max(value.abs());
        }
    }
    let mut factors = [0.0f32; WIDEST];
    for ((factor, scale), largest) in factors.iter_mut().zip(scales).zip(largest) {
        let is_zero = *largest < LEAST;
        *scale = f32::to_le_bytes(if is_zero { 0.0 } else { (*largest / MOST).min(TOP) });
        *factor = if is_zero { 0.0 } else { MOST / *largest };
    }
    for (to, row) in values.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
        for ((to, value), factor) in to.iter_mut().zip(row).zip(&factors) {
            *to = (value * factor + ROUND).to_bits() as u8;
        }
    }
}

/// The values of a block of a panel, `width` columns of `k` inputs a tap, as `f32`.
pub(super) fn widen(kernels: &Kernels, panel: &[u8], k: usize, width: usize, block: &KBlock, to: &mut [f32]) {
    let kernel = kernels.widen_i8[usize::from(width == kernels.nr)];
    let mut to = to;
    for tap in block.tap..block.tap + block.taps {
        let end = block.k_start + block.k;
        let mut input = block.k_start;
        while input < end {
            let group = input / GROUP * GROUP;
            let count = (group + GROUP).min(end) - input;
            let scales = &panel[(tap * tap_len(k) + tap_len(group)) * width..];
            let values = &scales[(SCALE + input - group) * width..][..count * width];
            let (rows, rest) = to.split_at_mut(count * width);
            // SAFETY: there are `count` rows of `width` values on both sides and as many scales, and the kernel is for
            // that width and this machine.
            unsafe { kernel(scales.as_ptr().cast(), values.as_ptr().cast(), rows.as_mut_ptr(), count) };
            to = rest;
            input += count;
        }
    }
}
