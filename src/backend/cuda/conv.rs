//! Convolutions: launches of `kernels/conv.cu` and `kernels/conv_f32.cu`.

use super::launch::{Grid, Parameter, Parameters, count};
use super::linear;
use super::tiles::{self, CONV, Choice, Counts, Finish, GATHER, Kernel, STEP, Size, check_epilogue};
use super::{Cuda, CudaConv2d, CudaLinear, CudaTensor, Precision};
use crate::backend::{ConvGeometry, Epilogue, Shape};
use crate::util::error::{Result, bail};

/// `ConvShape` of kernels/conv.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvShape {
    n: u32,
    h: u32,
    w: u32,
    c_in: u32,
    out_h: u32,
    out_w: u32,
    c_out: u32,
    kernel_h: u32,
    kernel_w: u32,
    stride: u32,
    pad_top: u32,
    pad_left: u32,
    upsample: u32,
    enlarged_h: u32,
    enlarged_w: u32,
}

// SAFETY: the same fields in the same order.
unsafe impl Parameter for ConvShape {}

impl ConvShape {
    /// A linear layer as a 1×1 convolution; each of x's images is one of its.
    pub(super) fn linear(operation: &str, x: Shape, weight: &CudaLinear) -> Result<Self> {
        let sizes = Sizes {
            x: Shape::image(x.n, x.pixels(), 1, x.c),
            enlarged: [x.pixels(), 1],
            out: Shape::image(x.n, x.pixels(), 1, weight.outputs),
            kernel: [1, 1],
            geometry: ConvGeometry::same(1),
        };
        sizes.shape(operation)
    }
}

/// The sizes of a convolution.
struct Sizes {
    x: Shape,
    /// x's sides when it has been enlarged, if it is.
    enlarged: [usize; 2],
    out: Shape,
    kernel: [usize; 2],
    geometry: ConvGeometry,
}

impl Sizes {
    /// As the kernels count. Fails with `Unsupported` where they would lose count.
    fn shape(&self, operation: &str) -> Result<ConvShape> {
        let &Self { x, enlarged, out, kernel, geometry: ConvGeometry { stride, padding, upsample } } = self;
        let side = |what, size: usize| match u32::try_from(size) {
            // Positions are signed, and those that do not exist lie 2^30 above the image.
            Ok(size @ 0..=0x1fff_ffff) => Ok(size),
            _ => bail!(Unsupported, "{operation}: {size} {what}, more than its kernel counts"),
        };
        count(operation, "values of an image", x.pixels().saturating_mul(x.c))?;
        count(operation, "values of a weight's row", (kernel[0] * kernel[1]).saturating_mul(x.c))?;
        let positions = |size: usize| side("pixels of a side", size);
        positions(out.h.saturating_mul(stride))?;
        positions(out.w.saturating_mul(stride))?;
        Ok(ConvShape {
            n: count(operation, "images", x.n)?,
            h: positions(x.h)?,
            w: positions(x.w)?,
            c_in: count(operation, "channels", x.c)?,
            out_h: positions(out.h)?,
            out_w: positions(out.w)?,
            c_out: count(operation, "channels", out.c)?,
            kernel_h: positions(kernel[0])?,
            kernel_w: positions(kernel[1])?,
            stride: positions(stride)?,
            pad_top: positions(padding[0])?,
            pad_left: positions(padding[1])?,
            upsample: u32::from(upsample),
            enlarged_h: positions(enlarged[0])?,
            enlarged_w: positions(enlarged[1])?,
        })
    }
}

pub(super) fn conv2d(
    cuda: &Cuda,
    x: &CudaTensor,
    weight: &CudaConv2d,
    epilogue: &Epilogue<'_, CudaTensor>,
) -> Result<CudaTensor> {
    if weight.geometry.upsample {
        bail!(Internal, "conv2d: the weight was prepared for upsample_conv2d");
    }
    if weight.kernel == [1, 1] && weight.geometry == ConvGeometry::same(1) {
        return linear::product(cuda, "conv2d", x, &weight.matrix, epilogue);
    }
    convolve(cuda, "conv2d", x, [x.shape.h, x.shape.w], weight, epilogue)
}

pub(super) fn upsample_conv2d(
    cuda: &Cuda,
    x: &CudaTensor,
    weight: &CudaConv2d,
    height: usize,
    width: usize,
) -> Result<CudaTensor> {
    let fits = |out: usize, side: usize| out == 2 * side || out + 1 == 2 * side;
    if !weight.geometry.upsample || !fits(height, x.shape.h) || !fits(width, x.shape.w) {
        bail!(Internal, "upsample_conv2d: {} to {height} × {width}", x.shape);
    }
    convolve(cuda, "upsample_conv2d", x, [height, width], weight, &Epilogue::default())
}

