//! Launches of `kernels/attention.cu`, `attention_wide.cu` and `attention_f32.cu`.

use super::launch::{Grid, Parameter, Parameters, count};
use super::{Cuda, CudaTensor, Precision};
use crate::util::error::{Result, bail};

/// `AttentionShape` of `kernels/attention.cuh`.
#[repr(C)]
struct AttentionShape {
    queries: u32,
    keys: u32,
    heads: u32,
    head_size: u32,
    q_stride: u32,
    k_stride: u32,
    v_stride: u32,
    causal: u32,
    scale: f32,
}

// SAFETY: the kernels' structure, field by field.
unsafe impl Parameter for AttentionShape {}

/// A kernel for heads of a size.
struct Choice {
    family: &'static str,
    kernel: String,
    /// Queries of a block.
    queries: usize,
    threads: u32,
    /// Dynamic shared memory in bytes.
    shared: u32,
}

/// The kernel for heads of `d` values that lie `stride` values apart from token to token.
fn choose(precision: Precision, d: usize, stride: usize) -> Result<Choice> {
    let name = precision.suffix();
    if precision == Precision::F32 {
        if d > 512 {
            bail!(Unsupported, "attention: heads of {d} values, at most 512 on CUDA");
        }
        let floats = 32 * (d | 1) + 8 * d + 256;
        return Ok(Choice {
            family: "attention_f32",
            kernel: "attention_f32".to_owned(),
            queries: 8,
            threads: 256,
            shared: count("attention", "bytes of shared memory", 4 * floats)?,
        });
    }
    let aligned = d.is_multiple_of(8) && stride.is_multiple_of(8);
    let narrow = |kernel, shared| Choice { family: "attention", kernel, queries: 64, threads: 128, shared };
    let sizes = [(40, 21504), (64, 24576), (80, 33792), (128, 49152), (160, 64512)];
    match sizes.into_iter().find(|&(size, _)| aligned && d <= size) {
        Some((size, shared)) => Ok(narrow(format!("attention_{name}_{size}"), shared)),
        None if d <= 160 => Ok(narrow(format!("attention_any_{name}"), 64512)),
        None if aligned && d <= 512 => Ok(Choice {
            family: "attention_wide",
            kernel: format!("attention_{name}_512"),
            queries: 32,
            threads: 256,
            shared: 100_864,
        }),
        None => bail!(
            Unsupported,
            "attention: heads of {d} values, at most 160 or multiples of 8 up to 512 on CUDA"
        ),
    }
}

pub(super) fn attention(
    cuda: &Cuda,
    q: &CudaTensor,
    k: &CudaTensor,
    v: &CudaTensor,
    heads: usize,
    causal: bool,
) -> Result<CudaTensor> {
    let channels = q.shape.c;
    let shapes_fit = heads > 0
        && channels.is_multiple_of(heads)
        && k.shape == v.shape
        && k.shape.c == channels
        && k.shape.n == q.shape.n
        && (k.shape.pixels() > 0 || q.shape.is_empty())
        && (!causal || q.shape.pixels() == k.shape.pixels());
    if !shapes_fit {
        bail!(Internal, "attention: {heads} heads of {}, {} and {}", q.shape, k.shape, v.shape);
    }
    let out = cuda.tensor(q.shape, "attention")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let d = channels / heads;
    let choice = choose(cuda.device.precision, d, channels)?;
    let counted = |what, size| count("attention", what, size);
    let stride = counted("channels", channels)?;
    let shape = AttentionShape {
        queries: counted("queries", q.shape.pixels())?,
        keys: counted("keys", k.shape.pixels())?,
        heads: counted("heads", heads)?,
        head_size: counted("values of a head", d)?,
        q_stride: stride,
        k_stride: stride,
        v_stride: stride,
        causal: u32::from(causal),
        scale: 1.0 / (d as f32).sqrt(),
    };
    let grid = Grid {
        blocks: [q.shape.pixels().div_ceil(choice.queries), heads, q.shape.n],
        threads: choice.threads,
        shared: choice.shared,
    };
    let parameters: Parameters<'_> = &[&q.pointer(), &k.pointer(), &v.pointer(), &out.pointer(), &shape];
    // SAFETY: attention(q, k, v, y, shape); tensors start on multiples of 16 bytes, and the shape is theirs.
    unsafe { cuda.launch(choice.family, &choice.kernel, grid, parameters) }?;
    Ok(out)
}
