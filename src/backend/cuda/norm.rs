//! Launches of `kernels/norm.cu`.

use super::launch::{Grid, Parameters, count};
use super::{Cuda, CudaAffine, CudaTensor};
use crate::backend::Shape;
use crate::util::error::{Result, bail};

/// Values of an image that one block takes the moments of, about.
const CHUNK: usize = 1 << 16;
/// Bytes of a group's moments in a chunk.
const MOMENTS: usize = 12;
/// The most groups that the kernels have room for.
const MAX_GROUPS: usize = 256;
/// The most such parts: every block of the second half reads the moments of all of them.
const MAX_CHUNKS: usize = 256;
/// Packs that a thread of the second half takes, at least.
const PACKS: usize = 8;

/// Parts of an image that blocks take the moments of. Chosen without regard to n: an image alone and in a batch has the
/// same bits.
fn chunks(x: Shape) -> usize {
    (x.pixels() * x.c).div_ceil(CHUNK).min(x.pixels()).min(MAX_CHUNKS)
}

/// Packs of 16 bytes that a thread of the second half takes: its block reads twice as much of the image as of moments.
fn packs(chunks: usize, groups: usize) -> usize {
    (2 * chunks * groups * MOMENTS).div_ceil(256 * 16).max(PACKS)
}

/// Bytes of all moments.
pub(super) fn moments(x: Shape, groups: usize) -> usize {
    x.n * chunks(x) * groups * MOMENTS
}

pub(super) fn group_norm(
    cuda: &Cuda,
    x: &CudaTensor,
    affine: &CudaAffine,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Result<CudaTensor> {
    let channels = x.shape.c;
    if groups == 0 || !channels.is_multiple_of(groups) || affine.channels != channels {
        bail!(Internal, "group_norm: {groups} groups and {} scales for {}", affine.channels, x.shape);
    }
    if groups > MAX_GROUPS {
        bail!(Unsupported, "group_norm: {groups} groups, at most {MAX_GROUPS} on CUDA");
    }
    let out = cuda.tensor(x.shape, "group_norm")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let (n, pixels) = (x.shape.n, x.shape.pixels());
    let pack = cuda.device.precision.pack();
    let items = if channels.is_multiple_of(pack) { pixels * channels / pack } else { pixels * channels };
    let counted = |what, size| count("group_norm", what, size);
    counted("values of an image", items)?;
    let shared = counted("bytes of shared memory", 3 * 4 * channels)?;
    let chunks = chunks(x.shape);
    let partial = cuda.scratch(moments(x.shape, groups), "group_norm")?;

    let (pixels, c, group_count, chunk_count) = (
        counted("pixels", pixels)?,
        counted("channels", channels)?,
        counted("groups", groups)?,
        counted("chunks", chunks)?,
    );
    let grid = Grid { blocks: [chunks, n, 1], threads: 256, shared: 0 };
    let parameters: Parameters<'_> = &[&x.pointer(), &partial.pointer(), &pixels, &c, &group_count];
    // SAFETY: group_norm_moments(x, partial, pixels, c, groups); the moments have room for each chunk of each image.
    unsafe { cuda.launch("norm", &cuda.typed("group_norm_moments"), grid, parameters) }?;

    let grid = Grid { blocks: [items.div_ceil(256 * packs(chunks, groups)), n, 1], threads: 256, shared };
    let (weight, bias, with_silu) = (affine.weight.pointer(), affine.bias.pointer(), u32::from(silu));
    let parameters: Parameters<'_> = &[
        &x.pointer(),
        &partial.pointer(),
        &weight,
        &bias,
        &out.pointer(),
        &pixels,
        &c,
        &group_count,
        &chunk_count,
        &eps,
        &with_silu,
    ];
    // SAFETY: group_norm_apply(x, partial, weight, bias, y, pixels, c, groups, chunks, eps, with_silu); the norm has c
    // scales and shifts.
    unsafe { cuda.launch("norm", &cuda.typed("group_norm_apply"), grid, parameters) }?;
    Ok(out)
}

pub(super) fn layer_norm(cuda: &Cuda, x: &CudaTensor, affine: &CudaAffine, eps: f32) -> Result<CudaTensor> {
    if affine.channels != x.shape.c {
        bail!(Internal, "layer_norm: {} scales for {}", affine.channels, x.shape);
    }
    let out = cuda.tensor(x.shape, "layer_norm")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let rows = count("layer_norm", "rows", x.shape.rows())?;
    let channels = count("layer_norm", "channels", x.shape.c)?;
    let grid = Grid { blocks: [x.shape.rows().div_ceil(8), 1, 1], threads: 256, shared: 0 };
    let (weight, bias) = (affine.weight.pointer(), affine.bias.pointer());
    let parameters: Parameters<'_> = &[&x.pointer(), &weight, &bias, &out.pointer(), &rows, &channels, &eps];
    // SAFETY: layer_norm(x, weight, bias, y, rows, c, eps); the norm has c scales and shifts.
    unsafe { cuda.launch("norm", &cuda.typed("layer_norm"), grid, parameters) }?;
    Ok(out)
}
