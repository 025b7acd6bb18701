//! Noise schedules: the forward process without a model.

use std::ffi::c_char;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{
    self, Handle, Out, Struct, check_apart, guard, in_ref, in_slice, in_str, in_struct, opt_slice, out_slice,
    out_struct, out_value, truth,
};
use super::model::diffusion_model;
use super::option::{diffusion_sampler_id, diffusion_timestep_spacing};
use crate::api::TimestepSpacing;
use crate::api::sampling::PredictionType;
use crate::api::schedule::{BetaSchedule, Schedule, ScheduleParameters, Table};
use crate::util::error::{Result, bail, error};

/// What a network predicts about its input x = alpha * x0 + sigma * epsilon: a value of ::diffusion_prediction_enum.
/// \since 0.1.0
/// \ingroup schedules
pub type diffusion_prediction = i32;

/// Values of ::diffusion_prediction.
/// \ingroup schedules
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_prediction_enum {
    /// The schedule's own; for a new schedule ::DIFFUSION_PREDICTION_EPSILON.
    DIFFUSION_PREDICTION_AUTO = 0,
    /// The noise epsilon (Ho et al. 2020).
    DIFFUSION_PREDICTION_EPSILON = 1,
    /// v = alpha * epsilon - sigma * x0 (Salimans & Ho 2022).
    DIFFUSION_PREDICTION_V = 2,
    /// The clean sample x0.
    DIFFUSION_PREDICTION_SAMPLE = 3,
    /// The velocity epsilon - x0 of a straight path, on which alpha + sigma = 1 (Liu et al. 2022).
    DIFFUSION_PREDICTION_FLOW = 4,
    /// v of a model preconditioned as in Karras et al. 2022 (table 1).
    DIFFUSION_PREDICTION_EDM_V = 5,
}

/// How beta grows over the training timesteps: a value of ::diffusion_beta_schedule_enum.
/// \since 0.1.0
/// \ingroup schedules
pub type diffusion_beta_schedule = i32;

/// Values of ::diffusion_beta_schedule.
/// \ingroup schedules
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_beta_schedule_enum {
    /// ::DIFFUSION_BETA_SCHEDULE_LINEAR
    DIFFUSION_BETA_SCHEDULE_AUTO = 0,
    /// Evenly from beta_start to beta_end (Ho et al. 2020).
    DIFFUSION_BETA_SCHEDULE_LINEAR = 1,
    /// The square of an even walk between the square roots: Stable Diffusion's.
    DIFFUSION_BETA_SCHEDULE_SCALED_LINEAR = 2,
    /// From a squared cosine of alphas_cumprod, without start and end (Nichol & Dhariwal 2021).
    DIFFUSION_BETA_SCHEDULE_SQUAREDCOS_CAP_V2 = 3,
    /// From beta_start to beta_end along a logistic curve (GeoDiff).
    DIFFUSION_BETA_SCHEDULE_SIGMOID = 4,
}

/// A table of a schedule, one number for each training timestep: a value of ::diffusion_schedule_table_enum.
/// \since 0.1.0
/// \ingroup schedules
pub type diffusion_schedule_table = i32;

/// Values of ::diffusion_schedule_table.
/// \ingroup schedules
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_schedule_table_enum {
    /// The variance of the noise that the timestep adds.
    DIFFUSION_SCHEDULE_TABLE_BETAS = 1,
    /// How much of the sample's variance is left: the product of all 1 - beta so far. The last is 0 at zero terminal
    /// SNR.
    DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD = 2,
    /// The noise-to-signal ratio sqrt((1 - alphas_cumprod) / alphas_cumprod); 4096 where there is no signal.
    DIFFUSION_SCHEDULE_TABLE_SIGMAS = 3,
    /// The signal-to-noise ratio alphas_cumprod / (1 - alphas_cumprod).
    DIFFUSION_SCHEDULE_TABLE_SNR = 4,
}

