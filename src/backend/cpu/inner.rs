//! What surrounds the micro-kernels of Winograd's inner product: powers of two that bring rows and columns to one size, and
//! the sums that the micro-kernels begin with. See [`kernel_inner`](super::kernel_inner).

use super::Device;
use super::kernel::Kernels;
use super::pack::{DEPTH, KBlock, Packed, Values};
use super::simd::{Simd, vectorized};
use super::transform::Transforms;
use crate::backend::Shape;

/// Values from one row of a block to the next: an odd number of cache lines, so that rows share few places in the L1 cache.
pub(super) const LAYER_STRIDE: usize = DEPTH + 16;
/// The same for the transformed patches of a fast convolution, whose blocks have so many channels.
pub(super) const FAST_STRIDE: usize = 64;
/// Rows of a weight that are converted at a time: they stay in the L1 cache.
const CONVERTED: usize = 64;
/// Most rows that are scaled at a time.
pub(super) const ROWS: usize = 16;
/// Values in a cache line.
const LINE: usize = 16;

/// The arguments of a micro-kernel for Winograd's inner product of `MR` rows, see [`kernel_inner`](super::kernel_inner).
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct InnerTile {
    /// `MR` rows, each multiplied by its power of two, a constant number of values apart.
    pub(super) a: *const f32,
    /// From one value of a row to the next.
    pub(super) step: usize,
    /// Values of each row to multiply.
    pub(super) k: usize,
    /// For each `k` one row of the panel's width, each column multiplied by its power of two.
    pub(super) b: *const f32,
    /// For each row, and for each column, what to add to its products.
    pub(super) row_sums: *const f32,
    pub(super) column_sums: *const f32,
    /// For each row, and for each column, what to multiply its products with at the end.
    pub(super) row_scales: *const f32,
    pub(super) column_scales: *const f32,
    /// `MR` rows of the panel's width, `stride` apart.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// Adds to `c` instead of setting it.
    pub(super) accumulate: bool,
}

/// The micro-kernels for Winograd's inner product of rows that lie so far apart.
///
/// # Safety
/// Of those in it: as [`TileFn`](super::kernel::TileFn).
pub(super) struct InnerTiles {
    /// Tiles of `nr` columns, by rows less one.
    pub(super) full: &'static [unsafe fn(&InnerTile)],
    /// Tiles of `nr / 2` columns, by rows less one.
    pub(super) half: &'static [unsafe fn(&InnerTile)],
}

/// Rows to be brought to the size of columns, each by a power of two, for an [`InnerTile`].
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct InnerRows {
    /// `count` pointers to rows.
    pub(super) from: [*const f32; 16],
    pub(super) count: usize,
    /// Where they go, which may be where they are, `stride` apart.
    pub(super) to: *mut f32,
    pub(super) stride: usize,
    /// Values of each row.
    pub(super) k: usize,
    /// The columns' size, as an exponent of two.
    pub(super) size: i32,
    /// What a kernel begins with, and what it multiplies with at the end, for each row.
    pub(super) sums: *mut f32,
    pub(super) scales: *mut f32,
}

/// The micro-kernels for Winograd's inner product, with the tiles and panels of an instruction set's others.
pub(super) struct InnerKernels {
    /// For linear layers.
    pub(super) layers: InnerTiles,
    /// For fast convolutions.
    pub(super) fast: InnerTiles,
    /// For attention, whose rows lie side by side.
    pub(super) turned: InnerTiles,
    /// Converts f16 and multiplies each column: values, factors, columns, where to, rows.
    ///
    /// # Safety
    /// The pointers cover what the sizes say, and the machine has the kernel's instructions.
    pub(super) widen_f16: unsafe fn(*const u16, *const f32, usize, *mut f32, usize),
    /// # Safety
    /// As above.
    pub(super) scale_rows: unsafe fn(&InnerRows),
    /// What a kernel begins with for the columns of `k` rows of a width.
    ///
    /// # Safety
    /// As above.
    pub(super) column_sums: unsafe fn(*const f32, k: usize, width: usize, sums: *mut f32),
}

