//! Samplers that a host runs itself, and noise.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;
use std::sync::{Arc, OnceLock};

use super::error::{diffusion_error, diffusion_status, diffusion_status_enum};
use super::ffi::{
    self, Handle, Out, Struct, UserData, c_string, guard, guard_or, guard_outcome, in_ref, in_slice,
    in_struct, opt_ref, opt_slice, out_slice, out_struct, out_value,
};
use super::option::{
    diffusion_noise, diffusion_profile, diffusion_profile_enum, diffusion_sampler_id,
    diffusion_sigma_schedule, diffusion_timestep_spacing,
};
use super::schedule::{diffusion_schedule, spacing};
use crate::api::sampling::{
    Batch, Clip, Evaluation, Noise, NoiseFn, Options, Plan, Profile, SAMPLERS, SIGMA_SCHEDULES,
    SigmaSchedule, Stepper, fill_noise,
};
use crate::util::error::{Result, bail, error};

/// How predictions of x0 are clipped: a value of ::diffusion_clip_enum.
/// \since 0.1.0
/// \ingroup samplers
pub type diffusion_clip = i32;

/// Values of ::diffusion_clip.
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_clip_enum {
    /// As the schedule's config says.
    DIFFUSION_CLIP_AUTO = 0,
    /// Not at all.
    DIFFUSION_CLIP_NONE = 1,
    /// To plus or minus clip_range.
    DIFFUSION_CLIP_RANGE = 2,
    /// Dynamic thresholding: to the clip_ratio quantile of an image's values, kept in 1..clip_range, by which they are
    /// then divided (Saharia et al. 2022, section 2.3).
    DIFFUSION_CLIP_DYNAMIC = 3,
}

/// Flags of ::diffusion_sampler_desc, to be combined with |.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_sampler_flags_enum {
    /// eta is 0, where that is not the sampler's own.
    DIFFUSION_SAMPLER_ETA_ZERO = 1,
    /// s_noise is 0 rather than 1.
    DIFFUSION_SAMPLER_S_NOISE_ZERO = 2,
}