/// What a schedule is made of. All zero (but for struct_size) is the default of diffusers' DDIMScheduler, without
/// clipping. What is not here, diffusion_schedule_from_config() reads from text.
/// \since 0.1.0
/// \ingroup schedules
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_schedule_desc {
    /// sizeof(diffusion_schedule_desc)
    pub struct_size: u32,
    /// How beta grows. Not looked at if trained_betas are given.
    pub beta_schedule: diffusion_beta_schedule,
    /// What the network predicts. Flow and EDM models have no betas.
    pub prediction_type: diffusion_prediction,
    /// Which training timesteps samplers visit; 0 = the sampler's own.
    pub timestep_spacing: diffusion_timestep_spacing,
    /// How many training timesteps there are, up to 1048576; 0 = 1000, or as many as trained_betas.
    pub num_train_timesteps: u32,
    /// Added to each timestep of the leading spacing; 1 for most Stable Diffusion models.
    pub steps_offset: u32,
    /// 1 = rescale the betas so that the last timestep has no signal (Lin et al. 2023). Not for epsilon.
    pub rescale_betas_zero_snr: i32,
    /// 1 = ddim, pndm and their kin end at the first training timestep rather than at no noise at all: diffusers'
    /// set_alpha_to_one turned round.
    pub set_alpha_to_first: i32,
    /// The first beta, between 0 and 1; 0 = 0.0001.
    pub beta_start: f64,
    /// The last beta, between 0 and 1; 0 = 0.02.
    pub beta_end: f64,
    /// A flow's shift towards noise (Esser et al. 2024, equation 23); 0 = 1, none.
    pub shift: f64,
    /// The least sigma of an EDM model; 0 = 0.002.
    pub sigma_min: f64,
    /// The greatest sigma of an EDM model; 0 = 80.
    pub sigma_max: f64,
    /// The standard deviation of an EDM model's data; 0 = 1.
    pub sigma_data: f64,
    /// The betas themselves, each between 0 and 1; NULL = those of beta_schedule.
    pub trained_betas: *const f64,
    /// How many trained_betas there are.
    pub trained_beta_count: usize,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_schedule_desc {}

/// Facts about a schedule.
/// \since 0.1.0
/// \ingroup schedules
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_schedule_info {
    /// sizeof(diffusion_schedule_info), set by the caller
    pub struct_size: u32,
    /// How many training timesteps there are: the length of the tables.
    pub num_train_timesteps: u32,
    /// What the network predicts; never ::DIFFUSION_PREDICTION_AUTO.
    pub prediction_type: diffusion_prediction,
    /// The sampler that ::DIFFUSION_SAMPLER_AUTO stands for.
    pub default_sampler: diffusion_sampler_id,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_schedule_info {}

/// How much noise each training timestep carries, and what a model trained on that predicts. Immutable.
/// \since 0.1.0
/// \ingroup schedules
#[repr(C)]
pub struct diffusion_schedule {
    _private: [u8; 0],
}

impl Handle for diffusion_schedule {
    type Value = Schedule;
}

/// Makes a schedule from its parameters.
///
/// \param desc What it is made of; NULL = all defaults.
/// \param schedule Receives the schedule, to be freed with diffusion_schedule_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a parameter out of its range, or betas that leave no
/// signal or no noise; ::DIFFUSION_ERROR_VERSION_MISMATCH.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_schedule_from_config, diffusion_schedule_from_model
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_new(
    desc: *const diffusion_schedule_desc,
    schedule: *mut *mut diffusion_schedule,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(schedule, "schedule")?;
            let desc = in_struct(desc, "desc")?;
            let trained = opt_slice(desc.trained_betas, desc.trained_beta_count, "trained_betas")?;
            out.set(Schedule::new(&parameters(&desc, trained)?)?);
            Ok(())
        })
    }
}

/// Makes a schedule from the text of a scheduler_config.json of diffusers.
///
/// \param json The text, UTF-8: an object with _class_name and whatever the class takes. An absent key means what
/// diffusers' class takes for it.
/// \param schedule Receives the schedule, to be freed with diffusion_schedule_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_FORMAT for text that is no such config or values that make no sense;
/// ::DIFFUSION_ERROR_UNSUPPORTED for classes and settings that this version does not know;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT for NULL or bad UTF-8.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_from_config(
    json: *const c_char,
    schedule: *mut *mut diffusion_schedule,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(schedule, "schedule")?;
            out.set(Schedule::parse(in_str(json, "json")?)?);
            Ok(())
        })
    }
}

