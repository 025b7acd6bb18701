//! A block of the output of a matrix product, by one thread.
//!
//! For each block of the sum the panels are converted, and stay in the L2 cache while tiles of rows come from afar, one after
//! the other. Where the rows are converted, for bf16 and for Winograd's inner product, it is those that stay.

use std::ops::Range;

use super::Cpu;
use super::finish::{Finish, Sums};
use super::gemm::{Cut, Rows};
use super::inner::{InnerKernels, Space};
use super::kernel::{PairKernels, PairTile, Tile};
use super::pack::{KBlock, Packed, Target, Values};
use crate::backend::Shape;

/// What all tasks of a product have in common.
pub(super) struct Product<'a> {
    cpu: &'a Cpu,
    rows: &'a Rows<'a>,
    weight: &'a Packed,
    /// The output's.
    shape: Shape,
    finish: &'a Finish<'a>,
    target: Target<f32>,
    inner: Option<&'static InnerKernels>,
    pairs: Option<&'static PairKernels>,
    cut: Cut,
    blocks: Vec<KBlock>,
    /// Whether nothing but a bias and a residual is added. The last sums then go to the output with both: stores to memory
    /// that is far away wait beside the next products.
    plain: bool,
}

impl<'a> Product<'a> {
    pub(super) fn new(
        cpu: &'a Cpu,
        (rows, weight): (&'a Rows<'a>, &'a Packed),
        shape: Shape,
        (finish, target): (&'a Finish<'a>, Target<f32>),
        inner: Option<&'static InnerKernels>,
        cut: Cut,
    ) -> Self {
        let kernels = cpu.device.kernels;
        let pairs = kernels.pairs.filter(|_| weight.values == Values::Pairs);
        let whole = shape.c.is_multiple_of(kernels.nr / 2);
        let plain = inner.is_none() && pairs.is_none() && finish.is_sum() && whole;
        let blocks = weight.k_blocks();
        Self { cpu, rows, weight, shape, finish, target, inner, pairs, cut, blocks, plain }
    }

    fn column_tasks(&self) -> usize {
        self.shape.c.div_ceil(self.cpu.device.kernels.nr).div_ceil(self.cut.block.panels)
    }

    pub(super) fn tasks(&self) -> usize {
        self.shape.rows().div_ceil(self.cut.block.rows) * self.column_tasks()
    }

    /// A task, which works in [`Cut::floats`] at `start`: they begin with a cache line.
    pub(super) fn task(&'a self, task: usize, start: *mut f32) -> Task<'a> {
        let Cut { block, pointers_len, converted_len, sums_len, .. } = &self.cut;
        let first = task / self.column_tasks() * block.rows;
        let rows = first..self.shape.rows().min(first + block.rows);
        let (columns, panels, gates) = self.columns(task % self.column_tasks());
        // SAFETY: a slot of memory belongs to one thread at a time and has room for these parts.
        let (pointers, converted, sums) = unsafe {
            let (converted, sums) = (start.add(*pointers_len), start.add(pointers_len + converted_len));
            (
                std::slice::from_raw_parts_mut(start.cast(), rows.len() * self.weight.taps),
                std::slice::from_raw_parts_mut(converted, *converted_len),
                std::slice::from_raw_parts_mut(sums, *sums_len),
            )
        };
        let stride = panels.iter().map(|panel| panel.width).sum();
        Task { product: self, task, rows, columns, panels, gates, stride, pointers, converted, sums }
    }

    /// The columns of the output of a task, the panels that make them, and where among the columns of those its gates begin.
    fn columns(&self, column_task: usize) -> (Range<usize>, Vec<Panel>, usize) {
        let (kernels, weight, all) = (self.cpu.device.kernels, self.weight, self.shape.c);
        let first = column_task * self.cut.block.panels * kernels.nr;
        let columns = first..all.min(first + self.cut.block.panels * kernels.nr);
        let values = first / kernels.nr..columns.end.div_ceil(kernels.nr);
        let gates = match self.finish.geglu {
            true => (all + columns.start) / kernels.nr..(all + columns.end).div_ceil(kernels.nr),
            false => 0..0,
        };
        let gates_skip = all + columns.start - gates.start * kernels.nr;
        let count = values.len();
        let mut start = 0;
        let panels = values.chain(gates).map(|index| {
            let panel = Panel { index, width: kernels.width(weight.n, index), start };
            start += panel.width;
            panel
        });
        let panels = Vec::from_iter(panels);
        let gates = panels.get(count).map_or(0, |panel| panel.start + gates_skip);
        (columns, panels, gates)
    }
}

/// A panel of a task.
struct Panel {
    index: usize,
    width: usize,
    /// Its first column among those of the task's panels.
    start: usize,
}

/// A block of the output, and what a thread works in.
pub(super) struct Task<'a> {
    product: &'a Product<'a>,
    task: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    panels: Vec<Panel>,
    gates: usize,
    /// Columns of all panels.
    stride: usize,
    /// For each tile those of each tap.
    pointers: &'a mut [*const f32],
    converted: &'a mut [f32],
    /// Of all rows if they wait for further blocks, or of one tile.
    sums: &'a mut [f32],
}

impl Task<'_> {
    pub(super) fn run(mut self) {
        let Product { rows, weight, blocks, inner, pairs, .. } = self.product;
        for (row, count) in self.tiles() {
            rows.fill(self.rows.start + row, count, &mut self.pointers[row * weight.taps..]);
        }
        for (index, block) in blocks.iter().enumerate() {
            match (inner, pairs) {
                (Some(inner), _) => self.multiply_inner(inner, index, block),
                (None, Some(pairs)) => self.multiply_pairs(pairs, index, block),
                (None, None) => self.multiply(index, block),
            }
        }
        if inner.is_some() || pairs.is_some() {
            self.finish(0, self.rows.len(), 0);
        }
    }

