//! A norm and the convolution after it, strip by strip: no normalised image is ever whole in memory, and a strip is still
//! in the cache when the convolution reads it.

use std::ops::Range;

use super::conv::{Source, run_method};
use super::finish::Finish;
use super::norm::{self, Coefficients};
use super::pack::Target;
use super::pool::Block;
use super::{Cpu, CpuAffine, CpuConv2d, CpuTensor, conv, finish};
use crate::backend::{ConvGeometry, Epilogue, Norm, Shape};
use crate::util::error::{Result, bail};

/// Rows at the end of a strip whose outputs wait for the next: a whole tile of every method, so that tiles lie where they
/// would in one piece, and the result is the same to the bit.
pub(super) const LAG: usize = 4;
/// Strips are multiples of so many rows: of tiles, and of what a norm sums together.
const ROWS: usize = 16;
/// Bytes of a strip, about: much less and threads wait for each other, much more and it leaves the cache.
pub(super) const STRIP: usize = 4 << 20;
/// Images of fewer strips are normalised in one piece: they are small, and their halves would not pay.
const FEWEST: usize = 4;

/// Rows in a strip of about `strip` bytes, of images of `shape`.
pub(super) fn rows(strip: usize, shape: Shape) -> usize {
    let bytes = ROWS * shape.w * shape.c * size_of::<f32>();
    (strip / bytes.max(1)).max(1) * ROWS
}

/// [`rows`] for a norm of `x` and a convolution, if they run in strips.
pub(super) fn plan(strip: usize, x: Shape, kernel: [usize; 2], geometry: ConvGeometry) -> Option<usize> {
    let rows = rows(strip, x);
    (kernel == [3, 3] && geometry == ConvGeometry::same(3) && x.h >= FEWEST * rows).then_some(rows)
}

/// The rows of an image of `height`, `rows` at a time.
pub(super) fn cut(height: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..height).step_by(rows).map(move |first| first..height.min(first + rows))
}

/// The rows of the output that can be computed once the input's up to `fed` of `height` are there, when those before
/// `done` have been.
pub(super) fn ready(height: usize, fed: usize, done: usize) -> Range<usize> {
    done..if fed == height { height } else { fed.saturating_sub(LAG).max(done) }
}

/// Bytes of a window on images of `shape` that takes `most` rows at a time.
pub(super) fn window(shape: Shape, most: usize) -> usize {
    (most + LAG + 2) * shape.w * shape.c * size_of::<f32>()
}

/// A norm and a 3×3 convolution of one image whose rows come strip by strip.
pub(super) struct Stage<'a> {
    cpu: &'a Cpu,
    weight: &'a CpuConv2d,
    coefficients: &'a Coefficients,
    /// The normalised rows from the one above the next output on.
    window: Target<f32>,
    /// Of the batch's images.
    image: usize,
    /// Of this image alone.
    shape: Shape,
    fed: usize,
    done: usize,
}

impl<'a> Stage<'a> {
    /// Of an image of `shape`. The `window` has the size that [`window`] says.
    pub(super) fn new(
        cpu: &'a Cpu,
        weight: &'a CpuConv2d,
        coefficients: &'a Coefficients,
        window: &'a mut Block,
        shape: Shape,
        image: usize,
    ) -> Self {
        let window = Target(window.as_mut_ptr().cast());
        let shape = Shape { n: 1, ..shape };
        // SAFETY: the window has this row, and is this stage's alone.
        unsafe { window.slice(0, shape.w * shape.c) }.fill(0.0);
        Self { cpu, weight, coefficients, window, image, shape, fed: 0, done: 0 }
    }

    /// Normalises the image's next rows. Returns the rows of the output that [`Stage::convolve`] then computes.
    pub(super) fn feed(&mut self, rows: &[f32]) -> Result<Range<usize>> {
        let row = self.shape.w * self.shape.c;
        // The window begins a row above the output.
        let at = (self.fed + 1 - self.done) * row;
        let to = Target(self.window.at(at));
        // SAFETY: the window has room for these rows, and only this stage refers to it.
        unsafe { self.coefficients.apply(self.cpu, self.image, rows, to)? };
        self.fed += rows.len() / row.max(1);
        if self.fed == self.shape.h {
            // SAFETY: the window has a row for what is below the image.
            unsafe { self.window.slice(at + rows.len(), row) }.fill(0.0);
        }
        Ok(ready(self.shape.h, self.fed, self.done))
    }