/// Takes the schedule a model was trained on.
///
/// \param model The model. The schedule does not keep it alive.
/// \param schedule Receives the schedule, to be freed with diffusion_schedule_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_FORMAT if its betas make no sense; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_from_model(
    model: *const diffusion_model,
    schedule: *mut *mut diffusion_schedule,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(schedule, "schedule")?;
            out.set(Schedule::of_model(&in_ref(model, "model")?.model)?);
            Ok(())
        })
    }
}

/// Tells what a schedule is.
///
/// \param schedule The schedule.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_get_info(
    schedule: *const diffusion_schedule,
    info: *mut diffusion_schedule_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let schedule = in_ref(schedule, "schedule")?;
            let facts = diffusion_schedule_info {
                struct_size: 0,
                num_train_timesteps: schedule.train_timesteps() as u32,
                prediction_type: prediction_number(schedule.prediction_type()),
                default_sampler: schedule.sampler() as diffusion_sampler_id + 1,
            };
            out_struct(info, "info", facts)
        })
    }
}

/// Copies a table of a schedule.
///
/// Like diffusers' tables the values are rounded to 32-bit floats where they are computed.
///
/// \param schedule The schedule.
/// \param table Which table.
/// \param dst Receives num_train_timesteps numbers, the least noise first.
/// \param dst_count How many numbers dst has room for.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL, with the numbers needed in the message;
/// ::DIFFUSION_ERROR_UNSUPPORTED for flow and EDM models, which have no tables; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_copy_table(
    schedule: *const diffusion_schedule,
    table: diffusion_schedule_table,
    dst: *mut f64,
    dst_count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let table = match table {
                1 => Table::Betas,
                2 => Table::AlphasCumprod,
                3 => Table::Sigmas,
                4 => Table::Snr,
                _ => bail!(InvalidArgument, "table: there is no table {table}"),
            };
            let table = in_ref(schedule, "schedule")?.table(table)?;
            out_slice(dst, dst_count, table.len(), "dst")?.copy_from_slice(&table);
            Ok(())
        })
    }
}

/// Tells how signal and noise mix at a timestep: x = alpha * x0 + sigma * epsilon.
///
/// \param schedule The schedule.
/// \param timestep A whole number from 0 to num_train_timesteps - 1; of a flow any number from 0 to
/// num_train_timesteps; of an EDM model a quarter of the natural logarithm of sigma.
/// \param alpha Receives the signal's share; 0 on failure.
/// \param sigma Receives the noise's share; 0 on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_get_level(
    schedule: *const diffusion_schedule,
    timestep: f64,
    alpha: *mut f64,
    sigma: *mut f64,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            out_value(alpha, "alpha", 0.0)?;
            out_value(sigma, "sigma", 0.0)?;
            let level = in_ref(schedule, "schedule")?.level(timestep)?;
            out_value(alpha, "alpha", level.alpha)?;
            out_value(sigma, "sigma", level.sigma)
        })
    }
}

/// The forward process: adds noise to a batch of samples, each image at a timestep of its own.
///
/// out = alpha * samples + sigma * noise, with the alpha and sigma that diffusion_schedule_get_level() tells. The same
/// numbers as diffusers' add_noise.
///
/// \param schedule The schedule.
/// \param samples images x values floats, image 0 first.
/// \param noise As many floats, usually standard normal: see diffusion_noise_fill().
/// \param images How many images there are, at least 1.
/// \param values Values of one image: channels x height x width.
/// \param timesteps One timestep an image, as diffusion_schedule_get_level() takes it.
/// \param out Receives images x values floats. It may be samples; else it must not overlap them, nor noise.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT, and out is as it was.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_add_noise(
    schedule: *const diffusion_schedule,
    samples: *const f32,
    noise: *const f32,
    images: u32,
    values: u32,
    timesteps: *const f64,
    out: *mut f32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let schedule = in_ref(schedule, "schedule")?;
            let levels = levels(schedule, timesteps, images)?;
            let noise = (noise, "noise");
            let (out, noise) = in_place((samples, "samples"), noise, count(images, values)?, out)?;
            schedule.add_noise(out, noise, levels)
        })
    }
}

