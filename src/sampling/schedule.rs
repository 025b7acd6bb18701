//! The forward process: how much noise each training timestep carries, as tables.

use super::config::{BetaSchedule, SchedulerConfig};
use super::parameterization::NoiseLevel;
use crate::util::error::{Result, bail};

/// The training noise schedule: xₜ = √ᾱₜ·x₀ + √(1 − ᾱₜ)·ε for t in 0..T.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl Schedule {
    /// Computes the tables, rounding to `f32` wherever diffusers does: models were trained on those very values.
    ///
    /// Fails with `Format` when the betas leave no signal, or no noise, where a sampler must divide by it.
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        let mut betas = betas(config);
        if config.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let alphas_cumprod: Vec<f64> = alphas_cumprod(&betas).into_iter().map(f64::from).collect();
        for (t, &alpha_cumprod) in alphas_cumprod.iter().enumerate() {
            let zero_snr =
                alpha_cumprod == 0.0 && config.rescale_betas_zero_snr && t + 1 == betas.len() && t > 0;
            if !(zero_snr || alpha_cumprod > 0.0 && alpha_cumprod < 1.0) {
                bail!(Format, "the betas give alphas_cumprod[{t}] = {alpha_cumprod}, not between 0 and 1");
            }
        }
        Ok(Self { betas: betas.into_iter().map(f64::from).collect(), alphas_cumprod })
    }

    /// βₜ: the variance of the noise that training timestep t adds.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// ᾱₜ = ∏ (1 − βₛ) for s ≤ t: how much of the sample's variance is left. The last is 0 at zero terminal SNR.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The noise-to-signal ratio √((1 − ᾱₜ)/ᾱₜ) of every training timestep, all finite.
    pub fn sigmas(&self) -> Vec<f64> {
        // Zero signal has no finite ratio; diffusers' `EulerDiscreteScheduler` takes 2⁻²⁴ for it (σ = 4096).
        let finite =
            |alpha_cumprod: f64| if alpha_cumprod == 0.0 { 1.0 / 16_777_216.0 } else { alpha_cumprod };
        self.alphas_cumprod.iter().map(|&a| finite(a)).map(|a| ((1.0 - a) / a).sqrt()).collect()
    }

    /// The forward process q(xₜ | x₀) (Ho et al. 2020, equation 4): `samples[i] = √ᾱₜ·samples[i] + √(1 − ᾱₜ)·noise[i]`.
    ///
    /// Fails with `InvalidArgument` when `timestep` is not a training timestep or the lengths differ.
    pub fn add_noise(&self, samples: &mut [f32], noise: &[f32], timestep: usize) -> Result<()> {
        let Some(&alpha_cumprod) = self.alphas_cumprod.get(timestep) else {
            bail!(InvalidArgument, "timestep {timestep} is not below {}", self.alphas_cumprod.len());
        };
        if samples.len() != noise.len() {
            bail!(InvalidArgument, "{} samples but {} noise values", samples.len(), noise.len());
        }
        let NoiseLevel { alpha, sigma } = NoiseLevel::from_alpha_cumprod(alpha_cumprod);
        for (sample, noise) in samples.iter_mut().zip(noise) {
            *sample = alpha as f32 * *sample + sigma as f32 * noise;
        }
        Ok(())
    }
}

fn betas(config: &SchedulerConfig) -> Vec<f32> {
    let steps = config.num_train_timesteps;
    let (start, end) = (config.beta_start, config.beta_end);
    match &config.beta_schedule {
        BetaSchedule::Linear => linspace_f32(start, end, steps),
        BetaSchedule::ScaledLinear => {
            linspace_f32(start.sqrt(), end.sqrt(), steps).into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredcosCapV2 => {
            let alpha_bar = |t: f64| libm::cos((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).powi(2);
            let step = |i: usize| i as f64 / steps as f64;
            (0..steps)
                .map(|i| (1.0 - alpha_bar(step(i + 1)) / alpha_bar(step(i))).min(0.999) as f32)
                .collect()
        }
        BetaSchedule::Trained(betas) => betas.iter().map(|&beta| beta as f32).collect(),
    }
}

/// torch's `linspace` in `f32`: the second half counts back from the end.
fn linspace_f32(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = if count > 1 { (end - start) / (count - 1) as f32 } else { 0.0 };
    (0..count)
        .map(|i| if i < count / 2 { start + step * i as f32 } else { end - step * (count - 1 - i) as f32 })
        .collect()
}

/// torch's `cumprod(1 - betas)`: the running product is `f64`, every result `f32`.
fn alphas_cumprod(betas: &[f32]) -> Vec<f32> {
    let product = |product: &mut f64, beta: &f32| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    };
    betas.iter().scan(1.0, product).collect()
}

/// Shifts and scales √ᾱ so that the last timestep has no signal and the first keeps its own
/// (Lin et al. 2023, arXiv:2305.08891, algorithm 1; diffusers `rescale_zero_terminal_snr`).
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = alphas_cumprod(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    for root in &mut roots {
        *root = (*root - last) * (first / (first - last));
    }
    let alphas_cumprod = roots.iter().map(|root| root * root);
    let mut previous = 1.0;
    alphas_cumprod
        .map(|alpha_cumprod| {
            let alpha = alpha_cumprod / previous;
            previous = alpha_cumprod;
            1.0 - alpha
        })
        .collect()
}