    /// The first row and the rows of each tile.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, mr) = (self.rows.len(), self.product.cpu.device.kernels.mr);
        (0..rows).step_by(mr).map(move |row| (row, mr.min(rows - row)))
    }

    fn multiply(&mut self, index: usize, block: &KBlock) {
        let &Product { cpu, weight, finish, target, ref blocks, plain, .. } = self.product;
        let (kernels, all_columns) = (cpu.device.kernels, self.product.shape.c);
        let &KBlock { taps, k_start, k, .. } = block;
        let mut to = &mut *self.converted;
        let mut b = Vec::with_capacity(self.panels.len());
        for panel in &self.panels {
            let (part, rest) = to.split_at_mut(taps * k * panel.width);
            b.push(weight.block(kernels, panel.index, block, part));
            to = rest;
        }
        let last = index + 1 == blocks.len();
        let ahead = self.ahead(index);
        for (row, count) in self.tiles() {
            let at = row * weight.taps + block.tap * count;
            let following = self.pointers.get(at + count).filter(|_| weight.taps == 1);
            let sums_row = if blocks.len() > 1 { row } else { 0 };
            for (i, (panel, &b)) in self.panels.iter().zip(&b).enumerate() {
                // Each panel fetches its share of the next tile, the last one all of it once more, and the last tile what is
                // converted next.
                let fetched = (self.panels.len() - 1 - i) * count * k / self.panels.len();
                let next = match following {
                    _ if row + count == self.rows.len() => ahead.get(i).copied().unwrap_or(b),
                    Some(next) => next.wrapping_add(k_start).wrapping_sub(fetched),
                    None => b,
                };
                let sums = self.sums[sums_row * self.stride + panel.start..].as_mut_ptr();
                let place = (self.rows.start + row) * all_columns + self.columns.start + panel.start;
                let (add, add_stride) = match finish.residual {
                    _ if index > 0 => (sums.cast_const(), self.stride),
                    _ if plain && finish.onto => (target.at(place).cast_const(), all_columns),
                    Some(residual) if plain => (residual[place..].as_ptr(), all_columns),
                    _ => (std::ptr::null(), 0),
                };
                let (c, stride, bias) = match plain && last {
                    true => {
                        let bias = &weight.bias()[self.columns.start + panel.start..];
                        (target.at(place), all_columns, bias.as_ptr())
                    }
                    false => (sums, self.stride, std::ptr::null()),
                };
                let rows = self.pointers[at..].as_ptr();
                let tile = Tile { rows, next, offset: k_start, taps, k, b, c, stride, add, add_stride, bias };
                // SAFETY: `fill` made `count` pointers to rows of `k` values for each tap, `b` is this block of the panel, and
                // the sums have `stride` columns for each row. Of the output this task alone writes these rows and columns; a
                // residual has its size.
                unsafe { kernels.tile(count, panel.width)(&tile) };
            }
            if last && !plain {
                self.finish(row, count, sums_row);
            }
        }
    }

    /// Where the panels begin that are converted after block `index` of this task. If another thread takes the task that they
    /// are of, it finds them nearer all the same.
    fn ahead(&self, index: usize) -> Vec<*const f32> {
        let Product { cpu, weight, blocks, .. } = self.product;
        let after = if index + 1 < blocks.len() { 0 } else { cpu.concurrency() };
        let (task, block) = (self.task + after, &blocks[(index + 1) % blocks.len()]);
        let panels = match task < self.product.tasks() {
            true => self.product.columns(task % self.product.column_tasks()).1,
            false => Vec::new(),
        };
        let start = |panel: Panel| weight.ahead(cpu.device.kernels, panel.index, block);
        panels.into_iter().filter_map(start).collect()
    }

    fn multiply_pairs(&mut self, pairs: &PairKernels, index: usize, block: &KBlock) {
        let Product { cpu, weight, .. } = self.product;
        let kernels = cpu.device.kernels;
        let row_pairs = block.k.div_ceil(2);
        let a_stride = block.taps * row_pairs;
        let a = self.converted.as_mut_ptr().cast::<u32>();
        for (first, count) in self.tiles() {
            for (row, tap) in (0..count).flat_map(|row| (0..block.taps).map(move |tap| (row, tap))) {
                let from = self.pointers[first * weight.taps + (block.tap + tap) * count + row];
                let to = a.wrapping_add((first + row) * a_stride + tap * row_pairs);
                // SAFETY: the row has `k` values from there on, and there is room for all rows of a block.
                unsafe { (pairs.narrow)(from.wrapping_add(block.k_start), to, block.k) };
            }
        }
        for panel in &self.panels {
            let b = weight.block(kernels, panel.index, block, &mut []).cast();
            for (row, count) in self.tiles() {
                let (a, c) =
                    (a.wrapping_add(row * a_stride), &mut self.sums[row * self.stride + panel.start..]);
                let (c, stride, accumulate) = (c.as_mut_ptr(), self.stride, index > 0);
                let tile = PairTile { a, a_stride, pairs: a_stride, b, c, stride, accumulate };
                // SAFETY: the rows are converted, `b` is this block of the panel, and the sums have `stride` columns for each row.
                unsafe { kernels.pair_tile(pairs, count, panel.width)(&tile) };
            }
        }
    }

    fn multiply_inner(&mut self, inner: &'static InnerKernels, index: usize, block: &KBlock) {
        let Product { cpu, weight, cut, .. } = self.product;
        let tiles = self.tiles();
        let mut space = Space::new(inner, cpu.device.kernels, cut.block.rows, self.converted);
        for (row, count) in tiles {
            // SAFETY: `fill` made `count` pointers to rows of `k` values for each tap.
            unsafe { space.copy(block, row, count, &self.pointers[row * weight.taps..]) };
        }
        for (i, panel) in self.panels.iter().enumerate() {
            let next = self.panels.get(i + 1).map(|panel| panel.index);
            let c = (self.sums[panel.start..].as_mut_ptr(), self.stride);
            let what = (*weight, panel.index, block);
            // SAFETY: the sums have `stride` columns for each row.
            unsafe { space.multiply(&cpu.device, what, self.rows.len(), c, index > 0, next) };
        }
    }

    /// Makes some rows of the output of the sums from row `sums_row` on.
    fn finish(&self, row: usize, count: usize, sums_row: usize) {
        let Product { cpu, weight, shape, finish, target, .. } = self.product;
        let first = self.rows.start + row;
        let sums = Sums {
            values: &self.sums[sums_row * self.stride..],
            stride: self.stride,
            gates: self.gates,
            shape: *shape,
            rows: first..first + count,
            columns: self.columns.clone(),
        };
        // SAFETY: this task alone writes these rows and columns of the output.
        unsafe { sums.finish(cpu.device.simd, finish, weight.bias(), *target) };
    }
}