/// Gives a sampler fresh noise in place of its own.
///
/// It is called from the thread that runs the sampler, in the midst of its call, and must return normally: no exception,
/// no longjmp. It must not use the sampler (::DIFFUSION_ERROR_BUSY), nor free it.
///
/// \param from The noise-to-signal ratio that the way of this noise begins at.
/// \param to The ratio that it ends at.
/// \param images Images of the batch.
/// \param values Values of one image.
/// \param out Receives images x values finite floats, standard normal in most uses; zeros before. Anything that is not
/// finite is ::DIFFUSION_ERROR_NUMERIC.
/// \param user_data ::diffusion_sampler_desc::noise_user_data.
/// \returns 0 to go on, anything else to stop with ::DIFFUSION_ERROR_CANCELLED. After a stop, or noise that is not
/// finite, the sampler must be started anew.
/// \since 0.1.0
/// \ingroup samplers
pub type diffusion_noise_callback = Option<
    unsafe extern "C" fn(
        from: f64,
        to: f64,
        images: u32,
        values: u32,
        out: *mut f32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// How to sample. A sampler needs steps (or sigmas, or timesteps) and values; all else may be zero.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_sampler_desc {
    /// sizeof(diffusion_sampler_desc)
    pub struct_size: u32,
    /// How noise becomes samples; 0 = the schedule's own.
    pub sampler: diffusion_sampler_id,
    /// Denoising steps, 1 to 65536; spaced timesteps allow no more than the schedule has. 0 = what sigmas or timesteps
    /// make.
    pub steps: u32,
    /// How the noise levels are spaced; 0 = the schedule's own.
    pub sigma_schedule: diffusion_sigma_schedule,
    /// Which training timesteps are visited; 0 = the schedule's own.
    pub timestep_spacing: diffusion_timestep_spacing,
    /// Whose numbers to give where programs differ; 0 = diffusers'.
    pub profile: diffusion_profile,
    /// Where noise comes from; 0 = ::DIFFUSION_NOISE_PHILOX, and the Mersenne Twister in ComfyUI's profile.
    pub noise: diffusion_noise,
    /// How predictions of x0 are clipped; 0 = as the schedule's config says.
    pub clip: diffusion_clip,
    /// 0, ::DIFFUSION_SAMPLER_ETA_ZERO, ::DIFFUSION_SAMPLER_S_NOISE_ZERO.
    pub flags: u32,
    /// Order of the multistep solvers that have several, 1 to 3; 0 = the schedule's own, usually 2.
    pub solver_order: u32,
    /// Images of the batch, up to 1048576; 0 = 1.
    pub images: u32,
    /// Values of one image: channels x height x width.
    pub values: u32,
    /// How much of DDPM's fresh noise is added, 0 to 1. 0 = the sampler's own: none for ddim, all for the ancestral and
    /// SDE samplers. To mean 0 there, set ::DIFFUSION_SAMPLER_ETA_ZERO.
    pub eta: f64,
    /// Churn (Karras et al. 2022, algorithm 2): how much noise is added before steps; 0 = none.
    pub s_churn: f64,
    /// The least sigma at which there is churn.
    pub s_tmin: f64,
    /// The greatest sigma at which there is churn; 0 = any.
    pub s_tmax: f64,
    /// The standard deviation of all fresh noise; 0 = 1. To mean 0, set ::DIFFUSION_SAMPLER_S_NOISE_ZERO.
    pub s_noise: f64,
    /// Image-to-image: how much of the way to go, above 0 up to 1; 0 = start from noise.
    pub strength: f64,
    /// The bound of ::DIFFUSION_CLIP_RANGE, above 0, and the greatest of ::DIFFUSION_CLIP_DYNAMIC, at least 1; 0 = 1.
    pub clip_range: f64,
    /// The quantile of ::DIFFUSION_CLIP_DYNAMIC, above 0 up to 1; 0 = 0.995.
    pub clip_ratio: f64,
    /// Seed of image 0; image i has seed + i. Not looked at if seeds are given.
    pub seed: u64,
    /// One seed an image; NULL = from seed.
    pub seeds: *const u64,
    /// Noise levels of your own, falling, one more than steps: the last is where the last step ends, usually 0. NULL =
    /// none.
    pub sigmas: *const f64,
    /// How many sigmas there are.
    pub sigma_count: usize,
    /// Timesteps of your own, falling, one a step; the last step ends without noise. NULL = none.
    pub timesteps: *const f64,
    /// How many timesteps there are.
    pub timestep_count: usize,
    /// Gives fresh noise; NULL = it goes on from the seeds' streams.
    pub noise_callback: diffusion_noise_callback,
    /// Handed to noise_callback. It must stay valid until the sampler is freed.
    pub noise_user_data: *mut c_void,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_sampler_desc {}

/// What a sampler is going to do.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_sampler_plan {
    /// sizeof(diffusion_sampler_plan), set by the caller
    pub struct_size: u32,
    /// The sampler; never ::DIFFUSION_SAMPLER_AUTO.
    pub sampler: diffusion_sampler_id,
    /// Steps in all; with a strength fewer than were asked for.
    pub steps: u32,
    /// Evaluations of the model in all.
    pub evaluations: u32,
    /// Images of the batch.
    pub images: u32,
    /// Values of one image.
    pub values: u32,
    /// Floats of a prediction for each value: 2 if the model predicts its variance too, else 1.
    pub prediction_values: u32,
    /// 1 if the sampler needs the prediction without the prompt besides the guided one (the CFG++ samplers), else 0.
    pub needs_unconditional: i32,
    /// What noise of unit variance is multiplied by to be the latents before the first step.
    pub init_noise_sigma: f64,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_sampler_plan {}

/// What a sampler asks of the model: its prediction for an input.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_question {
    /// sizeof(diffusion_question), set by the caller of diffusion_sampler_ask()
    pub struct_size: u32,
    /// The step it belongs to, from 0.
    pub step: u32,
    /// Images of the batch.
    pub images: u32,
    /// Values of one image.
    pub values: u32,
    /// Floats of the prediction for each value of the input, 1 or 2.
    pub prediction_values: u32,
    /// Whether the prediction without the prompt is needed besides, 0 or 1.
    pub needs_unconditional: i32,
    /// What the model is told; it may have a fraction.
    pub timestep: f64,
    /// The signal's share of input: input = alpha * x0 + sigma * epsilon.
    pub alpha: f64,
    /// The noise's share of input.
    pub sigma: f64,
    /// What a prediction says of x0: x0_from_input * input + x0_from_prediction * prediction.
    pub x0_from_input: f64,
    /// See x0_from_input.
    pub x0_from_prediction: f64,
    /// images x values floats, scaled as the model was trained on. They stay there, unchanged, until the question is
    /// answered or the sampler started anew or freed.
    pub input: *const f32,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_question {}

/// Answers a sampler's question: runs the model.
///
/// It is called from the thread that called diffusion_sampler_step(), before that returns. It must return normally: no
/// exception, no longjmp. It may call into the library, but must not use this sampler (::DIFFUSION_ERROR_BUSY), nor free
/// it. Hosts that cannot take callbacks use diffusion_sampler_ask() and diffusion_sampler_tell().
///
/// \param question What is asked, valid during the call.
/// \param prediction Receives images x values x prediction_values floats, what the model was trained to predict, guided
/// if you like; of a model that predicts its variance each image's prediction, then its variance.
/// \param unconditional Receives images x values floats, the prediction without the prompt; NULL unless
/// needs_unconditional.
/// \param user_data As given to diffusion_sampler_step().
/// \returns 0 to go on, anything else to stop with ::DIFFUSION_ERROR_CANCELLED.
/// \since 0.1.0
/// \ingroup samplers
pub type diffusion_denoise_callback = Option<
    unsafe extern "C" fn(
        question: *const diffusion_question,
        prediction: *mut f32,
        unconditional: *mut f32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// A sampler under way: it takes noise to samples, step by step, and asks the host for what the model predicts.
///
/// It may be used by one thread at a time; a call that meets another one returns ::DIFFUSION_ERROR_BUSY and does
/// nothing.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
pub struct diffusion_sampler {
    _private: [u8; 0],
}

impl Handle for diffusion_sampler {
    type Value = Stepper;
}

/// Facts about one of the samplers there are. The strings are static: valid for ever.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_sampler_info {
    /// sizeof(diffusion_sampler_info), set by the caller
    pub struct_size: u32,
    /// The sampler.
    pub sampler: diffusion_sampler_id,
    /// Order of accuracy: the error falls with steps^-order.
    pub order: u32,
    /// Evaluations of the model a step.
    pub evaluations: u32,
    /// 1 if it draws fresh noise at its default settings, else 0.
    pub stochastic: i32,
    /// 0
    pub reserved: u32,
    /// The name options use, such as "dpmpp_2m".
    pub name: *const c_char,
    /// The paper and where in it, or the code that defined it.
    pub source: *const c_char,
    /// When to use it: one line.
    pub summary: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_sampler_info {}

/// How many samplers there are.
///
/// \returns The number of samplers; diffusion_sampler_get_info() takes 0 to one less.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_sampler_count() -> usize {
    SAMPLERS.len()
}

/// Tells what a sampler is, so that bindings and user interfaces need no list of their own.
///
/// \param index 0 to diffusion_sampler_count() - 1. Not the sampler's number.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_get_info(
    index: usize,
    info: *mut diffusion_sampler_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let row = SAMPLERS.get(index).zip(sampler_texts().get(index));
            let (spec, [name, source, summary]) = row.ok_or_else(|| {
                error!(InvalidArgument, "index: {index} is not less than the {} samplers", SAMPLERS.len())
            })?;
            let facts = diffusion_sampler_info {
                struct_size: 0,
                sampler: spec.sampler as diffusion_sampler_id + 1,
                order: spec.order,
                evaluations: spec.evaluations,
                stochastic: spec.stochastic.into(),
                reserved: 0,
                name: name.as_ptr(),
                source: source.as_ptr(),
                summary: summary.as_ptr(),
            };
            out_struct(info, "info", facts)
        })
    }
}

