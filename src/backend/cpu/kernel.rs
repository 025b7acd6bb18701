//! The micro-kernel: a small tile of `C (+)= A·B` kept in registers. Everything that
//! multiplies uses it, or one of its relatives for bf16 ([`PairTile`]) and for Winograd's inner product ([`InnerTile`]).
//!
//! The rows of A are found through pointers (indirect GEMM, as in XNNPACK), one for each row and filter tap, so
//! a convolution reads the image where it lies: no copy, and padding is a pointer to a row of zeros.

use std::sync::atomic::{Ordering, compiler_fence};

use super::inner::{InnerKernels, InnerTile, InnerTiles};
use super::prefetch::{LINE, prefetch_line};
use super::simd::{PORTABLE_FMA, Simd};
use super::transform::{AllTransforms, all_transforms, data, filter, output};
use crate::backend::DType;

/// A vector register of `f32`.
pub(super) trait Vector: Copy {
    const LANES: usize;
    fn splat(value: f32) -> Self;
    /// # Safety
    /// `from` points to `LANES` values.
    unsafe fn load(from: *const f32) -> Self;
    /// Values in f16.
    ///
    /// # Safety
    /// `from` points to `LANES` values.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Integers as floats.
    ///
    /// # Safety
    /// `from` points to `LANES` values.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// # Safety
    /// `to` points to `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// `self · b + c`
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// The larger; `b` where one of them is NaN.
    fn max(self, b: Self) -> Self;
    /// An integer near `self`, which is at most 0, as [`Self::times_power`] takes it, and what `self` is more than that.
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
        let magic = Self::splat(12_582_912.0);
        // NaN is in the second place, see `Vector::max`. At -127 itself the exponent's bits become 0, and those of the
        // fraction are: 2^-127 is 0.
        let x = Self::splat(-127.0).max(self);
        let shifted = x.add(magic);
        (shifted, x.sub(shifted.sub(magic)))
    }
    /// `self · 2^n`; 0 where that is next to nothing.
    fn times_power(self, n: Self) -> Self;
}

/// The arguments of a micro-kernel of `MR` rows.
pub(super) struct Tile {
    /// For each tap, `MR` pointers to rows of A.
    pub(super) rows: *const *const f32,
    /// What is fetched meanwhile, as many values as the rows have: of the next tile, where its rows follow each other, or what
    /// is converted next.
    pub(super) next: *const f32,
    /// Values to skip in each row.
    pub(super) offset: usize,
    pub(super) taps: usize,
    /// Values of each row to multiply.
    pub(super) k: usize,
    /// For each tap and each `k`, one row of the panel's width.
    pub(super) b: *const f32,
    /// `MR` rows of the panel's width, `stride` apart.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// What is added: as many rows, and one row to each of them. Null where there is nothing to add.
    pub(super) add: *const f32,
    pub(super) add_stride: usize,
    pub(super) bias: *const f32,
}

/// Computes a [`Tile`].
///
/// # Safety
/// The tile's pointers cover what its sizes say, and the machine has the kernel's instructions.
pub(super) type TileFn = unsafe fn(&Tile);

/// The arguments of a micro-kernel for bf16 of `MR` rows. Values of A and of B come in pairs of neighbours in `k`.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct PairTile {
    /// `MR` rows of pairs, `a_stride` apart.
    pub(super) a: *const u32,
    pub(super) a_stride: usize,
    /// Pairs of each row to multiply.
    pub(super) pairs: usize,
    /// For each pair one row of the panel's width.
    pub(super) b: *const u32,
    /// `MR` rows of the panel's width, `stride` apart.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// Adds to `c` instead of setting it.
    pub(super) accumulate: bool,
}

/// Computes a [`PairTile`].
///
/// # Safety
/// As [`TileFn`].
pub(super) type PairTileFn = unsafe fn(&PairTile);

