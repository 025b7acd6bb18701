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
    /// Fails with `Format` for a config that makes no sense, or whose betas leave no signal, or no noise, where a
    /// sampler must divide by it.
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        config.check()?;
        let mut betas = betas(config);
        if config.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let alphas_cumprod = alphas_cumprod(&betas).into_iter().map(f64::from).collect();
        Self::checked(config, betas.into_iter().map(f64::from).collect(), alphas_cumprod)
    }

    /// The same tables without any rounding, as the first Stable Diffusion code computes them, and with it ComfyUI and
    /// A1111: at the least noise σ differs by 1e-5. Errors as [`Schedule::new`].
    pub(super) fn unrounded(config: &SchedulerConfig) -> Result<Self> {
        if config.rescale_betas_zero_snr {
            return Self::new(config);
        }
        config.check()?;
        let betas = betas_f64(config);
        let product = |product: &mut f64, beta: &f64| {
            *product *= 1.0 - beta;
            Some(*product)
        };
        let alphas_cumprod = betas.iter().scan(1.0, product).collect();
        Self::checked(config, betas, alphas_cumprod)
    }

    fn checked(config: &SchedulerConfig, betas: Vec<f64>, alphas_cumprod: Vec<f64>) -> Result<Self> {
        for (t, &alpha_cumprod) in alphas_cumprod.iter().enumerate() {
            let zero_snr =
                alpha_cumprod == 0.0 && config.rescale_betas_zero_snr && t + 1 == betas.len() && t > 0;
            if !(zero_snr || alpha_cumprod > 0.0 && alpha_cumprod < 1.0) {
                bail!(Format, "the betas give alphas_cumprod[{t}] = {alpha_cumprod}, not between 0 and 1");
            }
        }
        Ok(Self { betas, alphas_cumprod })
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

    /// The signal-to-noise ratio ᾱₜ/(1 − ᾱₜ) of every training timestep; diffusers' `compute_snr`.
    pub fn snr(&self) -> Vec<f64> {
        self.alphas_cumprod.iter().map(|a| a / (1.0 - a)).collect()
    }

    /// The mix of signal and noise at a training timestep. Fails with `InvalidArgument` when there is no such one.
    pub fn level(&self, timestep: usize) -> Result<NoiseLevel> {
        match self.alphas_cumprod.get(timestep) {
            Some(&alpha_cumprod) => Ok(NoiseLevel::from_alpha_cumprod(alpha_cumprod)),
            None => bail!(InvalidArgument, "timestep {timestep} is not below {}", self.alphas_cumprod.len()),
        }
    }

    /// The forward process q(xₜ | x₀) (Ho et al. 2020, equation 4), image by image: `samples`, x₀, become
    /// xₜ = √ᾱₜ·x₀ + √(1 − ᾱₜ)·ε. diffusers' `add_noise`.
    ///
    /// `samples` and `noise` are a batch of as many images as there are `timesteps`, each as long as the others.
    /// Fails with `InvalidArgument`, and changes nothing, when a timestep is not one of training, or lengths do not
    /// fit.
    pub fn add_noise(&self, samples: &mut [f32], noise: &[f32], timesteps: &[usize]) -> Result<()> {
        self.mix(samples, noise, timesteps, |NoiseLevel { alpha, sigma }| [alpha, sigma])
    }

    /// What a v-prediction model learns (Salimans & Ho 2022, arXiv:2202.00512): `samples`, x₀, become
    /// v = √ᾱₜ·ε − √(1 − ᾱₜ)·x₀. diffusers' `get_velocity`. Shapes and errors as [`Schedule::add_noise`].
    pub fn velocity(&self, samples: &mut [f32], noise: &[f32], timesteps: &[usize]) -> Result<()> {
        self.mix(samples, noise, timesteps, |NoiseLevel { alpha, sigma }| [-sigma, alpha])
    }

    /// Back from v: `noisy`, xₜ, becomes x₀ = √ᾱₜ·xₜ − √(1 − ᾱₜ)·v. Shapes and errors as [`Schedule::add_noise`].
    pub fn original(&self, noisy: &mut [f32], velocity: &[f32], timesteps: &[usize]) -> Result<()> {
        self.mix(noisy, velocity, timesteps, |NoiseLevel { alpha, sigma }| [alpha, -sigma])
    }

    /// Back from v: `noisy`, xₜ, becomes ε = √(1 − ᾱₜ)·xₜ + √ᾱₜ·v. Shapes and errors as [`Schedule::add_noise`].
    pub fn epsilon(&self, noisy: &mut [f32], velocity: &[f32], timesteps: &[usize]) -> Result<()> {
        self.mix(noisy, velocity, timesteps, |NoiseLevel { alpha, sigma }| [sigma, alpha])
    }

    /// a·`batch` + b·`other` with the [a, b] of each image's timestep.
    fn mix(
        &self,
        batch: &mut [f32],
        other: &[f32],
        timesteps: &[usize],
        weights: fn(NoiseLevel) -> [f64; 2],
    ) -> Result<()> {
        if batch.len() != other.len() {
            bail!(InvalidArgument, "batches of {} and {} values", batch.len(), other.len());
        }
        let images = timesteps.len();
        if images == 0 || !batch.len().is_multiple_of(images) {
            bail!(
                InvalidArgument,
                "{} values do not divide into {images} images, one a timestep",
                batch.len()
            );
        }
        timesteps.iter().try_for_each(|timestep| self.level(*timestep).map(drop))?;
        let image = (batch.len() / images).max(1);
        for ((batch, other), timestep) in batch.chunks_mut(image).zip(other.chunks(image)).zip(timesteps) {
            let [a, b] = weights(self.level(*timestep)?).map(|weight| weight as f32);
            for (value, other) in batch.iter_mut().zip(other) {
                *value = a * *value + b * other;
            }
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
        BetaSchedule::SquaredcosCapV2 => cosine_betas(steps).map(|beta| beta as f32).collect(),
        BetaSchedule::Sigmoid => {
            let (start, end) = (start as f32, end as f32);
            let logistic = |x: f32| 1.0 / (1.0 + libm::expf(-x));
            let betas = linspace_f32(-6.0, 6.0, steps).into_iter();
            betas.map(|x| logistic(x) * (end - start) + start).collect()
        }
        BetaSchedule::Trained(betas) => betas.iter().map(|&beta| beta as f32).collect(),
    }
}

fn betas_f64(config: &SchedulerConfig) -> Vec<f64> {
    let steps = config.num_train_timesteps;
    let (start, end) = (config.beta_start, config.beta_end);
    let even = |start: f64, end: f64| {
        let step = (end - start) / steps.saturating_sub(1).max(1) as f64;
        (0..steps).map(move |i| start + step * i as f64)
    };
    match &config.beta_schedule {
        BetaSchedule::Linear => even(start, end).collect(),
        BetaSchedule::ScaledLinear => even(start.sqrt(), end.sqrt()).map(|root| root * root).collect(),
        BetaSchedule::Sigmoid => {
            even(-6.0, 6.0).map(|x| (end - start) / (1.0 + libm::exp(-x)) + start).collect()
        }
        BetaSchedule::SquaredcosCapV2 => cosine_betas(steps).collect(),
        BetaSchedule::Trained(betas) => betas.clone(),
    }
}

/// From ᾱ = cos²((t/T + 0.008)/1.008·π/2) (Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17), capped.
fn cosine_betas(steps: usize) -> impl Iterator<Item = f64> {
    let alpha_bar = |t: f64| libm::cos((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).powi(2);
    let step = move |i: usize| i as f64 / steps as f64;
    (0..steps).map(move |i| (1.0 - alpha_bar(step(i + 1)) / alpha_bar(step(i))).min(0.999))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Golden, golden_json, relative_l2};
    use crate::util::error::Status;

    #[test]
    fn forward_process_equals_diffusers() {
        let (cases, golden) = (golden_json("schedules"), Golden::open("schedules"));
        let cases = cases["forward"].as_array().unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let array = |what: &str| golden.values(case[what].as_str().unwrap());
            let mut keys = case["config"].clone();
            keys["_class_name"] = "DDPMScheduler".into();
            let schedule = Schedule::new(&SchedulerConfig::parse(&keys.to_string()).unwrap()).unwrap();
            // diffusers' own rescaled table moves by 4e-6 from one kind of CPU to another.
            let tolerance = if name == "zero-snr" { 1e-5 } else { 1e-6 };
            let tables = [
                ("betas", schedule.betas().to_vec()),
                ("alphas_cumprod", schedule.alphas_cumprod().to_vec()),
                ("snr", schedule.snr()),
            ];
            for (table, values) in tables {
                let expected = array(table);
                assert_eq!(values.len(), expected.len());
                for (i, (value, expected)) in values.iter().zip(expected).enumerate() {
                    let expected = f64::from(expected);
                    // Where little noise is left, diffusers divides by 1 - alphas_cumprod in `f32`, and where β came
                    // from 1 - α it is as exact as α is.
                    let absolute = if name == "zero-snr" && table == "betas" { 1e-5 } else { 0.0 };
                    let relative = if table == "snr" { tolerance + 1e-7 * expected } else { tolerance };
                    let difference = (value - expected).abs();
                    assert!(
                        difference <= relative * expected + absolute,
                        "{name} {table}[{i}]: {value} {expected}"
                    );
                }
            }
            let timesteps: Vec<usize> =
                case["timesteps"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as usize).collect();
            let (samples, noise) = (array("samples"), array("noise"));
            let (mut noisy, mut velocity) = (samples.clone(), samples.clone());
            schedule.add_noise(&mut noisy, &noise, &timesteps).unwrap();
            schedule.velocity(&mut velocity, &noise, &timesteps).unwrap();
            assert!(relative_l2(&noisy, &array("noisy")) < 1e-6, "{name}");
            assert!(relative_l2(&velocity, &array("velocity")) < 1e-6, "{name}");
            // And back.
            let (mut original, mut epsilon) = (noisy.clone(), noisy);
            schedule.original(&mut original, &velocity, &timesteps).unwrap();
            schedule.epsilon(&mut epsilon, &velocity, &timesteps).unwrap();
            assert!(
                relative_l2(&original, &samples) < 1e-6 && relative_l2(&epsilon, &noise) < 1e-6,
                "{name}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_changes_nothing() {
        let schedule = Schedule::new(&SchedulerConfig::new()).unwrap();
        for (samples, noise, timesteps) in
            [(4, 4, &[0, 1000][..]), (4, 5, &[0]), (4, 4, &[]), (5, 5, &[1, 2]), (0, 0, &[1000])]
        {
            let mut batch = vec![0.5; samples];
            let noise = vec![1.0; noise];
            for apply in [Schedule::add_noise, Schedule::velocity, Schedule::original, Schedule::epsilon] {
                let error = apply(&schedule, &mut batch, &noise, timesteps).unwrap_err();
                assert_eq!(error.status(), Status::InvalidArgument, "{error}");
            }
            assert!(batch.iter().all(|value| *value == 0.5));
        }
        assert!(schedule.add_noise(&mut [], &[], &[0, 999]).is_ok());
    }

    #[test]
    fn alphas_out_of_range_are_errors() {
        let with = |change: &dyn Fn(&mut SchedulerConfig)| {
            let mut config = SchedulerConfig::new();
            change(&mut config);
            Schedule::new(&config).unwrap_err()
        };
        let trained = |betas: &[f64]| {
            let betas = betas.to_vec();
            with(&move |config| {
                config.num_train_timesteps = betas.len();
                config.beta_schedule = BetaSchedule::Trained(betas.clone());
            })
        };
        for (error, word) in [
            (trained(&[0.1, 1.0]), "trained_betas[1]"),
            (trained(&[0.0]), "trained_betas[0]"),
            (trained(&[f64::NAN]), "trained_betas[0]"),
            // 1 - 1e-9 is 1 in `f32`.
            (trained(&[1e-9]), "alphas_cumprod[0]"),
            (with(&|config| config.beta_start = -0.1), "beta_start"),
            (with(&|config| config.beta_end = f64::INFINITY), "beta_end"),
            (with(&|config| (config.beta_start, config.beta_end) = (0.99, 0.99)), "alphas_cumprod"),
            (with(&|config| config.num_train_timesteps = 0), "num_train_timesteps"),
            (with(&|config| config.num_train_timesteps = usize::MAX), "num_train_timesteps"),
            (with(&|config| config.shift = 0.0), "shift"),
            (with(&|config| config.solver_order = 4), "solver_order"),
            (with(&|config| config.sigma_min = 100.0), "sigma_min"),
        ] {
            assert_eq!(error.status(), Status::Format);
            assert!(error.message().contains(word), "{error} lacks {word}");
        }
    }
}
