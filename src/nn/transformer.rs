//! The spatial transformer of the U-Net.

use super::attention::{Attention, KeysValues, Projections};
use super::layers::{GroupNorm, LayerNorm, geglu, linear, pointwise, repeat};
use crate::backend::{Backend, Epilogue, Shape, Tensor};
use crate::util::error::{Result, bail};
use crate::weights::Scope;

/// diffusers fixes the epsilons of these norms in code.
const GROUP_NORM_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;

/// The size of a [`Transformer2DModel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerShape {
    pub channels: usize,
    pub heads: usize,
    /// Transformer blocks in a row.
    pub depth: usize,
    pub cross_attention_dim: usize,
    pub norm_groups: usize,
}

/// What some images of a batch lose in a transformer, so that guidance can steer away from what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Perturbation {
    /// The map of self-attention is the identity (Ahn et al. 2024, arXiv:2403.17377).
    IdentityAttention,
    /// The transformer blocks are left out (diffusers' `LayerSkipConfig`).
    SkipLayer,
}

/// A perturbation of the images from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perturbed {
    pub perturbation: Perturbation,
    pub from: usize,
}

impl Perturbed {
    /// The first image perturbed, if `perturbation` is what it is.
    fn first_of(self, perturbation: Perturbation) -> Option<usize> {
        (self.perturbation == perturbation).then_some(self.from)
    }
}

/// diffusers' `Transformer2DModel`: pixels as tokens, and the prompt as their context.
pub struct Transformer2DModel<B: Backend> {
    norm: GroupNorm<B>,
    proj_in: B::Linear,
    pub(crate) transformer_blocks: Vec<BasicTransformerBlock<B>>,
    proj_out: B::Linear,
}

impl<B: Backend> Transformer2DModel<B> {
    /// # Errors
    /// Those of the weights; `Format` when groups or heads do not divide the channels.
    pub fn load(scope: &Scope<'_>, shape: TransformerShape, b: &B) -> Result<Self> {
        let c = shape.channels;
        let blocks = scope.at("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::load(&scope.at("norm"), c, shape.norm_groups, GROUP_NORM_EPS, b)?,
            proj_in: pointwise(&scope.at("proj_in"), c, c, b)?,
            transformer_blocks: (0..shape.depth)
                .map(|i| BasicTransformerBlock::load(&blocks.at(i), shape, b))
                .collect::<Result<_>>()?,
            proj_out: pointwise(&scope.at("proj_out"), c, c, b)?,
        })
    }

    /// What each transformer block makes of `context [n, tokens, 1, cross_attention_dim]`. It is the same at every
    /// denoising step.
    pub fn keys_values(&self, b: &B, context: &B::Tensor) -> Result<Vec<KeysValues<B>>> {
        self.transformer_blocks.iter().map(|block| block.attn2.keys_values(b, context)).collect()
    }

    /// `x [n, h, w, channels]` with [`Transformer2DModel::keys_values`] of its context; the result has `x`'s shape, or where
    /// the context is of more images, that of `x` over and over: what comes before the context is then computed once.
    pub fn forward(
        &self,
        b: &B,
        x: &B::Tensor,
        context: &[KeysValues<B>],
        perturbed: Option<Perturbed>,
    ) -> Result<B::Tensor> {
        let images = context.first().map_or(x.shape().n, |first| first.images());
        let all = Shape { n: images, ..x.shape() };
        // A perturbation counts the images of the whole batch.
        let x = if perturbed.is_some() { &repeat(b, x, all)? } else { x };
        let enter = || b.linear(&self.norm.forward(b, x)?, &self.proj_in, Epilogue::default());
        let mut h = enter()?;
        let identity = perturbed.and_then(|p| p.first_of(Perturbation::IdentityAttention));
        if context.len() != self.transformer_blocks.len() {
            bail!(Internal, "a context for {} of {} blocks", context.len(), self.transformer_blocks.len());
        }
        for (block, context) in self.transformer_blocks.iter().zip(context) {
            h = block.forward(b, h, context, identity)?;
        }
        // Without blocks there is nothing to skip, and the context does not say how many images there are.
        let skipped = perturbed.filter(|_| !self.transformer_blocks.is_empty());
        if let Some(from) = skipped.and_then(|p| p.first_of(Perturbation::SkipLayer)) {
            // Computed again rather than kept while the blocks need the memory.
            h = b.splice_images(&h, &enter()?, from)?;
        }
        b.linear(&h, &self.proj_out, Epilogue::residual(&repeat(b, x, all)?))
    }
}

/// diffusers' `BasicTransformerBlock`: self-attention, attention to the context, GEGLU feed-forward.
pub struct BasicTransformerBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn1: Attention<B>,
    norm2: LayerNorm<B>,
    attn2: Attention<B>,
    norm3: LayerNorm<B>,
    ff: FeedForward<B>,
}

impl<B: Backend> BasicTransformerBlock<B> {
    fn load(scope: &Scope<'_>, shape: TransformerShape, b: &B) -> Result<Self> {
        let (c, context, heads) = (shape.channels, shape.cross_attention_dim, shape.heads);
        let norm = |name: &str| LayerNorm::load(&scope.at(name), c, LAYER_NORM_EPS, b);
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::load(&scope.at("attn1"), Projections::Diffusers, c, c, heads, b)?,
            norm2: norm("norm2")?,
            attn2: Attention::load(&scope.at("attn2"), Projections::Diffusers, c, context, heads, b)?,
            norm3: norm("norm3")?,
            ff: FeedForward::load(&scope.at("ff"), c, b)?,
        })
    }

    /// `x [n, .., channels]`, `context` and the result as in [`Transformer2DModel::forward`]; the images from `identity` on
    /// attend to nothing but themselves, token by token.
    pub(crate) fn forward(
        &self,
        b: &B,
        x: B::Tensor,
        context: &KeysValues<B>,
        identity: Option<usize>,
    ) -> Result<B::Tensor> {
        let mut x = x;
        let h = self.norm1.forward(b, &x)?;
        x = match identity {
            None => self.attn1.self_attention(b, h, false, &x)?,
            Some(from) => self.attn1.identity_attention(b, h, from, &x)?,
        };
        x = repeat(b, &x, Shape { n: context.images(), ..x.shape() })?;
        x = self.attn2.cross_attention(b, self.norm2.forward(b, &x)?, context, &x)?;
        self.ff.forward(b, self.norm3.forward(b, &x)?, &x)
    }
}

/// diffusers' `FeedForward` with GEGLU: `net.0.proj` gives twice the inner width, `net.2` comes back from it.
struct FeedForward<B: Backend> {
    proj: B::Linear,
    out: B::Linear,
}

impl<B: Backend> FeedForward<B> {
    fn load(scope: &Scope<'_>, channels: usize, b: &B) -> Result<Self> {
        let inner = 4 * channels;
        Ok(Self {
            proj: geglu(&scope.at("net.0.proj"), channels, 2 * inner, b)?,
            out: linear(&scope.at("net.2"), inner, channels, b)?,
        })
    }

    fn forward(&self, b: &B, x: B::Tensor, residual: &B::Tensor) -> Result<B::Tensor> {
        let h = b.linear_geglu(&x, &self.proj)?;
        drop(x);
        b.linear(&h, &self.out, Epilogue::residual(residual))
    }
}