/// The micro-kernels for bf16 of an instruction set, with the panels of its others.
pub(super) struct PairKernels {
    /// Tiles of `nr` columns, by rows less one.
    pub(super) full: &'static [PairTileFn],
    /// Tiles of `nr / 2` columns, by rows less one.
    pub(super) half: &'static [PairTileFn],
    /// Rounds values to the nearest bf16; what is missing from the last pair is zero.
    ///
    /// # Safety
    /// There are so many values to read and half as many pairs, rounded up, to write.
    pub(super) narrow: unsafe fn(*const f32, *mut u32, usize),
    /// The same for pairs of a value of the first row and one of the second.
    ///
    /// # Safety
    /// Each has so many values, and there is room for as many pairs, which may begin where the first row does.
    pub(super) pair_rows: unsafe fn(*const f32, *const f32, *mut u32, usize),
}

/// Multiplies rows of integers by the scales of their columns: scales, integers, where to, how many rows.
///
/// # Safety
/// The pointers cover the rows of the kernel's width, and the machine has its instructions.
pub(super) type WidenI8Fn = unsafe fn(*const f32, *const i8, *mut f32, usize);

/// The micro-kernels of one instruction set.
pub(super) struct Kernels {
    /// Most rows of a tile.
    pub(super) mr: usize,
    /// Columns of a panel of B.
    pub(super) nr: usize,
    /// Tiles of `nr` columns, by rows less one.
    pub(super) full: &'static [TileFn],
    /// Tiles of `nr / 2` columns, by rows less one: what is left of a narrow matrix.
    pub(super) half: &'static [TileFn],
    /// Converts f16.
    pub(super) widen_f16: unsafe fn(*const u16, *mut f32, usize),
    /// Converts bf16.
    pub(super) widen_bf16: unsafe fn(*const u16, *mut f32, usize),
    /// Converts scaled 8-bit integers, rows of `nr / 2` and of `nr` columns.
    pub(super) widen_i8: [WidenI8Fn; 2],
    /// Those for bf16, which processors with the others may lack.
    pub(super) pairs: Option<&'static PairKernels>,
    /// Those for Winograd's inner product, where it is faster.
    pub(super) inner: Option<&'static InnerKernels>,
    /// Those of fast convolutions.
    pub(super) transforms: AllTransforms,
    /// Floating-point operations that take a slow machine some milliseconds.
    pub(super) task: usize,
}

impl Kernels {
    /// The kernels for an instruction set.
    pub(super) fn new(simd: Simd) -> &'static Self {
        match simd {
            Simd::Portable => &PORTABLE,
            #[cfg(target_arch = "x86_64")]
            Simd::Sse2 => &super::kernel_x86::SSE2,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => &super::kernel_x86::AVX2,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => &super::kernel_x86::AVX512,
            #[cfg(target_arch = "x86_64")]
            Simd::Zen4 => &super::kernel_x86::ZEN4,
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => &super::kernel_arm::NEON,
        }
    }

    /// Values of a file as `f32`.
    pub(super) fn widen(&self, dtype: DType, from: &[u8], to: &mut [f32]) {
        let len = to.len();
        let from = &from[..len * dtype.size()];
        let kernel = match dtype {
            DType::F32 => return super::pack::widen(dtype, from, to),
            // Those of a file may lie anywhere.
            _ if !from.as_ptr().cast::<u16>().is_aligned() => return super::pack::widen(dtype, from, to),
            DType::F16 => self.widen_f16,
            DType::Bf16 => self.widen_bf16,
        };
        // SAFETY: both have `len` values, and the kernels are for this machine.
        unsafe { kernel(from.as_ptr().cast(), to.as_mut_ptr(), len) };
    }

    /// The kernel for a tile of `rows` rows and the `width` columns of a panel.
    pub(super) fn tile(&self, rows: usize, width: usize) -> TileFn {
        let kernels = if width == self.nr { self.full } else { self.half };
        kernels[rows - 1]
    }

    /// The kernel for bf16 and such a tile.
    pub(super) fn pair_tile(&self, pairs: &PairKernels, rows: usize, width: usize) -> PairTileFn {
        let kernels = if width == self.nr { pairs.full } else { pairs.half };
        kernels[rows - 1]
    }

    /// The kernel for Winograd's inner product and such a tile.
    pub(super) fn inner_tile(&self, tiles: &InnerTiles, rows: usize, width: usize) -> unsafe fn(&InnerTile) {
        let kernels = if width == self.nr { tiles.full } else { tiles.half };
        kernels[rows - 1]
    }

    /// Columns that panel `panel` of a matrix of `n` columns has: a last one of few columns is half as wide.
    pub(super) fn width(&self, n: usize, panel: usize) -> usize {
        if n - panel * self.nr <= self.nr / 2 { self.nr / 2 } else { self.nr }
    }

    /// Columns of all panels of a matrix of `n` columns together.
    pub(super) fn padded(&self, n: usize) -> usize {
        n.next_multiple_of(self.nr / 2)
    }
}