/// Facts about one of the sigma schedules there are. The strings are static: valid for ever.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_sigma_schedule_info {
    /// sizeof(diffusion_sigma_schedule_info), set by the caller
    pub struct_size: u32,
    /// The sigma schedule.
    pub sigma_schedule: diffusion_sigma_schedule,
    /// The name options use, such as "karras".
    pub name: *const c_char,
    /// The paper and where in it, or the code that defined it.
    pub source: *const c_char,
    /// What it does and when to use it: one line.
    pub summary: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_sigma_schedule_info {}

/// How many sigma schedules there are.
///
/// \returns The number of sigma schedules; diffusion_sigma_schedule_get_info() takes 0 to one less.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_sigma_schedule_count() -> usize {
    SIGMA_SCHEDULES.len()
}

/// Tells what a sigma schedule is.
///
/// \param index 0 to diffusion_sigma_schedule_count() - 1. Not the schedule's number.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sigma_schedule_get_info(
    index: usize,
    info: *mut diffusion_sigma_schedule_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let row = SIGMA_SCHEDULES.get(index).zip(sigma_schedule_texts().get(index));
            let (spec, [name, source, summary]) = row.ok_or_else(|| {
                let count = SIGMA_SCHEDULES.len();
                error!(InvalidArgument, "index: {index} is not less than the {count} sigma schedules")
            })?;
            let facts = diffusion_sigma_schedule_info {
                struct_size: 0,
                sigma_schedule: spec.schedule as diffusion_sigma_schedule + 1,
                name: name.as_ptr(),
                source: source.as_ptr(),
                summary: summary.as_ptr(),
            };
            out_struct(info, "info", facts)
        })
    }
}

