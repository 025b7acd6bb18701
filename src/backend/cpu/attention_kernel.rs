//! Attention's own micro-kernels. Every register holds a value of several queries: scores and weights lie in panels
//! of the micro-kernel's width, for each key a row of queries, so that the softmax goes down columns without ever
//! adding up a register, and the weights are already the panel that the product with the values reads.

use std::sync::atomic::{Ordering, compiler_fence};

use super::kernel::{AHEAD, Four, STEPS, Vector, for_each_row};
#[cfg(target_arch = "x86_64")]
use super::kernel_x86::{Avx2, Avx512, Sse2};
use super::prefetch::{LINE, prefetch_line};
use super::simd::Simd;

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

/// `sums = sums · fades + Σ value · weights` for a few channels of a tile of values.
pub(super) struct Weigh {
    /// The first key's value, `step` before the next.
    pub(super) values: *const f32,
    pub(super) step: usize,
    pub(super) keys: usize,
    /// `keys` rows of the panel's width.
    pub(super) weights: *const f32,
    /// For each channel a row.
    pub(super) sums: *mut f32,
    pub(super) fades: *const f32,
    /// Whether this is the first tile: nothing was there before.
    pub(super) first: bool,
}

type SoftmaxFn = unsafe fn(&Softmax);
type WeighFn = unsafe fn(&Weigh);

/// The kernels of one instruction set.
pub(super) struct Parts {
    /// For panels of the micro-kernel's width, and half of it.
    softmax: [SoftmaxFn; 2],
    /// The same, by channels less one.
    weigh: [&'static [WeighFn]; 2],
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
        }
    }

    /// The softmax of a panel, of half the width or not.
    pub(super) fn softmax(&self, half: bool) -> SoftmaxFn {
        self.softmax[usize::from(half)]
    }

    /// The weighted sum of `channels` channels, at most the micro-kernel's rows.
    pub(super) fn weigh(&self, half: bool, channels: usize) -> WeighFn {
        self.weigh[usize::from(half)][channels - 1]
    }
}

/// A power of two on the way: `2^x` is a polynomial of `r`, times two to the integer in the low bits of `shifted`.
#[derive(Clone, Copy)]
struct Power<V> {
    shifted: V,
    r: V,
    p: V,
}

/// `2^x` for `x` of at most 0, relative error below 2.5e-7; 0 below -127. NaN stays NaN. In three steps, which a loop
/// can take for three values at a time: one chain of instructions would leave a processor waiting.
impl<V: Vector> Power<V> {
    #[inline(always)]
    fn new(x: V) -> Self {
        // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
        let magic = V::splat(12_582_912.0);
        // NaN is in the second place, see `Vector::max`. At -127 itself the exponent's bits become 0, and those of the
        // fraction are: 2^-127 is 0.
        let x = V::splat(-127.0).max(x);
        let shifted = x.add(magic);
        Self { shifted, r: x.sub(shifted.sub(magic)), p: x }
    }

    #[inline(always)]
    fn half(self) -> Self {
        // The polynomial of degree 5 with the smallest relative error on [-1/2, 1/2] that is 1 at 0: 1.1e-7 before
        // rounding.
        let p = V::splat(1.326_472_7e-3).mul_add(self.r, V::splat(9.671_513e-3));
        let p = p.mul_add(self.r, V::splat(5.550_733_6e-2));
        Self { p, ..self }
    }

    // Not quite ln 2.
    #[allow(clippy::approx_constant)]
    #[inline(always)]
    fn whole(self) -> V {
        let p = self.p.mul_add(self.r, V::splat(2.402_224_2e-1));
        let p = p.mul_add(self.r, V::splat(6.931_47e-1));
        p.mul_add(self.r, V::splat(1.0)).shift_exponent(self.shifted)
    }
}

/// # Safety
/// `from` points to `NV` vectors.
#[inline(always)]
unsafe fn load<V: Vector, const NV: usize>(from: *const f32) -> [V; NV] {
    // SAFETY: passed on to the caller.
    std::array::from_fn(|j| unsafe { V::load(from.wrapping_add(j * V::LANES)) })
}

