//! The noise levels a model knows, and what it calls them.

use super::parameterization::NoiseLevel;
use super::{PredictionType, Profile, Schedule, SchedulerConfig};
use crate::util::error::Result;

/// Between the timesteps a model was trained with and σ, the noise level samplers count in: the noise-to-signal ratio
/// of a variance-preserving or EDM model, the share of noise of a flow model.
#[derive(Debug, Clone)]
pub(super) enum Levels {
    /// A table of a variance-preserving model, one row a training timestep. `nearest`: the model is told the row
    /// nearest to a σ rather than a place in between (ComfyUI).
    Discrete { alphas_cumprod: Vec<f64>, sigmas: Vec<f64>, log_sigmas: Vec<f64>, nearest: bool },
    /// σ from 0 to 1, timesteps from 0 to `train_timesteps`. `shift` moves spaced levels towards noise.
    Flow { train_timesteps: f64, shift: f64 },
    /// Any σ in a range; the timestep is ¼·ln σ.
    Edm { sigma_min: f64, sigma_max: f64 },
}

/// ᾱ that A1111 and ComfyUI put for none at zero terminal SNR (`rescale_zero_terminal_snr_sigmas`): σ = 4518.8.
const NO_SIGNAL: f64 = 4.8973451890853435e-8;
/// ᾱ that diffusers puts for none (see `Schedule::sigmas`).
const NO_SIGNAL_F32: f32 = 1.0 / 16_777_216.0;

impl Levels {
    pub(super) fn new(config: &SchedulerConfig, profile: Profile) -> Result<Self> {
        Ok(match config.prediction_type {
            PredictionType::Flow => {
                Levels::Flow { train_timesteps: config.num_train_timesteps as f64, shift: config.shift }
            }
            PredictionType::EdmV => {
                let (sigma_min, sigma_max) = (config.sigma_min, config.sigma_max);
                Levels::Edm { sigma_min, sigma_max }
            }
            PredictionType::Epsilon | PredictionType::VPrediction | PredictionType::Sample => {
                let schedule = match profile {
                    Profile::Diffusers => Schedule::new(config)?,
                    Profile::A1111 | Profile::ComfyUi => Schedule::unrounded(config)?,
                };
                let mut alphas_cumprod = schedule.alphas_cumprod().to_vec();
                let mut sigmas = schedule.sigmas();
                if profile == Profile::A1111 {
                    // A1111 keeps ᾱ in `f32`.
                    for (alpha_cumprod, sigma) in alphas_cumprod.iter_mut().zip(&mut sigmas) {
                        *alpha_cumprod = f64::from(*alpha_cumprod as f32);
                        *sigma = ((1.0 - *alpha_cumprod) / *alpha_cumprod).sqrt();
                    }
                }
                if profile != Profile::Diffusers
                    && let (Some(alpha_cumprod @ 0.0), Some(sigma)) =
                        (alphas_cumprod.last_mut(), sigmas.last_mut())
                {
                    *alpha_cumprod = NO_SIGNAL;
                    *sigma = ((1.0 - NO_SIGNAL) / NO_SIGNAL).sqrt();
                }
                Levels::Discrete {
                    log_sigmas: sigmas.iter().map(|sigma| libm::log(*sigma)).collect(),
                    sigmas,
                    alphas_cumprod,
                    nearest: profile == Profile::ComfyUi,
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
            Levels::Discrete { log_sigmas, nearest, .. } => {
                let log = libm::log(sigma);
                let above =
                    log_sigmas.partition_point(|level| *level < log).clamp(1, log_sigmas.len().max(2) - 1);
                let (Some(low), Some(high)) = (log_sigmas.get(above - 1), log_sigmas.get(above)) else {
                    return 0.0;
                };
                let part = ((log - low) / (high - low)).clamp(0.0, 1.0);
                // Of two equally near rows it is the lower.
                (above - 1) as f64 + if *nearest { f64::from(u8::from(part > 0.5 + 1e-6)) } else { part }
            }
            Levels::Flow { train_timesteps, .. } => sigma * train_timesteps,
            Levels::Edm { .. } => 0.25 * libm::log(sigma),
        }
    }

    /// [`Levels::timestep`] as a whole number, for the classes of diffusers that cut its fraction off. Their logarithms
    /// are `f32`, which is enough to make the noisiest timestep that before the last.
    pub(super) fn timestep_cut(&self, sigma: f64) -> f64 {
        let Levels::Discrete { alphas_cumprod, .. } = self else { return self.timestep(sigma).trunc() };
        let log = libm::log(sigma);
        let log_f32 = |row: usize| {
            let alpha_cumprod = match alphas_cumprod[row] as f32 {
                0.0 => NO_SIGNAL_F32,
                alpha_cumprod => alpha_cumprod,
            };
            libm::log(f64::from(((1.0 - alpha_cumprod) / alpha_cumprod).sqrt())) as f32
        };
        let mut low = (self.timestep(sigma) as usize).min(alphas_cumprod.len().saturating_sub(2));
        if low > 0 && f64::from(log_f32(low)) > log {
            low -= 1;
        }
        let high = (low + 1).min(alphas_cumprod.len() - 1);
        let part = (f64::from(log_f32(low)) - log) / f64::from(log_f32(low) - log_f32(high));
        let part = part.clamp(0.0, 1.0);
        ((1.0 - part) * low as f64 + part * high as f64).trunc()
    }

    /// The σ of a timestep, in between by the logarithm (k-diffusion's `t_to_sigma`); [`Levels::timestep`]'s inverse.
    pub(super) fn sigma(&self, timestep: f64) -> f64 {
        match self {
            Levels::Discrete { log_sigmas, .. } => libm::exp(interpolate(log_sigmas, timestep)),
            Levels::Flow { train_timesteps, .. } => timestep / train_timesteps,
            Levels::Edm { .. } => libm::exp(4.0 * timestep),
        }
    }

    /// The σ of a row of the model's table, the least noise first; models without one have that of ComfyUI.
    pub(super) fn row(&self, row: usize) -> f64 {
        match self {
            Levels::Discrete { sigmas, .. } => sigmas[row.min(sigmas.len() - 1)],
            Levels::Flow { train_timesteps, shift } => {
                shifted(((row + 1) as f64 / train_timesteps).min(1.0), *shift)
            }
            Levels::Edm { sigma_min, sigma_max } => {
                let part = row as f64 / (self.train_timesteps() - 1) as f64;
                libm::exp(libm::log(*sigma_min) * (1.0 - part) + libm::log(*sigma_max) * part)
            }
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