/// The kernels to make `output` with from a weight of such values, if these are to be used. That depends on one image alone,
/// and so does its result. A single row is not worth what it takes to prepare a weight.
pub(super) fn kernels(
    kernels: &Kernels,
    strict: bool,
    values: Values,
    output: Shape,
) -> Option<&'static InnerKernels> {
    kernels.inner.filter(|_| !strict && values.can_be_scaled() && output.pixels() > 1)
}

/// The same for a fast convolution. A row of one or two tiles is of a small image, whose few tiles are not worth what it takes
/// to prepare the filters; a strip has the rows of its image.
pub(super) fn fast_kernels(
    kernels: &Kernels,
    strict: bool,
    values: Values,
    transforms: &Transforms,
    output: Shape,
) -> Option<&'static InnerKernels> {
    self::kernels(kernels, strict, values, output).filter(|_| output.w > 2 * transforms.tile)
}

/// The exponent of the power of two nearest to the root of a mean of squares; any one for NaN. Squares of values below 1e-19
/// leave `f32`, so a row or column of nothing larger counts as one of zeros.
pub(super) fn exponent(mean_square: f32) -> i32 {
    let exponent = (mean_square.to_bits() >> 23 & 0xff) as i32 - 127;
    (exponent + 1) >> 1
}

/// A power of two with an exponent of at most 126.
pub(super) fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) << 23) as u32)
}

/// Most columns that [`scale_matrix`] takes.
pub(super) const COLUMNS: usize = 272;

/// Brings the columns of `rows`, whole vectors of them, to a size, an exponent of two. `sums` and `scales` become what a kernel
/// begins and ends with for each.
pub(super) fn scale_matrix(
    simd: Simd,
    inner: &InnerKernels,
    rows: &mut [f32],
    size: i32,
    sums: &mut [f32],
    scales: &mut [f32],
) {
    let width = sums.len();
    let k = rows.len() / width;
    let mut squares = [0.0; COLUMNS];
    let squares = &mut squares[..width];
    add_squares(simd, rows, squares);
    for (square, scale) in squares.iter_mut().zip(scales) {
        let exponent = exponent(*square / k as f32) - size;
        (*square, *scale) = (power(-exponent), power(exponent));
    }
    scale_columns(simd, rows, squares);
    // SAFETY: there are `k` rows of the width of `sums`.
    unsafe { (inner.column_sums)(rows.as_ptr(), k, width, sums.as_mut_ptr()) };
}

vectorized! {
    /// Multiplies every row by the factors of its columns.
    pub(super) fn scale_columns(rows: &mut [f32], factors: &[f32]) = scale_columns_body
}

