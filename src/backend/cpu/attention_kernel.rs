//! Attention's own micro-kernels. Every register holds a value of several queries: scores and weights lie in panels
//! of the micro-kernel's width, for each key a row of queries, so that the softmax goes down columns without ever
//! adding up a register, and the weights are already the panel that the product with the values reads.

use std::sync::atomic::{Ordering, compiler_fence};

use super::kernel::{Four, STEPS, Vector, for_each_row};
#[cfg(target_arch = "aarch64")]
use super::kernel_arm::Neon;
#[cfg(target_arch = "x86_64")]
use super::kernel_x86::{Avx2, Avx512, Sse2};
use super::pack::WIDEST;
use super::simd::Simd;

/// A row of factors that change nothing.
pub(super) const ONES: [f32; WIDEST] = [1.0; WIDEST];

/// A panel's scores with a tile of keys, to become weights.
pub(super) struct Softmax {
    /// `keys` rows of the panel's width, in units of log2.
    pub(super) scores: *mut f32,
    pub(super) keys: usize,
    /// Each query's largest score so far; a row.
    pub(super) maxima: *mut f32,
    /// Each query's weights so far, added up; a row.
    pub(super) totals: *mut f32,
    /// What becomes of weights from before, now that there is a new maximum; a row.
    pub(super) fades: *mut f32,
}

/// `c = c · factors + aᵀ · b` for the `MR` rows of `c`: scores of a few keys, or the weighted sums of a few channels.
pub(super) struct Product {
    /// `k` rows of `MR` values, one after the other: a single pointer for all, and every line is used up at once.
    pub(super) a: *const f32,
    pub(super) k: usize,
    /// `k` rows of the panel's width.
    pub(super) b: *const f32,
    /// `MR` rows of the panel's width.
    pub(super) c: *mut f32,
    /// A row; null where nothing was in `c` before.
    pub(super) factors: *const f32,
}

type SoftmaxFn = unsafe fn(&Softmax);
type ProductFn = unsafe fn(&Product);

/// The kernels of one instruction set.
pub(super) struct Parts {
    /// For panels of the micro-kernel's width, and half of it.
    softmax: [SoftmaxFn; 2],
    /// The same, by rows less one.
    product: [&'static [ProductFn]; 2],
}

impl Parts {
    pub(super) fn new(simd: Simd) -> &'static Self {
        match simd {
            Simd::Portable => &PORTABLE,
            #[cfg(target_arch = "x86_64")]
            Simd::Sse2 => &SSE2,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => &AVX2,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 | Simd::Zen4 => &AVX512,
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => &NEON,
        }
    }

    /// The softmax of a panel, of half the width or not.
    pub(super) fn softmax(&self, half: bool) -> SoftmaxFn {
        self.softmax[usize::from(half)]
    }

    /// The product of `rows` rows, at most the micro-kernel's.
    pub(super) fn product(&self, half: bool, rows: usize) -> ProductFn {
        self.product[usize::from(half)][rows - 1]
    }
}

/// `2^x` for `x` of at most 0, relative error below 2.5e-7; 0 below -127. NaN stays NaN.
// Not quite ln 2.
#[allow(clippy::approx_constant)]
#[inline(always)]
fn power<V: Vector>(x: V) -> V {
    let (n, r) = x.split();
    // The polynomial of degree 5 with the smallest relative error on [-1/2, 1/2] that is 1 at 0: 1.1e-7 before
    // rounding.
    let p = V::splat(1.326_472_7e-3).mul_add(r, V::splat(9.671_513e-3));
    let p = p.mul_add(r, V::splat(5.550_733_6e-2));
    let p = p.mul_add(r, V::splat(2.402_224_2e-1));
    let p = p.mul_add(r, V::splat(6.931_47e-1));
    p.mul_add(r, V::splat(1.0)).times_power(n)
}

