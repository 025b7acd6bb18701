//! Convolutions: to follow.

use super::{Cuda, CudaConv2d, CudaTensor};
use crate::backend::Epilogue;
use crate::util::error::{Result, bail};

pub(super) fn conv2d(
    _: &Cuda,
    _: &CudaTensor,
    _: &CudaConv2d,
    _: &Epilogue<'_, CudaTensor>,
) -> Result<CudaTensor> {
    bail!(Unsupported, "conv2d: not yet on CUDA")
}

pub(super) fn upsample_conv2d(
    _: &Cuda,
    _: &CudaTensor,
    _: &CudaConv2d,
    _: usize,
    _: usize,
) -> Result<CudaTensor> {
    bail!(Unsupported, "upsample_conv2d: not yet on CUDA")
}
