//! Fast 3×3 convolutions: transformed patches times transformed filters, point by point, with the micro-kernels.
//!
//! A task owns some tiles and columns of the output. It goes over the channels in blocks; for each it transforms its
//! patches, and for each panel of the weight the filters. These are read as they lie packed, in the file's precision, so
//! fast convolutions need no weights of their own: transforming a filter costs as much as the products of four tiles, and
//! a task has tens of them. At the end the sums are transformed to pixels and finished.

use super::finish::{Finish, add_row, finish_row};
use super::inner::{self, FAST_STRIDE, InnerKernels, InnerRows, InnerTile, ROWS};
use super::kernel::{Kernels, Tile};
use super::pack::{KBlock, Packed, Target, WIDEST};
use super::prefetch::LINE;
use super::threads::even_part;
use super::transform::{Pass, Transforms};
use super::{Cpu, Device};
use crate::backend::Shape;
use crate::util::error::Result;

/// Values of the transformed filters of a panel, of the channels and points that are done at a time: a part of the L2
/// cache that leaves room for the patches.
const FILTERS: usize = 12 * 4096;
/// Rows of a tap that are converted at a time: those of all taps stay in the L1 cache.
const FILTER_ROWS: usize = 8;
/// Most tiles in a task.
const TILES: usize = 72;
/// A task's filters take as long to transform as the products of so many tiles.
const FILTER_TILES: usize = 4;
/// Most values of a task's sums.
const SUMS: usize = 36 * 64 * 320;
/// Five cache lines between the values of two points spread them evenly over the 64 sets of the L1 cache. At a whole number
/// of pages they would share one, and with one line between them the neighbours of one value would push out another's.
const APART: usize = 5 * LINE;

/// Where the patches of a convolution lie.
pub(super) struct Patches<'a> {
    pub(super) x: &'a [f32],
    /// A pixel of zeros.
    pub(super) zeros: &'a [f32],
    pub(super) input: Shape,
    pub(super) output: Shape,
    /// Pixels from one patch to the next.
    pub(super) step: usize,
    /// Rows of the input above the output's first.
    pub(super) above: usize,
    /// The patches are those of the input enlarged twofold, to the size of the output.
    pub(super) enlarge: bool,
}

impl Patches<'_> {
    /// The pointers to the pixels of the patch for the tile at `row` and `column` of an image.
    fn fill(&self, image: usize, row: usize, column: usize, side: usize, pixels: &mut [*const f32]) {
        let shift = u32::from(self.enlarge);
        let (height, width) = match self.enlarge {
            true => (self.output.h, self.output.w),
            false => (self.input.h, self.input.w),
        };
        for (i, pixel) in pixels.iter_mut().enumerate() {
            // A patch begins one pixel before its tile. Pixels left of or above the image wrap round to large numbers,
            // outside as well.
            let y = (row * self.step + self.above + i / side).wrapping_sub(1);
            let x = (column * self.step + i % side).wrapping_sub(1);
            *pixel = if y < height && x < width {
                let index = (image * self.input.h + (y >> shift)) * self.input.w + (x >> shift);
                self.x[index * self.input.c..][..self.input.c].as_ptr()
            } else {
                self.zeros.as_ptr()
            };
        }
    }
}

/// How the output is cut into tasks.
struct Cut {
    tiles: usize,
    panels: usize,
}

