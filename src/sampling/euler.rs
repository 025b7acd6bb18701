//! Euler: the probability-flow ODE in straight steps of σ.

use super::config::{FinalSigmasType, SchedulerConfig};
use super::parameterization::NoiseLevel;
use super::plan::{Denoise, Solver};
use super::{NoiseStream, PredictionType, Schedule, TimestepSpacing};
use crate::util::error::Result;

/// Karras et al. 2022 (arXiv:2206.00364), algorithm 2 without churn and without its second-order correction, over
/// x = x₀ + σ·ε. Same numbers as diffusers' `EulerDiscreteScheduler.step` at its default `s_churn=0`.
#[derive(Debug)]
pub(super) struct Euler {
    prediction_type: PredictionType,
    timesteps: Vec<f32>,
    /// One more than timesteps: the last is where the last step ends.
    sigmas: Vec<f32>,
    init_noise_sigma: f32,
}

impl Euler {
    /// `timesteps` lie within the schedule; those between two training timesteps get a σ between theirs.
    pub(super) fn new(
        config: &SchedulerConfig,
        schedule: &Schedule,
        spacing: TimestepSpacing,
        timesteps: Vec<f32>,
    ) -> Self {
        let table = schedule.sigmas();
        let interpolate = |timestep: &f32| {
            let (below, fraction) = (timestep.floor() as usize, f64::from(timestep.fract()));
            let above = (below + 1).min(table.len() - 1);
            (table[below] + fraction * (table[above] - table[below])) as f32
        };
        let mut sigmas: Vec<f32> = timesteps.iter().map(interpolate).collect();
        let max_sigma = sigmas.iter().copied().fold(0.0, f32::max);
        sigmas.push(match config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => table[0] as f32,
        });
        Self {
            prediction_type: config.prediction_type,
            timesteps,
            sigmas,
            init_noise_sigma: match spacing {
                TimestepSpacing::Linspace | TimestepSpacing::Trailing => max_sigma,
                TimestepSpacing::Leading => (max_sigma * max_sigma + 1.0).sqrt(),
            },
        }
    }
}

#[cfg(test)]
impl Euler {
    pub(super) fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }
}

impl Solver for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    fn step(
        &self,
        i: usize,
        latents: &mut [f32],
        _noise: &mut [NoiseStream],
        denoise: &mut Denoise<'_>,
    ) -> Result<()> {
        // The model sees unit variance: x scaled by α = 1/√(σ² + 1) is the variance-preserving xₜ.
        let level = NoiseLevel::from_ratio(f64::from(self.sigmas[i]));
        let input: Vec<f32> = latents.iter().map(|x| x * level.alpha).collect();
        let mut prediction = vec![0.0; latents.len()];
        denoise(&input, self.timesteps[i], &mut prediction)?;
        // x + (σ' − σ)·dx/dσ with dx/dσ = (x − x₀)/σ = ε, from the other end: nothing cancels where σ is in the thousands.
        let sigma = self.sigmas[i + 1];
        for ((x, input), prediction) in latents.iter_mut().zip(&input).zip(&prediction) {
            let (original, epsilon) = self.prediction_type.split(level, *input, *prediction);
            *x = original + sigma * epsilon;
        }
        Ok(())
    }
}
