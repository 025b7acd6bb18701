//! The keys of `scheduler_config.json`, and what several of them mean together.

use serde_json::{Map, Value};

use super::{AlgorithmType, SchedulerConfig, SolverType};
use crate::sampling::scheduler_class::{Family, SchedulerClass};
use crate::sampling::{PredictionType, Sampler, Schedule, SigmaSchedule};
use crate::util::error::{Result, bail, error};

/// diffusers' DPM classes read other solvers' types, too, and so do these.
pub(super) const ALGORITHM_TYPES: [(&str, AlgorithmType); 7] = [
    ("dpmsolver++", AlgorithmType::DataPrediction),
    ("sde-dpmsolver++", AlgorithmType::DataPrediction),
    ("sde-dpmsolver", AlgorithmType::DataPrediction),
    ("deis", AlgorithmType::DataPrediction),
    ("data_prediction", AlgorithmType::DataPrediction),
    ("dpmsolver", AlgorithmType::NoisePrediction),
    ("noise_prediction", AlgorithmType::NoisePrediction),
];
pub(super) const SOLVER_TYPES: [(&str, SolverType); 5] = [
    ("midpoint", SolverType::Midpoint),
    ("heun", SolverType::Heun),
    ("logrho", SolverType::Midpoint),
    ("bh1", SolverType::Midpoint),
    ("bh2", SolverType::Midpoint),
];

/// Keys that change the maths in a way this library does not know, and the one value of theirs that it does. No two
/// classes use one of these names for different things.
pub(super) const SUPPORTED_ONLY: [(&str, Value); 5] = [
    ("use_dynamic_shifting", Value::Bool(false)),
    ("use_lu_lambdas", Value::Bool(false)),
    ("invert_sigmas", Value::Bool(false)),
    ("stochastic_sampling", Value::Bool(false)),
    ("shift_terminal", Value::Null),
];

/// The text with `null` for the infinities that diffusers writes for bounds that do not bind, and JSON does not have.
pub(super) fn without_infinities(json: &str) -> String {
    let mut parts = json.split('"');
    let mut text = String::with_capacity(json.len());
    let (mut is_string, mut escaped) = (false, false);
    if let Some(first) = parts.next() {
        text.push_str(&first.replace("-Infinity", "null").replace("Infinity", "null"));
    }
    for part in parts {
        text.push('"');
        is_string = escaped || !is_string;
        match is_string {
            true => text.push_str(part),
            false => text.push_str(&part.replace("-Infinity", "null").replace("Infinity", "null")),
        }
        let backslashes = part.len() - part.trim_end_matches('\\').len();
        escaped = is_string && backslashes % 2 == 1;
    }
    text
}

/// The file's keys. diffusers writes an explicit `null` for some, which means the same as an absent key.
pub(super) struct Keys(pub(super) Map<String, Value>);

