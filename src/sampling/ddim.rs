//! DDIM: deterministic at η = 0, and anything up to DDPM's noise above it.

use super::config::SchedulerConfig;
use super::parameterization::NoiseLevel;
use super::plan::{Denoise, Solver, perturb};
use super::{NoiseStream, PredictionType, Schedule};
use crate::util::error::Result;

/// Song et al. 2020 (arXiv:2010.02502), equations 12 and 16. Same numbers as diffusers' `DDIMScheduler.step`.
#[derive(Debug)]
pub(super) struct Ddim {
    prediction_type: PredictionType,
    clip_sample_range: Option<f32>,
    timesteps: Vec<f32>,
    steps: Vec<Step>,
}

/// xₛ = `original`·x₀ + `direction`·ε + `std_dev`·noise.
#[derive(Debug)]
struct Step {
    level: NoiseLevel,
    original: f32,
    direction: f32,
    std_dev: f32,
}

impl Ddim {
    /// `timesteps` are whole numbers, all in the schedule, falling. `eta` in 0..=1.
    pub(super) fn new(config: &SchedulerConfig, schedule: &Schedule, timesteps: Vec<f32>, eta: f64) -> Self {
        let alphas_cumprod = schedule.alphas_cumprod();
        let final_alpha_cumprod = if config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
        // Like diffusers, a step goes one stride down, which need not be the next timestep where strides are uneven.
        let stride = config.num_train_timesteps / timesteps.len();
        let step = |timestep: &f32| {
            let timestep = *timestep as usize;
            let alpha_cumprod = alphas_cumprod[timestep];
            let previous = timestep.checked_sub(stride).map_or(final_alpha_cumprod, |s| alphas_cumprod[s]);
            let variance = (1.0 - previous) / (1.0 - alpha_cumprod) * (1.0 - alpha_cumprod / previous);
            Step {
                level: NoiseLevel::from_alpha_cumprod(alpha_cumprod),
                original: previous.sqrt() as f32,
                // At η = 1 rounding can leave a hair below zero.
                direction: (1.0 - previous - eta * eta * variance).max(0.0).sqrt() as f32,
                std_dev: (eta * variance.sqrt()) as f32,
            }
        };
        Self {
            prediction_type: config.prediction_type,
            clip_sample_range: config.clip_sample_range.map(|range| range as f32),
            steps: timesteps.iter().map(step).collect(),
            timesteps,
        }
    }
}

impl Solver for Ddim {
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
            let (mut original, epsilon) = self.prediction_type.split(step.level, *x, *prediction);
            if let Some(range) = self.clip_sample_range {
                // ε stays as predicted, as with diffusers' default `use_clipped_model_output=False`.
                original = original.clamp(-range, range);
            }
            *x = step.original * original + step.direction * epsilon;
        }
        perturb(latents, noise, step.std_dev);
        Ok(())
    }
}
