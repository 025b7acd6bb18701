//! The two halves of the autoencoder. They have no time embedding and fix the epsilon of their norms in code.

use super::config::AutoencoderKLConfig;
use crate::backend::{Backend, ConvGeometry, Epilogue};
use crate::nn::attention::{Attention, Projections};
use crate::nn::layers::{GroupNorm, conv2d};
use crate::nn::resnet::{Downsample2D, ResnetBlock2D, ResnetShape, Upsample2D};
use crate::util::error::Result;
use crate::weights::Scope;

const NORM_EPS: f32 = 1e-6;

/// Where activations reach no further than those of f16, they are kept so many times smaller between the first
/// convolution of a half and its last norm: the values of SDXL's VAE pass 65504. Every reader of them is a norm, whose
/// epsilon shrinks along, or linear, so the result is the same, and a power of two rounds nothing but what falls below
/// 2⁻¹⁴, the end of f16's normal numbers. It is done for every VAE: nothing in the config tells SDXL's from the others
/// (`force_upcast` is true by default), and what those lose is less than f16's rounding of the rest.
const SMALL: f32 = 1.0 / 32.0;

/// What the activations of a half are multiplied by on `b`.
pub(super) fn scale<B: Backend>(b: &B) -> f32 {
    if b.largest_activation() <= f32::from(half::f16::MAX) { SMALL } else { 1.0 }
}

/// diffusers' `Encoder`: image to mean and log-variance.
pub(super) struct Encoder<B: Backend> {
    conv_in: B::Conv2d,
    pub(super) down_blocks: Vec<DownEncoderBlock2D<B>>,
    pub(super) mid_block: MidBlock2D<B>,
    conv_norm_out: GroupNorm<B>,
    conv_out: B::Conv2d,
}

/// diffusers' `Decoder`: latents to image.
pub(super) struct Decoder<B: Backend> {
    conv_in: B::Conv2d,
    pub(super) mid_block: MidBlock2D<B>,
    pub(super) up_blocks: Vec<UpDecoderBlock2D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: B::Conv2d,
}

/// diffusers' `DownEncoderBlock2D`.
pub(super) struct DownEncoderBlock2D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    pub(super) downsampler: Option<Downsample2D<B>>,
}

/// diffusers' `UpDecoderBlock2D`.
pub(super) struct UpDecoderBlock2D<B: Backend> {
    pub(super) resnets: Vec<ResnetBlock2D<B>>,
    pub(super) upsampler: Option<Upsample2D<B>>,
}

/// diffusers' `UNetMidBlock2D` without time embedding.
pub(super) struct MidBlock2D<B: Backend> {
    resnets: [ResnetBlock2D<B>; 2],
    pub(super) attention: Option<SpatialAttention<B>>,
}

/// One head over all pixels, behind a norm and with a residual connection.
pub(super) struct SpatialAttention<B: Backend> {
    group_norm: GroupNorm<B>,
    attention: Attention<B>,
}

fn resnet<B: Backend>(
    scope: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    config: &AutoencoderKLConfig,
    b: &B,
) -> Result<ResnetBlock2D<B>> {
    let (norm_groups, norm_eps, scale) = (config.norm_num_groups, NORM_EPS, scale(b));
    let shape = ResnetShape { inputs, outputs, time_embed_dim: None, norm_groups, norm_eps, scale };
    ResnetBlock2D::load(scope, shape, b)
}

/// The epsilon of a norm that is given such activations.
fn norm_eps<B: Backend>(b: &B) -> f32 {
    NORM_EPS * scale(b) * scale(b)
}

/// `layers` resnets, the first of which changes the width.
fn resnets<B: Backend>(
    scope: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    layers: usize,
    config: &AutoencoderKLConfig,
    b: &B,
) -> Result<Vec<ResnetBlock2D<B>>> {
    let scope = scope.at("resnets");
    let inputs = |i: usize| if i == 0 { inputs } else { outputs };
    (0..layers).map(|i| resnet(&scope.at(i), inputs(i), outputs, config, b)).collect()
}

/// A convolution at either end of a half.
fn end<B: Backend>(scope: &Scope<'_>, inputs: usize, outputs: usize, b: &B) -> Result<B::Conv2d> {
    conv2d(scope, inputs, outputs, 3, ConvGeometry::same(3), b)
}

