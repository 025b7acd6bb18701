//! Linear layers: to follow.

use super::{Cuda, CudaLinear, CudaTensor};
use crate::backend::Epilogue;
use crate::util::error::{Result, bail};

pub(super) fn linear(
    _: &Cuda,
    _: &CudaTensor,
    _: &CudaLinear,
    _: &Epilogue<'_, CudaTensor>,
) -> Result<CudaTensor> {
    bail!(Unsupported, "linear: not yet on CUDA")
}

pub(super) fn linear_geglu(_: &Cuda, _: &CudaTensor, _: &CudaLinear) -> Result<CudaTensor> {
    bail!(Unsupported, "linear_geglu: not yet on CUDA")
}