    /// Computes what [`Stage::feed`] said to where `target` points; the parts of `finish` are of those rows.
    pub(super) fn convolve(&mut self, finish: &Finish<'_>, target: Target<f32>) -> Result<()> {
        let (cpu, weight, Shape { h, w, c, .. }) = (self.cpu, self.weight, self.shape);
        let ready = ready(h, self.fed, self.done);
        let row = w * c;
        let below = usize::from(self.fed == h);
        let input = Shape::image(1, self.fed + 1 - self.done + below, w, c);
        // SAFETY: `feed` wrote these rows; nothing writes them until the slice is gone.
        let x = &*unsafe { self.window.slice(0, input.len()) };
        let output = Shape::image(1, ready.len(), w, weight.packed.n);
        let method = weight.method(cpu.device.kernels, h, w, cpu.strict);
        run_method(cpu, method, &Source { x, shape: input, above: 1 }, weight, output, finish, target)?;
        if self.fed < h {
            let (from, keep) = (ready.len(), self.fed + 1 - ready.end);
            // Rows that follow each other do not overlap: what is kept is shorter than what was done.
            let piece = row.div_ceil(cpu.concurrency()).max(1);
            cpu.parallel(row.div_ceil(piece), |task, _| {
                let (start, len) = (task * piece, piece.min(row - task * piece));
                for i in 0..keep {
                    // SAFETY: each task has its own columns, and a row is read before a later one is written over it.
                    unsafe {
                        let from = self.window.at((from + i) * row + start);
                        std::ptr::copy(from, self.window.at(i * row + start), len);
                    }
                }
            })?;
        }
        self.done = ready.end;
        Ok(())
    }
}

/// GroupNorm, then SiLU if asked, then the convolution. With `onto` the result is added to that tensor, in its memory
/// if nothing else shares it.
pub(super) fn norm_conv2d(
    cpu: &Cpu,
    x: &CpuTensor,
    norm: &Norm<'_, CpuAffine>,
    weight: &CpuConv2d,
    epilogue: Epilogue<'_, CpuTensor>,
    onto: Option<CpuTensor>,
) -> Result<CpuTensor> {
    let (packed, operation) = (&weight.packed, "norm_conv2d");
    if x.shape.c != packed.k {
        bail!(Internal, "{operation}: {} for {} input channels", x.shape, packed.k);
    }
    let output = conv::output(operation, x.shape, weight)?;
    let rows = plan(cpu.strip, x.shape, weight.kernel, weight.geometry);
    let normalized = match rows {
        Some(_) => None,
        None => Some(norm::group_norm(cpu, x, norm)?),
    };
    let mut onto = onto;
    let own = onto.as_mut().is_some_and(|sum| sum.is_own() && sum.shape == output);
    let (mut out, sum) = match onto {
        Some(sum) if own => (sum, None),
        sum => (cpu.tensor(output, operation)?, sum),
    };
    let epilogue = Epilogue { residual: sum.as_ref().or(epilogue.residual), ..epilogue };
    let finish = Finish { onto: own, ..finish(operation, output, &epilogue)? };
    let target = Target(out.values_mut().as_mut_ptr());
    let Some(rows) = rows else {
        let Some(h) = normalized else { return Ok(out) };
        let method = weight.method(cpu.device.kernels, output.h, output.w, cpu.strict);
        run_method(cpu, method, &Source::whole(&h), weight, output, &finish, target)?;
        return Ok(out);
    };
    let coefficients = Coefficients::of(cpu, x, norm)?;
    let mut block = cpu.pool.take(window(x.shape, rows), operation)?;
    for image in 0..x.shape.n {
        let mut stage = Stage::new(cpu, weight, &coefficients, &mut block, x.shape, image);
        for strip in cut(x.shape.h, rows) {
            let ready = stage.feed(x.rows(image, strip))?;
            let at = (image * output.h + ready.start) * output.w * output.c;
            let len = ready.len() * output.w * output.c;
            let finish = Finish {
                channel_bias: finish.channel_bias.map(|bias| &bias[image * output.c..][..output.c]),
                residual: finish.residual.map(|residual| &residual[at..][..len]),
                ..finish
            };
            stage.convolve(&finish, Target(target.at(at)))?;
        }
    }
    Ok(out)
}
