//! Linear layers and convolutions: one blocked matrix product over rows found through pointers.
//!
//! The blocking follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a
//! task owns a block of the output and goes over the blocks of the sum, see [`gemm_task`](super::gemm_task).

use super::Cpu;
use super::finish::Finish;
use super::gemm_task::Product;
use super::inner::{self, InnerKernels, Space};
use super::kernel::Kernels;
use super::pack::{Packed, Target, Values};
use super::prefetch::LINE;
use super::threads::even_part;
use crate::backend::{ConvGeometry, Shape};
use crate::util::error::Result;

/// Most rows in a task, whole tiles of every kernel: what a block of the weight is read, and converted, for.
const ROWS: usize = 1152;
/// The same where sums wait for the next block, rows are converted, or each has pointers for several taps: those of a task stay
/// in the L2 cache.
const HELD_ROWS: usize = 288;
/// Most columns in a task.
const COLUMNS: usize = 320;
/// Most values that the panels of a task have in a column together, for a block of the sum: they stay in the L2 cache.
const CONVERTED: usize = 5120;

/// Rows so many values apart, or a multiple of that, share one set of an L1 cache, which has [`WAYS`] places.
const ALIASED: usize = 1024;
const WAYS: usize = 8;
/// Copied rows in a task.
const COPIED_ROWS: usize = 16;

/// Where the rows of A lie: for output pixel `row` and filter tap `(ky, kx)`, one pixel of the input or a row
/// of zeros. A linear layer is a convolution with one tap.
pub(super) struct Rows<'a> {
    pub(super) x: &'a [f32],
    pub(super) zeros: &'a [f32],
    pub(super) input: Shape,
    pub(super) output: Shape,
    /// Height and width of the filter.
    pub(super) kernel: [usize; 2],
    pub(super) geometry: ConvGeometry,
}

/// Whether each pixel becomes one of the output, by itself.
fn is_linear(kernel: [usize; 2], geometry: ConvGeometry) -> bool {
    kernel == [1, 1] && geometry == ConvGeometry::same(1)
}

impl Rows<'_> {
    /// The pointers for the tile of `count` rows from `first`: for each tap, one for each row.
    pub(super) fn fill(&self, first: usize, count: usize, pointers: &mut [*const f32]) {
        let [kh, kw] = self.kernel;
        if is_linear(self.kernel, self.geometry) {
            let rows = self.x[first * self.input.c..].chunks_exact(self.input.c);
            for (pointer, row) in pointers[..count].iter_mut().zip(rows) {
                *pointer = row.as_ptr();
            }
            return;
        }
        let [top, left, ..] = self.geometry.padding;
        let stride = self.geometry.stride;
        // An enlarged input has the output's size (stride 1, same padding) and each pixel twice.
        let shift = u32::from(self.geometry.upsample);
        let (height, width) = match self.geometry.upsample {
            true => (self.output.h, self.output.w),
            false => (self.input.h, self.input.w),
        };
        for row in 0..count {
            let pixel = first + row;
            let image = pixel / self.output.pixels();
            let (oy, ox) = (pixel % self.output.pixels() / self.output.w, pixel % self.output.w);
            for tap in 0..kh * kw {
                // Pixels left of or above the image wrap round to large numbers, outside as well.
                let y = (oy * stride + tap / kw).wrapping_sub(top);
                let x = (ox * stride + tap % kw).wrapping_sub(left);
                pointers[tap * count + row] = if y < height && x < width {
                    let index = (image * self.input.h + (y >> shift)) * self.input.w + (x >> shift);
                    self.x[index * self.input.c..][..self.input.c].as_ptr()
                } else {
                    self.zeros.as_ptr()
                };
            }
        }
    }

    /// The same rows, `step` apart, copied to where `target` points: room for as many.
    fn copy(&self, cpu: &Cpu, step: usize, target: Target<f32>) -> Result<Self> {
        let (k, count) = (self.input.c, self.input.rows());
        cpu.parallel(count.div_ceil(COPIED_ROWS), |task, _| {
            let first = task * COPIED_ROWS;
            for row in first..count.min(first + COPIED_ROWS) {
                // SAFETY: this task alone writes this row.
                unsafe { target.slice(row * step, k) }.copy_from_slice(&self.x[row * k..][..k]);
            }
        })?;
        // SAFETY: the caller gives so many values, and nothing writes them from here on.
        let x = unsafe { target.slice(0, count * step) };
        Ok(Self { x, input: self.input.with_channels(step), ..*self })
    }
}

/// Rows of the output, and panels of its columns.
pub(super) struct Block {
    pub(super) rows: usize,
    pub(super) panels: usize,
}

