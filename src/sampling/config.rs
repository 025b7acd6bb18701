//! `scheduler_config.json` of a diffusers model folder.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Clip, PredictionType, Sampler, SigmaSchedule, TimestepSpacing};
use crate::util::error::{Result, bail, error};
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
    /// Which sampler `class_name` stands for here; [`SchedulerConfig::is_substituted`] says when it is another one.
    pub sampler: Sampler,
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
    /// How the levels are laid out; `None` = spaced timesteps.
    pub sigma_schedule: Option<SigmaSchedule>,
    /// The order of the multistep solvers that have several, 1..=3.
    pub solver_order: usize,
    pub algorithm_type: AlgorithmType,
    pub solver_type: SolverType,
    /// The orders of SA-Solver's predictor and corrector, 1..=4.
    pub predictor_order: usize,
    pub corrector_order: usize,
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

/// What diffusers' class takes for absent keys, where classes differ.
struct ClassDefaults {
    sampler: Sampler,
    exact: bool,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: &'static str,
    clip_sample: bool,
    set_alpha_to_one: bool,
}

/// `None` for a class that does not sample a discrete variance-preserving schedule, or that nobody knows.
fn class_defaults(class_name: &str) -> Option<ClassDefaults> {
    let ddim = ClassDefaults {
        sampler: Sampler::Ddim,
        exact: true,
        beta_start: 0.0001,
        beta_end: 0.02,
        beta_schedule: "linear",
        clip_sample: true,
        set_alpha_to_one: true,
    };
    // A class that never clips was made for latents, which ±1 would ruin.
    let substitute = ClassDefaults { exact: false, clip_sample: false, ..ddim };
    Some(match class_name {
        "DDIMScheduler" | "DDIMParallelScheduler" => ddim,
        "DDPMScheduler" | "DDPMParallelScheduler" => ClassDefaults { sampler: Sampler::Ddpm, ..ddim },
        "EulerDiscreteScheduler" => ClassDefaults { sampler: Sampler::Euler, clip_sample: false, ..ddim },
        "PNDMScheduler" => ClassDefaults { set_alpha_to_one: false, ..substitute },
        "DEISMultistepScheduler"
        | "DPMSolverMultistepScheduler"
        | "DPMSolverSinglestepScheduler"
        | "EulerAncestralDiscreteScheduler"
        | "LMSDiscreteScheduler"
        | "SASolverScheduler"
        | "UniPCMultistepScheduler" => substitute,
        "DPMSolverSDEScheduler"
        | "HeunDiscreteScheduler"
        | "KDPM2AncestralDiscreteScheduler"
        | "KDPM2DiscreteScheduler" => ClassDefaults { beta_start: 0.00085, beta_end: 0.012, ..substitute },
        "LCMScheduler" | "TCDScheduler" => ClassDefaults {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear",
            ..substitute
        },
        _ => return None,
    })
}

/// Keys that change the maths in a way this library does not know, and the one value of theirs that it does.
const SUPPORTED_ONLY: [(&str, Value); 2] =
    [("use_flow_sigmas", Value::Bool(false)), ("use_dynamic_shifting", Value::Bool(false))];

/// The same for the grid of noise levels. A sampler that stands in for another brings its own grid, so these matter
/// only to the classes that run as themselves.
const SUPPORTED_GRIDS_ONLY: [(&str, Value); 4] = [
    ("use_karras_sigmas", Value::Bool(false)),
    ("use_exponential_sigmas", Value::Bool(false)),
    ("use_beta_sigmas", Value::Bool(false)),
    ("use_lu_lambdas", Value::Bool(false)),
];

