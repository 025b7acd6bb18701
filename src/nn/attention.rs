//! Multi-head attention with its projections.

use super::layers::{linear, linear_no_bias, pointwise};
use crate::backend::{Backend, Epilogue, Tensor};
use crate::util::error::Result;
use crate::weights::Scope;

/// How an attention layer's four projections are called and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// `to_q`, `to_k`, `to_v` without bias, `to_out.0` with one: the transformer blocks of diffusers.
    Diffusers,
    /// The same names, all with bias and possibly stored as 1×1 convolutions, or the older names `query`, `key`,
    /// `value`, `proj_attn`: the attention in a VAE (diffusers' `AttentionBlock` before 0.15).
    Autoencoder,
    /// `q_proj`, `k_proj`, `v_proj`, `out_proj` with bias: transformers' `CLIPAttention`.
    Clip,
}

/// diffusers' `Attention` and transformers' `CLIPAttention`: `to_out(softmax(q·kᵀ/√d)·v)`.
pub struct Attention<B: Backend> {
    to_q: B::Linear,
    to_k: B::Linear,
    to_v: B::Linear,
    to_out: B::Linear,
    heads: usize,
}

/// What queries look among and what they find: `[n, .., channels]` each.
pub struct KeysValues<B: Backend> {
    keys: B::Tensor,
    values: B::Tensor,
}

impl<B: Backend> KeysValues<B> {
    /// How many images they are of.
    pub fn images(&self) -> usize {
        self.keys.shape().n
    }
}

impl<B: Backend> Attention<B> {
    /// Queries have `channels` channels, keys and values come from `context_channels`.
    ///
    /// # Errors
    /// Those of the weights; `Format` when the heads do not divide the channels.
    pub fn load(
        scope: &Scope<'_>,
        projections: Projections,
        channels: usize,
        context_channels: usize,
        heads: usize,
        b: &B,
    ) -> Result<Self> {
        Self::load_scaled(scope, projections, channels, context_channels, heads, 1.0, b)
    }

    /// [`Attention::load`] for a result that is `scale` times what it was trained to be: a power of two.
    ///
    /// # Errors
    /// As [`Attention::load`].
    pub fn load_scaled(
        scope: &Scope<'_>,
        projections: Projections,
        channels: usize,
        context_channels: usize,
        heads: usize,
        scale: f32,
        b: &B,
    ) -> Result<Self> {
        if heads == 0 || !channels.is_multiple_of(heads) {
            return Err(scope.contradiction(format!("{heads} heads do not divide {channels} channels")));
        }
        let load: fn(&Scope<'_>, usize, usize, &B) -> Result<B::Linear> = match projections {
            Projections::Diffusers => linear_no_bias,
            Projections::Autoencoder => pointwise,
            Projections::Clip => linear,
        };
        let [q, k, v, out] = match projections {
            Projections::Autoencoder if scope.contains("query.weight") => {
                ["query", "key", "value", "proj_attn"].map(|name| scope.at(name))
            }
            Projections::Autoencoder | Projections::Diffusers => {
                ["to_q", "to_k", "to_v", "to_out.0"].map(|name| scope.at(name))
            }
            Projections::Clip => ["q_proj", "k_proj", "v_proj", "out_proj"].map(|name| scope.at(name)),
        };
        Ok(Self {
            to_q: load(&q, channels, channels, b)?,
            to_k: load(&k, context_channels, channels, b)?,
            to_v: load(&v, context_channels, channels, b)?,
            // The one projection that always has a bias.
            to_out: pointwise(&out.scaled(scale, scale), channels, channels, b)?,
            heads,
        })
    }

    /// Keys and values of a context `[n, .., context_channels]`.
    pub fn keys_values(&self, b: &B, context: &B::Tensor) -> Result<KeysValues<B>> {
        Ok(KeysValues {
            keys: b.linear(context, &self.to_k, Epilogue::default())?,
            values: b.linear(context, &self.to_v, Epilogue::default())?,
        })
    }

    /// What `x` `[n, .., channels]` finds among the keys and values of a context, added to `residual`.
    pub fn cross_attention(
        &self,
        b: &B,
        x: B::Tensor,
        context: &KeysValues<B>,
        residual: &B::Tensor,
    ) -> Result<B::Tensor> {
        let h = self.attend(b, x, context, false)?;
        b.linear(&h, &self.to_out, Epilogue::residual(residual))
    }

    /// The attention itself. Takes `x` to let go of it before, where memory is shortest.
    fn attend(&self, b: &B, x: B::Tensor, found: &KeysValues<B>, causal: bool) -> Result<B::Tensor> {
        let queries = b.linear(&x, &self.to_q, Epilogue::default())?;
        drop(x);
        b.attention(&queries, &found.keys, &found.values, self.heads, causal)
    }

    /// Self-attention whose map is the identity for the images from `from` on: each token of theirs finds its own value
    /// (diffusers' `PAGCFGIdentitySelfAttnProcessor2_0`).
    pub fn identity_attention(
        &self,
        b: &B,
        x: B::Tensor,
        from: usize,
        residual: &B::Tensor,
    ) -> Result<B::Tensor> {
        let found = self.keys_values(b, &x)?;
        let mut h = self.attend(b, x, &found, false)?;
        let KeysValues { keys, values } = found;
        drop(keys);
        h = b.splice_images(&h, &values, from)?;
        drop(values);
        b.linear(&h, &self.to_out, Epilogue::residual(residual))
    }

    /// Attention of `x` to itself, added to `residual`; `causal` hides later tokens from earlier ones.
    pub fn self_attention(
        &self,
        b: &B,
        x: B::Tensor,
        causal: bool,
        residual: &B::Tensor,
    ) -> Result<B::Tensor> {
        let found = self.keys_values(b, &x)?;
        let h = self.attend(b, x, &found, causal)?;
        drop(found);
        b.linear(&h, &self.to_out, Epilogue::residual(residual))
    }
}
