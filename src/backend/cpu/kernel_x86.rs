//! The micro-kernels for SSE2 (4 × 8), AVX2 (6 × 16) and AVX-512 (12 × 32).
//!
//! The shapes leave room for the accumulators, a row of B and a value of A in the registers there are, and few
//! enough row pointers to keep those in registers as well.

use std::arch::x86_64::*;

use super::inner::InnerKernels;
use super::kernel::{Kernels, Tile, Vector, tile, widen_bf16_portable, widen_f16_portable, widen_i8};
use super::transform::{Family, Tap, all_transforms, data, filter, output};
use super::{kernel_bf16, kernel_inner};

#[derive(Clone, Copy)]
pub(super) struct Sse2(__m128);

impl Vector for Sse2 {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: every x86-64 has SSE2.
        Self(unsafe { _mm_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as `splat`; the caller gives four values.
        Self(unsafe { _mm_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        let mut values = [0.0; 4];
        // SAFETY: as `splat`; the caller gives four values.
        unsafe {
            widen_f16_portable(from, values.as_mut_ptr(), 4);
            Self(_mm_loadu_ps(values.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as `splat`; the caller gives four values.
        unsafe {
            // Each byte into all of its float, then down with its sign.
            let bytes = _mm_cvtsi32_si128(from.cast::<i32>().read_unaligned());
            let words = _mm_unpacklo_epi8(bytes, bytes);
            Self(_mm_cvtepi32_ps(_mm_srai_epi32::<24>(_mm_unpacklo_epi16(words, words))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as `splat`; the caller gives four values.
        unsafe { _mm_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm_add_ps(_mm_mul_ps(self.0, b.0), c.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn times_power(self, bits: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe {
            let power = _mm_slli_epi32::<23>(_mm_castps_si128(bits.0));
            _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(self.0), power))
        })
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

// The methods are inlined into functions that have the instructions enabled; only the kernels below use them.
impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: only machines with AVX2 and FMA get here, see `Simd::available`.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as `splat`; the caller gives eight values.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as `splat`, and with F16C; the caller gives eight values.
        unsafe { Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as `splat`; the caller gives eight values.
        unsafe { Self(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as `splat`; the caller gives eight values.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm256_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm256_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm256_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm256_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn times_power(self, bits: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(bits.0));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), power))
        })
    }
}

/// Sixteen f16, converted. `_mm512_cvtph_ps` asks for no exceptions, and an instruction that does cannot read memory: it would
/// take a load more and, as all conversions from a register do, a shuffle.
///
/// # Safety
/// There are so many, and the machine has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn sixteen_f16(from: *const u16) -> __m512 {
    // SAFETY: the caller vouches for the values.
    let bits = unsafe { _mm256_loadu_si256(from.cast()) };
    _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(bits)
}

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: only machines with AVX-512 F get here, see `Simd::available`.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as `splat`; the caller gives sixteen values.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as `splat`; the caller gives sixteen values.
        unsafe { Self(sixteen_f16(from)) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as `splat`; the caller gives sixteen values.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as `splat`; the caller gives sixteen values.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm512_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm512_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm512_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe { _mm512_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: as `splat`.
        let r = Self(unsafe { _mm512_reduce_ps::<0>(self.0) });
        (self.sub(r), r)
    }

    #[inline(always)]
    fn times_power(self, n: Self) -> Self {
        // SAFETY: as `splat`.
        Self(unsafe {
            // True of NaN, which stays one.
            let some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(n.0, _mm512_set1_ps(-126.0));
            _mm512_maskz_scalef_ps(some, self.0, n.0)
        })
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Avx2, MR, NV>(t) }
}

#[target_feature(enable = "avx512f")]
unsafe fn avx512<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Avx512, MR, NV>(t) }
}

/// Compiles the transforms for an instruction set.
macro_rules! transforms {
    ($data:ident, $filter:ident, $output:ident, $features:literal) => {
        /// # Safety
        /// As [`data`]; the machine has the instructions.
        #[target_feature(enable = $features)]
        unsafe fn $data<V: Vector, F: Family, const FIRST: usize, const COUNT: usize>(
            pixels: *const *const f32,
            vectors: usize,
            to: *mut f32,
            stride: usize,
        ) {
            // SAFETY: passed on from the caller.
            unsafe { data::<V, F, FIRST, COUNT>(pixels, vectors, to, stride) }
        }

        /// # Safety
        /// As [`filter`]; the machine has the instructions.
        #[target_feature(enable = $features)]
        unsafe fn $filter<V: Vector, F: Family, T: Tap, const FIRST: usize, const COUNT: usize>(
            taps: &[*const T; 9],
            vectors: usize,
            to: *mut f32,
            stride: usize,
        ) {
            // SAFETY: passed on from the caller.
            unsafe { filter::<V, F, T, FIRST, COUNT>(taps, vectors, to, stride) }
        }

        /// # Safety
        /// As [`output`]; the machine has the instructions.
        #[target_feature(enable = $features)]
        unsafe fn $output<V: Vector, F: Family>(
            sums: *const f32,
            stride: usize,
            vectors: usize,
            to: *mut f32,
            to_stride: usize,
        ) {
            // SAFETY: passed on from the caller.
            unsafe { output::<V, F>(sums, stride, vectors, to, to_stride) }
        }
    };
}

transforms!(data_avx2, filter_avx2, output_avx2, "avx2,fma,f16c");
transforms!(data_avx512, filter_avx512, output_avx512, "avx512f");

/// # Safety
/// `from` and `to` point to `len` values; the machine has F16C.
#[target_feature(enable = "avx2,f16c")]
unsafe fn widen_f16_avx2(from: *const u16, to: *mut f32, len: usize) {
    let whole = len & !7;
    for i in (0..whole).step_by(8) {
        // SAFETY: eight values from `i` are within `len`.
        unsafe {
            let bits = _mm_loadu_si128(from.wrapping_add(i).cast());
            _mm256_storeu_ps(to.wrapping_add(i), _mm256_cvtph_ps(bits));
        }
    }
    for i in whole..len {
        // SAFETY: `i` is below `len`.
        unsafe {
            *to.wrapping_add(i) = half::f16::from_bits(*from.wrapping_add(i)).to_f32_const();
        }
    }
}

/// # Safety
/// `from` and `to` point to `len` values; the machine has AVX-512 F and F16C.
#[target_feature(enable = "avx512f,avx2,f16c")]
unsafe fn widen_f16_avx512(from: *const u16, to: *mut f32, len: usize) {
    let whole = len & !15;
    for i in (0..whole).step_by(16) {
        // SAFETY: sixteen values from `i` are within `len`.
        unsafe {
            _mm512_storeu_ps(to.wrapping_add(i), sixteen_f16(from.wrapping_add(i)));
        }
    }
    // SAFETY: what is left of `len` values.
    unsafe { widen_f16_avx2(from.wrapping_add(whole), to.wrapping_add(whole), len - whole) }
}

#[target_feature(enable = "avx2")]
unsafe fn widen_bf16_avx2(from: *const u16, to: *mut f32, len: usize) {
    // SAFETY: passed on from the caller.
    unsafe { widen_bf16_portable(from, to, len) }
}

#[target_feature(enable = "avx512f")]
unsafe fn widen_bf16_avx512(from: *const u16, to: *mut f32, len: usize) {
    // SAFETY: passed on from the caller.
    unsafe { widen_bf16_portable(from, to, len) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn widen_i8_avx2<const NV: usize>(scales: *const f32, from: *const i8, to: *mut f32, rows: usize) {
    // SAFETY: passed on from the caller.
    unsafe { widen_i8::<Avx2, NV>(scales, from, to, rows) }
}

#[target_feature(enable = "avx512f")]
unsafe fn widen_i8_avx512<const NV: usize>(scales: *const f32, from: *const i8, to: *mut f32, rows: usize) {
    // SAFETY: passed on from the caller.
    unsafe { widen_i8::<Avx512, NV>(scales, from, to, rows) }
}

pub(super) static SSE2: Kernels = Kernels {
    mr: 4,
    nr: 8,
    full: &[tile::<Sse2, 1, 2>, tile::<Sse2, 2, 2>, tile::<Sse2, 3, 2>, tile::<Sse2, 4, 2>],
    half: &[tile::<Sse2, 1, 1>, tile::<Sse2, 2, 1>, tile::<Sse2, 3, 1>, tile::<Sse2, 4, 1>],
    widen_f16: widen_f16_portable,
    widen_bf16: widen_bf16_portable,
    widen_i8: [widen_i8::<Sse2, 1>, widen_i8::<Sse2, 2>],
    pairs: None,
    inner: None,
    transforms: all_transforms!(data, filter, output, Sse2),
    task: 64 << 20,
};

pub(super) static AVX2: Kernels = Kernels {
    mr: 6,
    nr: 16,
    full: &[avx2::<1, 2>, avx2::<2, 2>, avx2::<3, 2>, avx2::<4, 2>, avx2::<5, 2>, avx2::<6, 2>],
    half: &[avx2::<1, 1>, avx2::<2, 1>, avx2::<3, 1>, avx2::<4, 1>, avx2::<5, 1>, avx2::<6, 1>],
    widen_f16: widen_f16_avx2,
    widen_bf16: widen_bf16_avx2,
    widen_i8: [widen_i8_avx2::<1>, widen_i8_avx2::<2>],
    pairs: None,
    inner: None,
    transforms: all_transforms!(data_avx2, filter_avx2, output_avx2, Avx2),
    task: 400 << 20,
};

pub(super) static AVX512: Kernels = avx512_kernels(None);

pub(super) static ZEN4: Kernels = avx512_kernels(Some(&kernel_inner::INNER));

const fn avx512_kernels(inner: Option<&'static InnerKernels>) -> Kernels {
    Kernels {
        mr: 12,
        nr: 32,
        full: &[
            avx512::<1, 2>,
            avx512::<2, 2>,
            avx512::<3, 2>,
            avx512::<4, 2>,
            avx512::<5, 2>,
            avx512::<6, 2>,
            avx512::<7, 2>,
            avx512::<8, 2>,
            avx512::<9, 2>,
            avx512::<10, 2>,
            avx512::<11, 2>,
            avx512::<12, 2>,
        ],
        half: &[
            avx512::<1, 1>,
            avx512::<2, 1>,
            avx512::<3, 1>,
            avx512::<4, 1>,
            avx512::<5, 1>,
            avx512::<6, 1>,
            avx512::<7, 1>,
            avx512::<8, 1>,
            avx512::<9, 1>,
            avx512::<10, 1>,
            avx512::<11, 1>,
            avx512::<12, 1>,
        ],
        widen_f16: widen_f16_avx512,
        widen_bf16: widen_bf16_avx512,
        widen_i8: [widen_i8_avx512::<1>, widen_i8_avx512::<2>],
        pairs: Some(&kernel_bf16::PAIRS),
        inner,
        transforms: all_transforms!(data_avx512, filter_avx512, output_avx512, Avx512),
        task: 400 << 20,
    }
}
