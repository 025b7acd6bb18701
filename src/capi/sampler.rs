//! Samplers that a host runs itself, and noise.

use std::ffi::c_void;
use std::ptr;

use super::error::{diffusion_error, diffusion_status, diffusion_status_enum};
use super::ffi::{
    self, Handle, Out, Struct, guard, guard_or, guard_outcome, in_ref, in_slice, in_struct, opt_ref,
    opt_slice, out_slice, out_struct, out_value,
};
use super::option::{diffusion_noise, diffusion_sampler_id};
use super::sampler_desc::{batch, diffusion_sampler_desc, noise_kind, options};
use super::schedule::diffusion_schedule;
use crate::api::sampling::{Evaluation, Noise, Plan, Stepper, fill_noise};
use crate::util::error::{bail, error};

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

/// Fills memory with standard normal noise, equal to one call of torch.randn after torch.manual_seed(seed); for
/// ::DIFFUSION_NOISE_PHILOX with the limit that it names.
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
