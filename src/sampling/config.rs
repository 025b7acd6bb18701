//! `scheduler_config.json` of a diffusers model folder.

mod keys;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

use std::path::Path;

use serde_json::Value;

use self::keys::{ALGORITHM_TYPES, Keys, SOLVER_TYPES, SUPPORTED_ONLY, without_infinities};
use super::scheduler_class::{Family, SchedulerClass};
use super::{Clip, PredictionType, Sampler, SigmaSchedule, TimestepSpacing};
use crate::util::error::{Result, bail};
use crate::util::file::read_text;
use crate::util::limits;

/// How β grows over the training timesteps.
#[derive(Debug, Clone, PartialEq)]
pub enum BetaSchedule {
    /// Evenly from `beta_start` to `beta_end` (Ho et al. 2020).
    Linear,
    /// The square of an even walk from √`beta_start` to √`beta_end` (latent diffusion).
    ScaledLinear,
    /// From a squared-cosine ᾱ, each β capped at 0.999 (Nichol & Dhariwal 2021); the start and end are not used.
    SquaredcosCapV2,
    /// From `beta_start` to `beta_end` along the logistic function from -6 to 6 (GeoDiff, Xu et al. 2022).
    Sigmoid,
    /// The values themselves.
    Trained(Vec<f64>),
}

/// The variance of the noise DDPM adds (diffusers `variance_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarianceType {
    /// The posterior variance β̃ₜ.
    FixedSmall,
    /// βₜ itself.
    FixedLarge,
    /// What the model predicts, behind its prediction proper.
    Learned,
    /// Between the two fixed ones by what the model predicts: −1 is the small one, 1 the large (Nichol & Dhariwal
    /// 2021, arXiv:2102.09672, equation 15).
    LearnedRange,
}

/// The σ that a sampler working in σ ends at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigmasType {
    Zero,
    /// The σ of the first training timestep.
    SigmaMin,
}

/// What the DPM solvers hold on to from step to step (diffusers `algorithm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlgorithmType {
    /// x₀: DPM-Solver++.
    DataPrediction,
    /// ε: DPM-Solver.
    NoisePrediction,
}

/// How DPM-Solver's steps of second order weigh the difference of two predictions (diffusers `solver_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverType {
    Midpoint,
    Heun,
}

