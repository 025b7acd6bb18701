//! The U-Net's blocks. A block without attention has an empty list of them.

use super::config::BlockPlan;
use crate::backend::{Backend, Shape, Tensor};
use crate::nn::attention::KeysValues;
use crate::nn::layers::repeat;
use crate::nn::resnet::{Downsample2D, ResnetBlock2D, Upsample2D};
use crate::nn::transformer::{Perturbed, Transformer2DModel};
use crate::util::error::{Result, bail};
use crate::weights::Scope;

fn resnets<B: Backend>(scope: &Scope<'_>, plan: &BlockPlan, b: &B) -> Result<Vec<ResnetBlock2D<B>>> {
    let scope = scope.at("resnets");
    let load = |(i, shape): (usize, _)| ResnetBlock2D::load(&scope.at(i), shape, b);
    plan.resnets.iter().copied().enumerate().map(load).collect()
}

fn attentions<B: Backend>(scope: &Scope<'_>, plan: &BlockPlan, b: &B) -> Result<Vec<Transformer2DModel<B>>> {
    let scope = scope.at("attentions");
    let load = |(i, shape): (usize, _)| Transformer2DModel::load(&scope.at(i), shape, b);
    plan.attentions.iter().copied().enumerate().map(load).collect()
}

/// What every block sees besides its input.
pub(super) struct Conditions<'a, B: Backend> {
    /// What the time adds to the channels of each of its resnets, `[n, 1, 1, c_out]`.
    pub(super) time_biases: &'a [B::Tensor],
    /// For each of its transformers.
    pub(super) context: &'a [Vec<KeysValues<B>>],
    /// What the block's transformers lose.
    pub(super) perturbed: Option<Perturbed>,
}

impl<B: Backend> Conditions<'_, B> {
    /// What the time adds to the channels of resnet `i` for the first `n` images.
    fn time_bias(&self, b: &B, i: usize, n: usize) -> Result<Option<B::Tensor>> {
        let bias = self.time_biases.get(i);
        bias.map(|bias| b.view(bias, 0, Shape::vector(n, bias.shape().c))).transpose()
    }
}

/// diffusers' `DownBlock2D` and `CrossAttnDownBlock2D`.
pub(super) struct DownBlock2D<B: Backend> {
    pub(super) resnets: Vec<ResnetBlock2D<B>>,
    pub(super) attentions: Vec<Transformer2DModel<B>>,
    pub(super) downsampler: Option<Downsample2D<B>>,
}

impl<B: Backend> DownBlock2D<B> {
    pub(super) fn load(scope: &Scope<'_>, plan: &BlockPlan, b: &B) -> Result<Self> {
        let downsampler =
            plan.resample.then(|| Downsample2D::load(&scope.at("downsamplers.0"), plan.channels, 1, 1.0, b));
        Ok(Self {
            resnets: resnets(scope, plan, b)?,
            attentions: attentions(scope, plan, b)?,
            downsampler: downsampler.transpose()?,
        })
    }

    /// Continues from the last of `skips` and puts every layer's output behind it.
    pub(super) fn forward(&self, b: &B, skips: &mut Vec<B::Tensor>, with: &Conditions<'_, B>) -> Result<()> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            // The skip is kept, so the block gets a view: nothing is added to it in place.
            let x = last(skips)?;
            let x = b.view(x, 0, x.shape())?;
            let bias = with.time_bias(b, i, x.shape().n)?;
            let mut h = resnet.forward(b, x, None, bias.as_ref())?;
            if let Some((attention, context)) = self.attentions.get(i).zip(with.context.get(i)) {
                h = attention.forward(b, &h, context, with.perturbed)?;
            }
            skips.push(h);
        }
        if let Some(downsampler) = &self.downsampler {
            let h = downsampler.forward(b, last(skips)?)?;
            skips.push(h);
        }
        Ok(())
    }
}

/// diffusers' `UNetMidBlock2DCrossAttn` and `UNetMidBlock2D`.
pub(super) struct MidBlock2D<B: Backend> {
    pub(super) resnets: Vec<ResnetBlock2D<B>>,
    pub(super) attentions: Vec<Transformer2DModel<B>>,
}

