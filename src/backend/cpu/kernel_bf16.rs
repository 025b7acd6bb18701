//! The micro-kernels for AVX-512 BF16 (12 × 32), which multiply twice as many values at a time as those for `f32`. Intel's
//! Emerald Rapids begins four multiply-adds of `f32` for one such, so there they take longer.

use std::arch::x86_64::*;

use super::kernel::{PairKernels, PairTile, for_each_row};
use super::simd::is_amd;

/// Whether this machine has the instructions. It then has AVX-512 F as well.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

/// Whether they are faster than those for `f32`.
pub(super) fn is_faster() -> bool {
    available() && is_amd()
}

/// `MR` rows by `NV` vectors. Each sum is taken in the order of `k`, whatever the tile's height.
///
/// # Safety
/// See [`PairTileFn`](super::kernel::PairTileFn).
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const MR: usize, const NV: usize>(t: &PairTile) {
    const LANES: usize = 16;
    // SAFETY: the caller vouches for the pointers. They are moved with `wrapping_add` as in `kernel::tile`.
    unsafe {
        let pair =
            |at: *const u32| -> __m512bh { std::mem::transmute(_mm512_set1_epi32(at.cast::<i32>().read())) };
        let mut acc = [[_mm512_setzero_ps(); NV]; MR];
        let mut b = t.b;
        let a: [*const u32; MR] = std::array::from_fn(|row| t.a.wrapping_add(row * t.a_stride));
        for k in 0..t.pairs {
            let columns: [__m512bh; NV] = std::array::from_fn(|j| {
                std::mem::transmute(_mm512_loadu_si512(b.wrapping_add(j * LANES).cast()))
            });
            b = b.wrapping_add(NV * LANES);
            for_each_row!(MR, I, {
                let value = pair(a[I].wrapping_add(k));
                for j in 0..NV {
                    acc[I][j] = _mm512_dpbf16_ps(acc[I][j], value, columns[j]);
                }
            });
        }
        for_each_row!(MR, I, {
            for (j, &sum) in acc[I].iter().enumerate() {
                let c = t.c.wrapping_add(I * t.stride + j * LANES);
                let sum = if t.accumulate { _mm512_add_ps(_mm512_loadu_ps(c), sum) } else { sum };
                _mm512_storeu_ps(c, sum);
            }
        });
    }
}

/// # Safety
/// See [`PairKernels::narrow`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn narrow(from: *const f32, to: *mut u32, len: usize) {
    let whole = len & !31;
    // SAFETY: the caller gives `len` values, and room for them as pairs.
    unsafe {
        for i in (0..whole).step_by(32) {
            let low = _mm512_loadu_ps(from.wrapping_add(i));
            let high = _mm512_loadu_ps(from.wrapping_add(i + 16));
            let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.wrapping_add(i / 2).cast(), pairs);
        }
        for i in (whole..len).step_by(2) {
            let bits = |i: usize| match i < len {
                true => u32::from(half::bf16::from_f32(*from.wrapping_add(i)).to_bits()),
                false => 0,
            };
            *to.wrapping_add(i / 2) = bits(i) | bits(i + 1) << 16;
        }
    }
}

/// # Safety
/// See [`PairKernels::pair_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_rows(first: *const f32, second: *const f32, to: *mut u32, len: usize) {
    let whole = len & !15;
    // Value `i` of the first, value `i` of the second: they come as 16 of the one and 16 of the other.
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    // SAFETY: the caller gives `len` values of each, and room for as many pairs.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        for i in (0..whole).step_by(16) {
            let low = _mm512_loadu_ps(first.wrapping_add(i));
            let high = _mm512_loadu_ps(second.wrapping_add(i));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.wrapping_add(i).cast(), _mm512_permutexvar_epi16(order, both));
        }
        for i in whole..len {
            let bits = |value: f32| u32::from(half::bf16::from_f32(value).to_bits());
            *to.wrapping_add(i) = bits(*first.wrapping_add(i)) | bits(*second.wrapping_add(i)) << 16;
        }
    }
}

pub(super) static PAIRS: PairKernels = PairKernels {
    full: &[
        tile::<1, 2>,
        tile::<2, 2>,
        tile::<3, 2>,
        tile::<4, 2>,
        tile::<5, 2>,
        tile::<6, 2>,
        tile::<7, 2>,
        tile::<8, 2>,
        tile::<9, 2>,
        tile::<10, 2>,
        tile::<11, 2>,
        tile::<12, 2>,
    ],
    half: &[
        tile::<1, 1>,
        tile::<2, 1>,
        tile::<3, 1>,
        tile::<4, 1>,
        tile::<5, 1>,
        tile::<6, 1>,
        tile::<7, 1>,
        tile::<8, 1>,
        tile::<9, 1>,
        tile::<10, 1>,
        tile::<11, 1>,
        tile::<12, 1>,
    ],
    narrow,
    pair_rows,
};
