//! Prepared weights. Those of linear layers and convolutions are to follow.

use half::{bf16, f16};

use super::pool::Buffer;
use super::{Cuda, Precision};
use crate::backend::{ConvGeometry, DType, Weight};
use crate::util::error::{Result, bail};

/// A linear layer.
pub struct CudaLinear;

/// A convolution.
pub struct CudaConv2d;

/// A norm's scale and shift, f32.
pub struct CudaAffine {
    pub(super) channels: usize,
    pub(super) weight: Buffer,
    pub(super) bias: Buffer,
}

/// A table in the precision of the activations.
pub struct CudaEmbedding {
    pub(super) entries: usize,
    pub(super) channels: usize,
    pub(super) table: Buffer,
}

pub(super) fn prepare_linear(_: &Cuda, _: Weight<'_>, _: Option<Weight<'_>>) -> Result<CudaLinear> {
    bail!(Unsupported, "linear: not yet on CUDA")
}

pub(super) fn prepare_conv2d(
    _: &Cuda,
    _: Weight<'_>,
    _: Option<Weight<'_>>,
    _: ConvGeometry,
) -> Result<CudaConv2d> {
    bail!(Unsupported, "conv2d: not yet on CUDA")
}

fn widen(weight: Weight<'_>) -> Vec<f32> {
    let bytes = weight.bytes;
    match weight.dtype {
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

fn rounded(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Precision::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Precision::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

pub(super) fn prepare_affine(cuda: &Cuda, weight: Weight<'_>, bias: Weight<'_>) -> Result<CudaAffine> {
    let &[channels] = weight.shape else {
        bail!(Internal, "a norm's weight of shape {:?}", weight.shape);
    };
    if bias.shape != weight.shape {
        bail!(Internal, "a norm's weight of shape {:?} and bias of shape {:?}", weight.shape, bias.shape);
    }
    let store = |weight| cuda.store(&rounded(&widen(weight), Precision::F32), "a norm");
    Ok(CudaAffine { channels, weight: store(weight)?, bias: store(bias)? })
}

pub(super) fn prepare_embedding(cuda: &Cuda, weight: Weight<'_>) -> Result<CudaEmbedding> {
    let &[entries, channels] = weight.shape else {
        bail!(Internal, "an embedding of shape {:?}", weight.shape);
    };
    let table = cuda.store(&rounded(&widen(weight), cuda.device.precision), "an embedding")?;
    Ok(CudaEmbedding { entries, channels, table })
}
