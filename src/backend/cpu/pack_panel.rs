//! Columns side by side: the transposition that packs a weight.

use std::ops::Range;

use super::kernel::Kernels;
#[cfg(target_arch = "x86_64")]
use super::prefetch::prefetch_line;
use super::simd::{Simd, vectorized};
use crate::backend::DType;

/// Moves the columns of one panel, values of `SIZE` bytes, from `[n, k, taps]` to `[taps, k, width]`, the taps `stride` bytes
/// apart.
///
/// A value at a time this would take longer than the memory does. Squares of 8 values of 2 bytes go through vector
/// registers, with all columns of 8 rows in turn, so that whole cache lines are written.
pub(super) fn pack_panel<const SIZE: usize>(
    from: &[u8],
    to: &mut [u8],
    columns: Range<usize>,
    [k, taps, width]: [usize; 3],
    stride: usize,
) {
    let (from, _) = from.as_chunks::<SIZE>();
    let (to, _) = to.as_chunks_mut::<SIZE>();
    let depth = k * taps;
    let from = &from[columns.start * depth..columns.end * depth];
    let count = columns.len();
    // Row `j` of the transposed matrix is input `j / taps`, tap `j % taps`.
    let row = |j: usize| j % taps * (stride / SIZE) + j / taps * width;
    let whole = if SIZE == 2 {
        squares(from.as_flattened(), to.as_flattened_mut(), depth, count, row)
    } else {
        (0, 0)
    };
    for j in 0..depth {
        let first = if j < whole.0 { whole.1 } else { 0 };
        let to = &mut to[row(j)..][first..count];
        for (to, from) in to.iter_mut().zip(from[first * depth..].iter().skip(j).step_by(depth)) {
            *to = *from;
        }
    }
}

/// The columns of one panel from `[n, k, taps]` as bf16 to `[taps, k / 2, width]` pairs; what is missing from the last pair of
/// a tap, and columns past the last, are zeros.
pub(super) fn pack_pairs(
    (simd, kernels): (Simd, &Kernels),
    (dtype, from): (DType, &[u8]),
    to: &mut [u8],
    columns: Range<usize>,
    [k, taps, width]: [usize; 3],
) {
    let stride = k * width * dtype.size();
    let mut panel = vec![0; taps * stride];
    match dtype {
        DType::F32 => pack_panel::<4>(from, &mut panel, columns, [k, taps, width], stride),
        _ => pack_panel::<2>(from, &mut panel, columns, [k, taps, width], stride),
    }
    let mut rows = vec![0.0; 2 * width];
    let to = to.chunks_exact_mut(k.div_ceil(2) * width * size_of::<u32>());
    for (to, tap) in to.zip(panel.chunks_exact(stride)) {
        let pairs = tap.chunks(2 * width * dtype.size());
        for (to, pair) in to.chunks_exact_mut(width * size_of::<u32>()).zip(pairs) {
            let count = pair.len() / dtype.size();
            kernels.widen(dtype, pair, &mut rows[..count]);
            rows[count..].fill(0.0);
            let (first, second) = rows.split_at(width);
            pair_up(simd, first, second, to);
        }
    }
}

vectorized! {
    /// Values as bf16, those of `first` in the lower halves.
    fn pair_up(first: &[f32], second: &[f32], to: &mut [u8]) = pair_up_body
}

#[inline(always)]
fn pair_up_body<const FMA: bool>(first: &[f32], second: &[f32], to: &mut [u8]) {
    /// To the nearest, ties to even: of finite weights.
    fn rounded(value: f32) -> u32 {
        let bits = value.to_bits();
        bits.wrapping_add(0x7fff + (bits >> 16 & 1))
    }
    for ((to, first), second) in to.as_chunks_mut().0.iter_mut().zip(first).zip(second) {
        *to = (rounded(*first) >> 16 | rounded(*second) & 0xffff_0000).to_le_bytes();
    }
}