/// Cuts `all` into tasks of at most `most`: large enough to be worth reading weights for, small enough that all threads have
/// some and that a cancelled operation stops soon. `flops` are those of a row and a panel.
fn block_size(kernels: &Kernels, threads: usize, all: &Block, most: &Block, flops: usize) -> Block {
    let mut rows = all.rows.next_multiple_of(kernels.mr).min(most.rows).max(kernels.mr);
    let mut width = (kernels.task / (rows * flops).max(1)).clamp(1, most.panels).min(all.panels);
    if threads > 1 {
        while all.rows.div_ceil(rows) * all.panels.div_ceil(width) < 4 * threads {
            if width > 1 && rows <= HELD_ROWS {
                width = width.div_ceil(2);
            } else if rows > 4 * kernels.mr {
                rows = (rows / 2).next_multiple_of(kernels.mr);
            } else {
                break;
            }
        }
    }
    // Equal widths: a narrow last task would read its rows for little.
    let mut panels = all.panels.div_ceil(all.panels.div_ceil(width));
    if threads > 1 {
        panels = even_part(threads, all.rows.div_ceil(rows), all.panels, width, 1, 0);
        // Converting a block of the weight takes as long as a tile or less.
        rows = even_part(threads, all.panels.div_ceil(panels), all.rows, rows, kernels.mr, kernels.mr);
    }
    Block { rows, panels }
}

/// How a product is cut into tasks, and the floats of each part of what a thread works in.
pub(super) struct Cut {
    pub(super) block: Block,
    /// In which pointers to the rows lie.
    pub(super) pointers_len: usize,
    /// What is converted for a block of the sum: that of the panels, or the rows.
    pub(super) converted_len: usize,
    pub(super) sums_len: usize,
    /// From one row to the next of a copy, where a tile's rows would drive each other out of the cache.
    copied: Option<usize>,
    /// Rows of the output.
    rows: usize,
}

impl Cut {
    /// For an output of this shape, with `geglu` from a weight of twice its columns.
    pub(super) fn new(
        kernels: &Kernels,
        threads: usize,
        out: Shape,
        (k, kernel, geometry): (usize, [usize; 2], ConvGeometry),
        (values, inner): (Values, Option<&InnerKernels>),
        geglu: bool,
    ) -> Self {
        let halves = if geglu { 2 } else { 1 };
        let taps = kernel[0] * kernel[1];
        let all = Block { rows: out.rows(), panels: out.c.div_ceil(kernels.nr) };
        let converts_rows = values == Values::Pairs || inner.is_some();
        let depth = Packed::block_depth(kernels, values, k, taps);
        let holds = converts_rows || depth < k * taps;
        let columns = COLUMNS / kernels.nr;
        let linear = is_linear(kernel, geometry);
        let most = Block {
            rows: if linear && !holds { ROWS } else { HELD_ROWS },
            panels: if converts_rows { columns } else { (CONVERTED / depth / halves).clamp(1, columns) },
        };
        let block = block_size(kernels, threads, &all, &most, 2 * kernels.nr * k * taps * halves);
        // The second half of GEGLU's columns need not begin with a panel, so it may touch one panel more.
        let width = (block.panels + (block.panels + 1) * (halves - 1)) * kernels.nr;
        let aliased = k.is_multiple_of(ALIASED) && kernels.mr.min(out.rows()) > WAYS;
        // Whole cache lines: a vector of what is converted that begins in one and ends in the next takes two loads.
        let lines = |floats: usize| floats.next_multiple_of(LINE);
        Self {
            pointers_len: lines(block.rows * taps * size_of::<*const f32>() / size_of::<f32>()),
            converted_len: lines(match values {
                _ if inner.is_some() => Space::floats(kernels, block.rows),
                Values::Pairs => block.rows * Packed::most_pairs(k, taps),
                _ => depth * width,
            }),
            sums_len: width * if holds { block.rows } else { kernels.mr },
            block,
            copied: (aliased && linear && !converts_rows).then_some(k + LINE),
            rows: out.rows(),
        }
    }

    /// Floats that a thread works in.
    pub(super) fn floats(&self) -> usize {
        self.pointers_len + self.converted_len + self.sums_len
    }

    /// Floats of the copy of all rows.
    pub(super) fn copies_len(&self) -> usize {
        self.copied.map_or(0, |step| self.rows * step)
    }
}

/// Computes `finish(rows · weight)` to where `target` points, which has room for all rows.
pub(super) fn run(
    cpu: &Cpu,
    rows: &Rows<'_>,
    weight: &Packed,
    finish: &Finish<'_>,
    target: Target<f32>,
) -> Result<()> {
    let kernels = cpu.device.kernels;
    let shape = rows.output.with_channels(if finish.geglu { weight.n / 2 } else { weight.n });
    let size = (weight.k, rows.kernel, rows.geometry);
    let inner = inner::kernels(kernels, cpu.strict, weight.values, shape);
    let cut = Cut::new(kernels, cpu.concurrency(), shape, size, (weight.values, inner), finish.geglu);
    let scratch = cpu.scratch(cut.floats(), cut.copies_len())?;
    let copy = cut.copied.map(|step| rows.copy(cpu, step, scratch.shared)).transpose()?;
    let rows = copy.as_ref().unwrap_or(rows);
    let product = Product::new(cpu, (rows, weight), shape, (finish, target), inner, cut);
    cpu.parallel(product.tasks(), |task, slot| product.task(task, scratch.slot(slot)).run())
}
