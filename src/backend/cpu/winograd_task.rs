//! A task of a fast convolution: some tiles and columns of the output.

use std::ops::Range;

use super::Cpu;
use super::finish::{Finish, add_row, finish_row};
use super::inner::{FAST_STRIDE, InnerKernels, InnerRows, InnerTile, ROWS};
use super::kernel::{Tile, for_each_part};
use super::pack::{KBlock, Packed, Target, WIDEST};
use super::prefetch::LINE;
use super::transform::{Pass, Transforms};
use super::winograd::{FILTER_ROWS, Patches, Room};

/// Most pixels of a patch.
const PIXELS: usize = 36;

/// What a task works in.
pub(super) struct Memory<'a> {
    /// Where the pixels of each tile's patch lie, from the block of channels on that is done.
    pub(super) pixels: &'a mut [*const f32],
    /// Where the first point of each tile lies.
    pub(super) rows: &'a mut [*const f32],
    /// The transformed patches of a pass: for each point and tile a block of channels.
    pub(super) data: *mut f32,
    /// The transformed filters of a panel and pass: for each point the rows of the block.
    pub(super) filters: *mut f32,
    /// For each point and tile the sums of all columns.
    pub(super) sums: *mut f32,
    pub(super) row_sums: &'a mut [f32],
    pub(super) row_scales: &'a mut [f32],
    /// The pixels of a tile, the converted taps, or the last channels of a patch.
    pub(super) last: &'a mut [f32],
}

pub(super) struct Task<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) transforms: &'a Transforms,
    pub(super) inner: Option<&'a InnerKernels>,
    pub(super) patches: &'a Patches<'a>,
    pub(super) weight: &'a Packed,
    pub(super) room: &'a Room,
    pub(super) memory: Memory<'a>,
    /// Tiles down and across an image.
    pub(super) size: [usize; 2],
    pub(super) first_tile: usize,
    pub(super) tiles: usize,
    pub(super) panels: Range<usize>,
    /// Columns of these panels.
    pub(super) stride: usize,
}

