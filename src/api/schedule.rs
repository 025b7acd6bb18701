//! The forward process on its own: a noise schedule for hosts that bring their own network.

use std::sync::Arc;

use super::model::Model;
pub use crate::sampling::config::BetaSchedule;
use crate::sampling::parameterization::Conversion;
use crate::sampling::{self, Clip, NoiseLevel, PredictionType, Sampler, SchedulerConfig, TimestepSpacing};
use crate::util::error::{Error, Result, Status, bail};
use crate::util::limits;

/// What a schedule is made of. `None` = the default of diffusers' `DDIMScheduler`.
#[derive(Debug, Clone, Default)]
pub struct ScheduleParameters {
    pub num_train_timesteps: Option<usize>,
    /// `Trained` brings its own number of timesteps.
    pub beta_schedule: Option<BetaSchedule>,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub prediction_type: Option<PredictionType>,
    pub rescale_betas_zero_snr: bool,
    /// `None` = the sampler's own.
    pub timestep_spacing: Option<TimestepSpacing>,
    pub steps_offset: usize,
    /// Whether DDIM and its kin end at the ᾱ of the first training timestep rather than at 1.
    pub set_alpha_to_first: bool,
    /// A flow's shift.
    pub shift: Option<f64>,
    /// The range and the data's standard deviation of an EDM model.
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub sigma_data: Option<f64>,
}

/// One number for each training timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// βₜ: the variance of the noise that the timestep adds.
    Betas,
    /// ᾱₜ: how much of the sample's variance is left.
    AlphasCumprod,
    /// The noise-to-signal ratio √((1 − ᾱₜ)/ᾱₜ).
    Sigmas,
    /// The signal-to-noise ratio ᾱₜ/(1 − ᾱₜ).
    Snr,
}

/// A noise schedule and what a model trained on it predicts. Immutable and cheap to clone.
#[derive(Clone)]
pub struct Schedule(Arc<Inner>);

struct Inner {
    config: SchedulerConfig,
    /// `None` for flow and EDM models, whose levels are formulas.
    tables: Option<sampling::Schedule>,
}

impl Schedule {
    /// A schedule of the given parameters.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the parameter and its value.
    pub fn new(parameters: &ScheduleParameters) -> Result<Self> {
        let mut config = SchedulerConfig { clip: Clip::None, ..SchedulerConfig::new() };
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        if let Some(BetaSchedule::Trained(betas)) = &parameters.beta_schedule {
            config.num_train_timesteps = betas.len();
        }
        set(&mut config.num_train_timesteps, parameters.num_train_timesteps);
        set(&mut config.beta_schedule, parameters.beta_schedule.clone());
        set(&mut config.beta_start, parameters.beta_start);
        set(&mut config.beta_end, parameters.beta_end);
        set(&mut config.prediction_type, parameters.prediction_type);
        set(&mut config.shift, parameters.shift);
        set(&mut config.sigma_min, parameters.sigma_min);
        set(&mut config.sigma_max, parameters.sigma_max);
        set(&mut config.sigma_data, parameters.sigma_data);
        config.rescale_betas_zero_snr = parameters.rescale_betas_zero_snr;
        config.timestep_spacing = parameters.timestep_spacing;
        config.steps_offset = parameters.steps_offset;
        config.set_alpha_to_one = !parameters.set_alpha_to_first;
        // What would be a malformed file is a bad argument here.
        Self::from_config(config).map_err(|error| match error.status() {
            Status::Format => Error::new(Status::InvalidArgument, error.message()),
            _ => error,
        })
    }

    /// The schedule of diffusers' `scheduler_config.json`, given its text.
    ///
    /// # Errors
    /// Those of [`SchedulerConfig::parse`].
    pub fn parse(json: &str) -> Result<Self> {
        if json.len() as u64 > limits::CONFIG_BYTES {
            bail!(Format, "{} bytes are more than the {} of a config", json.len(), limits::CONFIG_BYTES);
        }
        Self::from_config(SchedulerConfig::parse(json)?)
    }

    /// The schedule a model was trained on.
    pub fn of_model(model: &Model) -> Result<Self> {
        Self::from_config(model.pipeline().scheduler().clone())
    }