impl Keys {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text)),
                None => bail!(Format, "{key} is {value}, not a string"),
            },
        }
    }

    pub(super) fn bool(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| error!(Format, "{key} is {value}, not true or false"))
            }
        }
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| error!(Format, "{key} is {value}, not a number")),
        }
    }

    pub(super) fn count(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| error!(Format, "{key} is {value}, not a whole number from 0")),
        }
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| error!(Format, "{key} is not a list of numbers"))
    }

    /// The sampler that gives the class's numbers with these keys; or else the nearest, and `false`.
    pub(super) fn sampler(&self, class: &SchedulerClass) -> Result<(Sampler, bool)> {
        use Sampler::*;
        let is = |key, value: &str| self.string(key).map(|text| text == Some(value));
        let sde = is("algorithm_type", "sde-dpmsolver++")? || is("algorithm_type", "sde-dpmsolver")?;
        let plain_sde = is("algorithm_type", "sde-dpmsolver")?;
        Ok(match class.sampler {
            Pndm if self.bool("skip_prk_steps", false)? => (Plms, true),
            Dpmpp2m if sde => {
                let sampler = if is("solver_type", "heun")? { Dpmpp2mSdeHeun } else { Dpmpp2mSde };
                (sampler, !plain_sde && self.count("solver_order", 2)? < 3)
            }
            DpmSolverSinglestep => (DpmSolverSinglestep, !sde),
            UniPcBh2 => {
                let skips = self.get("disable_corrector").and_then(Value::as_array);
                let exact = self.bool("predict_x0", true)?
                    && self.get("solver_p").is_none()
                    && skips.is_none_or(Vec::is_empty);
                (if is("solver_type", "bh1")? { UniPcBh1 } else { UniPcBh2 }, exact)
            }
            SaSolver => (SaSolver, !is("algorithm_type", "noise_prediction")?),
            sampler => (sampler, class.exact),
        })
    }

    /// What the model predicts, and the shift of a flow.
    pub(super) fn prediction(&self, class: &SchedulerClass) -> Result<(PredictionType, f64)> {
        let prediction_type = self.one_of(
            "prediction_type",
            "epsilon",
            &[
                ("epsilon", PredictionType::Epsilon),
                ("v_prediction", PredictionType::VPrediction),
                ("sample", PredictionType::Sample),
                ("flow_prediction", PredictionType::Flow),
                ("edm_v_prediction", PredictionType::EdmV),
            ],
        )?;
        let flow_sigmas = class.has_flow_sigmas && self.bool("use_flow_sigmas", false)?;
        let shift = self.number(if flow_sigmas { "flow_shift" } else { "shift" }, 1.0)?;
        let prediction_type = match class.family {
            Family::Flow => PredictionType::Flow,
            Family::Edm => match prediction_type {
                PredictionType::VPrediction => PredictionType::EdmV,
                other => {
                    bail!(Unsupported, "prediction_type {:?} of an EDM class is not supported", other.name())
                }
            },
            Family::Table if flow_sigmas && prediction_type != PredictionType::Flow => {
                bail!(Unsupported, "use_flow_sigmas with prediction_type {:?}", prediction_type.name())
            }
            Family::Table => {
                let timestep_type =
                    self.one_of("timestep_type", "discrete", &[("discrete", false), ("continuous", true)])?;
                match prediction_type {
                    PredictionType::VPrediction if timestep_type => PredictionType::EdmV,
                    _ => prediction_type,
                }
            }
        };
        Ok((prediction_type, shift))
    }

    /// The noise levels that the class lays out by itself; `None` = spaced timesteps.
    pub(super) fn sigma_schedule(
        &self,
        class: &SchedulerClass,
        prediction_type: PredictionType,
    ) -> Result<Option<SigmaSchedule>> {
        if class.family == Family::Edm {
            if self.number("rho", 7.0)? != 7.0 {
                bail!(Unsupported, "rho {} is not supported", self.0["rho"]);
            }
            let schedules = [("karras", SigmaSchedule::Karras), ("exponential", SigmaSchedule::Exponential)];
            return self.one_of("sigma_schedule", "karras", &schedules).map(Some);
        }
        let mut asked = None;
        if class.has_sigma_schedules {
            for (key, schedule) in [
                ("use_karras_sigmas", SigmaSchedule::Karras),
                ("use_exponential_sigmas", SigmaSchedule::Exponential),
                ("use_beta_sigmas", SigmaSchedule::Beta),
            ] {
                match (self.bool(key, false)?, asked) {
                    (true, Some(_)) => bail!(Format, "{key} is set beside another sigma schedule"),
                    (true, None) => asked = Some(schedule),
                    (false, _) => {}
                }
            }
        }
        let continuous = prediction_type == PredictionType::EdmV;
        if asked.is_some() && class.has_flow_sigmas && self.bool("use_flow_sigmas", false)? {
            bail!(Unsupported, "use_flow_sigmas with a sigma schedule");
        }
        for key in ["sigma_min", "sigma_max"] {
            match self.get(key) {
                None if continuous && self.string("timestep_type")?.is_some() => {
                    bail!(Unsupported, "timestep_type \"continuous\" without {key}")
                }
                Some(value) if !continuous && asked.is_some() => {
                    bail!(Unsupported, "{key} {value} is not supported for a model with a table of timesteps")
                }
                _ => {}
            }
        }
        if continuous && asked.is_none() && self.string("timestep_type")?.is_some() {
            bail!(Unsupported, "timestep_type \"continuous\" without use_karras_sigmas or its like");
        }
        Ok(asked)
    }

    /// A bound on λ keeps the noisiest timesteps out, where it binds.
    pub(super) fn check_clipped_lambda(&self, config: &SchedulerConfig) -> Result<()> {
        let Some(least) = self.get("lambda_min_clipped").and_then(Value::as_f64) else { return Ok(()) };
        let last = Schedule::new(config)?.alphas_cumprod().last().copied().unwrap_or(0.0);
        if 0.5 * libm::log(last / (1.0 - last)) < least {
            bail!(Unsupported, "lambda_min_clipped {least} is not supported where it binds");
        }
        Ok(())
    }

    pub(super) fn one_of<T: Clone>(&self, key: &str, default: &str, choices: &[(&str, T)]) -> Result<T> {
        let name = self.string(key)?.unwrap_or(default);
        match choices.iter().find(|(choice, _)| *choice == name) {
            Some((_, value)) => Ok(value.clone()),
            None => bail!(Unsupported, "{key} {name:?} is not supported"),
        }
    }
}