/// Plans a way from noise to samples for a model of a schedule.
///
/// \param schedule What the model was trained on. The sampler takes what it needs of it.
/// \param desc What is wanted.
/// \param sampler Receives the sampler, to be freed with diffusion_sampler_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a setting out of its range, no steps or more than
/// there are timesteps, sigmas or timesteps that do not fall; ::DIFFUSION_ERROR_UNSUPPORTED for what the schedule or its
/// prediction type forbids; ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_VERSION_MISMATCH.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_sampler_start
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_new(
    schedule: *const diffusion_schedule,
    desc: *const diffusion_sampler_desc,
    sampler: *mut *mut diffusion_sampler,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(sampler, "sampler")?;
            let schedule = in_ref(schedule, "schedule")?;
            if desc.is_null() {
                bail!(InvalidArgument, "desc is NULL");
            }
            let desc = in_struct(desc, "desc")?;
            let order = Some(desc.solver_order as usize).filter(|order| *order != 0);
            out.set(Stepper::new(schedule, &options(&desc)?, order, batch(&desc)?)?);
            Ok(())
        })
    }
}

/// Tells what a sampler is going to do.
///
/// \param sampler The sampler.
/// \param plan Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_get_plan(
    sampler: *const diffusion_sampler,
    plan: *mut diffusion_sampler_plan,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let stepper = in_ref(sampler, "sampler")?;
            let facts = stepper.plan();
            let facts = diffusion_sampler_plan {
                struct_size: 0,
                sampler: facts.sampler() as diffusion_sampler_id + 1,
                steps: facts.len() as u32,
                evaluations: facts.evaluations() as u32,
                images: stepper.images() as u32,
                values: stepper.values() as u32,
                prediction_values: facts.prediction_values() as u32,
                needs_unconditional: facts.needs_unconditional().into(),
                init_noise_sigma: facts.init_noise_sigma().into(),
            };
            out_struct(plan, "plan", facts)
        })
    }
}