impl Task<'_> {
    /// The image, row and column of a tile of the task.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [down, across] = self.size;
        let tile = self.first_tile + tile;
        (tile / (down * across), tile / across % down, tile % across)
    }

    pub(super) fn find_pixels(&mut self) {
        let side = self.transforms.patch;
        for tile in 0..self.tiles {
            let (image, row, column) = self.place(tile);
            let pixels = &mut self.memory.pixels[tile * side * side..][..side * side];
            self.patches.fill(image, row, column, side, pixels);
            self.memory.rows[tile] = self.memory.data.wrapping_add(tile * self.room.depth);
        }
    }

    /// Goes on from a block of `k` channels to the next.
    pub(super) fn next_channels(&mut self, k: usize) {
        let side = self.transforms.patch;
        for pixel in &mut self.memory.pixels[..self.tiles * side * side] {
            *pixel = pixel.wrapping_add(k);
        }
    }

    /// Adds the products of a block of channels to the sums of a pass. Whether to go on: a task may take tens of
    /// milliseconds, and once it is cancelled the operation fails, whatever the result.
    pub(super) fn multiply(&mut self, pass: &Pass, k_start: usize, k: usize) -> bool {
        let kernels = self.cpu.device.kernels;
        self.transform_patches(pass, k);
        if let Some(inner) = self.inner {
            self.scale_patches(inner, pass, k);
        }
        let mut column = 0;
        for panel in self.panels.clone() {
            if self.cpu.cancel.is_cancelled() {
                return false;
            }
            let width = kernels.width(self.weight.n, panel);
            self.transform_filters(pass, panel, k_start, k);
            // Fetched with the last tile of each point: the taps of the next panel, or for the next points the first again.
            let next = if panel + 1 < self.panels.end { panel + 1 } else { self.panels.start };
            let ahead = self.weight.f16_blocks(kernels, next, &blocks(k_start, k));
            for point in 0..pass.count {
                let sums = (pass.first + point) * self.room.sums_stride + column;
                let sums = self.memory.sums.wrapping_add(sums);
                match self.inner {
                    Some(inner) => self.multiply_inner(inner, point, (panel, width), k_start, k, sums),
                    None => {
                        let taps = ahead.as_ref().and_then(|taps| taps.get(point)).copied();
                        self.multiply_point(point, width, k_start, k, sums, taps);
                    }
                }
            }
            column += width;
        }
        true
    }

    fn transform_patches(&mut self, pass: &Pass, k: usize) {
        let (lanes, pixels) = (self.cpu.device.kernels.nr / 2, self.transforms.patch * self.transforms.patch);
        for tile in 0..self.tiles {
            let to = self.memory.data.wrapping_add(tile * self.room.depth);
            let pixels = &self.memory.pixels[tile * pixels..][..pixels];
            let (stride, last) = (self.room.data_stride, &mut *self.memory.last);
            // SAFETY: the pixels have `k` channels more; a tile has room for `depth` of each point.
            unsafe { transform_patch(pass, lanes, pixels, k, to, stride, last) };
        }
    }

    fn scale_patches(&mut self, inner: &InnerKernels, pass: &Pass, k: usize) {
        let Room { depth, data_stride, .. } = *self.room;
        let Transforms { points: side, sizes, .. } = self.transforms;
        for point in 0..pass.count {
            for first in (0..self.tiles).step_by(ROWS) {
                let at = point * self.memory.rows.len() + first;
                let to = self.memory.data.wrapping_add(point * data_stride + first * depth);
                // SAFETY: the tiles' values of the point, transformed just now.
                unsafe {
                    (inner.scale_rows)(&InnerRows {
                        from: std::array::from_fn(|i| to.wrapping_add(i * depth).cast_const()),
                        count: ROWS.min(self.tiles - first),
                        to,
                        stride: depth,
                        k,
                        size: (sizes[point / side] + sizes[point % side]) / 2,
                        sums: self.memory.row_sums[at..].as_mut_ptr(),
                        scales: self.memory.row_scales[at..].as_mut_ptr(),
                    });
                }
            }
        }
    }

    /// Those of a panel and a block of channels.
    fn transform_filters(&mut self, pass: &Pass, panel: usize, k_start: usize, k: usize) {
        let (device, weight) = (&*self.cpu.device, self.weight);
        let kernels = device.kernels;
        let (width, lanes) = (kernels.width(weight.n, panel), kernels.nr / 2);
        let (to, stride) = (self.memory.filters, self.room.filter_stride);
        let blocks = blocks(k_start, k);
        if let (None, Some(taps)) = (self.inner, weight.f16_blocks(kernels, panel, &blocks)) {
            // SAFETY: rows are whole vectors, and each point of the filters has room for those of the block.
            unsafe { (pass.filter_f16)(&taps, k * width / lanes, to, stride) };
            return;
        }
        for row in (0..k).step_by(FILTER_ROWS) {
            let rows = FILTER_ROWS.min(k - row);
            let taps = blocks.map(|block| {
                let to = &mut self.memory.last[block.tap * FILTER_ROWS * kernels.nr..];
                let block = KBlock { k_start: k_start + row, k: rows, ..block };
                if let Some(inner) = self.inner {
                    let to = &mut to[..rows * width];
                    weight.scaled_block(device, inner, panel, &block, to);
                    return to.as_ptr();
                }
                weight.block(kernels, panel, &block, to)
            });
            // SAFETY: as above.
            unsafe { (pass.filter)(&taps, rows * width / lanes, to.wrapping_add(row * width), stride) };
        }
    }

    fn multiply_point(
        &self,
        point: usize,
        width: usize,
        k_start: usize,
        k: usize,
        sums: *mut f32,
        ahead: Option<*const u16>,
    ) {
        let Room { depth, data_stride, filter_stride, .. } = *self.room;
        let kernels = self.cpu.device.kernels;
        let rows = &*self.memory.rows;
        for_each_part(self.tiles, kernels.mr, |row, count| {
            let next = rows[row].wrapping_add(point * data_stride + count * depth);
            let tile = Tile {
                rows: rows[row..].as_ptr(),
                next: ahead.filter(|_| row + count == self.tiles).map_or(next, <*const u16>::cast),
                offset: point * data_stride,
                taps: 1,
                k,
                b: self.memory.filters.wrapping_add(point * filter_stride),
                c: sums.wrapping_add(row * self.stride),
                stride: self.stride,
                add: if k_start > 0 { sums.wrapping_add(row * self.stride) } else { std::ptr::null() },
                add_stride: self.stride,
                bias: std::ptr::null(),
            };
            // SAFETY: each of the rows has `k` values at the point, the filters are this panel's block, and the sums of a
            // point have `stride` columns for each row.
            unsafe { kernels.tile(count, width)(&tile) };
        });
    }

    fn multiply_inner(
        &self,
        inner: &InnerKernels,
        point: usize,
        (panel, width): (usize, usize),
        k_start: usize,
        k: usize,
        sums: *mut f32,
    ) {
        let kernels = self.cpu.device.kernels;
        let (memory, weight) = (&self.memory, self.weight);
        let filters = memory.filters.wrapping_add(point * self.room.filter_stride);
        let mut first_sums = [0.0; WIDEST];
        // SAFETY: the panel's block of this point has `k` rows.
        unsafe { (inner.column_sums)(filters, k, width, first_sums.as_mut_ptr()) };
        for row in (0..self.tiles).step_by(kernels.mr) {
            let at = point * memory.rows.len() + row;
            let tile = InnerTile {
                a: memory.data.wrapping_add(point * self.room.data_stride + row * FAST_STRIDE),
                step: 1,
                k,
                b: filters,
                row_sums: memory.row_sums[at..].as_ptr(),
                column_sums: first_sums.as_ptr(),
                row_scales: memory.row_scales[at..].as_ptr(),
                column_scales: weight.column_scales(kernels)[panel * kernels.nr..].as_ptr(),
                c: sums.wrapping_add(row * self.stride),
                stride: self.stride,
                accumulate: k_start > 0,
            };
            // SAFETY: as in `multiply_point`.
            unsafe { kernels.inner_tile(&inner.fast, kernels.mr.min(self.tiles - row), width)(&tile) };
        }
        if panel + 1 < self.panels.end {
            // The next filters meanwhile, tap by tap.
            let next = KBlock { tap: point % 9, taps: 1, k_start, k };
            let points = self.transforms.points * self.transforms.points;
            weight.prefetch(kernels, panel + 1, &next, point / 9, points.div_ceil(9));
        }
    }

    /// Transforms the sums to pixels and finishes those.
    pub(super) fn finish(&mut self, finish: &Finish<'_>, target: Target<f32>) {
        let (kernels, simd) = (self.cpu.device.kernels, self.cpu.device.simd);
        let (shape, side) = (self.patches.output, self.transforms.tile);
        let column = self.panels.start * kernels.nr;
        let columns = self.room.columns(kernels);
        let width = columns.min(shape.c - column);
        let bias = &self.weight.bias()[column..][..width];
        for tile in 0..self.tiles {
            let (image, row, across) = self.place(tile);
            let from = self.memory.sums.wrapping_add(tile * self.stride);
            let last = &mut *self.memory.last;
            // SAFETY: the sums of each point have `stride` columns, whole vectors, for the tile; and `last` has room for
            // that many of each pixel.
            unsafe {
                let vectors = self.stride / (kernels.nr / 2);
                (self.transforms.output)(from, self.room.sums_stride, vectors, last.as_mut_ptr(), columns);
            }
            let channel_bias = finish.channel_bias.map(|bias| &bias[image * shape.c + column..][..width]);
            for y in row * side..shape.h.min((row + 1) * side) {
                for x in across * side..shape.w.min((across + 1) * side) {
                    let at = ((image * shape.h + y) * shape.w + x) * shape.c + column;
                    let pixel = (y - row * side) * side + x - across * side;
                    let residual = finish.residual.map(|residual| &residual[at..][..width]);
                    let values = &last[pixel * columns..][..width];
                    // SAFETY: this task alone writes these pixels and columns of the output.
                    let out = unsafe { target.slice(at, width) };
                    if finish.onto {
                        add_row(simd, values, bias, channel_bias, out);
                    } else {
                        finish_row(simd, values, bias, channel_bias, finish.activation, residual, out);
                    }
                }
            }
        }
    }
}