impl Cut {
    /// Many tiles, because each task transforms the filters of its columns, and many columns, because it transforms the
    /// patches of its tiles; but enough tasks for all threads.
    fn new(kernels: &Kernels, points: usize, tiles: usize, panels: usize, threads: usize) -> Self {
        let sums = SUMS / (points * kernels.nr);
        let mut cut = Self { tiles: tiles.clamp(1, TILES), panels };
        cut.panels = cut.panels.min((sums / cut.tiles).max(1));
        if threads > 1 {
            while tiles.div_ceil(cut.tiles) * panels.div_ceil(cut.panels) < 4 * threads {
                if cut.panels > 1 && cut.panels * kernels.nr > 2 * cut.tiles {
                    cut.panels = cut.panels.div_ceil(2);
                } else if cut.tiles > kernels.mr {
                    cut.tiles = cut.tiles.div_ceil(2);
                } else {
                    break;
                }
            }
        }
        // Equal parts.
        cut.panels = panels.div_ceil(panels.div_ceil(cut.panels));
        if threads > 1 {
            cut.tiles = even_part(threads, panels.div_ceil(cut.panels), tiles, cut.tiles, 1, FILTER_TILES);
        }
        cut.tiles = tiles.div_ceil(tiles.div_ceil(cut.tiles).max(1)).max(1);
        cut
    }
}

/// Each thread's memory, in floats: pointers to the patches' pixels and to their rows of points, then the transformed
/// patches, filters and sums, and the pixels of a tile or the converted taps.
pub(super) struct Room {
    cut: Cut,
    points: usize,
    /// Of them, most at a time.
    pass_points: usize,
    /// Input channels at a time.
    depth: usize,
    pointer_count: usize,
    pointer_len: usize,
    data_stride: usize,
    filter_stride: usize,
    sums_stride: usize,
    /// What the rows of a point begin and end with, for kernels of Winograd's inner product; as many for each.
    ends_len: usize,
    last_len: usize,
}

impl Room {
    /// For an output of `shape` from `inputs` channels.
    pub(super) fn new(
        kernels: &Kernels,
        inner: Option<&InnerKernels>,
        transforms: &Transforms,
        shape: Shape,
        inputs: usize,
        threads: usize,
    ) -> Self {
        let Transforms { patch, points: side, tile: tile_side, .. } = *transforms;
        let (points, pixels, nr) = (side * side, patch * patch, kernels.nr);
        let tiles = shape.n * shape.h.div_ceil(tile_side) * shape.w.div_ceil(tile_side);
        let cut = Cut::new(kernels, points, tiles, shape.c.div_ceil(nr), threads);
        let pass_points = passes(inner, transforms).iter().map(|pass| pass.count).max().unwrap_or(0);
        let depth = match inner {
            Some(_) => FAST_STRIDE,
            None => (FILTERS / (pass_points * nr)).min(inputs).next_multiple_of(LINE),
        };
        let columns = cut.panels * nr;
        let pointer_count = cut.tiles * (pixels + 1);
        let pointer_len = pointer_count * size_of::<*const f32>() / size_of::<f32>();
        Self {
            points,
            pass_points,
            depth,
            pointer_count,
            pointer_len: pointer_len.next_multiple_of(LINE),
            data_stride: cut.tiles * depth + APART,
            filter_stride: depth * nr + APART,
            sums_stride: cut.tiles * columns + APART,
            ends_len: inner.map_or(0, |_| pass_points * cut.tiles),
            last_len: (tile_side * tile_side * columns).max(9 * FILTER_ROWS * nr).max(pixels * LINE),
            cut,
        }
    }

    pub(super) fn floats(&self) -> usize {
        let strides = self.data_stride + self.filter_stride;
        self.pointer_len
            + self.pass_points * strides
            + self.points * self.sums_stride
            + 2 * self.ends_len
            + self.last_len
    }
}

/// The passes over a block of channels.
fn passes<'a>(inner: Option<&InnerKernels>, transforms: &'a Transforms) -> &'a [Pass] {
    match inner {
        Some(_) => std::slice::from_ref(&transforms.whole),
        None => transforms.passes,
    }
}

/// The blocks of at most `most` channels, whole vectors but for the last: they depend on the weight and the instruction
/// set alone, and so does the order of every sum.
fn k_blocks(k: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = k.div_ceil(k.div_ceil(most)).next_multiple_of(LINE);
    (0..k).step_by(step).map(move |start| (start, step.min(k - start)))
}

