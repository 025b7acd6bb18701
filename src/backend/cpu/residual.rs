//! Residual blocks when memory is short: what lies between their convolutions is computed strip by strip, more than once,
//! instead of kept. The result is the same to the bit.

use std::ops::Range;

use super::conv::{self, Method, Source, run_method};
use super::finish::Finish;
use super::gemm::{self, Rows};
use super::norm::{Coefficients, Statistics};
use super::pack::{Packed, Target};
use super::pool::Block;
use super::strips::{LAG, Stage, cut, rows, window};
use super::{Cpu, CpuConv2d, CpuTensor};
use crate::backend::{ConvGeometry, ResidualBlock, Shape};
use crate::util::error::Result;

/// What a block is given: a tensor, or that tensor enlarged and convolved, of which there is never more than a strip.
struct Input<'a> {
    cpu: &'a Cpu,
    x: &'a CpuTensor,
    /// The method, the convolution, and room for a strip.
    enlarge: Option<(Method, &'a CpuConv2d, Block)>,
    shape: Shape,
}

/// The shape of `x` after `upsample`.
pub(super) fn enlarged(x: Shape, outputs: Option<usize>) -> Shape {
    outputs.map_or(x, |c| Shape { h: 2 * x.h, w: 2 * x.w, c, ..x })
}

impl<'a> Input<'a> {
    fn new(cpu: &'a Cpu, x: &'a CpuTensor, upsample: Option<&'a CpuConv2d>) -> Result<Self> {
        let shape = enlarged(x.shape, upsample.map(|conv| conv.packed.n));
        let enlarge = match upsample {
            None => None,
            Some(conv) => {
                let method = conv.method(cpu.device.kernels, shape.h, shape.w, cpu.strict);
                let most = rows(cpu.strip, shape) + LAG;
                Some((method, conv, cpu.pool.take(most * shape.w * shape.c * size_of::<f32>(), "a strip")?))
            }
        };
        Ok(Self { cpu, x, enlarge, shape })
    }

    /// Some rows of an image; the first is a multiple of [`LAG`].
    fn rows(&mut self, image: usize, rows: Range<usize>) -> Result<&[f32]> {
        let Some((method, conv, strip)) = &mut self.enlarge else {
            return Ok(self.x.rows(image, rows));
        };
        let output = Shape { n: 1, h: rows.len(), ..self.shape };
        let small = Shape { n: 1, ..self.x.shape };
        let x = self.x.rows(image, 0..small.h);
        let source = Source { x, shape: small, above: rows.start / 2 };
        let target = Target(strip.as_mut_ptr().cast());
        run_method(self.cpu, *method, &source, conv, output, &Finish::default(), target)?;
        Ok(strip.f32(output.len()))
    }
}

/// The block, of an input that is enlarged first if there is an `upsample`: to twice its size.
pub(super) fn small(
    cpu: &Cpu,
    x: CpuTensor,
    upsample: Option<&CpuConv2d>,
    block: &ResidualBlock<'_, Cpu>,
) -> Result<CpuTensor> {
    match block.shortcut {
        Some(shortcut) => with_shortcut(cpu, &x, upsample, block, &shortcut.0),
        None => in_place(cpu, x, block),
    }
}

/// The bias of one image's channels.
fn channel_bias(bias: Option<&CpuTensor>, image: usize, channels: usize) -> Option<&[f32]> {
    bias.map(|bias| &bias.values()[image * channels..][..channels])
}