/// # Safety
/// The rows are as [`Softmax`] says, `NV` vectors wide, and the machine has the instructions.
#[inline(always)]
unsafe fn softmax<V: Vector, const NV: usize>(t: &Softmax) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let width = NV * V::LANES;
        let old: [V; NV] = load(t.maxima);
        // Two at a time: a comparison waits for the one before.
        let (mut even, mut odd) = (old, old);
        for key in (0..t.keys & !1).step_by(2) {
            let row = t.scores.wrapping_add(key * width);
            let (a, b): ([V; NV], [V; NV]) = (load(row), load(row.wrapping_add(width)));
            for j in 0..NV {
                even[j] = a[j].max(even[j]);
                odd[j] = b[j].max(odd[j]);
            }
        }
        let last = t.keys - 1;
        let row: [V; NV] = load(t.scores.wrapping_add(last * width));
        for j in 0..NV {
            // One register after the other: few enough values for sixteen registers.
            let maximum = row[j].max(even[j].max(odd[j]));
            let column = t.scores.wrapping_add(j * V::LANES);
            let mut sum = V::splat(0.0);
            let mut half = Power::new(V::load(column).sub(maximum)).half();
            let mut begun = Power::new(V::load(column.wrapping_add(last.min(1) * width)).sub(maximum));
            for key in 0..t.keys {
                let weight = half.whole();
                weight.store(column.wrapping_add(key * width));
                sum = sum.add(weight);
                half = begun.half();
                // Past the last the last again, for nothing.
                let next = column.wrapping_add(last.min(key + 2) * width);
                begun = Power::new(V::load(next).sub(maximum));
            }
            let fade = Power::new(old[j].sub(maximum)).half().whole();
            let total = t.totals.wrapping_add(j * V::LANES);
            V::load(total).mul_add(fade, sum).store(total);
            fade.store(t.fades.wrapping_add(j * V::LANES));
            maximum.store(t.maxima.wrapping_add(j * V::LANES));
        }
    }
}

/// # Safety
/// The rows are as [`Weigh`] says, `NV` vectors wide, for `MR` channels, and the machine has the instructions.
#[inline(always)]
unsafe fn weigh<V: Vector, const MR: usize, const NV: usize>(t: &Weigh) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut acc = [[V::splat(0.0); NV]; MR];
        let (mut values, mut weights) = (t.values, t.weights);
        // As in `kernel::tile`.
        macro_rules! multiply {
            () => {
                compiler_fence(Ordering::SeqCst);
                let left = V::load(weights);
                let right = if NV > 1 { V::load(weights.wrapping_add(V::LANES)) } else { left };
                if V::LANES == LINE {
                    prefetch_line(weights.wrapping_add(AHEAD));
                    if NV > 1 {
                        prefetch_line(weights.wrapping_add(AHEAD + LINE));
                    }
                }
                weights = weights.wrapping_add(NV * V::LANES);
                for_each_row!(MR, I, {
                    let value = V::splat(*values.wrapping_add(I));
                    acc[I][0] = value.mul_add(left, acc[I][0]);
                    if NV > 1 {
                        acc[I][1] = value.mul_add(right, acc[I][1]);
                    }
                });
                values = values.wrapping_add(t.step);
            };
        }
        for _ in 0..t.keys / STEPS {
            multiply!();
            multiply!();
            multiply!();
            multiply!();
        }
        for _ in 0..t.keys % STEPS {
            multiply!();
        }
        for_each_row!(MR, I, {
            for (j, &sum) in acc[I].iter().enumerate() {
                let to = t.sums.wrapping_add((I * NV + j) * V::LANES);
                let sum = match t.first {
                    true => sum,
                    false => V::load(to).mul_add(V::load(t.fades.wrapping_add(j * V::LANES)), sum),
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
            unsafe fn weigh<const MR: usize, const NV: usize>(t: &Weigh) {
                // SAFETY: passed on from the caller.
                unsafe { super::weigh::<$vector, MR, NV>(t) }
            }

            pub(super) static PARTS: Parts = Parts {
                softmax: [softmax::<2>, softmax::<1>],
                weigh: [&[$(weigh::<$mr, 2>),*], &[$(weigh::<$mr, 1>),*]],
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
    AVX512, avx512, Avx512, [target_feature(enable = "avx512f")], [1 2 3 4 5 6 7 8 9 10 11 12]
);