impl<B: Backend> Encoder<B> {
    pub(super) fn load(scope: &Scope<'_>, config: &AutoencoderKLConfig, b: &B) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let blocks = scope.at("down_blocks");
        let down_blocks = (0..widths.len()).map(|i| {
            let (scope, inputs, outputs) = (blocks.at(i), widths[i.saturating_sub(1)], widths[i]);
            let downsampler = (i + 1 < widths.len())
                .then(|| Downsample2D::load(&scope.at("downsamplers.0"), outputs, 0, scale(b), b))
                .transpose()?;
            let resnets = resnets(&scope, inputs, outputs, config.layers_per_block, config, b)?;
            Ok(DownEncoderBlock2D { resnets, downsampler })
        });
        let (norm_out, s) = (scope.at("conv_norm_out"), scale(b));
        Ok(Self {
            conv_in: end(&scope.at("conv_in").scaled(s, s), config.in_channels, first, b)?,
            down_blocks: down_blocks.collect::<Result<_>>()?,
            mid_block: MidBlock2D::load(&scope.at("mid_block"), last, config, b)?,
            conv_norm_out: GroupNorm::load(&norm_out, last, config.norm_num_groups, norm_eps(b), b)?,
            conv_out: end(&scope.at("conv_out"), last, 2 * config.latent_channels, b)?,
        })
    }

    pub(super) fn forward(&self, b: &B, image: &B::Tensor) -> Result<B::Tensor> {
        let mut h = b.conv2d(image, &self.conv_in, Epilogue::default())?;
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                h = resnet.forward(b, h, None, None)?;
            }
            if let Some(downsampler) = &block.downsampler {
                h = downsampler.forward(b, &h)?;
            }
        }
        h = self.mid_block.forward(b, h)?;
        b.norm_conv2d(&h, self.conv_norm_out.with_silu(), &self.conv_out, Epilogue::default())
    }
}

impl<B: Backend> Decoder<B> {
    pub(super) fn load(scope: &Scope<'_>, config: &AutoencoderKLConfig, b: &B) -> Result<Self> {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let blocks = scope.at("up_blocks");
        let up_blocks = (0..widths.len()).map(|i| {
            let (scope, inputs, outputs) = (blocks.at(i), widths[i.saturating_sub(1)], widths[i]);
            let upsampler = (i + 1 < widths.len())
                .then(|| Upsample2D::load(&scope.at("upsamplers.0"), outputs, scale(b), b))
                .transpose()?;
            let resnets = resnets(&scope, inputs, outputs, config.layers_per_block + 1, config, b)?;
            Ok(UpDecoderBlock2D { resnets, upsampler })
        });
        let (norm_out, s) = (scope.at("conv_norm_out"), scale(b));
        Ok(Self {
            conv_in: end(&scope.at("conv_in").scaled(s, s), config.latent_channels, first, b)?,
            mid_block: MidBlock2D::load(&scope.at("mid_block"), first, config, b)?,
            up_blocks: up_blocks.collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(&norm_out, last, config.norm_num_groups, norm_eps(b), b)?,
            conv_out: end(&scope.at("conv_out"), last, config.out_channels, b)?,
        })
    }

    pub(super) fn forward(&self, b: &B, latents: &B::Tensor) -> Result<B::Tensor> {
        let mut h = b.conv2d(latents, &self.conv_in, Epilogue::default())?;
        h = self.mid_block.forward(b, h)?;
        // A block's enlarged output need not be kept: the first resnet of the next begins with it.
        let mut upsampler = None;
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                h = resnet.forward(b, h, upsampler.take(), None)?;
            }
            upsampler = block.upsampler.as_ref();
        }
        b.norm_conv2d(&h, self.conv_norm_out.with_silu(), &self.conv_out, Epilogue::default())
    }
}

impl<B: Backend> MidBlock2D<B> {
    fn load(scope: &Scope<'_>, channels: usize, config: &AutoencoderKLConfig, b: &B) -> Result<Self> {
        let load = |i: usize| resnet(&scope.at("resnets").at(i), channels, channels, config, b);
        let attention = scope.at("attentions.0");
        let attention = config
            .mid_block_add_attention
            .then(|| SpatialAttention::load(&attention, channels, config.norm_num_groups, b))
            .transpose()?;
        Ok(Self { resnets: [load(0)?, load(1)?], attention })
    }

    fn forward(&self, b: &B, x: B::Tensor) -> Result<B::Tensor> {
        let [first, second] = &self.resnets;
        let mut h = first.forward(b, x, None, None)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(b, &h)?;
        }
        second.forward(b, h, None, None)
    }
}

impl<B: Backend> SpatialAttention<B> {
    fn load(scope: &Scope<'_>, channels: usize, groups: usize, b: &B) -> Result<Self> {
        Ok(Self {
            group_norm: GroupNorm::load(&scope.at("group_norm"), channels, groups, norm_eps(b), b)?,
            attention: Attention::load_scaled(
                scope,
                Projections::Autoencoder,
                channels,
                channels,
                1,
                scale(b),
                b,
            )?,
        })
    }

    pub(super) fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        self.attention.self_attention(b, self.group_norm.forward(b, x)?, false, x)
    }
}