/// Copies the timestep of each step's first evaluation, noisiest first.
///
/// \param sampler The sampler.
/// \param dst Receives as many numbers as there are steps; they may have a fraction.
/// \param dst_count How many numbers dst has room for.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_copy_timesteps(
    sampler: *const diffusion_sampler,
    dst: *mut f64,
    dst_count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let timesteps = in_ref(sampler, "sampler")?.plan().timesteps();
            let dst = out_slice(dst, dst_count, timesteps.len(), "dst")?;
            for (dst, timestep) in dst.iter_mut().zip(timesteps) {
                *dst = f64::from(*timestep);
            }
            Ok(())
        })
    }
}

/// Tells the signal and noise of the latents after some steps: latents = alpha * x0 + sigma * epsilon.
///
/// \param sampler The sampler.
/// \param steps_done 0 to the number of steps.
/// \param alpha Receives the signal's share; 0 on failure.
/// \param sigma Receives the noise's share; 0 on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_get_level(
    sampler: *const diffusion_sampler,
    steps_done: u32,
    alpha: *mut f64,
    sigma: *mut f64,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            out_value(alpha, "alpha", 0.0)?;
            out_value(sigma, "sigma", 0.0)?;
            let plan = in_ref(sampler, "sampler")?.plan();
            if steps_done as usize > plan.len() {
                bail!(InvalidArgument, "steps_done {steps_done} is above the {} steps", plan.len());
            }
            let level = plan.level(steps_done as usize);
            out_value(alpha, "alpha", level.alpha)?;
            out_value(sigma, "sigma", level.sigma)
        })
    }
}

/// Begins, or begins anew, from latents or from the noise of the seeds.
///
/// The fresh noise of a stochastic sampler goes on from the streams that drew the first; with latents of your own it
/// begins at the seeds, so make the latents with others.
///
/// \param sampler The sampler.
/// \param latents images x values floats at the level of diffusion_sampler_get_level() for 0 steps: noise of unit
/// variance times init_noise_sigma. NULL = from the seeds, which a sampler with a strength cannot: use
/// diffusion_sampler_start_from().
/// \param count How many floats: images x values, or 0 for NULL.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_NUMERIC for latents that are not finite;
/// ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_start(
    sampler: *mut diffusion_sampler,
    latents: *const f32,
    count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe { guard(error, || in_ref(sampler, "sampler")?.start(opt_slice(latents, count, "latents")?)) }
}

/// Begins from pictures, under as much noise of the seeds as is left before the first step: image-to-image.
///
/// \param sampler The sampler, usually one with a strength.
/// \param originals images x values floats: x0.
/// \param count How many floats: images x values.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns As diffusion_sampler_start().
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_start_from(
    sampler: *mut diffusion_sampler,
    originals: *const f32,
    count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || in_ref(sampler, "sampler")?.start_from(in_slice(originals, count, "originals")?))
    }
}

/// Takes one step, asking the callback as often as the sampler needs.
///
/// \param sampler The sampler, started.
/// \param callback Runs the model.
/// \param user_data Handed to callback.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK if a step was taken; ::DIFFUSION_DONE if none was left to take;
/// ::DIFFUSION_ERROR_CANCELLED if the callback stopped it; ::DIFFUSION_ERROR_NUMERIC for a prediction that is not finite.
/// After these two the step can be gone on with. ::DIFFUSION_ERROR_INVALID_STATE before the start;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_step(
    sampler: *mut diffusion_sampler,
    callback: diffusion_denoise_callback,
    user_data: *mut c_void,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard_outcome(error, || {
            let stepper = in_ref(sampler, "sampler")?;
            let callback = callback.ok_or_else(|| error!(InvalidArgument, "callback is NULL"))?;
            let taken = stepper.step(&mut |evaluation, prediction, unconditional| {
                let question = question(stepper, &evaluation);
                let unconditional =
                    if unconditional.is_empty() { ptr::null_mut() } else { unconditional.as_mut_ptr() };
                match callback(&raw const question, prediction.as_mut_ptr(), unconditional, user_data) {
                    0 => Ok(()),
                    _ => bail!(Cancelled, "the denoise callback stopped step {}", evaluation.step),
                }
            })?;
            Ok(done_unless(taken))
        })
    }
}

