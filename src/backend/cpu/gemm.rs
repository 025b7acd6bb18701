//! Linear layers and convolutions: one blocked matrix product over rows found through pointers.
//!
//! The blocking follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a
//! task owns a block of the output, goes over the blocks of the sum, and for each over its panels of B and
//! tiles of A (in L2).

use super::Cpu;
use super::finish::{Finish, add_row, finish_geglu, finish_row};
use super::inner::{self, InnerKernels, Space};
use super::kernel::{Kernels, PairTile, Tile};
use super::pack::{KBlock, Packed, Target, Values};
use super::prefetch::LINE;
use super::threads::even_part;
use crate::backend::{ConvGeometry, Shape};
use crate::util::error::Result;

/// Most rows in a task, whole tiles of every kernel: what a block of the weight is read, and converted, for.
const ROWS: usize = 288;
/// Most columns in a task.
const COLUMNS: usize = 320;

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

impl Rows<'_> {
    /// The pointers for the tile of `count` rows from `first`: for each tap, one for each row.
    fn fill(&self, first: usize, count: usize, pointers: &mut [*const f32]) {
        let [kh, kw] = self.kernel;
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

/// The output block of a task.
struct Block {
    rows: usize,
    panels: usize,
}

/// Cuts `m` rows and `panels` panels into tasks: large enough to be worth reading weights for, small enough
/// that all threads have some and that a cancelled operation stops soon.
fn block_size(kernels: &Kernels, threads: usize, m: usize, panels: usize, flops: usize) -> Block {
    let mut rows = m.next_multiple_of(kernels.mr).min(ROWS);
    let mut width = (kernels.task / (rows * flops).max(1)).clamp(1, COLUMNS / kernels.nr).min(panels);
    if threads > 1 {
        while m.div_ceil(rows) * panels.div_ceil(width) < 4 * threads {
            if width > 1 {
                width = width.div_ceil(2);
            } else if rows > 4 * kernels.mr {
                rows = (rows / 2).next_multiple_of(kernels.mr);
            } else {
                break;
            }
        }
    }
    // Equal widths: a narrow last task would read its rows for little.
    let width = panels.div_ceil(panels.div_ceil(width));
    if threads > 1 {
        // Converting a block of the weight takes as long as a tile or less.
        rows = even_part(threads, panels.div_ceil(width), m, rows, kernels.mr, kernels.mr);
    }
    Block { rows, panels: width }
}

/// How a product is cut into tasks, and the floats of each part of what a thread works in.
pub(super) struct Cut {
    block: Block,
    /// In which pointers to the rows lie.
    pointer_floats: usize,
    /// What is converted for a block of the sum: a block of the weight, or for bf16 the rows.
    converted_len: usize,
    sums_len: usize,
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
        let all_panels = out.c.div_ceil(kernels.nr);
        let flops = 2 * kernels.nr * k * taps * halves;
        let block = block_size(kernels, threads, out.rows(), all_panels, flops);
        // The second half of GEGLU's columns need not begin with a panel, so it may touch one panel more.
        let max_width = (block.panels + (block.panels + 1) * (halves - 1)) * kernels.nr;
        let aliased = k.is_multiple_of(ALIASED) && kernels.mr.min(out.rows()) > WAYS;
        let plain = kernel == [1, 1] && geometry == ConvGeometry::same(1);
        let converts = values == Values::Pairs || inner.is_some();
        Self {
            // Whole cache lines: a vector of the converted block that begins in one and ends in the next takes two loads.
            pointer_floats: (block.rows * taps * size_of::<*const f32>() / size_of::<f32>())
                .next_multiple_of(16),
            converted_len: match values {
                _ if inner.is_some() => Space::floats(kernels, block.rows),
                Values::Pairs => (block.rows * Packed::most_pairs(k, taps)).next_multiple_of(16),
                _ => Packed::block_len(kernels, values),
            },
            sums_len: block.rows * max_width,
            block,
            copied: (aliased && plain && !converts).then_some(k + LINE),
            rows: out.rows(),
        }
    }

    /// Floats that a thread works in.
    pub(super) fn floats(&self) -> usize {
        self.pointer_floats + self.converted_len + self.sums_len
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
    let (mr, nr) = (kernels.mr, kernels.nr);
    let shape = rows.output.with_channels(if finish.geglu { weight.n / 2 } else { weight.n });
    let m = shape.rows();
    let columns = shape.c;
    let halves = if finish.geglu { 2 } else { 1 };
    let all_panels = columns.div_ceil(nr);
    let size = (weight.k, rows.kernel, rows.geometry);
    let inner = inner::kernels(kernels, cpu.strict, weight.values, shape);
    let cut = Cut::new(kernels, cpu.concurrency(), shape, size, (weight.values, inner), finish.geglu);
    let scratch = cpu.scratch(cut.floats(), cut.copies_len())?;
    let copy = cut.copied.map(|step| rows.copy(cpu, step, scratch.shared)).transpose()?;
    let rows = copy.as_ref().unwrap_or(rows);
    let Cut { block, pointer_floats, converted_len, sums_len, .. } = cut;
    let pairs = kernels.pairs.filter(|_| weight.values == Values::Pairs);
    let column_tasks = all_panels.div_ceil(block.panels);
    let blocks = weight.k_blocks();
    let tile_pointers = block.rows * weight.taps;
    // Where nothing but a bias and a residual is added, the last sums go to the output with both: stores to memory that is
    // far away then wait beside the next products.
    let plain = inner.is_none() && pairs.is_none() && finish.is_sum() && columns.is_multiple_of(nr / 2);
    cpu.parallel(m.div_ceil(block.rows) * column_tasks, |task, slot| {
        let first_row = task / column_tasks * block.rows;
        let row_count = block.rows.min(m - first_row);
        let first_panel = task % column_tasks * block.panels;
        let column = first_panel * nr;
        let width = (block.panels * nr).min(columns - column);
        let half = columns * (halves - 1);
        let values = first_panel..(column + width).div_ceil(nr);
        let gates = match finish.geglu {
            true => (half + column) / nr..(half + column + width).div_ceil(nr),
            false => 0..0,
        };
        let panels = values.clone().chain(gates.clone());
        let stride: usize = panels.clone().map(|panel| kernels.width(weight.n, panel)).sum();

        let start = scratch.slot(slot);
        // SAFETY: a slot belongs to one thread at a time and has room for these parts; the first is at its start, which is
        // aligned to a cache line.
        let (pointers, converted, sums) = unsafe {
            (
                std::slice::from_raw_parts_mut(start.cast::<*const f32>(), tile_pointers),
                std::slice::from_raw_parts_mut(start.add(pointer_floats), converted_len),
                std::slice::from_raw_parts_mut(start.add(pointer_floats + converted_len), sums_len),
            )
        };
        for row in (0..row_count).step_by(mr) {
            rows.fill(first_row + row, mr.min(row_count - row), &mut pointers[row * weight.taps..]);
        }
        for (index, k_block) in blocks.iter().enumerate() {
            if let Some(inner) = inner {
                let mut space = Space::new(inner, kernels, block.rows, converted);
                for row in (0..row_count).step_by(mr) {
                    let (count, pointers) = (mr.min(row_count - row), &pointers[row * weight.taps..]);
                    // SAFETY: `fill` made `count` pointers to rows of `k` values for each tap.
                    unsafe { space.copy(k_block, row, count, pointers) };
                }
                let mut offset = 0;
                let mut panels = panels.clone().peekable();
                while let Some(panel) = panels.next() {
                    let next = panels.peek().copied();
                    let c = (sums[offset..].as_mut_ptr(), stride);
                    // SAFETY: `sums` has `stride` columns for each row.
                    unsafe {
                        space.multiply(&cpu.device, (weight, panel, k_block), row_count, c, index > 0, next);
                    }
                    offset += kernels.width(weight.n, panel);
                }
                continue;
            }
            let k_pairs = k_block.k.div_ceil(2);
            let a_stride = k_block.taps * k_pairs;
            let a = converted.as_mut_ptr().cast::<u32>();
            if let Some(pairs) = pairs {
                for (row, tap) in (0..row_count).flat_map(|row| (0..k_block.taps).map(move |tap| (row, tap)))
                {
                    let (first, count) = (row / mr * mr, mr.min(row_count - row / mr * mr));
                    let from = pointers[first * weight.taps + (k_block.tap + tap) * count + row - first];
                    let to = a.wrapping_add(row * a_stride + tap * k_pairs);
                    // SAFETY: the row has `k` values from there on, and there is room for all rows of a block.
                    unsafe { (pairs.narrow)(from.wrapping_add(k_block.k_start), to, k_block.k) };
                }
            }
            let mut offset = 0;
            let mut panels = panels.clone().peekable();
            while let Some(panel) = panels.next() {
                let width = kernels.width(weight.n, panel);
                let b = weight.block(kernels, panel, k_block, converted);
                // Fetched with the last tile: what is converted next comes from afar.
                let ahead = match (panels.peek(), blocks.get(index + 1)) {
                    (Some(next), _) => weight.ahead(kernels, *next, k_block),
                    (None, Some(block)) => weight.ahead(kernels, first_panel, block),
                    (None, None) => None,
                };
                for row in (0..row_count).step_by(mr) {
                    let count = mr.min(row_count - row);
                    let c = sums[row * stride + offset..].as_mut_ptr();
                    let accumulate = index > 0;
                    // SAFETY: `fill` made `count` pointers to rows of `k` values for each tap, or they are converted; `b`
                    // is this block of the panel, and `sums` has `stride` columns for each row. Of the output this task
                    // alone writes these rows and columns; a residual has its size.
                    unsafe {
                        if let Some(pairs) = pairs {
                            let (a, b) = (a.wrapping_add(row * a_stride), b.cast());
                            let tile = PairTile { a, a_stride, pairs: a_stride, b, c, stride, accumulate };
                            kernels.pair_tile(pairs, count, width)(&tile);
                        } else {
                            let KBlock { taps, k_start, k, .. } = *k_block;
                            let at = row * weight.taps + k_block.tap * count;
                            let next = match pointers.get(at + mr) {
                                _ if row + mr >= row_count => ahead.unwrap_or(b),
                                Some(next) if weight.taps == 1 => next.wrapping_add(k_start),
                                _ => b,
                            };
                            let place = (first_row + row) * columns + column + offset;
                            let (add, add_stride) = match finish.residual {
                                _ if accumulate => (c.cast_const(), stride),
                                _ if plain && finish.onto => (target.at(place).cast_const(), columns),
                                Some(residual) if plain => (residual[place..].as_ptr(), columns),
                                _ => (std::ptr::null(), 0),
                            };
                            let (c, stride, bias) = match plain && index + 1 == blocks.len() {
                                true => {
                                    (target.at(place), columns, weight.bias()[column + offset..].as_ptr())
                                }
                                false => (c, stride, std::ptr::null()),
                            };
                            let (rows, offset) = (pointers[at..].as_ptr(), k_start);
                            kernels.tile(count, width)(&Tile {
                                rows,
                                next,
                                offset,
                                taps,
                                k,
                                b,
                                c,
                                stride,
                                add,
                                add_stride,
                                bias,
                            });
                        }
                    }
                }
                offset += width;
            }
        }
        if plain {
            return;
        }
        let gate_offset = values.map(|panel| kernels.width(weight.n, panel)).sum::<usize>()
            + (half + column - gates.start * nr);
        for row in 0..row_count {
            let sums = &sums[row * stride..(row + 1) * stride];
            let pixel = first_row + row;
            let at = pixel * columns + column;
            // SAFETY: this task alone writes these rows and columns of the output.
            let out = unsafe { target.slice(at, width) };
            let bias = &weight.bias()[column..][..width];
            if finish.geglu {
                let gate_bias = &weight.bias()[half + column..][..width];
                finish_geglu(
                    cpu.device.simd,
                    &sums[..width],
                    bias,
                    &sums[gate_offset..][..width],
                    gate_bias,
                    out,
                );
            } else {
                let channel_bias = finish
                    .channel_bias
                    .map(|bias| &bias[pixel / rows.output.pixels() * columns + column..][..width]);
                let residual = finish.residual.map(|residual| &residual[at..][..width]);
                let sums = &sums[..width];
                if finish.onto {
                    add_row(cpu.device.simd, sums, bias, channel_bias, out);
                } else {
                    finish_row(cpu.device.simd, sums, bias, channel_bias, finish.activation, residual, out);
                }
            }
        }
    })
}