/// The target of training: what a perfect model answers about samples and the noise that was added to them.
///
/// ::DIFFUSION_PREDICTION_V gives the velocity target, alpha * noise - sigma * samples.
///
/// \param schedule The schedule.
/// \param prediction What the model predicts; ::DIFFUSION_PREDICTION_AUTO = what the schedule's does.
/// \param samples images x values floats, image 0 first: x0.
/// \param noise As many floats: epsilon.
/// \param images How many images there are, at least 1.
/// \param values Values of one image.
/// \param timesteps One timestep an image, as diffusion_schedule_get_level() takes it.
/// \param out Receives images x values floats. It may be samples; else it must not overlap them, nor noise.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT, and out is as it was.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_target(
    schedule: *const diffusion_schedule,
    prediction: diffusion_prediction,
    samples: *const f32,
    noise: *const f32,
    images: u32,
    values: u32,
    timesteps: *const f64,
    out: *mut f32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let schedule = in_ref(schedule, "schedule")?;
            let prediction = prediction_type(prediction, schedule, "prediction")?;
            let levels = levels(schedule, timesteps, images)?;
            let noise = (noise, "noise");
            let (out, noise) = in_place((samples, "samples"), noise, count(images, values)?, out)?;
            schedule.target(prediction, out, noise, levels)
        })
    }
}

/// Says a prediction as another one: x0, epsilon or v from whichever the model gave.
///
/// \param schedule The schedule.
/// \param from What the predictions are; ::DIFFUSION_PREDICTION_AUTO = what the schedule's model predicts.
/// \param to What they become: ::DIFFUSION_PREDICTION_SAMPLE for x0, ::DIFFUSION_PREDICTION_EPSILON,
/// ::DIFFUSION_PREDICTION_V, ...; ::DIFFUSION_PREDICTION_AUTO = what the schedule's model predicts.
/// \param predictions images x values floats, image 0 first.
/// \param inputs As many floats: the noisy samples that the predictions are about, as diffusion_schedule_add_noise()
/// makes them.
/// \param images How many images there are, at least 1.
/// \param values Values of one image.
/// \param timesteps One timestep an image, as diffusion_schedule_get_level() takes it.
/// \param out Receives images x values floats. It may be predictions; else it must not overlap them, nor inputs.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT, also where one does not tell the other: epsilon nothing
/// of x0 where no signal is left, x0 nothing of epsilon where there is no noise. Then out is as it was.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_schedule_convert(
    schedule: *const diffusion_schedule,
    from: diffusion_prediction,
    to: diffusion_prediction,
    predictions: *const f32,
    inputs: *const f32,
    images: u32,
    values: u32,
    timesteps: *const f64,
    out: *mut f32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let schedule = in_ref(schedule, "schedule")?;
            let types = [prediction_type(from, schedule, "from")?, prediction_type(to, schedule, "to")?];
            let timesteps = levels(schedule, timesteps, images)?;
            schedule.check_convert(types, timesteps)?;
            let inputs = (inputs, "inputs");
            let (out, inputs) = in_place((predictions, "predictions"), inputs, count(images, values)?, out)?;
            schedule.convert(types, out, inputs, timesteps)
        })
    }
}

/// Frees a schedule. Samplers made from it are not touched.
///
/// \param schedule The schedule, or NULL for nothing to happen.
/// \threadsafety Any thread; the schedule must not be in use.
/// \since 0.1.0
/// \ingroup schedules
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_schedule_free(schedule: *mut diffusion_schedule) {
    // SAFETY: NULL or a schedule the caller gives up.
    unsafe { ffi::free(schedule) }
}