    fn from_config(config: SchedulerConfig) -> Result<Self> {
        // Made in any case, as this checks the config.
        let tables = sampling::Schedule::new(&config)?;
        let has_tables = !matches!(config.prediction_type, PredictionType::Flow | PredictionType::EdmV);
        Ok(Self(Arc::new(Inner { config, tables: has_tables.then_some(tables) })))
    }

    pub(super) fn config(&self) -> &SchedulerConfig {
        &self.0.config
    }

    /// What the model predicts.
    pub fn prediction_type(&self) -> PredictionType {
        self.0.config.prediction_type
    }

    /// The sampler that the config stands for.
    pub fn sampler(&self) -> Sampler {
        self.0.config.sampler
    }

    /// How many training timesteps there are.
    pub fn train_timesteps(&self) -> usize {
        self.0.config.num_train_timesteps
    }

    /// One of the tables, a row for each training timestep.
    ///
    /// # Errors
    /// `Unsupported` for flow and EDM models, which have none.
    pub fn table(&self, table: Table) -> Result<Vec<f64>> {
        let Some(tables) = &self.0.tables else {
            let prediction_type = self.prediction_type().name();
            bail!(Unsupported, "a schedule of prediction_type {prediction_type} is a formula without tables");
        };
        Ok(match table {
            Table::Betas => tables.betas().to_vec(),
            Table::AlphasCumprod => tables.alphas_cumprod().to_vec(),
            Table::Sigmas => tables.sigmas(),
            Table::Snr => tables.snr(),
        })
    }

    /// How signal and noise mix at a timestep: a whole one of the table, any of a flow from 0 to the number of training
    /// timesteps, ¼·ln σ of an EDM model.
    ///
    /// # Errors
    /// `InvalidArgument` for a timestep that is none.
    pub fn level(&self, timestep: f64) -> Result<NoiseLevel> {
        let config = &self.0.config;
        let steps = config.num_train_timesteps;
        match &self.0.tables {
            Some(tables) => {
                if !(0.0..steps as f64).contains(&timestep) || timestep.fract() != 0.0 {
                    bail!(
                        InvalidArgument,
                        "timestep {timestep} is not a whole number from 0 to {}",
                        steps - 1
                    );
                }
                tables.level(timestep as usize)
            }
            None if config.prediction_type == PredictionType::Flow => {
                if !(0.0..=steps as f64).contains(&timestep) {
                    bail!(InvalidArgument, "timestep {timestep} of a flow is not in 0..{steps}");
                }
                let sigma = timestep / steps as f64;
                Ok(NoiseLevel { alpha: 1.0 - sigma, sigma })
            }
            None => {
                let sigma = libm::exp(4.0 * timestep);
                if !sigma.is_finite() || sigma == 0.0 {
                    bail!(
                        InvalidArgument,
                        "timestep {timestep} is not a quarter of the logarithm of a sigma"
                    );
                }
                Ok(NoiseLevel { alpha: 1.0, sigma })
            }
        }
    }

    /// The forward process: `samples = alpha·samples + sigma·noise`, each image at a timestep of its own. Both are
    /// batches `[images, values of one image]`; a timestep an image.
    ///
    /// # Errors
    /// `InvalidArgument` for lengths that do not fit and a timestep that is none.
    pub fn add_noise(&self, samples: &mut [f32], noise: &[f32], timesteps: &[f64]) -> Result<()> {
        self.for_each_image(samples, noise, timesteps, |level, _| Ok([level.alpha, level.sigma]))
    }

    /// What a perfect model of type `prediction` answers about `samples` and the `noise` that was added to them:
    /// training's target, written over the samples.
    ///
    /// # Errors
    /// As [`Schedule::add_noise`].
    pub fn target(
        &self,
        prediction: PredictionType,
        samples: &mut [f32],
        noise: &[f32],
        timesteps: &[f64],
    ) -> Result<()> {
        let sigma_data = self.0.config.sigma_data;
        self.for_each_image(samples, noise, timesteps, |level, _| Ok(target(prediction, level, sigma_data)))
    }