/// Cuts `len`, not 0, into parts of at most `most`, as equal as can be: a last one of few rows would wait for what it loads.
pub(super) fn for_each_part(len: usize, most: usize, mut body: impl FnMut(usize, usize)) {
    let count = len.div_ceil(most);
    let (size, larger) = (len / count, len % count);
    let mut start = 0;
    for i in 0..count {
        let size = size + usize::from(i < larger);
        body(start, size);
        start += size;
    }
}

/// Writes `body` out for each row `i` below `$rows`, which is at most 12. The sums stay in registers only if no
/// loop indexes them with a variable, and whether a compiler unrolls a loop is its own affair.
macro_rules! for_each_row {
    ($rows:ident, $i:ident, $body:block) => {
        for_each_row!(@ $rows, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $rows:ident, $i:ident, $body:block, $($row:literal)*) => {
        $({
            const $i: usize = $row;
            if $i < $rows $body
        })*
    };
}

pub(super) use for_each_row;

/// Values of `k` in a round of the loop: its own instructions take the place of others.
pub(super) const STEPS: usize = 4;
/// How many values ahead B is asked for: it comes from the L2 cache.
const AHEAD: usize = 256;

/// The body of every micro-kernel: `MR` rows by `NV` vectors. Each value is one chain of multiply-adds in the
/// order of `k`, whatever the tile's height, so results do not depend on where a row falls.
///
/// # Safety
/// See [`TileFn`].
#[inline(always)]
pub(super) unsafe fn tile<V: Vector, const MR: usize, const NV: usize>(t: &Tile) {
    // Pointers are moved with `wrapping_add`: `add` is checked at run time in test builds.
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut acc = [[V::splat(0.0); NV]; MR];
        // The sums of fast convolutions come from L3, a residual from afar.
        if !t.add.is_null() {
            for_each_row!(MR, I, {
                let add = t.add.wrapping_add(I * t.add_stride);
                prefetch_line(add);
                if NV * V::LANES > LINE {
                    prefetch_line(add.wrapping_add(LINE));
                }
            });
        }
        let mut b = t.b;
        let mut rows = t.rows;
        let mut next = t.next;
        for _ in 0..t.taps {
            let mut a = [std::ptr::null::<f32>(); MR];
            for_each_row!(MR, I, {
                a[I] = (*rows.wrapping_add(I)).wrapping_add(t.offset);
            });
            rows = rows.wrapping_add(MR);
            macro_rules! multiply {
                ($k:expr) => {
                    // Keeps loads from moving between the steps, for which there are too few registers.
                    compiler_fence(Ordering::SeqCst);
                    let left = V::load(b);
                    let right = if NV > 1 { V::load(b.wrapping_add(V::LANES)) } else { left };
                    // Shorter vectors use a line for so long that it comes in time by itself.
                    if V::LANES == LINE {
                        prefetch_line(b.wrapping_add(AHEAD));
                        if NV > 1 {
                            prefetch_line(b.wrapping_add(AHEAD + LINE));
                        }
                    }
                    b = b.wrapping_add(NV * V::LANES);
                    for_each_row!(MR, I, {
                        let value = V::splat(*a[I].wrapping_add($k));
                        acc[I][0] = value.mul_add(left, acc[I][0]);
                        if NV > 1 {
                            acc[I][1] = value.mul_add(right, acc[I][1]);
                        }
                    });
                };
            }
            let mut k = 0;
            // Counted so, a round has four instructions of its own; compared with `t.k` it had eight.
            let rounds = t.k / STEPS * STEPS;
            while k != rounds {
                multiply!(k);
                prefetch_line(next);
                multiply!(k + 1);
                if MR > 4 {
                    prefetch_line(next.wrapping_add(LINE));
                }
                multiply!(k + 2);
                if MR > 8 {
                    prefetch_line(next.wrapping_add(2 * LINE));
                }
                multiply!(k + 3);
                next = next.wrapping_add(MR * STEPS);
                k += STEPS;
            }
            while k != t.k {
                multiply!(k);
                k += 1;
            }
        }
        if !t.add.is_null() {
            for_each_row!(MR, I, {
                for (j, sum) in acc[I].iter_mut().enumerate() {
                    *sum = V::load(t.add.wrapping_add(I * t.add_stride + j * V::LANES)).add(*sum);
                }
            });
        }
        if !t.bias.is_null() {
            let mut bias = [V::splat(0.0); NV];
            for (j, bias) in bias.iter_mut().enumerate() {
                *bias = V::load(t.bias.wrapping_add(j * V::LANES));
            }
            for_each_row!(MR, I, {
                for (sum, bias) in acc[I].iter_mut().zip(bias) {
                    *sum = sum.add(bias);
                }
            });
        }
        for_each_row!(MR, I, {
            for (j, sum) in acc[I].iter().enumerate() {
                sum.store(t.c.wrapping_add(I * t.stride + j * V::LANES));
            }
        });
    }
}

