//! Fast 3×3 convolutions: transformed patches times transformed filters, point by point, with the micro-kernels.
//!
//! A task owns some tiles and columns of the output. It goes over the channels in blocks, and over each block's points two
//! rows at a time: it transforms its patches, and for each panel of the weight the filters. These are read as they lie
//! packed, in the file's precision, so fast convolutions need no weights of their own: transforming a filter costs as much
//! as the products of four tiles (Zen 4) to ten (Cascade Lake), and a task has tens of them. At the end the sums are transformed to pixels and finished.
//!
//! Why two rows: patches and filters, which are read again and again, fit the L2 cache with twice the channels a block as
//! all points' would, and the sums, which do not fit, are visited half as often. With Winograd's inner product a block is
//! short anyway, and all points are done at once.

use super::Cpu;
use super::finish::Finish;
use super::inner::{self, FAST_STRIDE, InnerKernels};
use super::kernel::Kernels;
use super::pack::{Packed, Target};
use super::prefetch::{APART, LINE};
use super::threads::even_part;
use super::transform::{Pass, Transforms};
use super::winograd_task::{Memory, Task};
use crate::backend::Shape;
use crate::util::error::Result;

/// Values of the transformed filters of a panel, of the channels and points that are done at a time: a part of the L2
/// cache that leaves room for the patches.
const FILTERS: usize = 12 * 4096;
/// Rows of a tap that are converted at a time: those of all taps stay in the L1 cache.
pub(super) const FILTER_ROWS: usize = 8;
/// Most tiles in a task.
const TILES: usize = 72;
/// A task's filters take at least as long to transform as the products of so many tiles.
const FILTER_TILES: usize = 4;
/// Most values of a task's sums.
const SUMS: usize = 36 * 64 * 320;

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
    pub(super) fn fill(
        &self,
        image: usize,
        row: usize,
        column: usize,
        side: usize,
        pixels: &mut [*const f32],
    ) {
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

/// How each thread's memory is laid out, in floats: pointers to the patches' pixels and to their rows of points, then the
/// transformed patches, filters and sums, and the pixels of a tile or the converted taps.
pub(super) struct Room {
    cut: Cut,
    points: usize,
    /// Of them, most at a time.
    pass_points: usize,
    /// Input channels at a time.
    pub(super) depth: usize,
    pointer_count: usize,
    pointer_len: usize,
    pub(super) data_stride: usize,
    pub(super) filter_stride: usize,
    pub(super) sums_stride: usize,
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

    /// Columns of the largest task.
    pub(super) fn columns(&self, kernels: &Kernels) -> usize {
        self.cut.panels * kernels.nr
    }

    /// The parts of the memory at `start`.
    ///
    /// # Safety
    /// It has [`Self::floats`], aligned to a cache line, which nothing else uses.
    unsafe fn split<'a>(&self, start: *mut f32, pixels: usize) -> Memory<'a> {
        let data = start.wrapping_add(self.pointer_len);
        let filters = data.wrapping_add(self.pass_points * self.data_stride);
        let sums = filters.wrapping_add(self.pass_points * self.filter_stride);
        let row_sums = sums.wrapping_add(self.points * self.sums_stride);
        let row_scales = row_sums.wrapping_add(self.ends_len);
        let last = row_scales.wrapping_add(self.ends_len);
        // SAFETY: the parts follow each other within the memory; the pointers are at its start, aligned.
        unsafe {
            let pointers = std::slice::from_raw_parts_mut(start.cast::<*const f32>(), self.pointer_count);
            let (pixels, rows) = pointers.split_at_mut(self.cut.tiles * pixels);
            Memory {
                pixels,
                rows,
                data,
                filters,
                sums,
                row_sums: std::slice::from_raw_parts_mut(row_sums, self.ends_len),
                row_scales: std::slice::from_raw_parts_mut(row_scales, self.ends_len),
                last: std::slice::from_raw_parts_mut(last, self.last_len),
            }
        }
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
    let shape = patches.output;
    let (down, across) = (shape.h.div_ceil(transforms.tile), shape.w.div_ceil(transforms.tile));
    let tiles = shape.n * down * across;
    let panels = shape.c.div_ceil(kernels.nr);
    let inner = inner::fast_kernels(kernels, cpu.strict, weight.values, transforms, shape);
    let room = Room::new(kernels, inner, transforms, shape, weight.k, cpu.concurrency());
    let Cut { tiles: task_tiles, panels: task_panels } = room.cut;
    let column_tasks = panels.div_ceil(task_panels);
    let scratch = cpu.scratch(room.floats(), 0)?;

    cpu.parallel(tiles.div_ceil(task_tiles) * column_tasks, |task, slot| {
        let (first_tile, first_panel) = (task / column_tasks * task_tiles, task % column_tasks * task_panels);
        let panels = first_panel..(first_panel + task_panels).min(panels);
        // SAFETY: a slot belongs to one thread at a time and has room for these parts.
        let memory = unsafe { room.split(scratch.slot(slot), transforms.patch * transforms.patch) };
        let mut task = Task {
            cpu,
            transforms,
            inner,
            patches,
            weight,
            room: &room,
            memory,
            size: [down, across],
            first_tile,
            tiles: task_tiles.min(tiles - first_tile),
            stride: panels.clone().map(|panel| kernels.width(weight.n, panel)).sum(),
            panels,
        };
        task.find_pixels();
        for (k_start, k) in k_blocks(weight.k, room.depth) {
            for pass in passes(inner, transforms) {
                if !task.multiply(pass, k_start, k) {
                    return;
                }
            }
            task.next_channels(k);
        }
        task.finish(finish, target);
    })
}
