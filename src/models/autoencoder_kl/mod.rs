//! Between pixels and latents: diffusers' `AutoencoderKL`.

mod coder;
mod config;
#[cfg(test)]
mod tests;

use coder::{Decoder, Encoder};
pub use config::AutoencoderKLConfig;

use crate::backend::{Backend, DType, Epilogue, Weight};
use crate::nn::layers::pointwise;
use crate::util::error::Result;
use crate::weights::Scope;

/// A loaded autoencoder.
pub struct AutoencoderKL<B: Backend> {
    config: AutoencoderKLConfig,
    /// From latents of unit variance to the decoder's own: one factor and shift a channel, as a diagonal matrix.
    unscale: B::Linear,
    encoder: Encoder<B>,
    quant_conv: Option<B::Linear>,
    post_quant_conv: Option<B::Linear>,
    decoder: Decoder<B>,
}

impl<B: Backend> AutoencoderKL<B> {
    /// Loads both halves.
    ///
    /// # Errors
    /// `Unsupported` for a config value that is not built in, `Format` for one that makes no sense or contradicts
    /// the tensors, `Numeric` for weights that are not finite.
    pub fn load(scope: &Scope<'_>, config: &AutoencoderKLConfig, b: &B) -> Result<Self> {
        config.check().map_err(|e| e.context(scope.config_path().display()))?;
        let latent = config.latent_channels;
        let quant = |name: &str, channels| pointwise(&scope.at(name), channels, channels, b);
        Ok(Self {
            unscale: diagonal(b, &config.unscale())?,
            encoder: Encoder::load(&scope.at("encoder"), config, b)?,
            quant_conv: config.use_quant_conv.then(|| quant("quant_conv", 2 * latent)).transpose()?,
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| quant("post_quant_conv", latent))
                .transpose()?,
            decoder: Decoder::load(&scope.at("decoder"), config, b)?,
            config: config.clone(),
        })
    }

    /// The config the model was loaded with.
    pub fn config(&self) -> &AutoencoderKLConfig {
        &self.config
    }

    /// Latents as the U-Net sees them, `[n, h, w, latent_channels]`, to the image `[n, h·f, w·f, out_channels]`,
    /// where `f` is [`AutoencoderKLConfig::scale_factor`]. Values are about -1 to 1, not clamped.
    ///
    /// # Errors
    /// `Cancelled`, `OutOfMemory`.
    pub fn decode(&self, b: &B, latents: &B::Tensor) -> Result<B::Tensor> {
        let mut h = b.linear(latents, &self.unscale, Epilogue::default())?;
        if let Some(conv) = &self.post_quant_conv {
            h = b.linear(&h, conv, Epilogue::default())?;
        }
        self.decoder.forward(b, &h)
    }

    /// An image `[n, h, w, in_channels]` with values from -1 to 1 to the distribution of its latents,
    /// `[n, h/f, w/f, 2·latent_channels]`: the means, then the logarithms of the variances (diffusers clamps these
    /// to -30 to 20). Neither is scaled to what the U-Net sees.
    ///
    /// # Errors
    /// `Cancelled`, `OutOfMemory`.
    pub fn encode(&self, b: &B, image: &B::Tensor) -> Result<B::Tensor> {
        let h = self.encoder.forward(b, image)?;
        match &self.quant_conv {
            Some(conv) => b.linear(&h, conv, Epilogue::default()),
            None => Ok(h),
        }
    }
}

/// The linear layer `y[c] = x[c] · scale[c] + shift[c]`.
fn diagonal<B: Backend>(b: &B, scale_shift: &[(f32, f32)]) -> Result<B::Linear> {
    let channels = scale_shift.len();
    let mut weight = Vec::with_capacity(channels * channels * 4);
    for (row, (scale, _)) in scale_shift.iter().enumerate() {
        for column in 0..channels {
            let value = if row == column { *scale } else { 0.0 };
            weight.extend_from_slice(&value.to_le_bytes());
        }
    }
    let bias: Vec<u8> = scale_shift.iter().flat_map(|(_, shift)| shift.to_le_bytes()).collect();
    let shape = [channels, channels];
    b.prepare_linear(
        Weight { dtype: DType::F32, shape: &shape, bytes: &weight },
        Some(Weight { dtype: DType::F32, shape: &shape[..1], bytes: &bias }),
    )
}