/// Four floats in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Four([f32; 4]);

impl Vector for Four {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives four values.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: the caller gives four values.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Self(bits.map(|bits| half::f16::from_bits(bits).to_f32_const()))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller gives four values.
        Self(unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives four values.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| {
            if PORTABLE_FMA { self.0[i].mul_add(b.0[i], c.0[i]) } else { self.0[i] * b.0[i] + c.0[i] }
        }))
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - b.0[i]))
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] }))
    }

    #[inline(always)]
    fn times_power(self, bits: Self) -> Self {
        Self(std::array::from_fn(|i| {
            f32::from_bits(self.0[i].to_bits().wrapping_add(bits.0[i].to_bits() << 23))
        }))
    }
}

static PORTABLE: Kernels = Kernels {
    mr: 4,
    nr: 8,
    full: &[tile::<Four, 1, 2>, tile::<Four, 2, 2>, tile::<Four, 3, 2>, tile::<Four, 4, 2>],
    half: &[tile::<Four, 1, 1>, tile::<Four, 2, 1>, tile::<Four, 3, 1>, tile::<Four, 4, 1>],
    widen_f16: widen_f16_portable,
    widen_bf16: widen_bf16_portable,
    widen_i8: [widen_i8::<Four, 1>, widen_i8::<Four, 2>],
    pairs: None,
    inner: None,
    transforms: all_transforms!(data, filter, output, Four),
    task: 32 << 20,
};

/// The body of every [`WidenI8Fn`], for rows of `NV` vectors.
///
/// # Safety
/// See there.
#[inline(always)]
pub(super) unsafe fn widen_i8<V: Vector, const NV: usize>(
    scales: *const f32,
    from: *const i8,
    to: *mut f32,
    rows: usize,
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let scales: [V; NV] = std::array::from_fn(|j| V::load(scales.wrapping_add(j * V::LANES)));
        for row in 0..rows {
            for (j, scale) in scales.iter().enumerate() {
                let at = (row * NV + j) * V::LANES;
                V::load_i8(from.wrapping_add(at)).mul(*scale).store(to.wrapping_add(at));
            }
        }
    }
}

/// # Safety
/// `from` and `to` point to `len` values.
pub(super) unsafe fn widen_f16_portable(from: *const u16, to: *mut f32, len: usize) {
    // SAFETY: the caller gives `len` values.
    let (from, to) =
        unsafe { (std::slice::from_raw_parts(from, len), std::slice::from_raw_parts_mut(to, len)) };
    for (to, &from) in to.iter_mut().zip(from) {
        *to = half::f16::from_bits(from).to_f32_const();
    }
}

/// # Safety
/// `from` and `to` point to `len` values.
#[inline(always)]
pub(super) unsafe fn widen_bf16_portable(from: *const u16, to: *mut f32, len: usize) {
    // SAFETY: the caller gives `len` values.
    let (from, to) =
        unsafe { (std::slice::from_raw_parts(from, len), std::slice::from_raw_parts_mut(to, len)) };
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from) << 16);
    }
}