    /// Reads predictions of type `from` about `inputs`, the noisy samples that [`Schedule::add_noise`] makes, and says
    /// them as type `to`, in place: `Sample` is x₀, `Epsilon` ε, `VPrediction` v.
    ///
    /// # Errors
    /// As [`Schedule::add_noise`]; `InvalidArgument` where the one does not tell the other: ε nothing of x₀ where no
    /// signal is left, x₀ nothing of ε where there is no noise.
    pub fn convert(
        &self,
        [from, to]: [PredictionType; 2],
        predictions: &mut [f32],
        inputs: &[f32],
        timesteps: &[f64],
    ) -> Result<()> {
        self.for_each_image(predictions, inputs, timesteps, |level, timestep| {
            self.conversion([from, to], level, timestep)
        })
    }

    /// Whether [`Schedule::convert`] has an answer at all of these timesteps.
    ///
    /// # Errors
    /// As [`Schedule::convert`].
    pub fn check_convert(&self, types: [PredictionType; 2], timesteps: &[f64]) -> Result<()> {
        timesteps
            .iter()
            .try_for_each(|timestep| self.conversion(types, self.level(*timestep)?, *timestep).map(|_| ()))
    }

    /// `to` as `[share of the prediction, share of the input]`.
    fn conversion(
        &self,
        [from, to]: [PredictionType; 2],
        level: NoiseLevel,
        timestep: f64,
    ) -> Result<[f64; 2]> {
        if from == to {
            return Ok([1.0, 0.0]);
        }
        let sigma_data = self.0.config.sigma_data;
        let Conversion { original, epsilon } = from.conversion(level, sigma_data);
        let [of_original, of_epsilon] = target(to, level, sigma_data);
        // What the target does not look at may be unknown.
        let part = |share: f64, by: f64| if share == 0.0 { 0.0 } else { share * by };
        let of_input = part(of_original, original[0]) + part(of_epsilon, epsilon[0]);
        let of_prediction = part(of_original, original[1]) + part(of_epsilon, epsilon[1]);
        if !(of_input.is_finite() && of_prediction.is_finite()) {
            let (from, to) = (from.name(), to.name());
            bail!(InvalidArgument, "at timestep {timestep} a prediction of type {from} does not tell {to}");
        }
        Ok([of_prediction, of_input])
    }

    /// `a = factors[0]·a + factors[1]·b` with each image's own factors.
    fn for_each_image(
        &self,
        a: &mut [f32],
        b: &[f32],
        timesteps: &[f64],
        factors: impl Fn(NoiseLevel, f64) -> Result<[f64; 2]>,
    ) -> Result<()> {
        if a.len() != b.len() {
            bail!(InvalidArgument, "{} values meet {}", a.len(), b.len());
        }
        let images = timesteps.len();
        if images == 0 || !a.len().is_multiple_of(images) {
            bail!(InvalidArgument, "{} values do not divide into {images} images", a.len());
        }
        // All of them first: a failure leaves the values as they were.
        for timestep in timesteps {
            factors(self.level(*timestep)?, *timestep)?;
        }
        let image = (a.len() / images).max(1);
        for ((a, b), timestep) in a.chunks_mut(image).zip(b.chunks(image)).zip(timesteps) {
            // As torch does it: in `f32`.
            let [of_a, of_b] = factors(self.level(*timestep)?, *timestep)?.map(|factor| factor as f32);
            for (a, b) in a.iter_mut().zip(b) {
                *a = match (of_a == 0.0, of_b == 0.0) {
                    (_, true) => of_a * *a,
                    (true, _) => of_b * b,
                    _ => of_a * *a + of_b * b,
                };
            }
        }
        Ok(())
    }
}

/// A prediction as `[share of x₀, share of ε]`.
fn target(prediction: PredictionType, NoiseLevel { alpha, sigma }: NoiseLevel, sigma_data: f64) -> [f64; 2] {
    match prediction {
        PredictionType::Epsilon => [0.0, 1.0],
        PredictionType::Sample => [1.0, 0.0],
        PredictionType::Flow => [-1.0, 1.0],
        PredictionType::VPrediction => {
            let norm = libm::hypot(alpha, sigma);
            [-sigma / norm, alpha / norm]
        }
        // x₀ = c_skip·(x₀ + r·ε) + c_out·v (Karras et al. 2022, table 1, with v's sign), r the noise-to-signal ratio.
        PredictionType::EdmV => {
            let norm = libm::hypot(sigma, alpha * sigma_data);
            [-sigma / (norm * sigma_data), alpha * sigma_data / norm]
        }
    }
}