impl SchedulerConfig {
    /// Reads `scheduler_config.json`. Errors name the file and the key: `Format` for values that make no sense,
    /// `Unsupported` for classes and settings that exist in diffusers but not here.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path, limits::CONFIG_BYTES)?;
        Self::parse(&text).map_err(|e| e.context(path.display()))
    }

    /// Parses the text of a `scheduler_config.json`; errors as [`SchedulerConfig::load`], without the file's name.
    pub fn parse(json: &str) -> Result<Self> {
        let keys = match serde_json::from_str(json) {
            Ok(Value::Object(map)) => Keys(map),
            Ok(_) => bail!(Format, "not a JSON object"),
            Err(e) => bail!(Format, "not valid JSON: {e}"),
        };
        let Some(class_name) = keys.string("_class_name")? else { bail!(Format, "_class_name is missing") };
        let Some(defaults) = class_defaults(class_name) else {
            bail!(Unsupported, "_class_name {class_name:?} is not supported");
        };
        let grids = SUPPORTED_GRIDS_ONLY.into_iter().filter(|_| defaults.exact);
        for (key, supported) in SUPPORTED_ONLY.into_iter().chain(grids) {
            if keys.get(key).is_some_and(|value| *value != supported) {
                bail!(Unsupported, "{key} {} is not supported", keys.0[key]);
            }
        }
        for (key, supported) in [("interpolation_type", "linear"), ("timestep_type", "discrete")] {
            keys.one_of(key, supported, &[(supported, ())])?;
        }

        let beta_schedule = match keys.numbers("trained_betas")? {
            Some(betas) => BetaSchedule::Trained(betas),
            None => keys.one_of(
                "beta_schedule",
                defaults.beta_schedule,
                &[
                    ("linear", BetaSchedule::Linear),
                    ("scaled_linear", BetaSchedule::ScaledLinear),
                    ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
                ],
            )?,
        };
        let num_train_timesteps = match &beta_schedule {
            BetaSchedule::Trained(betas) => keys.count("num_train_timesteps", betas.len())?,
            _ => keys.count("num_train_timesteps", 1000)?,
        };
        let timestep_spacing = match keys.get("timestep_spacing") {
            None => None,
            Some(_) => Some(keys.one_of("timestep_spacing", "", &SPACINGS)?),
        };
        let clip = if keys.bool("thresholding", false)? {
            Clip::Dynamic {
                ratio: keys.number("dynamic_thresholding_ratio", 0.995)?,
                max: keys.number("sample_max_value", 1.0)?,
            }
        } else if keys.bool("clip_sample", defaults.clip_sample)? {
            Clip::Range(keys.number("clip_sample_range", 1.0)? as f32)
        } else {
            Clip::None
        };
        let config = Self {
            class_name: class_name.to_owned(),
            sampler: defaults.sampler,
            num_train_timesteps,
            beta_start: keys.number("beta_start", defaults.beta_start)?,
            beta_end: keys.number("beta_end", defaults.beta_end)?,
            beta_schedule,
            rescale_betas_zero_snr: keys.bool("rescale_betas_zero_snr", false)?,
            prediction_type: keys.one_of(
                "prediction_type",
                "epsilon",
                &[
                    ("epsilon", PredictionType::Epsilon),
                    ("v_prediction", PredictionType::VPrediction),
                    ("sample", PredictionType::Sample),
                    ("flow_prediction", PredictionType::Flow),
                    ("edm_v_prediction", PredictionType::EdmV),
                ],
            )?,
            timestep_spacing,
            steps_offset: keys.count("steps_offset", 0)?,
            set_alpha_to_one: keys.bool("set_alpha_to_one", defaults.set_alpha_to_one)?,
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
            sigma_schedule: None,
            solver_order: keys.count("solver_order", 2)?,
            // diffusers' DPM classes read other solvers' types, too, and so do these.
            algorithm_type: keys.one_of(
                "algorithm_type",
                "dpmsolver++",
                &[
                    ("dpmsolver++", AlgorithmType::DataPrediction),
                    ("sde-dpmsolver++", AlgorithmType::DataPrediction),
                    ("deis", AlgorithmType::DataPrediction),
                    ("data_prediction", AlgorithmType::DataPrediction),
                    ("dpmsolver", AlgorithmType::NoisePrediction),
                    ("noise_prediction", AlgorithmType::NoisePrediction),
                ],
            )?,
            solver_type: keys.one_of(
                "solver_type",
                "midpoint",
                &[
                    ("midpoint", SolverType::Midpoint),
                    ("heun", SolverType::Heun),
                    ("logrho", SolverType::Midpoint),
                    ("bh1", SolverType::Midpoint),
                    ("bh2", SolverType::Midpoint),
                ],
            )?,
            lower_order_final: keys
                .bool("lower_order_final", class_name != "DPMSolverSinglestepScheduler")?,
            predictor_order: keys.count("predictor_order", 2)?,
            corrector_order: keys.count("corrector_order", 2)?,
            euler_at_final: keys.bool("euler_at_final", false)?,
            skip_prk_steps: keys.bool("skip_prk_steps", false)?,
            original_inference_steps: keys.count("original_inference_steps", 50)?,
            timestep_scaling: keys.number("timestep_scaling", 10.0)?,
            shift: keys.number("shift", 1.0)?,
            sigma_min: keys.number("sigma_min", 0.002)?,
            sigma_max: keys.number("sigma_max", 80.0)?,
            sigma_data: keys.number("sigma_data", 1.0)?,
        };
        config.check()?;
        Ok(config)
    }

    /// Whether `sampler` stands in for a class that this library does not have.
    pub fn is_substituted(&self) -> bool {
        class_defaults(&self.class_name).is_none_or(|defaults| !defaults.exact)
    }

    fn check(&self) -> Result<()> {
        let steps = self.num_train_timesteps;
        if steps == 0 || steps > limits::TRAIN_TIMESTEPS {
            bail!(Format, "num_train_timesteps {steps} is not in 1..={}", limits::TRAIN_TIMESTEPS);
        }
        if self.steps_offset >= steps {
            bail!(Format, "steps_offset {} is not below num_train_timesteps {steps}", self.steps_offset);
        }
        let is_beta = |beta: f64| beta > 0.0 && beta < 1.0;
        match &self.beta_schedule {
            BetaSchedule::Trained(betas) => {
                if betas.len() != steps {
                    bail!(Format, "trained_betas has {} values, num_train_timesteps is {steps}", betas.len());
                }
                if let Some(i) = betas.iter().position(|beta| !is_beta(*beta)) {
                    bail!(Format, "trained_betas[{i}] is {}, not between 0 and 1", betas[i]);
                }
            }
            BetaSchedule::Linear | BetaSchedule::ScaledLinear => {
                for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
                    if !is_beta(beta) {
                        bail!(Format, "{key} is {beta}, not between 0 and 1");
                    }
                }
            }
            BetaSchedule::SquaredcosCapV2 => {}
        }
        match self.clip {
            Clip::Range(range) if range <= 0.0 => {
                bail!(Format, "clip_sample_range is {range}, not above 0");
            }
            Clip::Dynamic { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                bail!(Format, "dynamic_thresholding_ratio is {ratio}, not in 0..=1");
            }
            Clip::Dynamic { max, .. } if max <= 0.0 => {
                bail!(Format, "sample_max_value is {max}, not above 0");
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
        Ok(())
    }
}

