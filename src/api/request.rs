//! A request: option values, checked as they are set.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::image::Image;
use super::job::Progress;
use super::model::Model;
use super::options::{Kind, OptionId};
use crate::pipeline::request::{
    self as pipeline, GuidanceMethod, Noise, Perturbation, Predictions, Profile, SAMPLERS, Sampler,
    SigmaSchedule, TimestepSpacing,
};
use crate::util::error::{Error, Result, error};

/// Hears about a job from the session's thread; `Break` cancels the job.
pub type ProgressFn = Arc<dyn Fn(&Progress) -> ControlFlow<()> + Send + Sync>;

/// Combines the raw predictions of a job in place of the request's guidance, from the session's thread: writes a batch
/// of the same size. `Break` cancels the job.
pub type GuideFn = Arc<dyn Fn(&Predictions<'_>, &mut [f32]) -> ControlFlow<()> + Send + Sync>;

/// What to generate with one model. A request may be submitted any number of times and changed in between:
/// each job works on a copy.
///
/// A setter that fails leaves the option as it was, and the request remembers the first failure:
/// `Session::submit` reports it. So a program may set everything and check once.
#[derive(Clone)]
pub struct Request {
    model: Model,
    values: pipeline::Request,
    first_error: Option<Error>,
    progress: Option<ProgressFn>,
    guide: Option<GuideFn>,
}

impl Request {
    /// A request with every option at its default.
    pub fn new(model: &Model) -> Self {
        Self {
            model: model.clone(),
            values: pipeline::Request::default(),
            first_error: None,
            progress: None,
            guide: None,
        }
    }

    /// Sets a string option, or an enum by the name of its choice. `None` unsets it.
    pub fn set_string(&mut self, id: OptionId, value: Option<&str>) -> Result<()> {
        self.log(id, format_args!("{value:?}"));
        let spec = id.spec();
        let result = match spec.kind {
            Kind::Enum(_) => {
                let number = value.map_or(Ok(0), |name| spec.check_choice(name));
                number.map(|number| self.store_int(id, number))
            }
            Kind::String => spec.check_text(value).map(|()| self.store_string(id, value)),
            _ => Err(spec.type_error("a string")),
        };
        self.remember(result)
    }

    /// Sets an integer option, or an enum by the number of its choice.
    pub fn set_int(&mut self, id: OptionId, value: i64) -> Result<()> {
        self.log(id, format_args!("{value}"));
        let result = id.spec().check_int(value).map(|value| self.store_int(id, value));
        self.remember(result)
    }

    /// Sets a float option.
    pub fn set_float(&mut self, id: OptionId, value: f64) -> Result<()> {
        self.log(id, format_args!("{value}"));
        let result = id.spec().check_float(value).map(|value| self.store_float(id, value));
        self.remember(result)
    }

    /// Sets a list of floats; `values` are copied. `None` unsets it.
    pub fn set_floats(&mut self, id: OptionId, values: Option<&[f32]>) -> Result<()> {
        self.log(id, format_args!("{} floats", values.map_or(0, <[f32]>::len)));
        let result = self.check_floats(id, values).map(|copy| self.store_floats(id, copy));
        self.remember(result)
    }

    /// Sets an image; the request shares its pixels. `None` unsets it.
    pub fn set_image(&mut self, id: OptionId, image: Option<&Image>) -> Result<()> {
        self.log(id, format_args!("{:?}", image.map(Image::picture)));
        let spec = id.spec();
        let result = match spec.kind {
            Kind::Image => {
                let picture = image.map(|image| image.picture().clone());
                match id {
                    OptionId::Image => self.values.image = picture,
                    _ => self.values.mask = picture,
                }
                Ok(())
            }
            _ => Err(spec.type_error("an image")),
        };
        self.remember(result)
    }

    /// Records a setting that failed before it got here (say, text that is not UTF-8).
    pub fn reject(&mut self, error: Error) -> Error {
        self.first_error.get_or_insert_with(|| error.clone());
        error
    }

    /// Sets or unsets who hears about the progress of jobs submitted from now on.
    pub fn set_progress(&mut self, progress: Option<ProgressFn>) {
        self.progress = progress;
    }

    /// Sets or unsets who combines the predictions of jobs submitted from now on.
    pub fn set_guide(&mut self, guide: Option<GuideFn>) {
        self.guide = guide;
    }

    /// Puts every option back to its default, unsets both functions and forgets the first error.
    pub fn reset(&mut self) {
        self.values = pipeline::Request::default();
        self.first_error = None;
        self.progress = None;
        self.guide = None;
    }

    /// The model the request is for.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The values as they stand.
    pub fn values(&self) -> &pipeline::Request {
        &self.values
    }

    /// The first setting that failed.
    pub fn first_error(&self) -> Option<&Error> {
        self.first_error.as_ref()
    }

    pub(super) fn guide(&self) -> Option<GuideFn> {
        self.guide.clone()
    }

    pub(super) fn progress(&self) -> Option<ProgressFn> {
        self.progress.clone()
    }

    fn log(&self, id: OptionId, value: fmt::Arguments<'_>) {
        self.model.engine().log().debug(format_args!("request: {} = {value}", id.spec().name));
    }

    fn remember(&mut self, result: Result<()>) -> Result<()> {
        result.map_err(|error| self.reject(error))
    }

    fn check_floats(&self, id: OptionId, values: Option<&[f32]>) -> Result<Option<Vec<f32>>> {
        let spec = id.spec();
        if spec.kind != Kind::Floats {
            return Err(spec.type_error("a list of floats"));
        }
        let Some(values) = values else { return Ok(None) };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(spec.error(format!("value {index} is {}", values[index])));
        }
        let mut copy = Vec::new();
        copy.try_reserve_exact(values.len()).map_err(|_| {
            error!(OutOfMemory, "option {}: no memory for {} floats", spec.name, values.len())
        })?;
        copy.extend_from_slice(values);
        Ok(Some(copy))
    }

    // The stores below get values that the table has checked, so the casts lose nothing.

    fn store_string(&mut self, id: OptionId, value: Option<&str>) {
        match id {
            OptionId::Prompt => self.values.prompt = value.unwrap_or_default().to_owned(),
            OptionId::PagAppliedLayers => {
                let names = value.unwrap_or_default().split(',').map(str::trim);
                self.values.pag_applied_layers =
                    names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
            }
            _ => self.values.negative_prompt = value.map(str::to_owned),
        }
    }

    fn store_float(&mut self, id: OptionId, value: f64) {
        let values = &mut self.values;
        match id {
            OptionId::GuidanceScale => values.guidance.guidance_scale = value,
            OptionId::Eta => values.eta = (value >= 0.0).then_some(value),
            OptionId::SChurn => values.s_churn = value,
            OptionId::STmin => values.s_tmin = value,
            OptionId::STmax => values.s_tmax = value,
            OptionId::SNoise => values.s_noise = value,
            OptionId::Strength => values.strength = value,
            OptionId::VariationStrength => values.variation_strength = value,
            OptionId::DynamicThresholdingRatio => values.dynamic_thresholding_ratio = value,
            OptionId::DynamicThresholdingMax => values.dynamic_thresholding_max = value,
            OptionId::GuidanceRescale => values.guidance.guidance_rescale = value,
            OptionId::GuidanceStart => values.guidance.guidance_start = value,
            OptionId::GuidanceStop => values.guidance.guidance_stop = value,
            OptionId::ApgEta => values.guidance.apg_eta = value,
            OptionId::ApgNormThreshold => values.guidance.apg_norm_threshold = value,
            OptionId::ApgMomentum => values.guidance.apg_momentum = value,
            _ => values.guidance.pag_scale = value,
        }
    }

    fn store_floats(&mut self, id: OptionId, floats: Option<Vec<f32>>) {
        match id {
            OptionId::Latents => self.values.latents = floats,
            OptionId::Sigmas => self.values.sigmas = floats,
            OptionId::GuidanceSchedule => {
                let doubles = |floats: Vec<f32>| floats.into_iter().map(f64::from).collect();
                self.values.guidance.guidance_schedule = floats.map(doubles);
            }
            _ => self.values.timesteps = floats,
        }
    }

    fn store_int(&mut self, id: OptionId, value: i64) {
        let values = &mut self.values;
        match id {
            OptionId::Width => values.width = value as u32,
            OptionId::Height => values.height = value as u32,
            OptionId::Steps => values.steps = value as u32,
            OptionId::Seed => values.seed = value as u64,
            OptionId::BatchSize => values.batch_size = value as u32,
            OptionId::Sampler => {
                let info = usize::try_from(value - 1).ok().and_then(|index| SAMPLERS.get(index));
                values.sampler = info.map(|info| info.sampler);
            }
            OptionId::TimestepSpacing => values.timestep_spacing = choice(value, &SPACINGS),
            OptionId::Noise => values.noise = choice(value, &NOISES),
            OptionId::SigmaSchedule => values.sigma_schedule = choice(value, &SigmaSchedule::ALL),
            OptionId::Profile => values.profile = choice(value, &PROFILES).unwrap_or(Profile::Diffusers),
            OptionId::GuidanceMethod => {
                values.guidance.method = choice(value, &GuidanceMethod::ALL).unwrap_or_default();
            }
            OptionId::ZeroInitSteps => values.guidance.zero_init_steps = value as usize,
            OptionId::Perturbation => {
                values.perturbation =
                    choice(value, &PERTURBATIONS).unwrap_or(Perturbation::IdentityAttention);
            }
            OptionId::VariationSeed => values.variation_seed = value as u64,
            OptionId::EtaNoiseSeedDelta => values.eta_noise_seed_delta = value as u64,
            _ => values.decode = value != LATENTS_ONLY,
        }
    }
}

// Choice `n` of an enum option is element `n - 1`; choice 0 is "auto".
const SPACINGS: [TimestepSpacing; 3] =
    [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace];
const NOISES: [Noise; 2] = [Noise::Philox, Noise::Mt19937];
const PROFILES: [Profile; 3] = [Profile::Diffusers, Profile::A1111, Profile::ComfyUi];
const PERTURBATIONS: [Perturbation; 2] = [Perturbation::IdentityAttention, Perturbation::SkipLayer];
const LATENTS_ONLY: i64 = 2;

fn choice<T: Copy>(value: i64, choices: &[T]) -> Option<T> {
    usize::try_from(value - 1).ok().and_then(|index| choices.get(index)).copied()
}

/// The number of `sampler` among the choices of the option.
pub(crate) fn sampler_number(sampler: Sampler) -> i32 {
    // The table of samplers is in the order of the enum.
    sampler as i32 + 1
}