/// The first convolution's output is kept and becomes the block's; the shortcut is computed strip by strip.
fn with_shortcut(
    cpu: &Cpu,
    x: &CpuTensor,
    upsample: Option<&CpuConv2d>,
    block: &ResidualBlock<'_, Cpu>,
    shortcut: &Packed,
) -> Result<CpuTensor> {
    let shape = enlarged(x.shape, upsample.map(|conv| conv.packed.n));
    let mut out = cpu.tensor(conv::output("a residual block", shape, block.conv1)?, "a residual block")?;
    let mut input = Input::new(cpu, x, upsample)?;
    let (rows, output) = (rows(cpu.strip, shape), out.shape);
    let row = output.w * output.c;

    let mut statistics = Statistics::new(cpu, shape)?;
    for image in 0..shape.n {
        for strip in cut(shape.h, rows) {
            let first = strip.start;
            statistics.gather(cpu, image, first, input.rows(image, strip)?)?;
        }
    }
    let coefficients = statistics.coefficients(cpu, &block.norm1)?;
    let target = Target(out.values_mut().as_mut_ptr());
    let at = |image: usize, row_index: usize| target.at((image * output.h + row_index) * row);
    let mut space = cpu.pool.take(window(shape, rows), "a strip")?;
    for image in 0..shape.n {
        let channel_bias = channel_bias(block.channel_bias, image, output.c);
        let finish = Finish { channel_bias, ..Finish::default() };
        let mut stage = Stage::new(cpu, block.conv1, &coefficients, &mut space, shape, image);
        for strip in cut(shape.h, rows) {
            let ready = stage.feed(input.rows(image, strip)?)?;
            stage.convolve(&finish, Target(at(image, ready.start)))?;
        }
    }
    drop((space, coefficients));

    let coefficients = Coefficients::of(cpu, &out, &block.norm2)?;
    let target = Target(out.values_mut().as_mut_ptr());
    let at = |image: usize, row_index: usize| target.at((image * output.h + row_index) * row);
    let mut space = cpu.pool.take(window(output, rows), "a strip")?;
    let mut sides = cpu.pool.take((rows + LAG) * row * size_of::<f32>(), "a strip")?;
    for image in 0..shape.n {
        let mut stage = Stage::new(cpu, block.conv2, &coefficients, &mut space, output, image);
        for strip in cut(shape.h, rows) {
            let values = Target(at(image, strip.start));
            // SAFETY: rows of the output as the first convolution left them: none below those that are done was written.
            let ready = stage.feed(unsafe { values.slice(0, strip.len() * row) })?;
            let part = Shape { n: 1, h: ready.len(), ..shape };
            let lines = Rows {
                x: input.rows(image, ready.clone())?,
                zeros: shortcut.zeros(),
                input: part,
                output: part,
                kernel: [1, 1],
                geometry: ConvGeometry::same(1),
            };
            gemm::run(cpu, &lines, shortcut, &Finish::default(), Target(sides.as_mut_ptr().cast()))?;
            let residual = Some(sides.f32(ready.len() * row));
            stage.convolve(&Finish { residual, ..Finish::default() }, Target(at(image, ready.start)))?;
        }
    }
    Ok(out)
}

/// The block is added to its input where it lies. The first convolution runs once for the second norm's statistics, and
/// once more for the second convolution.
fn in_place(cpu: &Cpu, x: CpuTensor, block: &ResidualBlock<'_, Cpu>) -> Result<CpuTensor> {
    let mut x = x;
    if !x.is_own() {
        let mut copy = cpu.tensor(x.shape, "a residual block")?;
        copy.values_mut().copy_from_slice(x.values());
        x = copy;
    }
    let shape = x.shape;
    let middle = conv::output("a residual block", shape, block.conv1)?;
    let (rows, row) = (rows(cpu.strip, shape), middle.w * middle.c);
    let first = Coefficients::of(cpu, &x, &block.norm1)?;
    let mut space = cpu.pool.take(window(shape, rows), "a strip")?;
    let mut between = cpu.pool.take((rows + LAG) * row * size_of::<f32>(), "a strip")?;
    let between = Target(between.as_mut_ptr().cast::<f32>());

    let mut statistics = Statistics::new(cpu, middle)?;
    for image in 0..shape.n {
        let finish =
            Finish { channel_bias: channel_bias(block.channel_bias, image, middle.c), ..Finish::default() };
        let mut stage = Stage::new(cpu, block.conv1, &first, &mut space, shape, image);
        for strip in cut(shape.h, rows) {
            let ready = stage.feed(x.rows(image, strip))?;
            stage.convolve(&finish, between)?;
            // SAFETY: just written; nothing writes it until the slice is gone.
            let values = unsafe { between.slice(0, ready.len() * row) };
            statistics.gather(cpu, image, ready.start, values)?;
        }
    }
    let second = statistics.coefficients(cpu, &block.norm2)?;

    let mut more_space = cpu.pool.take(window(middle, rows + LAG), "a strip")?;
    let target = Target(x.values_mut().as_mut_ptr());
    let wide = shape.w * shape.c;
    let at = |image: usize, row_index: usize| target.at((image * shape.h + row_index) * wide);
    for image in 0..shape.n {
        let finish =
            Finish { channel_bias: channel_bias(block.channel_bias, image, middle.c), ..Finish::default() };
        let mut stage = Stage::new(cpu, block.conv1, &first, &mut space, shape, image);
        let mut next = Stage::new(cpu, block.conv2, &second, &mut more_space, middle, image);
        for strip in cut(shape.h, rows) {
            let values = Target(at(image, strip.start));
            // SAFETY: rows of the input, below all that the block has been added to.
            let ready = stage.feed(unsafe { values.slice(0, strip.len() * wide) })?;
            stage.convolve(&finish, between)?;
            // SAFETY: as above.
            let ready = next.feed(unsafe { between.slice(0, ready.len() * row) })?;
            next.convolve(&Finish { onto: true, ..Finish::default() }, Target(at(image, ready.start)))?;
        }
    }
    Ok(x)
}