impl<B: Backend> MidBlock2D<B> {
    pub(super) fn load(scope: &Scope<'_>, plan: &BlockPlan, b: &B) -> Result<Self> {
        Ok(Self { resnets: resnets(scope, plan, b)?, attentions: attentions(scope, plan, b)? })
    }

    /// The result has `x`'s shape, but for the images: see [`Transformer2DModel::forward`].
    pub(super) fn forward(&self, b: &B, x: &B::Tensor, with: &Conditions<'_, B>) -> Result<B::Tensor> {
        let Some((first, rest)) = self.resnets.split_first() else {
            bail!(Internal, "a mid block without layers");
        };
        let x = b.view(x, 0, x.shape())?;
        let bias = with.time_bias(b, 0, x.shape().n)?;
        let mut h = first.forward(b, x, None, bias.as_ref())?;
        for (i, ((attention, context), resnet)) in
            self.attentions.iter().zip(with.context).zip(rest).enumerate()
        {
            h = attention.forward(b, &h, context, with.perturbed)?;
            let bias = with.time_bias(b, i + 1, h.shape().n)?;
            h = resnet.forward(b, h, None, bias.as_ref())?;
        }
        Ok(h)
    }
}

/// diffusers' `UpBlock2D` and `CrossAttnUpBlock2D`.
pub(super) struct UpBlock2D<B: Backend> {
    pub(super) resnets: Vec<ResnetBlock2D<B>>,
    pub(super) attentions: Vec<Transformer2DModel<B>>,
    pub(super) upsampler: Option<Upsample2D<B>>,
}

impl<B: Backend> UpBlock2D<B> {
    pub(super) fn load(scope: &Scope<'_>, plan: &BlockPlan, b: &B) -> Result<Self> {
        let upsampler =
            plan.resample.then(|| Upsample2D::load(&scope.at("upsamplers.0"), plan.channels, 1.0, b));
        Ok(Self {
            resnets: resnets(scope, plan, b)?,
            attentions: attentions(scope, plan, b)?,
            upsampler: upsampler.transpose()?,
        })
    }

    /// Takes one skip a layer off the end of `skips`, and grows to the size of the one behind them. Without `x` the
    /// last skip is the input too (a network without a mid block).
    pub(super) fn forward(
        &self,
        b: &B,
        x: Option<B::Tensor>,
        skips: &mut Vec<B::Tensor>,
        with: &Conditions<'_, B>,
    ) -> Result<B::Tensor> {
        let mut x = x;
        for (i, resnet) in self.resnets.iter().enumerate() {
            let Some(mut skip) = skips.pop() else {
                bail!(Internal, "an up block without its skip connection");
            };
            let before = x.take();
            let n = before.as_ref().map_or(skip.shape().n, |before| before.shape().n);
            skip = repeat(b, &skip, Shape { n, ..skip.shape() })?;
            let mut h = b.concat_channels(before.as_ref().unwrap_or(&skip), &skip)?;
            drop((before, skip));
            let bias = with.time_bias(b, i, n)?;
            h = resnet.forward(b, h, None, bias.as_ref())?;
            if let Some((attention, context)) = self.attentions.get(i).zip(with.context.get(i)) {
                h = attention.forward(b, &h, context, with.perturbed)?;
            }
            x = Some(h);
        }
        let Some(mut h) = x else {
            bail!(Internal, "an up block without layers");
        };
        if let Some(upsampler) = &self.upsampler {
            // An odd side was rounded up on the way down; only the skip knows it.
            let Shape { h: height, w: width, .. } = last(skips)?.shape();
            h = upsampler.forward(b, &h, height, width)?;
        }
        Ok(h)
    }
}

/// The tensor that the way down left last.
pub(super) fn last<T>(skips: &[T]) -> Result<&T> {
    match skips.last() {
        Some(skip) => Ok(skip),
        None => bail!(Internal, "a U-Net without skip connections"),
    }
}
