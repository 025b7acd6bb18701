//! What a caller asks for, what the pipeline tells while it works, and what comes out.

use std::time::Duration;

pub use crate::models::unet_2d_condition::Perturbation;
pub use crate::sampling::guidance::{GuidanceMethod, GuidanceOptions, Predictions};
pub use crate::sampling::{Noise, Sampler, TimestepSpacing};
use crate::util::error::Result;

/// One request. The defaults are those of the option table.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub prompt: String,
    /// `None` is not `Some("")`: some SDXL models replace the unconditional embedding by zeros only for `None`.
    pub negative_prompt: Option<String>,
    /// Pixels; 0 = the model's own size. Multiples of the model's `size_multiple`.
    pub width: u32,
    pub height: u32,
    /// Denoising steps; 0 = decode `latents` as they are.
    pub steps: u32,
    pub guidance: GuidanceOptions,
    /// The U-Net's blocks that perturbed-attention guidance perturbs: `mid_block`, `down_blocks.N`, `up_blocks.N`.
    /// Empty = `mid_block`.
    pub pag_applied_layers: Vec<String>,
    pub perturbation: Perturbation,
    /// Image `i` of the batch draws its noise from `seed + i`.
    pub seed: u64,
    pub batch_size: u32,
    /// `None` = what the model's scheduler config says; likewise `timestep_spacing`.
    pub sampler: Option<Sampler>,
    pub timestep_spacing: Option<TimestepSpacing>,
    /// DDIM's η: 0 = deterministic, 1 = as much noise as DDPM.
    pub eta: f64,
    pub noise: Noise,
    /// `[batch, channels, height / f, width / f]` of unit variance, in place of drawn noise; with `steps` = 0 the
    /// latents to decode, as `Output::latents` returns them.
    pub latents: Option<Vec<f32>>,
    /// Whether to decode the latents into images.
    pub decode: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: None,
            width: 0,
            height: 0,
            steps: 20,
            guidance: GuidanceOptions::default(),
            pag_applied_layers: Vec::new(),
            perturbation: Perturbation::IdentityAttention,
            seed: 0,
            batch_size: 1,
            sampler: None,
            timestep_spacing: None,
            eta: 0.0,
            noise: Noise::Philox,
            latents: None,
            decode: true,
        }
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Text,
    Denoise,
    Decode,
}

/// Hears about each step of a request, from the thread that runs it.
pub trait Observer {
    /// `step` of `steps` denoising steps are done. An error (normally `Cancelled`) stops the request with it.
    fn progress(&mut self, stage: Stage, step: u32, steps: u32) -> Result<()>;

    /// May combine the raw predictions in place of the request's guidance: writes `out`, a batch of the same size, and
    /// returns `true`. `predictions` are those that the request's guidance takes at this step. An error stops the
    /// request with it, a value that is not finite with `Numeric`.
    fn guide(&mut self, _predictions: &Predictions<'_>, _out: &mut [f32]) -> Result<bool> {
        Ok(false)
    }
}

/// How many tokens a prompt had and how many of them the model never saw (begin and end marks not counted).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCount {
    pub tokens: u32,
    pub dropped: u32,
}

/// What a finished request gives.
#[derive(Debug, Clone)]
pub struct Output {
    pub width: u32,
    pub height: u32,
    /// One an image: interleaved RGB, rows from the top, each value in `[0, 1]`. Empty when not decoded.
    pub images: Vec<Vec<f32>>,
    /// One an image: `[channels, height / f, width / f]`, scaled as the U-Net sees them.
    pub latents: Vec<Vec<f32>>,
    pub sampler: Sampler,
    pub prompt: TokenCount,
    pub negative_prompt: TokenCount,
    pub text_time: Duration,
    pub denoise_time: Duration,
    pub decode_time: Duration,
}