/// Transposes the whole squares of `[count, depth]` values of two bytes; row `j` of the result starts at value `row(j)`.
/// Returns how many rows and columns that are.
#[cfg(target_arch = "x86_64")]
fn squares(
    from: &[u8],
    to: &mut [u8],
    depth: usize,
    count: usize,
    row: impl Fn(usize) -> usize,
) -> (usize, usize) {
    use std::arch::x86_64::*;
    const SIDE: usize = 8;
    /// Values in a cache line.
    const LINE: usize = 32;
    let (rows, columns) = (depth / SIDE * SIDE, count / SIDE * SIDE);
    // As many rows as a cache line of a column has, so that each line is read once.
    for first in (0..rows).step_by(LINE) {
        let starts: [usize; LINE] = std::array::from_fn(|i| row(first + i));
        for column in (0..columns).step_by(SIDE) {
            for i in column..column + SIDE {
                prefetch_line(from.as_ptr().wrapping_add((i * depth + first + LINE) * 2));
            }
            for (j, starts) in (first..rows).step_by(SIDE).zip(starts.chunks_exact(SIDE)) {
                let source: [&[u8; 16]; SIDE] = std::array::from_fn(|i| {
                    let start = ((column + i) * depth + j) * 2;
                    from[start..].first_chunk().unwrap_or(&[0; 16])
                });
                // SAFETY: every x86-64 has SSE2; each of the arrays holds a vector.
                let square: [__m128i; SIDE] = unsafe {
                    let a = source.map(|row| _mm_loadu_si128(row.as_ptr().cast()));
                    let low = |i: usize, k: usize| _mm_unpacklo_epi16(a[i], a[k]);
                    let high = |i: usize, k: usize| _mm_unpackhi_epi16(a[i], a[k]);
                    // Pairs of columns; rows 0 to 3, then 4 to 7.
                    let b = [
                        low(0, 1),
                        low(2, 3),
                        low(4, 5),
                        low(6, 7),
                        high(0, 1),
                        high(2, 3),
                        high(4, 5),
                        high(6, 7),
                    ];
                    let low = |i: usize| _mm_unpacklo_epi32(b[i], b[i + 1]);
                    let high = |i: usize| _mm_unpackhi_epi32(b[i], b[i + 1]);
                    // Four columns; rows 0 and 1, 2 and 3, and so on.
                    let c = [low(0), low(2), high(0), high(2), low(4), low(6), high(4), high(6)];
                    std::array::from_fn(|i| match i % 2 {
                        0 => _mm_unpacklo_epi64(c[i], c[i + 1]),
                        _ => _mm_unpackhi_epi64(c[i - 1], c[i]),
                    })
                };
                for (start, values) in starts.iter().zip(square) {
                    let to = &mut to[(start + column) * 2..][..16];
                    // SAFETY: every x86-64 has SSE2; the slice has room for a vector.
                    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), values) };
                }
            }
        }
    }
    (rows, columns)
}

#[cfg(not(target_arch = "x86_64"))]
fn squares(_: &[u8], _: &mut [u8], _: usize, _: usize, _: impl Fn(usize) -> usize) -> (usize, usize) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each value where the definition says, and zeros beside the columns left as they were.
    fn check<const SIZE: usize>(columns: Range<usize>, k: usize, taps: usize, width: usize) {
        let depth = k * taps;
        let from: Vec<u8> = (0..columns.end * depth * SIZE).map(|i| (i * 31 + i / 256 + 1) as u8).collect();
        let stride = k * width + if taps > 1 { 16 } else { 0 };
        let mut to = vec![0; taps * stride * SIZE];
        pack_panel::<SIZE>(&from, &mut to, columns.clone(), [k, taps, width], stride * SIZE);
        let (from, to) = (from.as_chunks::<SIZE>().0, to.as_chunks::<SIZE>().0);
        for tap in 0..taps {
            for i in 0..k {
                for column in 0..width {
                    let n = columns.start + column;
                    let value = if n < columns.end { from[(n * k + i) * taps + tap] } else { [0; SIZE] };
                    let at = format!("{columns:?} of {width}, input {i} of {k}, tap {tap} of {taps}");
                    assert_eq!(to[tap * stride + i * width + column], value, "{at}");
                }
            }
        }
    }

    #[test]
    fn every_value_finds_its_place() {
        for columns in [0..1, 0..8, 3..16, 32..64, 64..77, 0..32, 5..14] {
            for (k, taps) in [(1, 1), (7, 1), (8, 1), (40, 1), (3, 9), (8, 9), (13, 9), (1, 9), (5, 4)] {
                for width in [columns.len(), columns.len().next_multiple_of(16)] {
                    check::<2>(columns.clone(), k, taps, width);
                    check::<4>(columns.clone(), k, taps, width);
                }
            }
        }
    }
}
