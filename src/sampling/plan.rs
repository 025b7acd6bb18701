//! One request's way from noise to latents: a schedule, a parameterization and a sampler put together.

use std::fmt::Debug;

use super::ddim::Ddim;
use super::ddpm::Ddpm;
use super::euler::Euler;
use super::{NoiseStream, PredictionType, Sampler, Schedule, SchedulerConfig, TimestepSpacing, schedule};
use crate::util::error::{Result, bail};

/// One evaluation of the (guided) model: reads the scaled input and the timestep, writes the prediction.
///
/// Input and prediction have the length of the latents. An error stops the step and leaves the latents as they were.
pub type Denoise<'a> = dyn FnMut(&[f32], f32, &mut [f32]) -> Result<()> + 'a;

/// A sampler with the coefficients of every step worked out.
pub(super) trait Solver: Debug + Send + Sync {
    /// The timestep given to the model at each step, noisiest first.
    fn timesteps(&self) -> &[f32];

    /// The standard deviation of the latents before the first step.
    fn init_noise_sigma(&self) -> f32;

    /// Takes step `i`, which is below `timesteps().len()`. `noise` has one stream an image and divides `latents`.
    fn step(
        &self,
        i: usize,
        latents: &mut [f32],
        noise: &mut [NoiseStream],
        denoise: &mut Denoise<'_>,
    ) -> Result<()>;
}

/// The steps of one request. Immutable, so threads may share it.
///
/// ```text
/// let plan = Plan::new(&config, None, None, 20, 0.0)?;
/// latents = noise · plan.init_noise_sigma()
/// for i in 0..plan.len() { plan.step(i, &mut latents, &mut streams, &mut denoise)? }
/// ```
#[derive(Debug)]
pub struct Plan {
    sampler: Sampler,
    solver: Box<dyn Solver>,
}

impl Plan {
    /// Works out `steps` steps (1 to the schedule's length). `sampler` and `spacing` override the config, whose
    /// betas and prediction type stay, as with diffusers' `from_config`. `eta` is DDIM's η in 0..=1; the other
    /// samplers do not use it.
    ///
    /// Fails with `InvalidArgument` for steps or η out of range, `Format` for a schedule that makes no sense,
    /// `Unsupported` for an epsilon model asked to start from pure noise.
    pub fn new(
        config: &SchedulerConfig,
        sampler: Option<Sampler>,
        spacing: Option<TimestepSpacing>,
        steps: usize,
        eta: f64,
    ) -> Result<Self> {
        if !(0.0..=1.0).contains(&eta) {
            bail!(InvalidArgument, "eta {eta} is not in 0..=1");
        }
        let sampler = sampler.unwrap_or(config.sampler);
        let spacing = spacing.or(config.timestep_spacing).unwrap_or(match sampler {
            Sampler::Ddpm | Sampler::Ddim => TimestepSpacing::Leading,
            Sampler::Euler => TimestepSpacing::Linspace,
        });
        let schedule = Schedule::new(config)?;
        let timesteps = schedule::timesteps(config, sampler, spacing, steps)?;
        let first_alpha_cumprod = schedule.alphas_cumprod()[timesteps[0] as usize];
        let solver: Box<dyn Solver> = match sampler {
            // x₀ = (x − σ·ε)/α has no answer where α is 0; Euler's sigmas never quite get there.
            Sampler::Ddpm | Sampler::Ddim
                if first_alpha_cumprod == 0.0 && config.prediction_type == PredictionType::Epsilon =>
            {
                bail!(
                    Unsupported,
                    "prediction_type epsilon cannot start at timestep {}, where rescale_betas_zero_snr leaves no signal",
                    timesteps[0]
                );
            }
            Sampler::Ddpm => Box::new(Ddpm::new(config, &schedule, timesteps)),
            Sampler::Ddim => Box::new(Ddim::new(config, &schedule, timesteps, eta)),
            Sampler::Euler => Box::new(Euler::new(config, &schedule, spacing, timesteps)),
        };
        Ok(Self { sampler, solver })
    }

    /// The sampler that runs: the one asked for, else the config's.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// How many steps there are, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.solver.timesteps().len()
    }

    /// The timestep given to the model at each step, noisiest first; Euler's may have a fraction.
    pub fn timesteps(&self) -> &[f32] {
        self.solver.timesteps()
    }

    /// What unit-variance noise must be multiplied by to be the latents before the first step.
    pub fn init_noise_sigma(&self) -> f32 {
        self.solver.init_noise_sigma()
    }

    /// Takes step `i` of `0..len()`: evaluates the model once and moves `latents` on.
    ///
    /// `latents` is a whole batch, `[images, values of one image]`; `noise` has one stream an image, so an image
    /// is the same whatever else is in its batch. Steps are taken in order, since the streams remember their place.
    ///
    /// On an error from `denoise` (cancellation) the latents are as before. `InvalidArgument`: no such step, or
    /// latents that do not divide into `noise.len()` images.
    pub fn step(
        &self,
        i: usize,
        latents: &mut [f32],
        noise: &mut [NoiseStream],
        denoise: &mut Denoise<'_>,
    ) -> Result<()> {
        if i >= self.len() {
            bail!(InvalidArgument, "step {i} of {}", self.len());
        }
        if noise.is_empty() || !latents.len().is_multiple_of(noise.len()) {
            bail!(InvalidArgument, "{} latents do not divide into {} images", latents.len(), noise.len());
        }
        self.solver.step(i, latents, noise, denoise)
    }
}

/// Adds noise of standard deviation `std_dev` to a batch, each image's from its own stream; draws none for 0.
pub(super) fn perturb(latents: &mut [f32], noise: &mut [NoiseStream], std_dev: f32) {
    if std_dev == 0.0 {
        return;
    }
    let image = latents.len() / noise.len().max(1);
    let mut values = vec![0.0; image];
    // `chunks_mut` refuses a size of 0, which only an empty batch has.
    for (latents, stream) in latents.chunks_mut(image.max(1)).zip(noise) {
        stream.normal(&mut values);
        for (x, noise) in latents.iter_mut().zip(&values) {
            *x += std_dev * noise;
        }
    }
}
