//! DDPM: ancestral sampling, a little fresh noise at each step.

use super::config::{SchedulerConfig, VarianceType};
use super::parameterization::NoiseLevel;
use super::plan::{Denoise, Solver, perturb};
use super::{NoiseStream, PredictionType, Schedule};
use crate::util::error::Result;

/// Ho et al. 2020 (arXiv:2006.11239), algorithm 2 in the form of equation 7: draws xₛ, s < t the next timestep
/// visited, from the posterior q(xₛ | xₜ, x₀) at the predicted x₀. Same numbers as diffusers' `DDPMScheduler.step`.
#[derive(Debug)]
pub(super) struct Ddpm {
    prediction_type: PredictionType,
    clip_sample_range: Option<f32>,
    timesteps: Vec<f32>,
    steps: Vec<Step>,
}

/// xₛ = `original`·x₀ + `current`·xₜ + `std_dev`·noise.
#[derive(Debug)]
struct Step {
    level: NoiseLevel,
    original: f32,
    current: f32,
    std_dev: f32,
}

impl Ddpm {
    /// `timesteps` are whole numbers, all in the schedule, falling.
    pub(super) fn new(config: &SchedulerConfig, schedule: &Schedule, timesteps: Vec<f32>) -> Self {
        let alphas_cumprod = schedule.alphas_cumprod();
        let step = |i: usize| {
            let alpha_cumprod = alphas_cumprod[timesteps[i] as usize];
            let previous = timesteps.get(i + 1).map_or(1.0, |t| alphas_cumprod[*t as usize]);
            let alpha = alpha_cumprod / previous;
            let (noise, previous_noise) = (1.0 - alpha_cumprod, 1.0 - previous);
            let beta = 1.0 - alpha;
            let variance = match config.variance_type {
                VarianceType::FixedSmall => (previous_noise / noise * beta).max(1e-20),
                VarianceType::FixedLarge => beta,
            };
            Step {
                level: NoiseLevel::from_alpha_cumprod(alpha_cumprod),
                original: (previous.sqrt() * beta / noise) as f32,
                current: (alpha.sqrt() * previous_noise / noise) as f32,
                // diffusers adds no noise at timestep 0, but does when a spacing ends above it.
                std_dev: if timesteps[i] > 0.0 { variance.sqrt() as f32 } else { 0.0 },
            }
        };
        Self {
            prediction_type: config.prediction_type,
            clip_sample_range: config.clip_sample_range.map(|range| range as f32),
            steps: (0..timesteps.len()).map(step).collect(),
            timesteps,
        }
    }
}

impl Solver for Ddpm {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    fn step(
        &self,
        i: usize,
        latents: &mut [f32],
        noise: &mut [NoiseStream],
        denoise: &mut Denoise<'_>,
    ) -> Result<()> {
        let step = &self.steps[i];
        let mut prediction = vec![0.0; latents.len()];
        denoise(latents, self.timesteps[i], &mut prediction)?;
        for (x, prediction) in latents.iter_mut().zip(&prediction) {
            let (mut original, _) = self.prediction_type.split(step.level, *x, *prediction);
            if let Some(range) = self.clip_sample_range {
                original = original.clamp(-range, range);
            }
            *x = step.original * original + step.current * *x;
        }
        perturb(latents, noise, step.std_dev);
        Ok(())
    }
}
