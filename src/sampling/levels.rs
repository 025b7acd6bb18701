//! The noise levels a model knows, and what it calls them.

use super::parameterization::NoiseLevel;
use super::{PredictionType, Schedule, SchedulerConfig};
use crate::util::error::Result;

/// Between the timesteps a model was trained with and σ, the noise level samplers count in: the noise-to-signal ratio
/// of a variance-preserving or EDM model, the share of noise of a flow model.
#[derive(Debug, Clone)]
pub(super) enum Levels {
    /// A table of a variance-preserving model, one row a training timestep.
    Discrete { alphas_cumprod: Vec<f64>, sigmas: Vec<f64>, log_sigmas: Vec<f64> },
    /// σ from 0 to 1, timesteps from 0 to `train_timesteps`. `shift` moves spaced levels towards noise.
    Flow { train_timesteps: f64, shift: f64 },
    /// Any σ in a range; the timestep is ¼·ln σ.
    Edm { sigma_min: f64, sigma_max: f64 },
}

impl Levels {
    pub(super) fn new(config: &SchedulerConfig) -> Result<Self> {
        Ok(match config.prediction_type {
            PredictionType::Flow => {
                Levels::Flow { train_timesteps: config.num_train_timesteps as f64, shift: config.shift }
            }
            PredictionType::EdmV => {
                let (sigma_min, sigma_max) = (config.sigma_min, config.sigma_max);
                Levels::Edm { sigma_min, sigma_max }
            }
            PredictionType::Epsilon | PredictionType::VPrediction | PredictionType::Sample => {
                let schedule = Schedule::new(config)?;
                let sigmas = schedule.sigmas();
                Levels::Discrete {
                    log_sigmas: sigmas.iter().map(|sigma| libm::log(*sigma)).collect(),
                    sigmas,
                    alphas_cumprod: schedule.alphas_cumprod().to_vec(),
                }
            }
        })
    }

    /// How many training timesteps there are; for levels without a table, what their timesteps are counted in.
    pub(super) fn train_timesteps(&self) -> usize {
        match self {
            Levels::Discrete { sigmas, .. } => sigmas.len(),
            Levels::Flow { train_timesteps, .. } => *train_timesteps as usize,
            Levels::Edm { .. } => 1000,
        }
    }

    /// The least noise a model was trained on.
    pub(super) fn sigma_min(&self) -> f64 {
        match self {
            Levels::Discrete { sigmas, .. } => sigmas.first().copied().unwrap_or(0.0),
            Levels::Flow { train_timesteps, shift } => shifted(1.0 / train_timesteps, *shift),
            Levels::Edm { sigma_min, .. } => *sigma_min,
        }
    }

    /// The most noise a model was trained on.
    pub(super) fn sigma_max(&self) -> f64 {
        match self {
            Levels::Discrete { sigmas, .. } => sigmas.last().copied().unwrap_or(0.0),
            Levels::Flow { .. } => 1.0,
            Levels::Edm { sigma_max, .. } => *sigma_max,
        }
    }

    /// The timestep of a σ above 0, in between by the logarithm (k-diffusion's `sigma_to_t`, diffusers'
    /// `_sigma_to_t`). Beyond the table's ends it is that of the end.
    pub(super) fn timestep(&self, sigma: f64) -> f64 {
        match self {
            Levels::Discrete { log_sigmas, .. } => {
                let log = libm::log(sigma);
                let above = log_sigmas.partition_point(|level| *level < log).clamp(1, log_sigmas.len() - 1);
                let (low, high) = (log_sigmas[above - 1], log_sigmas[above]);
                (above - 1) as f64 + ((log - low) / (high - low)).clamp(0.0, 1.0)
            }
            Levels::Flow { train_timesteps, .. } => sigma * train_timesteps,
            Levels::Edm { .. } => 0.25 * libm::log(sigma),
        }
    }

    /// The σ of a timestep, in between by the logarithm (k-diffusion's `t_to_sigma`); [`Levels::timestep`]'s inverse.
    pub(super) fn sigma(&self, timestep: f64) -> f64 {
        match self {
            Levels::Discrete { log_sigmas, .. } => libm::exp(interpolate(log_sigmas, timestep)),
            Levels::Flow { train_timesteps, .. } => timestep / train_timesteps,
            Levels::Edm { .. } => libm::exp(4.0 * timestep),
        }
    }

    /// The σ of a timestep, in between by σ itself (diffusers' `interpolation_type` "linear").
    pub(super) fn sigma_linear(&self, timestep: f64) -> f64 {
        match self {
            Levels::Discrete { sigmas, .. } => interpolate(sigmas, timestep),
            Levels::Flow { .. } | Levels::Edm { .. } => self.sigma(timestep),
        }
    }

    /// The variance-preserving mix at a training timestep, exact even where no signal is left.
    pub(super) fn at_timestep(&self, timestep: usize) -> NoiseLevel {
        match self {
            Levels::Discrete { alphas_cumprod, .. } => {
                NoiseLevel::from_alpha_cumprod(alphas_cumprod[timestep.min(alphas_cumprod.len() - 1)])
            }
            Levels::Flow { .. } | Levels::Edm { .. } => self.mix(self.sigma(timestep as f64)),
        }
    }

    /// The model's own mix of signal and noise at σ: x is what it was trained on, but for EDM, which scales its input
    /// itself.
    pub(super) fn mix(&self, sigma: f64) -> NoiseLevel {
        match self {
            Levels::Discrete { .. } => {
                let alpha = 1.0 / libm::hypot(sigma, 1.0);
                NoiseLevel { alpha, sigma: sigma * alpha }
            }
            Levels::Flow { .. } => NoiseLevel { alpha: 1.0 - sigma, sigma },
            Levels::Edm { .. } => NoiseLevel { alpha: 1.0, sigma },
        }
    }
}

/// SD3's shift of a flow's σ towards noise (Esser et al. 2024, arXiv:2403.03206, equation 23).
pub(super) fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// numpy's `interp` over 0, 1, 2, …
fn interpolate(table: &[f64], at: f64) -> f64 {
    let at = at.clamp(0.0, (table.len() - 1) as f64);
    let (below, fraction) = (at as usize, at.fract());
    let above = (below + 1).min(table.len() - 1);
    table[below] + fraction * (table[above] - table[below])
}