/// # Safety
/// The rows are as [`Softmax`] says, `NV` vectors wide, and the machine has the instructions.
#[inline(always)]
unsafe fn softmax<V: Vector, const NV: usize>(t: &Softmax) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let width = NV * V::LANES;
        let at = |row: *mut f32, j: usize| row.wrapping_add(j * V::LANES);
        let mut old = [V::splat(0.0); NV];
        for (j, old) in old.iter_mut().enumerate() {
            *old = V::load(at(t.maxima, j));
        }
        // Two at a time: a comparison waits for the one before.
        let (mut even, mut odd) = (old, old);
        for key in (0..t.keys & !1).step_by(2) {
            let row = t.scores.wrapping_add(key * width);
            for j in 0..NV {
                even[j] = even[j].max(V::load(at(row, j)));
                odd[j] = odd[j].max(V::load(at(row, NV + j)));
            }
        }
        let last = t.scores.wrapping_add((t.keys - 1) * width);
        let (mut maximum, mut sum) = (old, [V::splat(0.0); NV]);
        for j in 0..NV {
            maximum[j] = even[j].max(odd[j]).max(V::load(at(last, j)));
        }
        for key in 0..t.keys {
            let row = t.scores.wrapping_add(key * width);
            for j in 0..NV {
                let weight = power(V::load(at(row, j)).sub(maximum[j]));
                weight.store(at(row, j));
                sum[j] = sum[j].add(weight);
            }
        }
        for j in 0..NV {
            let fade = power(old[j].sub(maximum[j]));
            V::load(at(t.totals, j)).mul_add(fade, sum[j]).store(at(t.totals, j));
            fade.store(at(t.fades, j));
            maximum[j].store(at(t.maxima, j));
        }
    }
}

/// # Safety
/// The rows are as [`Product`] says, `NV` vectors wide, and the machine has the instructions.
#[inline(always)]
unsafe fn product<V: Vector, const MR: usize, const NV: usize>(t: &Product) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut acc = [[V::splat(0.0); NV]; MR];
        let (mut a, mut b) = (t.a, t.b);
        // As in `kernel::tile`.
        macro_rules! multiply {
            () => {
                compiler_fence(Ordering::SeqCst);
                let left = V::load(b);
                let right = if NV > 1 { V::load(b.wrapping_add(V::LANES)) } else { left };
                b = b.wrapping_add(NV * V::LANES);
                for_each_row!(MR, I, {
                    let value = V::splat(*a.wrapping_add(I));
                    acc[I][0] = value.mul_add(left, acc[I][0]);
                    if NV > 1 {
                        acc[I][1] = value.mul_add(right, acc[I][1]);
                    }
                });
                a = a.wrapping_add(MR);
            };
        }
        for _ in 0..t.k / STEPS {
            multiply!();
            multiply!();
            multiply!();
            multiply!();
        }
        for _ in 0..t.k % STEPS {
            multiply!();
        }
        for_each_row!(MR, I, {
            for (j, &sum) in acc[I].iter().enumerate() {
                let to = t.c.wrapping_add((I * NV + j) * V::LANES);
                let sum = match t.factors.is_null() {
                    true => sum,
                    false => V::load(to).mul_add(V::load(t.factors.wrapping_add(j * V::LANES)), sum),
                };
                sum.store(to);
            }
        });
    }
}

/// The kernels for vectors of one kind, compiled with the features they need.
macro_rules! parts {
    ($(#[$attribute:meta])* $name:ident, $module:ident, $vector:ty, [$($features:meta)?], [$($mr:literal)*]) => {
        $(#[$attribute])*
        mod $module {
            use super::*;

            $(#[$features])?
            unsafe fn softmax<const NV: usize>(t: &Softmax) {
                // SAFETY: passed on from the caller.
                unsafe { super::softmax::<$vector, NV>(t) }
            }

            $(#[$features])?
            unsafe fn product<const MR: usize, const NV: usize>(t: &Product) {
                // SAFETY: passed on from the caller.
                unsafe { super::product::<$vector, MR, NV>(t) }
            }

            pub(super) static PARTS: Parts = Parts {
                softmax: [softmax::<2>, softmax::<1>],
                product: [&[$(product::<$mr, 2>),*], &[$(product::<$mr, 1>),*]],
            };
        }
        $(#[$attribute])*
        use $module::PARTS as $name;
    };
}

parts!(PORTABLE, portable, Four, [], [1 2 3 4]);
parts!(
    #[cfg(target_arch = "x86_64")]
    SSE2, sse2, Sse2, [], [1 2 3 4]
);
parts!(
    #[cfg(target_arch = "x86_64")]
    AVX2, avx2, Avx2, [target_feature(enable = "avx2,fma")], [1 2 3 4 5 6]
);
parts!(
    #[cfg(target_arch = "x86_64")]
    AVX512, avx512, Avx512, [target_feature(enable = "avx512f,avx512dq")], [1 2 3 4 5 6 7 8 9 10 11 12]
);
parts!(
    #[cfg(target_arch = "aarch64")]
    NEON, neon, Neon, [], [1 2 3 4 5 6 7 8 9 10 11 12]
);
