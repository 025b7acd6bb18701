//! The smallest layers: what takes its weights straight from a checkpoint.

use crate::backend::{Backend, ConvGeometry, Norm, Shape, Tensor};
use crate::util::error::Result;
use crate::weights::Scope;

/// `torch.nn.Linear`: `weight [outputs, inputs]`, `bias [outputs]`.
pub fn linear<B: Backend>(scope: &Scope<'_>, inputs: usize, outputs: usize, b: &B) -> Result<B::Linear> {
    b.prepare_linear(scope.tensor("weight", &[outputs, inputs])?, Some(scope.tensor("bias", &[outputs])?))
}

/// [`linear`] for GEGLU: `outputs` are values, then as many gates.
pub fn geglu<B: Backend>(scope: &Scope<'_>, inputs: usize, outputs: usize, b: &B) -> Result<B::Linear> {
    b.prepare_geglu(scope.tensor("weight", &[outputs, inputs])?, Some(scope.tensor("bias", &[outputs])?))
}

/// `torch.nn.Linear(bias=False)`.
pub fn linear_no_bias<B: Backend>(
    scope: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    b: &B,
) -> Result<B::Linear> {
    b.prepare_linear(scope.tensor("weight", &[outputs, inputs])?, None)
}

/// A linear layer over channels that files store as a linear layer or as a 1×1 convolution.
pub fn pointwise<B: Backend>(scope: &Scope<'_>, inputs: usize, outputs: usize, b: &B) -> Result<B::Linear> {
    let weight = scope.scale_weight(scope.matrix("weight", outputs, inputs)?);
    let bias = scope.scale_bias(scope.tensor("bias", &[outputs])?);
    b.prepare_linear(weight.weight(), Some(bias.weight()))
}

/// `torch.nn.Conv2d`: `weight [outputs, inputs, kernel, kernel]`, `bias [outputs]`.
pub fn conv2d<B: Backend>(
    scope: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    geometry: ConvGeometry,
    b: &B,
) -> Result<B::Conv2d> {
    let weight = scope.scale_weight(scope.tensor("weight", &[outputs, inputs, kernel, kernel])?);
    let bias = scope.scale_bias(scope.tensor("bias", &[outputs])?);
    b.prepare_conv2d(weight.weight(), Some(bias.weight()), geometry)
}

/// `x` over and over, up to the rows of `shape`.
pub fn repeat<B: Backend>(b: &B, x: &B::Tensor, shape: Shape) -> Result<B::Tensor> {
    let mut all = b.view(x, 0, Shape::vector(1, x.shape().len()))?;
    while all.shape().len() < shape.len() {
        all = b.concat_channels(&all, &all)?;
    }
    b.view(&all, 0, shape)
}

/// `torch.nn.GroupNorm`.
pub struct GroupNorm<B: Backend> {
    affine: B::Affine,
    groups: usize,
    eps: f32,
}

impl<B: Backend> GroupNorm<B> {
    /// # Errors
    /// Those of the weights; `Format` when the groups do not divide the channels.
    pub fn load(scope: &Scope<'_>, channels: usize, groups: usize, eps: f32, b: &B) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(
                scope.contradiction(format!("{groups} norm groups do not divide {channels} channels"))
            );
        }
        Ok(Self { affine: affine(scope, channels, b)?, groups, eps })
    }

    /// `[n, h, w, c]`, normalised.
    pub fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        b.group_norm(x, &self.affine, self.groups, self.eps, false)
    }

    /// [`GroupNorm::forward`], then SiLU, as part of another operation.
    pub fn with_silu(&self) -> Norm<'_, B::Affine> {
        Norm { affine: &self.affine, groups: self.groups, eps: self.eps, silu: true }
    }
}

/// `torch.nn.LayerNorm` over channels.
pub struct LayerNorm<B: Backend> {
    affine: B::Affine,
    eps: f32,
}

impl<B: Backend> LayerNorm<B> {
    /// # Errors
    /// Those of the weights.
    pub fn load(scope: &Scope<'_>, channels: usize, eps: f32, b: &B) -> Result<Self> {
        Ok(Self { affine: affine(scope, channels, b)?, eps })
    }

    /// `[.., c]`, normalised.
    pub fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        b.layer_norm(x, &self.affine, self.eps)
    }
}

fn affine<B: Backend>(scope: &Scope<'_>, channels: usize, b: &B) -> Result<B::Affine> {
    b.prepare_affine(scope.tensor("weight", &[channels])?, scope.tensor("bias", &[channels])?)
}
