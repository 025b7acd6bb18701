//! The autoencoder's config.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::models::config::{SampleSize, bounded};
use crate::util::error::{Result, bail};
use crate::util::limits::{MODEL_LAYERS, MODEL_WIDTH};

/// Most halvings of the image: the smallest latent pixel stands for 128 × 128.
const RESOLUTIONS: usize = 8;
/// Widest latents; published ones have 4 to 32 channels.
const LATENT_CHANNELS: usize = 256;

/// `config.json` of diffusers' `AutoencoderKL`, with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AutoencoderKLConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    /// Pixels the model was trained at.
    pub sample_size: Option<SampleSize>,
    /// What latents are multiplied by to have unit variance.
    pub scaling_factor: f32,
    pub shift_factor: Option<f32>,
    /// Per latent channel, where one factor does not do (Playground 2.5).
    pub latents_mean: Option<Vec<f32>>,
    pub latents_std: Option<Vec<f32>>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    pub act_fn: String,
    /// Keys without a meaning here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: Some(SampleSize::Square(32)),
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            act_fn: "silu".to_owned(),
            other: Map::new(),
        }
    }
}

impl AutoencoderKLConfig {
    /// Image pixels on a side for one latent pixel.
    pub fn scale_factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(RESOLUTIONS)
    }

    /// Per latent channel `(scale, shift)`: the decoder wants `latents · scale + shift`.
    pub fn unscale(&self) -> Vec<(f32, f32)> {
        let channel = |i: usize, values: &Option<Vec<f32>>| values.as_ref()?.get(i).copied();
        (0..self.latent_channels)
            .map(|i| {
                let std = channel(i, &self.latents_std).unwrap_or(1.0);
                let shift = channel(i, &self.latents_mean).or(self.shift_factor).unwrap_or(0.0);
                (std / self.scaling_factor, shift)
            })
            .collect()
    }

    /// # Errors
    /// `Unsupported` or `Format`, naming the key.
    pub(super) fn check(&self) -> Result<()> {
        let blocks = self.block_out_channels.len();
        bounded("block_out_channels (its length)", blocks, RESOLUTIONS)?;
        for (key, types, built_in) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if types.len() != blocks {
                bail!(Format, "{key} has {} entries for {blocks} blocks", types.len());
            }
            if let Some(other) = types.iter().find(|kind| *kind != built_in) {
                bail!(Unsupported, "{key}: {other:?} is not supported");
            }
        }
        for channels in &self.block_out_channels {
            bounded("block_out_channels", *channels, MODEL_WIDTH)?;
        }
        bounded("in_channels", self.in_channels, MODEL_WIDTH)?;
        bounded("out_channels", self.out_channels, MODEL_WIDTH)?;
        bounded("latent_channels", self.latent_channels, LATENT_CHANNELS)?;
        bounded("layers_per_block", self.layers_per_block, MODEL_LAYERS)?;
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            bail!(Unsupported, "act_fn = {:?} is not supported", self.act_fn);
        }
        if !self.scaling_factor.is_normal() {
            bail!(Format, "scaling_factor = {} is not usable", self.scaling_factor);
        }
        for (key, values) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if values.as_ref().is_some_and(|v| v.len() != self.latent_channels) {
                bail!(Format, "{key} does not have latent_channels = {} entries", self.latent_channels);
            }
        }
        if self.latents_mean.is_some() != self.latents_std.is_some() {
            bail!(Format, "latents_mean and latents_std come together");
        }
        if self.latents_mean.is_some() && self.shift_factor.is_some() {
            bail!(Unsupported, "shift_factor next to latents_mean is not supported");
        }
        Ok(())
    }
}