/// Asks what the sampler wants to know next.
///
/// The question stays the same until diffusion_sampler_tell() answers it. So a loop asks while the outcome is
/// ::DIFFUSION_OK, runs the model on what is asked, and tells.
///
/// \param sampler The sampler, started.
/// \param question Receives the question; the caller sets struct_size before. Untouched if there is none.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_DONE if every step is done; ::DIFFUSION_ERROR_INVALID_STATE before the start;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_ask(
    sampler: *mut diffusion_sampler,
    question: *mut diffusion_question,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard_outcome(error, || {
            let stepper = in_ref(sampler, "sampler")?;
            if question.is_null() {
                bail!(InvalidArgument, "question is NULL");
            }
            let next = stepper.ask(|evaluation| self::question(stepper, &evaluation))?;
            let asked = next.is_some();
            if let Some(next) = next {
                out_struct(question, "question", next)?;
            }
            Ok(done_unless(asked))
        })
    }
}

/// Answers the question of diffusion_sampler_ask(). When it was the step's last, the step is done.
///
/// \param sampler The sampler, with a question open.
/// \param prediction images x values x prediction_values floats, as ::diffusion_denoise_callback writes them.
/// \param count How many floats.
/// \param unconditional images x values floats, the prediction without the prompt, where needs_unconditional; else NULL.
/// \param unconditional_count How many floats; 0 for NULL.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NUMERIC for a prediction that is not finite and
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT for a wrong count, after which the question stands;
/// ::DIFFUSION_ERROR_INVALID_STATE if none was open; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_tell(
    sampler: *mut diffusion_sampler,
    prediction: *const f32,
    count: usize,
    unconditional: *const f32,
    unconditional_count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let prediction = in_slice(prediction, count, "prediction")?;
            let unconditional = opt_slice(unconditional, unconditional_count, "unconditional")?;
            in_ref(sampler, "sampler")?.tell(prediction, unconditional.unwrap_or_default())
        })
    }
}

/// How many steps a sampler has taken since its start.
///
/// \param sampler The sampler, or NULL.
/// \returns 0 to the number of steps; 0 for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_sampler_steps_done(sampler: *const diffusion_sampler) -> u32 {
    // SAFETY: NULL or a sampler that lives during the call.
    guard_or(0, || unsafe { opt_ref(sampler) }.map_or(0, |stepper| stepper.steps_done() as u32))
}

/// Copies the latents after the steps done so far; in the end these are the samples.
///
/// \param sampler The sampler, started.
/// \param dst Receives images x values floats, at the level of diffusion_sampler_get_level().
/// \param dst_count How many floats dst has room for.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL; ::DIFFUSION_ERROR_INVALID_STATE before the start;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_copy_latents(
    sampler: *const diffusion_sampler,
    dst: *mut f32,
    dst_count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let stepper = in_ref(sampler, "sampler")?;
            stepper.copy_latents(out_slice(dst, dst_count, stepper.len(), "dst")?)
        })
    }
}

/// Replaces the latents between two steps: to blend in what a mask protects, say.
///
/// \param sampler The sampler, started, with no question open.
/// \param latents images x values floats, copied.
/// \param count How many floats.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the start and in the midst of a step;
/// ::DIFFUSION_ERROR_NUMERIC for latents that are not finite; ::DIFFUSION_ERROR_INVALID_ARGUMENT;
/// ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each sampler.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_sampler_set_latents(
    sampler: *mut diffusion_sampler,
    latents: *const f32,
    count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe { guard(error, || in_ref(sampler, "sampler")?.set_latents(in_slice(latents, count, "latents")?)) }
}

/// Frees a sampler.
///
/// \param sampler The sampler, or NULL for nothing to happen.
/// \threadsafety Any thread; the sampler must not be in use: not in its own callbacks.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_sampler_free(sampler: *mut diffusion_sampler) {
    // SAFETY: NULL or a sampler the caller gives up.
    unsafe { ffi::free(sampler) }
}