/// A model's noise schedule and how it wants to be sampled: diffusers' `scheduler_config.json`.
///
/// An absent key means what diffusers' class of that name takes for it. `None` marks the one key whose default
/// depends on the sampler that runs, as in diffusers' `from_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// The diffusers class, for example `DDIMScheduler`.
    pub class_name: String,
    /// Which sampler `class_name` stands for here; [`SchedulerConfig::is_substituted`] says when its numbers differ.
    pub sampler: Sampler,
    pub(crate) substituted: bool,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    pub rescale_betas_zero_snr: bool,
    pub prediction_type: PredictionType,
    /// `None` = leading for DDPM and DDIM, linspace for Euler.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Added to each timestep of the leading spacing.
    pub steps_offset: usize,
    /// Whether DDIM's last step goes to ᾱ = 1 instead of to that of the first training timestep.
    pub set_alpha_to_one: bool,
    /// How predictions of x₀ are clipped.
    pub clip: Clip,
    pub variance_type: VarianceType,
    pub final_sigmas_type: FinalSigmasType,
    /// Whether Euler's levels of spaced timesteps are even in ln σ, whatever the timesteps (diffusers
    /// `interpolation_type` "log_linear").
    pub log_linear: bool,
    /// How the levels are laid out; `None` = spaced timesteps.
    pub sigma_schedule: Option<SigmaSchedule>,
    /// The order of the multistep solvers that have several, 1..=3.
    pub solver_order: usize,
    /// The orders of SA-Solver's predictor and corrector, 1..=4.
    pub predictor_order: usize,
    pub corrector_order: usize,
    pub algorithm_type: AlgorithmType,
    pub solver_type: SolverType,
    /// Whether multistep solvers come down to order 1 in their last steps when there are fewer than 15.
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    /// Whether PNDM begins with multistep steps at once instead of Runge-Kutta ones.
    pub skip_prk_steps: bool,
    /// The steps that LCM and TCD models were distilled from.
    pub original_inference_steps: usize,
    /// How fast LCM's boundary conditions come down.
    pub timestep_scaling: f64,
    /// A flow's shift towards noise.
    pub shift: f64,
    /// The range and the data's standard deviation of an EDM model.
    pub sigma_min: f64,
    pub sigma_max: f64,
    pub sigma_data: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl SchedulerConfig {
    /// With what diffusers' `StableDiffusionPipeline` makes of any scheduler, and `StableDiffusionXLPipeline` does not: an
    /// offset of 1, and no clipping to a range, which images have and latents have not. Files of old models lack the keys.
    pub(crate) fn for_stable_diffusion(self) -> Self {
        let clip = match self.clip {
            Clip::Range(_) => Clip::None,
            other => other,
        };
        Self { steps_offset: 1, clip, ..self }
    }

    /// What diffusers' `DDIMScheduler()` has, to change field by field. [`Schedule::new`](super::Schedule::new) and
    /// [`Plan::new`](super::Plan::new) check what is made of it.
    pub fn new() -> Self {
        Self {
            class_name: "DDIMScheduler".to_owned(),
            sampler: Sampler::Ddim,
            substituted: false,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
            clip: Clip::Range(1.0),
            variance_type: VarianceType::FixedSmall,
            final_sigmas_type: FinalSigmasType::Zero,
            log_linear: false,
            sigma_schedule: None,
            solver_order: 2,
            predictor_order: 2,
            corrector_order: 2,
            algorithm_type: AlgorithmType::DataPrediction,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            skip_prk_steps: false,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            shift: 1.0,
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 1.0,
        }
    }

    /// Reads `scheduler_config.json`. Errors name the file and the key: `Format` for values that make no sense,
    /// `Unsupported` for classes and settings that exist in diffusers but not here.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path, limits::CONFIG_BYTES)?;
        Self::parse(&text).map_err(|e| e.context(path.display()))
    }

    /// Parses the text of a `scheduler_config.json`; errors as [`SchedulerConfig::load`], without the file's name.
    pub fn parse(json: &str) -> Result<Self> {
        let keys = match serde_json::from_str(&without_infinities(json)) {
            Ok(Value::Object(map)) => Keys(map),
            Ok(_) => bail!(Format, "not a JSON object"),
            Err(e) => bail!(Format, "not valid JSON: {e}"),
        };
        let Some(class_name) = keys.string("_class_name")? else { bail!(Format, "_class_name is missing") };
        let Some(class) = SchedulerClass::named(class_name) else {
            bail!(Unsupported, "_class_name {class_name:?} is not supported");
        };
        let (sampler, exact) = keys.sampler(&class)?;
        let (prediction_type, shift) = keys.prediction(&class)?;
        let sigma_schedule = keys.sigma_schedule(&class, prediction_type)?;
        for (key, supported) in SUPPORTED_ONLY {
            if keys.get(key).is_some_and(|value| *value != supported) {
                bail!(Unsupported, "{key} {} is not supported", keys.0[key]);
            }
        }

        let beta_schedule = match keys.numbers("trained_betas")? {
            Some(betas) => BetaSchedule::Trained(betas),
            None => keys.one_of(
                "beta_schedule",
                class.beta_schedule,
                &[
                    ("linear", BetaSchedule::Linear),
                    ("scaled_linear", BetaSchedule::ScaledLinear),
                    ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
                    ("sigmoid", BetaSchedule::Sigmoid),
                ],
            )?,
        };
        let num_train_timesteps = match &beta_schedule {
            BetaSchedule::Trained(betas) => keys.count("num_train_timesteps", betas.len())?,
            _ => keys.count("num_train_timesteps", 1000)?,
        };
        let timestep_spacing = match keys.get("timestep_spacing") {
            // All start at √(σ² + 1), as the others do for this spacing.
            _ if class.family == Family::Edm => Some(TimestepSpacing::Leading),
            None => None,
            Some(_) => Some(keys.one_of("timestep_spacing", "", &SPACINGS)?),
        };
        let clip = if keys.bool("thresholding", false)? {
            Clip::Dynamic {
                ratio: keys.number("dynamic_thresholding_ratio", 0.995)?,
                max: keys.number("sample_max_value", 1.0)?,
            }
        } else if keys.bool("clip_sample", class.clip_sample)? {
            Clip::Range(keys.number("clip_sample_range", 1.0)? as f32)
        } else {
            Clip::None
        };
        let config = Self {
            class_name: class_name.to_owned(),
            sampler,
            substituted: !exact,
            num_train_timesteps,
            beta_start: keys.number("beta_start", class.beta_start)?,
            beta_end: keys.number("beta_end", class.beta_end)?,
            beta_schedule,
            rescale_betas_zero_snr: keys.bool("rescale_betas_zero_snr", false)?,
            prediction_type,
            timestep_spacing,
            steps_offset: keys.count("steps_offset", 0)?,
            set_alpha_to_one: keys.bool("set_alpha_to_one", class.set_alpha_to_one)?,
            clip,
            // The square root of the "log" variant's variance is that of the plain one (Ho et al. 2020, §3.2).
            variance_type: keys.one_of(
                "variance_type",
                "fixed_small",
                &[
                    ("fixed_small", VarianceType::FixedSmall),
                    ("fixed_small_log", VarianceType::FixedSmall),
                    ("fixed_large", VarianceType::FixedLarge),
                    ("learned", VarianceType::Learned),
                    ("learned_range", VarianceType::LearnedRange),
                ],
            )?,
            final_sigmas_type: keys.one_of(
                "final_sigmas_type",
                "zero",
                &[("zero", FinalSigmasType::Zero), ("sigma_min", FinalSigmasType::SigmaMin)],
            )?,
            log_linear: keys.one_of(
                "interpolation_type",
                "linear",
                &[("linear", false), ("log_linear", true)],
            )?,
            sigma_schedule,
            solver_order: keys.count("solver_order", 2)?,
            predictor_order: keys.count("predictor_order", 2)?,
            corrector_order: keys.count("corrector_order", 2)?,
            algorithm_type: keys.one_of("algorithm_type", "dpmsolver++", &ALGORITHM_TYPES)?,
            solver_type: keys.one_of("solver_type", "midpoint", &SOLVER_TYPES)?,
            lower_order_final: keys.bool("lower_order_final", class.lower_order_final)?,
            euler_at_final: keys.bool("euler_at_final", false)?,
            skip_prk_steps: keys.bool("skip_prk_steps", false)?,
            original_inference_steps: keys.count("original_inference_steps", 50)?,
            timestep_scaling: keys.number("timestep_scaling", 10.0)?,
            shift,
            sigma_min: keys.number("sigma_min", 0.002)?,
            sigma_max: keys.number("sigma_max", 80.0)?,
            sigma_data: keys.number("sigma_data", class.sigma_data)?,
        };
        config.check()?;
        keys.check_clipped_lambda(&config)?;
        Ok(config)
    }

    /// Whether `sampler` stands in for a class whose numbers this library does not have.
    pub fn is_substituted(&self) -> bool {
        self.substituted
    }

    /// Whether the values make sense together. Fails with `Format`, naming the key.
    pub(super) fn check(&self) -> Result<()> {
        let steps = self.num_train_timesteps;
        if steps == 0 || steps > limits::TRAIN_TIMESTEPS {
            bail!(Format, "num_train_timesteps {steps} is not in 1..={}", limits::TRAIN_TIMESTEPS);
        }
        if self.steps_offset >= steps {
            bail!(Format, "steps_offset {} is not below num_train_timesteps {steps}", self.steps_offset);
        }
        self.check_betas()?;
        match self.clip {
            Clip::Range(range) if !(range > 0.0 && range.is_finite()) => {
                bail!(Format, "clip_sample_range is {range}, not above 0")
            }
            Clip::Dynamic { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                bail!(Format, "dynamic_thresholding_ratio is {ratio}, not in 0..=1")
            }
            Clip::Dynamic { max, .. } if !(max > 0.0 && max.is_finite()) => {
                bail!(Format, "sample_max_value is {max}, not above 0")
            }
            _ => {}
        }
        for (key, order, most) in [
            ("solver_order", self.solver_order, 3),
            ("predictor_order", self.predictor_order, 4),
            ("corrector_order", self.corrector_order, 4),
        ] {
            if order == 0 || order > most {
                bail!(Format, "{key} is {order}, not in 1..={most}");
            }
        }
        for (key, value) in [
            ("timestep_scaling", self.timestep_scaling),
            ("shift", self.shift),
            ("sigma_min", self.sigma_min),
            ("sigma_max", self.sigma_max),
            ("sigma_data", self.sigma_data),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                bail!(Format, "{key} is {value}, not a finite number above 0");
            }
        }
        if self.sigma_min >= self.sigma_max {
            bail!(Format, "sigma_min {} is not below sigma_max {}", self.sigma_min, self.sigma_max);
        }
        Ok(())
    }

    fn check_betas(&self) -> Result<()> {
        let is_beta = |beta: f64| beta > 0.0 && beta < 1.0;
        match &self.beta_schedule {
            BetaSchedule::Trained(betas) => {
                let steps = self.num_train_timesteps;
                if betas.len() != steps {
                    bail!(Format, "trained_betas has {} values, num_train_timesteps is {steps}", betas.len());
                }
                if let Some((i, beta)) = betas.iter().enumerate().find(|(_, beta)| !is_beta(**beta)) {
                    bail!(Format, "trained_betas[{i}] is {beta}, not between 0 and 1");
                }
            }
            BetaSchedule::Linear | BetaSchedule::ScaledLinear | BetaSchedule::Sigmoid => {
                for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
                    if !is_beta(beta) {
                        bail!(Format, "{key} is {beta}, not between 0 and 1");
                    }
                }
            }
            BetaSchedule::SquaredcosCapV2 => {}
        }
        Ok(())
    }
}

const SPACINGS: [(&str, TimestepSpacing); 3] = [
    ("leading", TimestepSpacing::Leading),
    ("trailing", TimestepSpacing::Trailing),
    ("linspace", TimestepSpacing::Linspace),
];