#[inline(always)]
fn scale_columns_body<const FMA: bool>(rows: &mut [f32], factors: &[f32]) {
    for row in rows.chunks_exact_mut(factors.len()) {
        for (value, factor) in row.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

vectorized! {
    /// Adds the squares of every column.
    pub(super) fn add_squares(rows: &[f32], squares: &mut [f32]) = add_squares_body
}

#[inline(always)]
fn add_squares_body<const FMA: bool>(rows: &[f32], squares: &mut [f32]) {
    for row in rows.chunks_exact(squares.len()) {
        for (square, value) in squares.iter_mut().zip(row) {
            *square += value * value;
        }
    }
}

/// Where a thread puts what it multiplies for a linear layer: a block of its rows and of a panel of the weight.
pub(super) struct Space<'a> {
    inner: &'a InnerKernels,
    rows: &'a mut [f32],
    row_sums: &'a mut [f32],
    row_scales: &'a mut [f32],
    panel: &'a mut [f32],
    column_sums: &'a mut [f32],
}

impl<'a> Space<'a> {
    /// Floats for so many rows.
    pub(super) fn floats(kernels: &Kernels, rows: usize) -> usize {
        rows * LAYER_STRIDE + 2 * rows.next_multiple_of(LINE) + (DEPTH + 1) * kernels.nr
    }

    pub(super) fn new(
        inner: &'a InnerKernels,
        kernels: &Kernels,
        rows: usize,
        memory: &'a mut [f32],
    ) -> Self {
        let (a, memory) = memory.split_at_mut(rows * LAYER_STRIDE);
        let (row_sums, memory) = memory.split_at_mut(rows.next_multiple_of(LINE));
        let (row_scales, memory) = memory.split_at_mut(rows.next_multiple_of(LINE));
        let (panel, column_sums) = memory.split_at_mut(DEPTH * kernels.nr);
        Self { inner, rows: a, row_sums, row_scales, panel, column_sums }
    }

    /// Copies the block's values of the `count` rows from `first` on, to which `pointers` lead, `count` for each tap.
    ///
    /// # Safety
    /// They lead to as many values as the block has of each tap.
    pub(super) unsafe fn copy(
        &mut self,
        block: &KBlock,
        first: usize,
        count: usize,
        pointers: &[*const f32],
    ) {
        let to = self.rows[first * LAYER_STRIDE..][..count * LAYER_STRIDE].as_mut_ptr();
        let row = |i: usize| to.wrapping_add(i * LAYER_STRIDE);
        let mut from = [std::ptr::null(); ROWS];
        for (i, from) in from.iter_mut().enumerate().take(count) {
            let taps = pointers[block.tap * count + i..].iter().step_by(count).take(block.taps);
            let mut taps = taps.map(|tap| tap.wrapping_add(block.k_start)).enumerate();
            *from = match block.taps {
                1 => taps.next().map_or(std::ptr::null(), |(_, tap)| tap),
                _ => {
                    for (tap, values) in taps {
                        // SAFETY: the caller vouches for the values; a row has room for those of all taps.
                        unsafe { values.copy_to_nonoverlapping(row(i).wrapping_add(tap * block.k), block.k) };
                    }
                    row(i)
                }
            };
        }
        let rows = InnerRows {
            from,
            count,
            to,
            stride: LAYER_STRIDE,
            k: block.taps * block.k,
            size: 0,
            sums: self.row_sums[first..][..count].as_mut_ptr(),
            scales: self.row_scales[first..][..count].as_mut_ptr(),
        };
        // SAFETY: as above, and there are a sum and a scale for each row.
        unsafe { (self.inner.scale_rows)(&rows) };
    }

    /// Multiplies the block of the first `count` rows by that of a panel, to `c`, whose rows are `stride` apart, and fetches that
    /// of the `next` panel meanwhile.
    ///
    /// # Safety
    /// There is room for these rows and the panel's columns at `c`.
    pub(super) unsafe fn multiply(
        &mut self,
        device: &Device,
        (weight, panel, block): (&Packed, usize, &KBlock),
        count: usize,
        (c, stride): (*mut f32, usize),
        accumulate: bool,
        next: Option<usize>,
    ) {
        let kernels = device.kernels;
        let width = kernels.width(weight.n, panel);
        let k = block.taps * block.k;
        let columns = &mut self.panel[..k * width];
        let mut to = &mut *columns;
        for tap in block.tap..block.tap + block.taps {
            for start in (0..block.k).step_by(CONVERTED) {
                let k = CONVERTED.min(block.k - start);
                let (rows, rest) = to.split_at_mut(k * width);
                let part = KBlock { tap, taps: 1, k_start: block.k_start + start, k };
                weight.scaled_block(device, self.inner, panel, &part, rows);
                to = rest;
            }
        }
        // SAFETY: `columns` has `k` rows, and there is a sum for each column.
        unsafe {
            (self.inner.column_sums)(columns.as_ptr(), k, width, self.column_sums[..width].as_mut_ptr());
        }
        let column_scales = &weight.column_scales(kernels)[panel * kernels.nr..][..width];
        for row in (0..count).step_by(kernels.mr) {
            let tile = InnerTile {
                a: self.rows[row * LAYER_STRIDE..].as_ptr(),
                step: 1,
                k,
                b: columns.as_ptr(),
                row_sums: self.row_sums[row..].as_ptr(),
                column_sums: self.column_sums.as_ptr(),
                row_scales: self.row_scales[row..].as_ptr(),
                column_scales: column_scales.as_ptr(),
                c: c.wrapping_add(row * stride),
                stride,
                accumulate,
            };
            let kernel = kernels.inner_tile(&self.inner.layers, kernels.mr.min(count - row), width);
            // SAFETY: the rows are copied and the panel is converted; the caller vouches for `c`.
            unsafe { kernel(&tile) };
            if let Some(panel) = next {
                let (part, parts) = (row / kernels.mr, count.div_ceil(kernels.mr));
                weight.prefetch(kernels, panel, block, part, parts);
            }
        }
    }
}