/// Fills memory with standard normal noise, equal to one call of torch.randn after torch.manual_seed(seed).
///
/// \param noise Which generator; ::DIFFUSION_NOISE_AUTO = ::DIFFUSION_NOISE_PHILOX.
/// \param seed Any number; ::DIFFUSION_NOISE_MT19937 takes its low 32 bits.
/// \param out Receives the noise.
/// \param count How many floats. A longer call does not begin like a shorter one with every generator.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup samplers
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_noise_fill(
    noise: diffusion_noise,
    seed: u64,
    out: *mut f32,
    count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            fill_noise(
                noise_kind(noise)?.unwrap_or(Noise::Philox),
                seed,
                out_slice(out, count, count, "out")?,
            );
            Ok(())
        })
    }
}

fn done_unless(more: bool) -> diffusion_status_enum {
    if more { diffusion_status_enum::DIFFUSION_OK } else { diffusion_status_enum::DIFFUSION_DONE }
}

fn question(stepper: &Stepper, evaluation: &Evaluation<'_>) -> diffusion_question {
    let plan: &Plan = stepper.plan();
    diffusion_question {
        struct_size: size_of::<diffusion_question>() as u32,
        step: evaluation.step as u32,
        images: stepper.images() as u32,
        values: stepper.values() as u32,
        prediction_values: plan.prediction_values() as u32,
        needs_unconditional: plan.needs_unconditional().into(),
        timestep: f64::from(evaluation.timestep),
        alpha: evaluation.alpha,
        sigma: evaluation.sigma,
        x0_from_input: evaluation.original[0],
        x0_from_prediction: evaluation.original[1],
        input: evaluation.input.as_ptr(),
    }
}

unsafe fn options(desc: &diffusion_sampler_desc) -> Result<Options> {
    // SAFETY: each is NULL or has as many numbers as its count says.
    let (sigmas, timesteps) = unsafe {
        (
            opt_slice(desc.sigmas, desc.sigma_count, "sigmas")?,
            opt_slice(desc.timesteps, desc.timestep_count, "timesteps")?,
        )
    };
    let steps = match (desc.steps, sigmas, timesteps) {
        (0, Some(sigmas), _) => sigmas.len().saturating_sub(1),
        (0, None, Some(timesteps)) => timesteps.len(),
        (steps, _, _) => steps as usize,
    };
    let [eta_zero, s_noise_zero] = flags(desc)?;
    let given = |value: f64| Some(value).filter(|value| *value != 0.0);
    Ok(Options {
        sampler: numbered(desc.sampler, SAMPLERS, "sampler")?.map(|info| info.sampler),
        spacing: spacing(desc.timestep_spacing)?,
        sigma_schedule: numbered(desc.sigma_schedule, &SigmaSchedule::ALL, "sigma_schedule")?.copied(),
        sigmas: sigmas.map(<[f64]>::to_vec),
        timesteps: timesteps.map(<[f64]>::to_vec),
        eta: if eta_zero { Some(0.0) } else { given(desc.eta) },
        s_churn: desc.s_churn,
        s_tmin: desc.s_tmin,
        s_tmax: given(desc.s_tmax).unwrap_or(f64::INFINITY),
        s_noise: if s_noise_zero { 0.0 } else { given(desc.s_noise).unwrap_or(1.0) },
        profile: numbered(desc.profile, &PROFILES, "profile")?.copied().unwrap_or(Profile::Diffusers),
        strength: given(desc.strength),
        clip: clip(desc)?,
        ..Options::new(steps)
    })
}

fn flags(desc: &diffusion_sampler_desc) -> Result<[bool; 2]> {
    const ETA_ZERO: u32 = diffusion_sampler_flags_enum::DIFFUSION_SAMPLER_ETA_ZERO as u32;
    const S_NOISE_ZERO: u32 = diffusion_sampler_flags_enum::DIFFUSION_SAMPLER_S_NOISE_ZERO as u32;
    let flags = desc.flags;
    if flags & !(ETA_ZERO | S_NOISE_ZERO) != 0 {
        bail!(InvalidArgument, "flags: {flags:#x} has bits that mean nothing");
    }
    let set = [flags & ETA_ZERO != 0, flags & S_NOISE_ZERO != 0];
    for (is_zero, name, value) in [(set[0], "eta", desc.eta), (set[1], "s_noise", desc.s_noise)] {
        if is_zero && value != 0.0 {
            bail!(InvalidArgument, "{name} is {value}, but flags say that it is 0");
        }
    }
    Ok(set)
}

