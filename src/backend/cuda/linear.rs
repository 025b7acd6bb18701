//! Linear layers: cuBLASLt where it has the epilogue, our own kernels otherwise.

use super::conv::{self, ConvShape};
use super::launch::{Grid, Parameters, count};
use super::matmul::Product;
use super::tiles::{self, Choice, Counts, Finish, GEGLU, GEMM, Kernel, STEP, Size, check_epilogue};
use super::{Cuda, CudaLinear, CudaTensor, Precision};
use crate::backend::Epilogue;
use crate::util::error::{Result, bail};

pub(super) fn linear(
    cuda: &Cuda,
    x: &CudaTensor,
    weight: &CudaLinear,
    epilogue: &Epilogue<'_, CudaTensor>,
) -> Result<CudaTensor> {
    product(cuda, "linear", x, weight, epilogue)
}

/// `epilogue(x · wᵀ + bias)` for each of x's rows.
pub(super) fn product(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    epilogue: &Epilogue<'_, CudaTensor>,
) -> Result<CudaTensor> {
    if weight.interleaved {
        bail!(Internal, "{operation}: the weight was prepared for linear_geglu");
    }
    let out = output(cuda, operation, x, weight, weight.outputs)?;
    check_epilogue(operation, out.shape, epilogue)?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    // cuBLASLt's GELU is the approximation with tanh, and SiLU it has not. Of odd depths it would have little.
    let aligned = cuda.device.precision == Precision::F32 || weight.inputs.is_multiple_of(8);
    if aligned && weight.inputs > 0 && epilogue.activation.is_none() && epilogue.channel_bias.is_none() {
        let product = Product {
            rows: out.shape.rows(),
            columns: weight.outputs,
            depth: weight.inputs,
            x: x.pointer(),
            w: weight.weight.pointer(),
            bias: weight.bias.as_ref().map(|bias| bias.typed()),
            residual: epilogue.residual.map(CudaTensor::pointer),
            y: out.pointer(),
        };
        // SAFETY: the shapes were compared, and weights have theirs.
        if unsafe { cuda.blas(operation, &product) }? {
            return Ok(out);
        }
    }
    own(cuda, operation, x, weight, epilogue, &out)?;
    Ok(out)
}

/// `out = epilogue(x · wᵀ + bias)` without cuBLASLt; the shapes were compared, and there are values.
fn own(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    epilogue: &Epilogue<'_, CudaTensor>,
    out: &CudaTensor,
) -> Result<()> {
    let finish = Finish::new(weight, epilogue, out);
    if cuda.device.precision == Precision::F32 || !weight.inputs.is_multiple_of(8) {
        let shape = ConvShape::linear(operation, x.shape, weight)?;
        // SAFETY: x, w and y are as large as the shape says.
        return unsafe { conv::run(cuda, operation, x, weight, &shape, out.shape, &finish) };
    }
    let size = Size {
        images: out.shape.n,
        rows: out.shape.pixels(),
        columns: weight.outputs,
        steps: weight.inputs.div_ceil(STEP),
    };
    let choice = Choice::new(GEMM, size, true, cuda.device.multiprocessors);
    gemm(cuda, operation, x, weight, &finish, out, choice)
}

/// [`own`] on certain tiles, in a type that tensor cores take, with a depth that is a multiple of 8.
fn gemm(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    finish: &Finish,
    out: &CudaTensor,
    choice: Choice,
) -> Result<()> {
    let counts = Counts::new(operation, out.shape)?;
    let depth = count(operation, "inputs", weight.inputs)?;
    let name = format!("{}_{}", cuda.typed("gemm"), choice.tile.name);
    let sizes: Parameters<'_> = &[&counts.rows, &counts.columns, &depth, &counts.rows_per_image];
    let kernel = Kernel { operation, family: "gemm", name: &name, sizes };
    let pointers = [x.pointer(), weight.weight.pointer()];
    // SAFETY: gemm(x, w, bias, channel_bias, residual, y, partial, rows, columns, depth, rows_per_image, activation), of
    // tensors whose shapes were compared.
    unsafe { tiles::multiply(cuda, &kernel, choice, pointers, counts, finish) }
}

pub(super) fn linear_geglu(cuda: &Cuda, x: &CudaTensor, weight: &CudaLinear) -> Result<CudaTensor> {
    let operation = "linear_geglu";
    if !weight.outputs.is_multiple_of(2) {
        bail!(Internal, "{operation}: a weight with {} outputs", weight.outputs);
    }
    let channels = weight.outputs / 2;
    if !weight.interleaved {
        let both = product(cuda, operation, x, weight, &Epilogue::default())?;
        return gate(cuda, &both, channels);
    }
    let out = output(cuda, operation, x, weight, channels)?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let size = Size {
        images: out.shape.n,
        rows: out.shape.pixels(),
        columns: weight.outputs,
        steps: weight.inputs.div_ceil(STEP),
    };
    let choice = Choice::new(GEGLU, size, false, cuda.device.multiprocessors);
    geglu(cuda, x, weight, &out, choice)?;
    Ok(out)
}

/// GEGLU joined to the product, on certain tiles.
fn geglu(cuda: &Cuda, x: &CudaTensor, weight: &CudaLinear, out: &CudaTensor, choice: Choice) -> Result<()> {
    let operation = "linear_geglu";
    let counts = Counts::new(operation, out.shape.with_channels(weight.outputs))?;
    let depth = count(operation, "inputs", weight.inputs)?;
    let bias = weight.bias.as_ref().map_or(0, |bias| bias.f32());
    let name = format!("{}_{}", cuda.typed("gemm_geglu"), choice.tile.name);
    let parameters: Parameters<'_> = &[
        &x.pointer(),
        &weight.weight.pointer(),
        &bias,
        &out.pointer(),
        &counts.rows,
        &counts.columns,
        &depth,
    ];
    // SAFETY: gemm_geglu(x, w, bias, y, rows, columns, depth), of tensors whose shapes were compared.
    unsafe { cuda.launch("gemm", &name, choice.grid(out.shape.rows(), weight.outputs), parameters) }
}

/// `a · gelu(g)` of rows `(a, g)`, each of `channels` values.
fn gate(cuda: &Cuda, x: &CudaTensor, channels: usize) -> Result<CudaTensor> {
    let out = cuda.tensor(x.shape.with_channels(channels), "linear_geglu")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let pack = cuda.device.precision.pack();
    let items = if channels.is_multiple_of(pack) { out.shape.len() / pack } else { out.shape.len() };
    count("linear_geglu", "values", items)?;
    let rows = count("linear_geglu", "rows", out.shape.rows())?;
    let columns = count("linear_geglu", "channels", channels)?;
    let parameters: Parameters<'_> = &[&x.pointer(), &out.pointer(), &rows, &columns];
    // SAFETY: geglu(x, y, rows, c): x has twice y's channels.
    unsafe { cuda.launch("elementwise", &cuda.typed("geglu"), Grid::of_items(items), parameters) }?;
    Ok(out)
}

/// The result of a layer on x, which fits its weight.
fn output(
    cuda: &Cuda,
    operation: &str,
    x: &CudaTensor,
    weight: &CudaLinear,
    channels: usize,
) -> Result<CudaTensor> {
    if x.shape.c != weight.inputs {
        bail!(
            Internal,
            "{operation}: input {} for a weight [{}, {}]",
            x.shape,
            weight.outputs,
            weight.inputs
        );
    }
    cuda.tensor(x.shape.with_channels(channels), operation)
}

#[cfg(test)]
mod tests;