/// Computes `finish(convolution)` to where `target` points, which has room for the output.
pub(super) fn run(
    cpu: &Cpu,
    transforms: &Transforms,
    patches: &Patches<'_>,
    weight: &Packed,
    finish: &Finish<'_>,
    target: Target<f32>,
) -> Result<()> {
    let kernels = cpu.device.kernels;
    let (mr, nr) = (kernels.mr, kernels.nr);
    let Transforms { patch, points: side, tile: tile_side, .. } = *transforms;
    let (points, pixels) = (side * side, patch * patch);
    let shape = patches.output;
    let (down, across) = (shape.h.div_ceil(tile_side), shape.w.div_ceil(tile_side));
    let tiles = shape.n * down * across;
    let panels = shape.c.div_ceil(nr);
    let inner = inner::fast_kernels(kernels, cpu.strict, weight.values, transforms, shape);
    let room = Room::new(kernels, inner, transforms, shape, weight.k, cpu.concurrency());
    let cut = &room.cut;
    let column_tasks = panels.div_ceil(cut.panels);
    let passes = passes(inner, transforms);

    let Room {
        pass_points,
        depth,
        pointer_count,
        pointer_len,
        data_stride,
        filter_stride,
        sums_stride,
        last_len,
        ..
    } = room;
    let ends_len = room.ends_len;
    let columns = cut.panels * nr;
    let scratch = cpu.scratch(room.floats())?;

    cpu.parallel(tiles.div_ceil(cut.tiles) * column_tasks, |task, slot| {
        let first_tile = task / column_tasks * cut.tiles;
        let count = cut.tiles.min(tiles - first_tile);
        let first_panel = task % column_tasks * cut.panels;
        let task_panels = first_panel..(first_panel + cut.panels).min(panels);
        let stride: usize = task_panels.clone().map(|panel| kernels.width(weight.n, panel)).sum();
        let place = |tile: usize| {
            let tile = first_tile + tile;
            (tile / (down * across), tile / across % down, tile % across)
        };

        let start = scratch.slot(slot);
        // SAFETY: a slot belongs to one thread at a time and has room for these parts; the pointers are at its start,
        // which is aligned to a cache line.
        let (pointers, data, filters, sums, row_sums, row_scales, last) = unsafe {
            let data = start.add(pointer_len);
            let filters = data.add(pass_points * data_stride);
            let sums = filters.add(pass_points * filter_stride);
            let row_sums = sums.add(points * sums_stride);
            let row_scales = row_sums.add(ends_len);
            let last = row_scales.add(ends_len);
            (
                std::slice::from_raw_parts_mut(start.cast::<*const f32>(), pointer_count),
                data,
                filters,
                sums,
                std::slice::from_raw_parts_mut(row_sums, ends_len),
                std::slice::from_raw_parts_mut(row_scales, ends_len),
                std::slice::from_raw_parts_mut(last, last_len),
            )
        };
        let (sources, rows) = pointers.split_at_mut(cut.tiles * pixels);
        for tile in 0..count {
            let (image, row, column) = place(tile);
            patches.fill(image, row, column, patch, &mut sources[tile * pixels..][..pixels]);
            rows[tile] = data.wrapping_add(tile * depth);
        }
        for (k_start, k) in k_blocks(weight.k, depth) {
            for pass in passes {
                for tile in 0..count {
                    let to = data.wrapping_add(tile * depth);
                    let source = &sources[tile * pixels..][..pixels];
                    // SAFETY: the pointers are to pixels of the weight's channels; a tile has room for `depth` of each point.
                    unsafe {
                        transform_patch(pass, kernels.nr / 2, source, k_start, k, to, data_stride, last)
                    };
                }
                if let Some(inner) = inner {
                    for point in 0..pass.count {
                        let size = (transforms.sizes[point / side] + transforms.sizes[point % side]) / 2;
                        for first in (0..count).step_by(ROWS) {
                            let at = point * cut.tiles + first;
                            let to = data.wrapping_add(point * data_stride + first * depth);
                            // SAFETY: the tiles' values of the point, transformed just now.
                            unsafe {
                                (inner.scale_rows)(&InnerRows {
                                    from: std::array::from_fn(|i| to.wrapping_add(i * depth).cast_const()),
                                    count: ROWS.min(count - first),
                                    to,
                                    stride: depth,
                                    k,
                                    size,
                                    sums: row_sums[at..].as_mut_ptr(),
                                    scales: row_scales[at..].as_mut_ptr(),
                                });
                            }
                        }
                    }
                }
                let mut offset = 0;
                for panel in task_panels.clone() {
                    // A task may take tens of milliseconds. Once this is set the operation fails, whatever the result.
                    if cpu.cancel.is_cancelled() {
                        return;
                    }
                    let width = kernels.width(weight.n, panel);
                    let blocks = std::array::from_fn(|tap| KBlock { tap, taps: 1, k_start, k });
                    // SAFETY: each point of the filters has room for the block's rows, and `last` for some of all taps.
                    unsafe {
                        let to = (filters, filter_stride);
                        transform_filters(&cpu.device, pass, inner, (weight, panel), blocks, last, to);
                    }
                    for point in 0..pass.count {
                        if let Some(inner) = inner {
                            let filters = filters.wrapping_add(point * filter_stride);
                            let mut first_sums = [0.0; WIDEST];
                            let column_scales = &weight.column_scales(kernels)[panel * nr..];
                            // SAFETY: the panel's block of this point has `k` rows.
                            unsafe { (inner.column_sums)(filters, k, width, first_sums.as_mut_ptr()) };
                            for row in (0..count).step_by(mr) {
                                let at = point * cut.tiles + row;
                                let tile = InnerTile {
                                    a: data.wrapping_add(point * data_stride + row * FAST_STRIDE),
                                    step: 1,
                                    k,
                                    b: filters,
                                    row_sums: row_sums[at..].as_ptr(),
                                    column_sums: first_sums.as_ptr(),
                                    row_scales: row_scales[at..].as_ptr(),
                                    column_scales: column_scales.as_ptr(),
                                    c: sums.wrapping_add(
                                        (pass.first + point) * sums_stride + row * stride + offset,
                                    ),
                                    stride,
                                    accumulate: k_start > 0,
                                };
                                // SAFETY: as below.
                                unsafe { kernels.inner_tile(&inner.fast, mr.min(count - row), width)(&tile) };
                            }
                            if panel + 1 < task_panels.end {
                                // The next filters meanwhile, tap by tap.
                                let next = KBlock { tap: point % 9, taps: 1, k_start, k };
                                weight.prefetch(kernels, panel + 1, &next, point / 9, points.div_ceil(9));
                            }
                            continue;
                        }
                        for row in (0..count).step_by(mr) {
                            let tile = Tile {
                                rows: rows[row..].as_ptr(),
                                next: rows[row].wrapping_add(point * data_stride + mr * depth),
                                offset: point * data_stride,
                                taps: 1,
                                k,
                                b: filters.wrapping_add(point * filter_stride),
                                c: sums
                                    .wrapping_add((pass.first + point) * sums_stride + row * stride + offset),
                                stride,
                                accumulate: k_start > 0,
                            };
                            // SAFETY: each of the rows has `k` values at the point, the filters are this panel's block, and
                            // the sums of a point have `stride` columns for each row.
                            unsafe { kernels.tile(mr.min(count - row), width)(&tile) };
                        }
                    }
                    offset += width;
                }
            }
        }

        let column = first_panel * nr;
        let width = (cut.panels * nr).min(shape.c - column);
        let bias = &weight.bias()[column..][..width];
        for tile in 0..count {
            let (image, row, across) = place(tile);
            let from = sums.wrapping_add(tile * stride);
            // SAFETY: the sums of each point have `stride` columns, whole vectors, for the tile; and `last` has room for
            // that many of each pixel.
            unsafe {
                (transforms.output)(from, sums_stride, stride / (nr / 2), last.as_mut_ptr(), columns);
            }
            let channel_bias = finish.channel_bias.map(|bias| &bias[image * shape.c + column..][..width]);
            for y in row * tile_side..shape.h.min((row + 1) * tile_side) {
                for x in across * tile_side..shape.w.min((across + 1) * tile_side) {
                    let at = ((image * shape.h + y) * shape.w + x) * shape.c + column;
                    let pixel = (y - row * tile_side) * tile_side + x - across * tile_side;
                    let residual = finish.residual.map(|residual| &residual[at..][..width]);
                    let values = &last[pixel * columns..][..width];
                    // SAFETY: this task alone writes these pixels and columns of the output.
                    let out = unsafe { target.slice(at, width) };
                    if finish.onto {
                        add_row(cpu.device.simd, values, bias, channel_bias, out);
                    } else {
                        finish_row(
                            cpu.device.simd,
                            values,
                            bias,
                            channel_bias,
                            finish.activation,
                            residual,
                            out,
                        );
                    }
                }
            }
        }
    })
}