fn parameters(desc: &diffusion_schedule_desc, trained: Option<&[f64]>) -> Result<ScheduleParameters> {
    let beta_schedule = match desc.beta_schedule {
        0 | 1 => BetaSchedule::Linear,
        2 => BetaSchedule::ScaledLinear,
        3 => BetaSchedule::SquaredcosCapV2,
        4 => BetaSchedule::Sigmoid,
        other => bail!(InvalidArgument, "beta_schedule: there is no beta schedule {other}"),
    };
    let number = |value: f64| Some(value).filter(|value| *value != 0.0);
    Ok(ScheduleParameters {
        num_train_timesteps: Some(desc.num_train_timesteps as usize).filter(|steps| *steps != 0),
        beta_schedule: Some(trained.map_or(beta_schedule, |betas| BetaSchedule::Trained(betas.to_vec()))),
        beta_start: number(desc.beta_start),
        beta_end: number(desc.beta_end),
        prediction_type: match desc.prediction_type {
            0 => None,
            number => Some(prediction(number, "prediction_type")?),
        },
        rescale_betas_zero_snr: truth(desc.rescale_betas_zero_snr, "rescale_betas_zero_snr")?,
        timestep_spacing: spacing(desc.timestep_spacing)?,
        steps_offset: desc.steps_offset as usize,
        set_alpha_to_first: truth(desc.set_alpha_to_first, "set_alpha_to_first")?,
        shift: number(desc.shift),
        sigma_min: number(desc.sigma_min),
        sigma_max: number(desc.sigma_max),
        sigma_data: number(desc.sigma_data),
    })
}

/// 0 is `None`: whatever the schedule or sampler does.
pub(super) fn spacing(number: diffusion_timestep_spacing) -> Result<Option<TimestepSpacing>> {
    Ok(match number {
        0 => None,
        1 => Some(TimestepSpacing::Leading),
        2 => Some(TimestepSpacing::Trailing),
        3 => Some(TimestepSpacing::Linspace),
        _ => bail!(InvalidArgument, "timestep_spacing: there is no timestep spacing {number}"),
    })
}

/// The prediction types, in the order of the enum.
const PREDICTIONS: [PredictionType; 5] = [
    PredictionType::Epsilon,
    PredictionType::VPrediction,
    PredictionType::Sample,
    PredictionType::Flow,
    PredictionType::EdmV,
];

fn prediction(number: diffusion_prediction, name: &str) -> Result<PredictionType> {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let known = index.and_then(|index| PREDICTIONS.get(index)).copied();
    known.ok_or_else(|| error!(InvalidArgument, "{name}: there is no prediction type {number}"))
}

fn prediction_type(number: diffusion_prediction, schedule: &Schedule, name: &str) -> Result<PredictionType> {
    if number == 0 { Ok(schedule.prediction_type()) } else { prediction(number, name) }
}

fn prediction_number(prediction_type: PredictionType) -> diffusion_prediction {
    PREDICTIONS.iter().position(|known| *known == prediction_type).map_or(0, |index| index as i32 + 1)
}

fn count(images: u32, values: u32) -> Result<usize> {
    let count = (images as usize).checked_mul(values as usize);
    count.ok_or_else(|| error!(InvalidArgument, "{images} images of {values} values are too many"))
}

/// The timesteps of a batch, each of which the schedule has.
unsafe fn levels<'a>(schedule: &Schedule, timesteps: *const f64, images: u32) -> Result<&'a [f64]> {
    if images == 0 {
        bail!(InvalidArgument, "images is 0");
    }
    // SAFETY: NULL or one number an image.
    let timesteps = unsafe { in_slice(timesteps, images as usize, "timesteps")? };
    for timestep in timesteps {
        schedule.level(*timestep)?;
    }
    Ok(timesteps)
}

/// `out` with `first` in it, and `second` beside it.
unsafe fn in_place<'a>(
    first: (*const f32, &str),
    second: (*const f32, &str),
    count: usize,
    out: *mut f32,
) -> Result<(&'a mut [f32], &'a [f32])> {
    // SAFETY: each is NULL or has `count` values; `out` becomes a slice only once it is known to lie elsewhere than what
    // is read beside it.
    unsafe {
        let source = in_slice(first.0, count, first.1)?.as_ptr();
        let beside = in_slice(second.0, count, second.1)?;
        if out.is_null() {
            bail!(InvalidArgument, "out is NULL");
        }
        check_apart((out.cast_const(), "out"), second, count)?;
        if !std::ptr::eq(source, out) {
            check_apart((out.cast_const(), "out"), first, count)?;
            std::ptr::copy_nonoverlapping(source, out, count);
        }
        Ok((out_slice(out, count, count, "out")?, beside))
    }
}
