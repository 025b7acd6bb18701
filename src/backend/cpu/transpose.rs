//! Between rows of channels, one for each query, and panels, which have a row of queries for each channel.

use super::pack::Target;
use super::prefetch::prefetch;

/// The side of the squares that are turned in registers.
const SIDE: usize = 4;
/// How many rows ahead to fetch: they lie too far from each other for the processor to guess.
const AHEAD: usize = 8;

/// Turns a square: `to[i][j] = from[j][i] · factors[i]`.
///
/// # Safety
/// Each pointer leads to four values; what is written is not read.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn(from: [*const f32; SIDE], factors: &[f32; SIDE], to: [*mut f32; SIDE]) {
    use std::arch::x86_64::*;
    let [a, b, c, d] = from;
    let [to_a, to_b, to_c, to_d] = to;
    // SAFETY: every x86-64 has SSE; the caller vouches for the pointers.
    unsafe {
        let factors = _mm_loadu_ps(factors.as_ptr());
        let mut a = _mm_mul_ps(_mm_loadu_ps(a), factors);
        let mut b = _mm_mul_ps(_mm_loadu_ps(b), factors);
        let mut c = _mm_mul_ps(_mm_loadu_ps(c), factors);
        let mut d = _mm_mul_ps(_mm_loadu_ps(d), factors);
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        _mm_storeu_ps(to_a, a);
        _mm_storeu_ps(to_b, b);
        _mm_storeu_ps(to_c, c);
        _mm_storeu_ps(to_d, d);
    }
}

/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn turn(from: [*const f32; SIDE], factors: &[f32; SIDE], to: [*mut f32; SIDE]) {
    for (i, to) in to.into_iter().enumerate() {
        for (j, from) in from.into_iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { *to.wrapping_add(j) = *from.wrapping_add(i) * factors[i] };
        }
    }
}

/// Writes a panel, for each channel a row of `width`, from `count` rows of channels `stride` apart, each value times
/// `scale`. Columns past the last row are like the last.
pub(super) fn gather(rows: &[f32], stride: usize, count: usize, scale: f32, width: usize, panel: &mut [f32]) {
    let channels = panel.len() / width;
    let all = rows;
    // Squares are written whole: a narrower panel has none.
    let whole = if width < SIDE { 0 } else { channels - channels % SIDE };
    for start in (0..width).step_by(SIDE) {
        for i in start + AHEAD..start + AHEAD + SIDE {
            prefetch(all.as_ptr().wrapping_add(i * stride), channels);
        }
        // The last square overlaps the one before rather than the next row.
        let start = start.min(width.saturating_sub(SIDE));
        let rows: [&[f32]; SIDE] =
            std::array::from_fn(|i| &all[(start + i).min(count - 1) * stride..][..channels]);
        let to = panel.as_mut_ptr().wrapping_add(start);
        for c in (0..whole).step_by(SIDE) {
            let from = rows.map(|row| row.as_ptr().wrapping_add(c));
            let to = std::array::from_fn(|i| to.wrapping_add((c + i) * width));
            // SAFETY: `c` and the three after it are channels of every row, and rows of the panel, which has four columns from
            // `start` on.
            unsafe { turn(from, &[scale; SIDE], to) };
        }
        for c in whole..channels {
            for (i, row) in rows.iter().enumerate().take(width) {
                panel[c * width + start + i] = row[c] * scale;
            }
        }
    }
}

/// Writes `count` rows of channels `stride` apart from a panel, each value times the factor of its row.
///
/// # Safety
/// The rows are within the memory, and nothing else uses them.
pub(super) unsafe fn scatter(
    panel: &[f32],
    width: usize,
    factors: &[f32],
    count: usize,
    stride: usize,
    out: Target<f32>,
) {
    let channels = panel.len() / width;
    let whole = channels - channels % SIDE;
    for start in (0..count).step_by(SIDE) {
        let live = SIDE.min(count - start);
        let factors: [f32; SIDE] = std::array::from_fn(|i| factors[start + i]);
        // Where columns past the last row go.
        let mut spare = [0.0; SIDE];
        for c in (0..whole).step_by(SIDE) {
            let square = &panel[c * width + start..][..(SIDE - 1) * width + SIDE];
            let from = std::array::from_fn(|i| square.as_ptr().wrapping_add(i * width));
            let row = |i: usize| match i < live {
                true => out.at((start + i) * stride + c),
                false => spare.as_mut_ptr(),
            };
            let to = [0, 1, 2, 3].map(row);
            // SAFETY: the rows of the square have four values from here on; the caller vouches for `out`.
            unsafe { turn(from, &factors, to) };
        }
        for c in whole..channels {
            for (i, factor) in factors.iter().enumerate().take(live) {
                // SAFETY: passed on to the caller.
                unsafe { *out.at((start + i) * stride + c) = panel[c * width + start + i] * factor };
            }
        }
    }
}