fn convolve(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    enlarged: [usize; 2],
    weight: &CudaConv2d,
    epilogue: &Epilogue<'_, CudaTensor>,
) -> Result<CudaTensor> {
    let (out, shape) = output(cuda, operation, x, enlarged, weight)?;
    check_epilogue(operation, out.shape, epilogue)?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let finish = Finish::new(&weight.matrix, epilogue, &out);
    // SAFETY: x, w and y are as large as the shape says.
    unsafe { run(cuda, operation, x, &weight.matrix, &shape, out.shape, &finish) }?;
    Ok(out)
}

/// The result of a convolution of x, which fits it, and the kernels' account of both.
fn output(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    enlarged: [usize; 2],
    weight: &CudaConv2d,
) -> Result<(CudaTensor, ConvShape)> {
    let ConvGeometry { stride, padding: [top, left, bottom, right], .. } = weight.geometry;
    let outputs = weight.matrix.outputs;
    let [kernel_h, kernel_w] = weight.kernel;
    let padded = [enlarged[0] + top + bottom, enlarged[1] + left + right];
    if x.shape.c != weight.inputs || padded[0] < kernel_h || padded[1] < kernel_w {
        bail!(
            Internal,
            "{operation}: input {} for a weight [{outputs}, {}, {kernel_h}, {kernel_w}]",
            x.shape,
            weight.inputs
        );
    }
    let (h, w) = ((padded[0] - kernel_h) / stride + 1, (padded[1] - kernel_w) / stride + 1);
    let out = cuda.tensor(Shape::image(x.shape.n, h, w, outputs), operation)?;
    let sizes =
        Sizes { x: x.shape, enlarged, out: out.shape, kernel: weight.kernel, geometry: weight.geometry };
    let shape = sizes.shape(operation)?;
    Ok((out, shape))
}

/// Convolves by the kernel for the type and the channels; `out` is the output's shape, which has values.
///
/// # Safety
/// x, w and what `finish` points to are as large as `shape` says.
pub(super) unsafe fn run(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    shape: &ConvShape,
    out: Shape,
    finish: &Finish,
) -> Result<()> {
    if cuda.device.precision == Precision::F32 {
        // SAFETY: the caller's.
        return unsafe { run_f32(cuda, operation, x, weight, shape, out, finish) };
    }
    let taps = shape.kernel_h as usize * shape.kernel_w as usize;
    let (tiles, steps) = if shape.c_in.is_multiple_of(8) {
        (CONV, taps * (shape.c_in as usize).div_ceil(STEP))
    } else {
        (GATHER, weight.inputs.div_ceil(STEP))
    };
    let size = Size { images: out.n, rows: out.pixels(), columns: out.c, steps };
    let choice = Choice::new(tiles, size, true, cuda.device.multiprocessors);
    // SAFETY: the caller's.
    unsafe { run_on(cuda, operation, x, weight, shape, out, finish, choice) }
}

/// [`run`] on certain tiles, in a type that tensor cores take.
///
/// # Safety
/// As [`run`].
#[allow(clippy::too_many_arguments)]
unsafe fn run_on(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    shape: &ConvShape,
    out: Shape,
    finish: &Finish,
    choice: Choice,
) -> Result<()> {
    let counts = Counts::new(operation, out)?;
    let name = if shape.c_in.is_multiple_of(8) {
        format!("{}_{}", cuda.typed("conv2d"), choice.tile.name)
    } else {
        cuda.typed("conv2d_gather")
    };
    let kernel = Kernel { operation, family: "conv", name: &name, sizes: &[shape] };
    // SAFETY: conv2d(x, w, bias, channel_bias, residual, y, partial, shape, activation); the sizes are the caller's.
    unsafe { tiles::multiply(cuda, &kernel, choice, [x.pointer(), weight.weight.pointer()], counts, finish) }
}

/// # Safety
/// As [`run`].
unsafe fn run_f32(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    shape: &ConvShape,
    out: Shape,
    finish: &Finish,
) -> Result<()> {
    Counts::new(operation, out)?;
    let grid = Grid { blocks: [out.rows().div_ceil(64), out.c.div_ceil(64), 1], threads: 128, shared: 0 };
    let Finish { bias, channel_bias, residual, y, activation } = finish;
    let parameters: Parameters<'_> =
        &[&x.pointer(), &weight.weight.pointer(), bias, channel_bias, residual, y, shape, activation];
    // SAFETY: conv2d_f32(x, w, bias, channel_bias, residual, y, shape, activation); the sizes are the caller's.
    unsafe { cuda.launch("conv_f32", "conv2d_f32", grid, parameters) }
}

#[cfg(test)]
mod tests;