const SPACINGS: [(&str, TimestepSpacing); 3] = [
    ("leading", TimestepSpacing::Leading),
    ("trailing", TimestepSpacing::Trailing),
    ("linspace", TimestepSpacing::Linspace),
];

/// The file's keys. diffusers writes an explicit `null` for some, which means the same as an absent key.
struct Keys(Map<String, Value>);

impl Keys {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text)),
                None => bail!(Format, "{key} is {value}, not a string"),
            },
        }
    }

    fn bool(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| error!(Format, "{key} is {value}, not true or false"))
            }
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| error!(Format, "{key} is {value}, not a number")),
        }
    }

    fn count(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| error!(Format, "{key} is {value}, not a whole number from 0")),
        }
    }

    fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| error!(Format, "{key} is not a list of numbers"))
    }

    fn one_of<T: Clone>(&self, key: &str, default: &str, choices: &[(&str, T)]) -> Result<T> {
        let name = self.string(key)?.unwrap_or(default);
        match choices.iter().find(|(choice, _)| *choice == name) {
            Some((_, value)) => Ok(value.clone()),
            None => bail!(Unsupported, "{key} {name:?} is not supported"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::util::error::Status;
    use std::path::PathBuf;

    fn parse(class: &str, keys: &str) -> Result<SchedulerConfig> {
        SchedulerConfig::parse(&format!("{{\"_class_name\": \"{class}\"{keys}}}"))
    }

    #[test]
    fn reads_the_default_models_config() {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/emoji-64/scheduler/scheduler_config.json");
        let expected = SchedulerConfig {
            class_name: "DDIMScheduler".into(),
            sampler: Sampler::Ddim,
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            rescale_betas_zero_snr: true,
            prediction_type: PredictionType::VPrediction,
            timestep_spacing: Some(TimestepSpacing::Trailing),
            steps_offset: 1,
            set_alpha_to_one: false,
            clip: Clip::None,
            variance_type: VarianceType::FixedSmall,
            final_sigmas_type: FinalSigmasType::Zero,
            sigma_schedule: None,
            solver_order: 2,
            algorithm_type: AlgorithmType::DataPrediction,
            solver_type: SolverType::Midpoint,
            predictor_order: 2,
            corrector_order: 2,
            lower_order_final: true,
            euler_at_final: false,
            skip_prk_steps: false,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            shift: 1.0,
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 1.0,
        };
        assert_eq!(SchedulerConfig::load(&path).unwrap(), expected);
        assert!(!expected.is_substituted());
    }

    /// The defaults of the constructors in diffusers 0.42.
    #[test]
    fn absent_keys_take_the_defaults_of_their_class() {
        let ddim = parse("DDIMScheduler", "").unwrap();
        assert_eq!((ddim.beta_start, ddim.beta_end, ddim.num_train_timesteps), (0.0001, 0.02, 1000));
        assert_eq!(
            (ddim.beta_schedule, ddim.prediction_type),
            (BetaSchedule::Linear, PredictionType::Epsilon)
        );
        assert_eq!((ddim.clip, ddim.set_alpha_to_one, ddim.timestep_spacing), (Clip::Range(1.0), true, None));
        assert_eq!(parse("DDPMScheduler", "").unwrap().clip, Clip::Range(1.0));
        assert_eq!(parse("EulerDiscreteScheduler", "").unwrap().clip, Clip::None);
        let pndm = parse("PNDMScheduler", r#", "skip_prk_steps": true, "trained_betas": null"#).unwrap();
        assert_eq!((pndm.clip, pndm.set_alpha_to_one), (Clip::None, false));
        let lcm = parse("LCMScheduler", "").unwrap();
        assert_eq!((lcm.beta_start, lcm.beta_schedule), (0.00085, BetaSchedule::ScaledLinear));
        assert_eq!(parse("HeunDiscreteScheduler", "").unwrap().beta_end, 0.012);
    }

    #[test]
    fn classes_choose_the_sampler() {
        for (class, sampler, substituted) in [
            ("DDIMScheduler", Sampler::Ddim, false),
            ("DDPMScheduler", Sampler::Ddpm, false),
            ("EulerDiscreteScheduler", Sampler::Euler, false),
            ("PNDMScheduler", Sampler::Ddim, true),
            ("DPMSolverMultistepScheduler", Sampler::Ddim, true),
            ("EulerAncestralDiscreteScheduler", Sampler::Ddim, true),
        ] {
            let config = parse(class, "").unwrap();
            assert_eq!((config.sampler, config.is_substituted()), (sampler, substituted), "{class}");
        }
    }

    #[track_caller]
    fn fails(keys: &str, status: Status, words: &[&str]) {
        let error = parse("DDIMScheduler", keys).unwrap_err();
        assert_eq!(error.status(), status, "{keys}: {error}");
        for word in words {
            assert!(error.message().contains(word), "{error} lacks {word:?}");
        }
        assert!(!error.message().contains('\n'), "{error}");
    }

    #[test]
    fn unknown_settings_are_unsupported() {
        for key in ["use_karras_sigmas", "use_beta_sigmas", "use_flow_sigmas"] {
            fails(&format!(r#", "{key}": true"#), Status::Unsupported, &[key, "true"]);
            assert!(parse("DDIMScheduler", &format!(r#", "{key}": false"#)).is_ok());
        }
        for (key, value) in [
            ("beta_schedule", "sigmoid"),
            ("prediction_type", "score"),
            ("timestep_spacing", "random"),
            ("variance_type", "fixed_large_log"),
            ("final_sigmas_type", "one"),
            ("interpolation_type", "log_linear"),
            ("timestep_type", "continuous"),
        ] {
            fails(&format!(r#", "{key}": "{value}""#), Status::Unsupported, &[key, value]);
        }
        for class in ["FlowMatchEulerDiscreteScheduler", "Nonsense"] {
            let error = parse(class, "").unwrap_err();
            assert_eq!(error.status(), Status::Unsupported);
            assert!(error.message().contains(class), "{error}");
        }
    }

    #[test]
    fn a_substituted_class_keeps_its_schedule_and_leaves_its_grid() {
        let class = "DPMSolverMultistepScheduler";
        assert!(parse(class, r#", "use_karras_sigmas": true"#).unwrap().is_substituted());
        let error = parse(class, r#", "use_flow_sigmas": true"#).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
    }

    #[test]
    fn nonsense_is_a_format_error() {
        for (key, value) in [
            ("num_train_timesteps", "0"),
            ("num_train_timesteps", "-1"),
            ("num_train_timesteps", "1e9"),
            ("num_train_timesteps", "2000000000"),
            ("beta_start", "0"),
            ("beta_start", "-0.1"),
            ("beta_end", "1.0"),
            ("beta_end", "\"a\""),
            ("trained_betas", "[0.1, 0.2, 2.0]"),
            ("trained_betas", "[0.1, null]"),
            ("trained_betas", "[]"),
            ("steps_offset", "1000"),
            ("clip_sample", "1"),
            ("clip_sample_range", "0"),
            ("solver_order", "0"),
            ("predictor_order", "5"),
            ("set_alpha_to_one", "\"no\""),
            ("beta_schedule", "3"),
        ] {
            let word = if value == "[]" { "num_train_timesteps" } else { key };
            fails(&format!(r#", "{key}": {value}"#), Status::Format, &[word]);
        }
        fails(
            r#", "trained_betas": [0.1], "num_train_timesteps": 2"#,
            Status::Format,
            &["trained_betas", "2"],
        );
        for json in ["", "{", "[]", "{}", "{\"_class_name\": 3}"] {
            assert_eq!(SchedulerConfig::parse(json).unwrap_err().status(), Status::Format, "{json}");
        }
    }

    #[test]
    fn dynamic_thresholding_is_read_and_checked() {
        let keys = r#", "thresholding": true, "sample_max_value": 1.5"#;
        assert_eq!(parse("DDIMScheduler", keys).unwrap().clip, Clip::Dynamic { ratio: 0.995, max: 1.5 });
        for (key, value) in [("dynamic_thresholding_ratio", "1.1"), ("sample_max_value", "0")] {
            fails(&format!(r#", "thresholding": true, "{key}": {value}"#), Status::Format, &[key]);
        }
    }

    #[test]
    fn errors_name_the_file() {
        let error = SchedulerConfig::load(&std::env::temp_dir().join("no-such-scheduler.json")).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().contains("no-such-scheduler.json"), "{error}");
    }

    /// Betas that pass one by one but leave a table no sampler could divide by.
    #[test]
    fn degenerate_tables_are_a_format_error() {
        for keys in [
            r#", "trained_betas": [1e-9, 1e-9]"#,
            r#", "beta_start": 0.99, "beta_end": 0.99"#,
            r#", "num_train_timesteps": 1, "rescale_betas_zero_snr": true"#,
        ] {
            let config = parse("DDIMScheduler", keys).unwrap();
            assert_eq!(super::super::Schedule::new(&config).unwrap_err().status(), Status::Format, "{keys}");
        }
    }
}
