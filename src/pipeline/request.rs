//! What a caller asks for, what the pipeline tells while it works, and what comes out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use crate::models::unet_2d_condition::Perturbation;
pub use crate::sampling::guidance::{GuidanceMethod, GuidanceOptions, Predictions};
use crate::sampling::{Clip, Options};
pub use crate::sampling::{Noise, Profile, SAMPLERS, Sampler, SigmaSchedule, TimestepSpacing};
use crate::util::error::{Result, bail};
use crate::util::limits;

/// A picture that a request starts from, or a mask. Cheap to clone: clones share the pixels.
#[derive(Clone, PartialEq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    /// Interleaved RGB, rows from the top, each value in `[0, 1]`.
    pub rgb: Arc<Vec<f32>>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// One request. The defaults are those of the option table.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub prompt: String,
    /// `None` is not `Some("")`: some SDXL models replace the unconditional embedding by zeros only for `None`.
    pub negative_prompt: Option<String>,
    /// Pixels; 0 = the size of `image`, else the model's own. Multiples of the model's `size_multiple`.
    pub width: u32,
    pub height: u32,
    /// Denoising steps; 0 = decode `latents` as they are. `sigmas` and `timesteps` bring their own number.
    pub steps: u32,
    pub guidance: GuidanceOptions,
    /// The U-Net's blocks that perturbed-attention guidance perturbs: `mid_block`, `down_blocks.N`, `up_blocks.N`.
    /// Empty = `mid_block`.
    pub pag_applied_layers: Vec<String>,
    pub perturbation: Perturbation,
    /// See [`Request::image_seed`].
    pub seed: u64,
    pub batch_size: u32,
    /// `None` = what the model's scheduler config says; likewise `timestep_spacing`.
    pub sampler: Option<Sampler>,
    pub timestep_spacing: Option<TimestepSpacing>,
    /// η: 0 = deterministic, 1 = as much fresh noise as DDPM; `None` = the sampler's own.
    pub eta: Option<f64>,
    /// `None` = Philox, and MT19937 in the ComfyUI profile.
    pub noise: Option<Noise>,
    /// `[batch, channels, height / f, width / f]` of unit variance, in place of drawn noise; with `steps` = 0 the
    /// latents to decode, as `Output::latents` returns them.
    pub latents: Option<Vec<f32>>,
    /// Whether to decode the latents into images.
    pub decode: bool,
    /// `None` = what the model's scheduler config says.
    pub sigma_schedule: Option<SigmaSchedule>,
    /// The caller's own noise levels, the end included, or timesteps; see [`Options`].
    pub sigmas: Option<Vec<f32>>,
    pub timesteps: Option<Vec<f32>>,
    /// Churn; an `s_tmax` of 0 is no limit.
    pub s_churn: f64,
    pub s_tmin: f64,
    pub s_tmax: f64,
    pub s_noise: f64,
    pub profile: Profile,
    /// Dynamic thresholding ([`Clip::Dynamic`]); a ratio of 0 = what the model's scheduler config says.
    pub dynamic_thresholding_ratio: f64,
    pub dynamic_thresholding_max: f64,
    /// Image-to-image: every image of the batch starts from this picture. Its size is the request's.
    pub image: Option<Picture>,
    /// Inpainting: a picture of the size of `image`; where it is white, `image` is painted anew.
    pub mask: Option<Picture>,
    /// How much of the way image-to-image goes, above 0 up to 1. Without `image` it means nothing.
    pub strength: f64,
    /// The other end of a variation, and how far to go there: 0 = not at all.
    pub variation_seed: u64,
    pub variation_strength: f64,
    /// Added to the seeds of the sampler's fresh noise, which then no longer goes on from the first noise's streams.
    pub eta_noise_seed_delta: u64,
}

impl Request {
    /// The seed of image `index`: `seed + index`, each with a stream of its own. All variations (of a strength above 0)
    /// vary one picture, and the ComfyUI profile draws one noise for the whole batch: there it is `seed` for all.
    pub fn image_seed(&self, index: u64) -> u64 {
        if self.variation_strength > 0.0 || self.profile == Profile::ComfyUi {
            self.seed
        } else {
            self.seed.wrapping_add(index)
        }
    }

    /// The noise generator.
    pub(super) fn noise(&self) -> Noise {
        self.noise.unwrap_or(match self.profile {
            Profile::ComfyUi => Noise::Mt19937,
            _ => Noise::Philox,
        })
    }

    /// What the request asks of sampling.
    ///
    /// # Errors
    /// `InvalidArgument` for lists of noise levels or timesteps that give no or too many steps.
    pub(super) fn sampling(&self) -> Result<Options> {
        let given = |name: &str, values: &Option<Vec<f32>>, least: usize| -> Result<Option<Vec<f64>>> {
            let Some(values) = values else { return Ok(None) };
            let most = limits::STEPS as usize + least - 1;
            if !(least..=most).contains(&values.len()) {
                bail!(InvalidArgument, "{name} has {} values; it takes {least} to {most}", values.len());
            }
            Ok(Some(values.iter().copied().map(f64::from).collect()))
        };
        let sigmas = given("sigmas", &self.sigmas, 2)?;
        let timesteps = given("timesteps", &self.timesteps, 1)?;
        Ok(Options {
            sampler: self.sampler,
            spacing: self.timestep_spacing,
            sigma_schedule: self.sigma_schedule,
            sigmas,
            timesteps,
            eta: self.eta,
            s_churn: self.s_churn,
            s_tmin: self.s_tmin,
            s_tmax: if self.s_tmax == 0.0 { f64::INFINITY } else { self.s_tmax },
            s_noise: self.s_noise,
            profile: self.profile,
            strength: self.image.as_ref().map(|_| self.strength),
            clip: (self.dynamic_thresholding_ratio > 0.0).then_some(Clip::Dynamic {
                ratio: self.dynamic_thresholding_ratio,
                max: self.dynamic_thresholding_max,
            }),
            ..Options::new(self.asked_steps())
        })
    }

    /// The steps of the whole way: a list of noise levels or timesteps brings its own.
    pub(crate) fn asked_steps(&self) -> usize {
        match (&self.sigmas, &self.timesteps) {
            (Some(sigmas), _) => sigmas.len().saturating_sub(1),
            (None, Some(timesteps)) => timesteps.len(),
            (None, None) => self.steps as usize,
        }
    }
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
            eta: None,
            noise: None,
            latents: None,
            decode: true,
            sigma_schedule: None,
            sigmas: None,
            timesteps: None,
            s_churn: 0.0,
            s_tmin: 0.0,
            s_tmax: 0.0,
            s_noise: 1.0,
            profile: Profile::Diffusers,
            dynamic_thresholding_ratio: 0.0,
            dynamic_thresholding_max: 1.0,
            image: None,
            mask: None,
            strength: 0.8,
            variation_seed: 0,
            variation_strength: 0.0,
            eta_noise_seed_delta: 0,
        }
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Text,
    /// The picture that image-to-image starts from becomes latents.
    Encode,
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
    /// Steps taken: fewer than asked for where image-to-image goes a part of the way.
    pub steps: u32,
    pub prompt: TokenCount,
    pub negative_prompt: TokenCount,
    pub text_time: Duration,
    pub denoise_time: Duration,
    pub decode_time: Duration,
}