/// Transforms a panel's filters, of which `blocks` are the same rows of all taps; the points lie a stride apart.
///
/// # Safety
/// There is room for the rows of each point, and in `last` for [`FILTER_ROWS`] of each tap.
unsafe fn transform_filters(
    device: &Device,
    pass: &Pass,
    inner: Option<&InnerKernels>,
    (weight, panel): (&Packed, usize),
    blocks: [KBlock; 9],
    last: &mut [f32],
    (to, stride): (*mut f32, usize),
) {
    let kernels = device.kernels;
    let (k, width, lanes) = (blocks[0].k, kernels.width(weight.n, panel), kernels.nr / 2);
    if let (None, Some(taps)) = (inner, weight.f16_blocks(kernels, panel, &blocks)) {
        // SAFETY: rows are whole vectors; the caller vouches for the room.
        unsafe { (pass.filter_f16)(&taps, k * width / lanes, to, stride) };
        return;
    }
    for row in (0..k).step_by(FILTER_ROWS) {
        let rows = FILTER_ROWS.min(k - row);
        let taps = blocks.map(|block| {
            let to = &mut last[block.tap * FILTER_ROWS * kernels.nr..];
            let block = KBlock { k_start: block.k_start + row, k: rows, ..block };
            if let Some(inner) = inner {
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

/// Transforms the channels from `k_start` to `k_start + k` of a patch. Those that do not fill a vector are copied first,
/// for nothing may be read past the last pixel; what becomes of the rest of that vector is not used.
///
/// # Safety
/// `pixels` point to so many channels; `to` has room for `k` channels, rounded up to vectors, of each point.
#[allow(clippy::too_many_arguments)]
unsafe fn transform_patch(
    pass: &Pass,
    lanes: usize,
    pixels: &[*const f32],
    k_start: usize,
    k: usize,
    to: *mut f32,
    stride: usize,
    edge: &mut [f32],
) {
    let whole = k / lanes;
    // SAFETY: the caller vouches for these.
    unsafe { (pass.data)(pixels.as_ptr(), k_start, whole, to, stride) };
    let rest = k % lanes;
    if rest > 0 {
        let mut copies = [std::ptr::null(); 36];
        for ((copy, pixel), edge) in copies.iter_mut().zip(pixels).zip(edge.chunks_exact_mut(LINE)) {
            // SAFETY: the caller vouches for the pixel.
            let values = unsafe { std::slice::from_raw_parts(pixel.wrapping_add(k_start + k - rest), rest) };
            edge[..rest].copy_from_slice(values);
            *copy = edge.as_ptr();
        }
        // SAFETY: as above; the copies have a vector each.
        unsafe { (pass.data)(copies.as_ptr(), 0, 1, to.wrapping_add(whole * lanes), stride) };
    }
}
