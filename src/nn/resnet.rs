//! Residual blocks and the convolutions that halve and double the size.

use super::layers::{GroupNorm, conv2d, linear, pointwise};
use crate::backend::{Backend, ConvGeometry, Epilogue, ResidualBlock};
use crate::util::error::{Result, bail};
use crate::weights::Scope;

/// The size of a [`ResnetBlock2D`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResnetShape {
    pub inputs: usize,
    pub outputs: usize,
    /// Width of the time embedding; the VAE has none.
    pub time_embed_dim: Option<usize>,
    pub norm_groups: usize,
    pub norm_eps: f32,
    /// `x` and what comes out are so many times what the model was trained with: a power of two, usually 1.
    pub scale: f32,
}

/// diffusers' `ResnetBlock2D`: twice norm, SiLU, convolution, with the time embedding added in between.
pub struct ResnetBlock2D<B: Backend> {
    outputs: usize,
    norm1: GroupNorm<B>,
    conv1: B::Conv2d,
    time_emb_proj: Option<B::Linear>,
    norm2: GroupNorm<B>,
    conv2: B::Conv2d,
    conv_shortcut: Option<B::Linear>,
}

impl<B: Backend> ResnetBlock2D<B> {
    /// # Errors
    /// Those of the weights; `Format` when the groups do not divide the channels.
    pub fn load(scope: &Scope<'_>, shape: ResnetShape, b: &B) -> Result<Self> {
        let ResnetShape { inputs, outputs, norm_groups, scale, .. } = shape;
        // Norms undo the scale of what they are given, if it has reached their epsilon.
        let norm_eps = shape.norm_eps * scale * scale;
        let scaled = |name: &str| scope.at(name).scaled(scale, scale);
        let same = ConvGeometry::same(3);
        let time = shape.time_embed_dim.map(|width| linear(&scope.at("time_emb_proj"), width, outputs, b));
        let shortcut = (inputs != outputs).then(|| {
            // Its input has the scale already.
            pointwise(&scope.at("conv_shortcut").scaled(1.0, scale), inputs, outputs, b)
        });
        Ok(Self {
            outputs,
            norm1: GroupNorm::load(&scope.at("norm1"), inputs, norm_groups, norm_eps, b)?,
            conv1: conv2d(&scaled("conv1"), inputs, outputs, 3, same, b)?,
            time_emb_proj: time.transpose()?,
            norm2: GroupNorm::load(&scope.at("norm2"), outputs, norm_groups, norm_eps, b)?,
            conv2: conv2d(&scaled("conv2"), outputs, outputs, 3, same, b)?,
            conv_shortcut: shortcut.transpose()?,
        })
    }

    /// Channels that come out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// What time embeddings `[rows, 1, 1, time_embed_dim]`, after SiLU (which diffusers computes anew in every block),
    /// add to the channels: `[rows, 1, 1, outputs]`.
    pub fn time_bias(&self, b: &B, time: &B::Tensor) -> Result<B::Tensor> {
        match &self.time_emb_proj {
            Some(proj) => b.linear(time, proj, Epilogue::default()),
            None => bail!(Internal, "a residual block without a time embedding was given one"),
        }
    }

    /// `x [n, h, w, inputs]` to `[n, h, w, outputs]`, with [`ResnetBlock2D::time_bias`] of the `n` images. If there is an
    /// `upsample`, `x` goes through that first.
    pub fn forward(
        &self,
        b: &B,
        x: B::Tensor,
        upsample: Option<&Upsample2D<B>>,
        time_bias: Option<&B::Tensor>,
    ) -> Result<B::Tensor> {
        if self.time_emb_proj.is_some() != time_bias.is_some() {
            bail!(Internal, "a residual block and its caller disagree about the time embedding");
        }
        let block = ResidualBlock {
            norm1: self.norm1.with_silu(),
            conv1: &self.conv1,
            channel_bias: time_bias,
            norm2: self.norm2.with_silu(),
            conv2: &self.conv2,
            shortcut: self.conv_shortcut.as_ref(),
        };
        b.residual_block(x, upsample.map(|upsample| &upsample.conv), &block)
    }
}

/// diffusers' `Downsample2D`: a convolution of stride 2. An odd side rounds up.
pub struct Downsample2D<B: Backend> {
    conv: B::Conv2d,
}

impl<B: Backend> Downsample2D<B> {
    /// `padding` 1 pads all around, 0 stands for one pixel at the bottom and right only. `scale` as in [`ResnetShape`].
    ///
    /// # Errors
    /// Those of the weights.
    pub fn load(scope: &Scope<'_>, channels: usize, padding: usize, scale: f32, b: &B) -> Result<Self> {
        let padding = if padding == 0 { [0, 0, 1, 1] } else { [padding; 4] };
        let geometry = ConvGeometry { stride: 2, padding, upsample: false };
        let conv = scope.at("conv").scaled(1.0, scale);
        Ok(Self { conv: conv2d(&conv, channels, channels, 3, geometry, b)? })
    }

    /// `[n, h, w, c]` to about `[n, h/2, w/2, c]`.
    pub fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        b.conv2d(x, &self.conv, Epilogue::default())
    }
}

/// diffusers' `Upsample2D`: nearest-neighbour enlargement, then a convolution.
pub struct Upsample2D<B: Backend> {
    conv: B::Conv2d,
}

impl<B: Backend> Upsample2D<B> {
    /// `scale` as in [`ResnetShape`].
    ///
    /// # Errors
    /// Those of the weights.
    pub fn load(scope: &Scope<'_>, channels: usize, scale: f32, b: &B) -> Result<Self> {
        let geometry = ConvGeometry { upsample: true, ..ConvGeometry::same(3) };
        let conv = scope.at("conv").scaled(1.0, scale);
        Ok(Self { conv: conv2d(&conv, channels, channels, 3, geometry, b)? })
    }

    /// `[n, h, w, c]` to `[n, height, width, c]`, each side twice what it was, or one less.
    pub fn forward(&self, b: &B, x: &B::Tensor, height: usize, width: usize) -> Result<B::Tensor> {
        b.upsample_conv2d(x, &self.conv, height, width)
    }
}