fn clip(desc: &diffusion_sampler_desc) -> Result<Option<Clip>> {
    let or = |value: f64, default: f64| if value == 0.0 { default } else { value };
    let range = or(desc.clip_range, 1.0);
    Ok(match desc.clip {
        0 => None,
        1 => Some(Clip::None),
        2 => Some(Clip::Range(range as f32)),
        3 => Some(Clip::Dynamic { ratio: or(desc.clip_ratio, 0.995), max: range }),
        other => bail!(InvalidArgument, "clip: there is no clipping {other}"),
    })
}

unsafe fn batch(desc: &diffusion_sampler_desc) -> Result<Batch> {
    let images = desc.images.max(1) as usize;
    Batch::check_size(images, desc.values as usize)?;
    // SAFETY: NULL or one seed an image.
    let seeds =
        match unsafe { opt_slice(desc.seeds, if desc.seeds.is_null() { 0 } else { images }, "seeds")? } {
            Some(seeds) => seeds.to_vec(),
            None => (0..images as u64).map(|image| desc.seed.wrapping_add(image)).collect(),
        };
    let comfyui = desc.profile == diffusion_profile_enum::DIFFUSION_PROFILE_COMFYUI as diffusion_profile;
    Ok(Batch {
        images,
        values: desc.values as usize,
        noise: noise_kind(desc.noise)?.unwrap_or(if comfyui { Noise::Mt19937 } else { Noise::Philox }),
        seeds,
        fresh: noise_fn(desc.noise_callback, UserData(desc.noise_user_data)),
    })
}

fn noise_fn(callback: diffusion_noise_callback, user_data: UserData) -> Option<NoiseFn> {
    let callback = callback?;
    Some(Arc::new(move |from, to, images, out| {
        let values = (out.len() / images) as u32;
        // SAFETY: the caller promises a function that may be called with its user_data, and `out` has room.
        match unsafe { callback(from, to, images as u32, values, out.as_mut_ptr(), user_data.get()) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }))
}

fn noise_kind(number: diffusion_noise) -> Result<Option<Noise>> {
    match number {
        0 => Ok(None),
        1 => Ok(Some(Noise::Philox)),
        2 => Ok(Some(Noise::Mt19937)),
        _ => bail!(InvalidArgument, "noise: there is no generator {number}"),
    }
}

/// The profiles, in the order of the enum.
const PROFILES: [Profile; 3] = [Profile::Diffusers, Profile::A1111, Profile::ComfyUi];

/// Row `number` of a table that counts from 1; 0 is `None`.
fn numbered<'a, T>(number: i32, table: &'a [T], name: &str) -> Result<Option<&'a T>> {
    let row = match usize::try_from(number) {
        Ok(0) => return Ok(None),
        Ok(number) => table.get(number - 1),
        Err(_) => None,
    };
    row.map(Some).ok_or_else(|| error!(InvalidArgument, "{name}: there is no {name} {number}"))
}

/// Name, source and summary of each sampler with a NUL at the end.
fn sampler_texts() -> &'static [[CString; 3]] {
    static TEXTS: OnceLock<Vec<[CString; 3]>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        SAMPLERS.iter().map(|info| [info.name, info.source, info.summary].map(c_string)).collect()
    })
}

/// The same of each sigma schedule.
fn sigma_schedule_texts() -> &'static [[CString; 3]] {
    static TEXTS: OnceLock<Vec<[CString; 3]>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        SIGMA_SCHEDULES.iter().map(|info| [info.name, info.source, info.summary].map(c_string)).collect()
    })
}
