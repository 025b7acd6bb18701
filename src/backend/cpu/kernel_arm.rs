//! The micro-kernels for NEON (12 × 8), which every AArch64 has: 24 of its 32 registers are sums.

use std::arch::aarch64::*;
use std::arch::asm;

use super::kernel::{Kernels, Vector, tile, widen_bf16_portable, widen_f16_portable, widen_i8};
use super::transform::{all_transforms, data, filter, output};

#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: every AArch64 has NEON.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as `splat`; the caller gives four values.
        Self(unsafe { vld1q_f32(from) })
    }

    // The intrinsic takes a type that is not stable yet.
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as `splat`; the caller gives four values, and the instruction reads and writes registers.
        unsafe {
            let bits = vld1_u16(from);
            let values: float32x4_t;
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) values, in(vreg) bits, options(pure, nomem, nostack));
            Self(values)
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as `splat`; the caller gives four values.
        unsafe {
            let bytes = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes)))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as `splat`; the caller gives four values.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { vaddq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { vsubq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { vmulq_f32(self.0, b.0) })
    }

    // The instruction for it gives NaN for either.
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0) })
    }

    #[inline(always)]
    fn times_power(self, bits: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe {
            let power = vshlq_n_s32::<23>(vreinterpretq_s32_f32(bits.0));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0), power))
        })
    }
}

/// # Safety
/// `from` and `to` point to `len` values.
unsafe fn widen_f16(from: *const u16, to: *mut f32, len: usize) {
    let whole = len / Neon::LANES * Neon::LANES;
    // SAFETY: the caller gives `len` values.
    unsafe {
        for i in (0..whole).step_by(Neon::LANES) {
            Neon::load_f16(from.wrapping_add(i)).store(to.wrapping_add(i));
        }
        widen_f16_portable(from.wrapping_add(whole), to.wrapping_add(whole), len - whole);
    }
}

pub(super) static NEON: Kernels = Kernels {
    mr: 12,
    nr: 8,
    full: &[
        tile::<Neon, 1, 2>,
        tile::<Neon, 2, 2>,
        tile::<Neon, 3, 2>,
        tile::<Neon, 4, 2>,
        tile::<Neon, 5, 2>,
        tile::<Neon, 6, 2>,
        tile::<Neon, 7, 2>,
        tile::<Neon, 8, 2>,
        tile::<Neon, 9, 2>,
        tile::<Neon, 10, 2>,
        tile::<Neon, 11, 2>,
        tile::<Neon, 12, 2>,
    ],
    half: &[
        tile::<Neon, 1, 1>,
        tile::<Neon, 2, 1>,
        tile::<Neon, 3, 1>,
        tile::<Neon, 4, 1>,
        tile::<Neon, 5, 1>,
        tile::<Neon, 6, 1>,
        tile::<Neon, 7, 1>,
        tile::<Neon, 8, 1>,
        tile::<Neon, 9, 1>,
        tile::<Neon, 10, 1>,
        tile::<Neon, 11, 1>,
        tile::<Neon, 12, 1>,
    ],
    widen_f16,
    widen_bf16: widen_bf16_portable,
    widen_i8: [widen_i8::<Neon, 1>, widen_i8::<Neon, 2>],
    pairs: None,
    inner: None,
    transforms: all_transforms!(data, filter, output, Neon),
    task: 64 << 20,
};