/// A block of the channels of each tap.
fn blocks(k_start: usize, k: usize) -> [KBlock; 9] {
    std::array::from_fn(|tap| KBlock { tap, taps: 1, k_start, k })
}

/// Transforms `k` channels of a patch. Those that do not fill a vector are copied first,
/// for nothing may be read past the last pixel; what becomes of the rest of that vector is not used.
///
/// # Safety
/// `pixels` point to so many channels; `to` has room for `k` channels, rounded up to vectors, of each point.
unsafe fn transform_patch(
    pass: &Pass,
    lanes: usize,
    pixels: &[*const f32],
    k: usize,
    to: *mut f32,
    stride: usize,
    edge: &mut [f32],
) {
    let whole = k / lanes;
    // SAFETY: the caller vouches for these.
    unsafe { (pass.data)(pixels.as_ptr(), whole, to, stride) };
    let rest = k % lanes;
    if rest > 0 {
        let mut copies = [std::ptr::null(); PIXELS];
        for ((copy, pixel), edge) in copies.iter_mut().zip(pixels).zip(edge.chunks_exact_mut(LINE)) {
            // SAFETY: the caller vouches for the pixel.
            let values = unsafe { std::slice::from_raw_parts(pixel.wrapping_add(k - rest), rest) };
            edge[..rest].copy_from_slice(values);
            *copy = edge.as_ptr();
        }
        // SAFETY: as above; the copies have a vector each.
        unsafe { (pass.data)(copies.as_ptr(), 1, to.wrapping_add(whole * lanes), stride) };
    }
}
