//! What rows and columns need before the micro-kernels of [`kernel_inner`](super::kernel_inner), for AVX-512.

use std::arch::x86_64::*;

use super::inner::InnerRows;
use super::kernel_x86::sixteen_f16;

/// Lanes of a vector.
const LANES: usize = 16;

/// # Safety
/// See [`InnerKernels::scale_rows`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scale_rows(rows: &InnerRows) {
    let &InnerRows { ref from, count, to, stride, k, size, sums, scales } = rows;
    let rows = || (0..count).map(|row| to.wrapping_add(row * stride));
    let all = ((1u32 << count) - 1) as u16;
    // SAFETY: the caller vouches for the pointers; the masks end where the rows do.
    unsafe {
        let mut partial = [_mm512_setzero_ps(); LANES];
        for (&from, partial) in from.iter().zip(&mut partial).take(count) {
            *partial = dot(from, from, k);
        }
        // As `inner::exponent` and `inner::power`.
        let mean = _mm512_div_ps(totals(partial), _mm512_set1_ps(k as f32));
        let bits = _mm512_srli_epi32::<23>(_mm512_castps_si512(mean));
        let bits = _mm512_and_si512(bits, _mm512_set1_epi32(0xff));
        let exponents = _mm512_srai_epi32::<1>(_mm512_sub_epi32(bits, _mm512_set1_epi32(126 + 2 * size)));
        let bias = _mm512_set1_epi32(127);
        let power = |e| _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e));
        _mm512_mask_storeu_ps(scales, all, power(_mm512_add_epi32(bias, exponents)));
        let mut factors = [0.0; LANES];
        _mm512_storeu_ps(factors.as_mut_ptr(), power(_mm512_sub_epi32(bias, exponents)));
        for ((to, from), factor) in rows().zip(from).zip(factors) {
            let factor = _mm512_set1_ps(factor);
            each_vector(k, |i, _, mask| {
                let scaled = _mm512_mul_ps(load(from.wrapping_add(i), mask), factor);
                match mask {
                    u16::MAX => _mm512_storeu_ps(to.wrapping_add(i), scaled),
                    _ => _mm512_mask_storeu_ps(to.wrapping_add(i), mask, scaled),
                }
            });
        }
        for (to, partial) in rows().zip(&mut partial) {
            *partial = dot(to, to.wrapping_add(k / 3), k / 3);
        }
        _mm512_mask_storeu_ps(sums, all, _mm512_sub_ps(_mm512_setzero_ps(), totals(partial)));
    }
}

/// The lanes of the vector that begins at value `i` of `k`.
#[inline(always)]
fn mask(i: usize, k: usize) -> u16 {
    if k - i < LANES { (1 << (k - i)) - 1 } else { u16::MAX }
}

/// Runs `body` for every vector of `k` values, some at a time: where it begins, and its number among those.
#[inline(always)]
fn each_vector(k: usize, mut body: impl FnMut(usize, usize, u16)) {
    let whole = k - k % (4 * LANES);
    for i in (0..whole).step_by(4 * LANES) {
        body(i, 0, u16::MAX);
        body(i + LANES, 1, u16::MAX);
        body(i + 2 * LANES, 2, u16::MAX);
        body(i + 3 * LANES, 3, u16::MAX);
    }
    for i in (whole..k).step_by(LANES) {
        body(i, 0, mask(i, k));
    }
}

/// # Safety
/// There are values for the lanes of the mask.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(from: *const f32, mask: u16) -> __m512 {
    // SAFETY: passed on to the caller.
    unsafe { if mask == u16::MAX { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(mask, from) } }
}

/// A vector whose lanes add up to `Σ a·b`.
///
/// # Safety
/// Both have `k` values.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn dot(a: *const f32, b: *const f32, k: usize) -> __m512 {
    let mut sums = [_mm512_setzero_ps(); 4];
    each_vector(k, |i, n, mask| {
        // SAFETY: the mask ends where the values do.
        let (a, b) = unsafe { (load(a.wrapping_add(i), mask), load(b.wrapping_add(i), mask)) };
        sums[n] = _mm512_fmadd_ps(a, b, sums[n]);
    });
    _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]))
}

/// The sum of the lanes of each row.
#[target_feature(enable = "avx512f")]
#[inline]
fn totals(rows: [__m512; LANES]) -> __m512 {
    let pairs: [__m512; 8] = std::array::from_fn(|i| {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
    });
    let fours: [__m512; 4] = std::array::from_fn(|i| {
        let (a, b) = (_mm512_castps_pd(pairs[2 * i]), _mm512_castps_pd(pairs[2 * i + 1]));
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
    });
    // Lanes in fours of the two, or four, vectors side by side.
    let halves: [__m512; 2] = std::array::from_fn(|i| {
        let (a, b) = (fours[2 * i], fours[2 * i + 1]);
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b))
    });
    let [a, b] = halves;
    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
}

/// # Safety
/// See [`InnerKernels::widen_f16`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn widen_f16(
    from: *const u16,
    factors: *const f32,
    width: usize,
    to: *mut f32,
    rows: usize,
) {
    for column in (0..width).step_by(LANES) {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let factors = _mm512_loadu_ps(factors.wrapping_add(column));
            for i in (column..rows * width).step_by(width) {
                let values = sixteen_f16(from.wrapping_add(i));
                _mm512_storeu_ps(to.wrapping_add(i), _mm512_mul_ps(values, factors));
            }
        }
    }
}

/// # Safety
/// See [`InnerKernels::column_sums`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn column_sums(rows: *const f32, k: usize, width: usize, sums: *mut f32) {
    let third = k / 3 * width;
    for column in (0..width).step_by(LANES) {
        let mut partial = [_mm512_setzero_ps(); 2];
        for i in (column..third).step_by(width) {
            // SAFETY: the caller vouches for the rows.
            let (a, b) = unsafe {
                let a = rows.wrapping_add(i);
                (_mm512_loadu_ps(a), _mm512_loadu_ps(a.wrapping_add(third)))
            };
            partial = [_mm512_fnmadd_ps(a, b, partial[1]), partial[0]];
        }
        // SAFETY: there is a sum for each column.
        unsafe { _mm512_storeu_ps(sums.wrapping_add(column), _mm512_add_ps(partial[0], partial[1])) };
    }
}
