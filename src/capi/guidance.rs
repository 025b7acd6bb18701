//! Guidance without a model, and in place of a request's own.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::Arc;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{
    self, Handle, Out, Struct, UserData, check_apart, guard, in_ref, in_slice, in_struct, opt_slice,
    out_slice, out_value, truth,
};
use super::option::diffusion_guidance_method;
use super::request::{diffusion_request, write};
use crate::api::GuideFn;
use crate::api::guidance::{GuidanceMethod, GuidanceOptions, Guider, Predictions};
use crate::util::error::{Result, bail, error};

/// Flags of ::diffusion_guidance_desc, to be combined with |: 0 where a field's zero means its default.
/// \since 0.1.0
/// \ingroup guidance
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_guidance_flags_enum {
    /// guidance_scale is 0 rather than 7.5.
    DIFFUSION_GUIDANCE_SCALE_ZERO = 1,
    /// zero_init_steps is 0 rather than 1.
    DIFFUSION_GUIDANCE_ZERO_INIT_NONE = 2,
    /// apg_eta is 0 rather than 1.
    DIFFUSION_GUIDANCE_APG_ETA_ZERO = 4,
    /// apg_norm_threshold is 0, any length, rather than 15.
    DIFFUSION_GUIDANCE_APG_NORM_ANY = 8,
}

/// Which raw predictions a step takes besides the conditional one: bits of diffusion_guidance_get_needs().
/// \since 0.1.0
/// \ingroup guidance
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_needs_enum {
    /// Without the prompt, or with the negative one.
    DIFFUSION_NEEDS_UNCONDITIONAL = 1,
    /// Without the prompt, with the image that three-way guidance follows.
    DIFFUSION_NEEDS_IMAGE = 2,
    /// With the prompt, from the perturbed network.
    DIFFUSION_NEEDS_PERTURBED = 4,
}

/// How to guide. All zero but steps and values is classifier-free guidance at 7.5.
/// \since 0.1.0
/// \ingroup guidance
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_guidance_desc {
    /// sizeof(diffusion_guidance_desc)
    pub struct_size: u32,
    /// How the predictions with and without the prompt combine; 0 = classifier-free guidance.
    pub method: diffusion_guidance_method,
    /// Steps of the sampler, 1 to 65536: ::diffusion_sampler_plan::steps.
    pub steps: u32,
    /// Images of the batch, up to 1048576; 0 = 1.
    pub images: u32,
    /// Values of one image.
    pub values: u32,
    /// 1 if the sampler needs the prediction without the prompt at every step:
    /// ::diffusion_sampler_plan::needs_unconditional.
    pub needs_unconditional: i32,
    /// 0, or ::DIFFUSION_GUIDANCE_SCALE_ZERO and the like.
    pub flags: u32,
    /// CFG-Zero*: steps at the start whose prediction is zero; 0 = 1.
    pub zero_init_steps: u32,
    /// How strongly the prompt pulls; 1 and below turn it off, but for CFG++ samplers. 0 = 7.5.
    pub guidance_scale: f64,
    /// How far guided predictions are brought back to the standard deviation of unguided ones, 0 to 1.
    pub guidance_rescale: f64,
    /// The part of the steps after which guidance begins, 0 to 1.
    pub guidance_start: f64,
    /// The part of the steps after which guidance ends, 0 to 1; 0 = 1.
    pub guidance_stop: f64,
    /// APG: what is kept of guidance along the predicted x0; 0 = 1, all.
    pub apg_eta: f64,
    /// APG: the longest difference of x0 that guides, in the L2 norm of one image; 0 = 15.
    pub apg_norm_threshold: f64,
    /// APG: what stays of earlier differences, between -1 and 1.
    pub apg_momentum: f64,
    /// How strongly to guide away from the perturbed network; 0 = not at all.
    pub pag_scale: f64,
    /// Three-way guidance: how strongly the image pulls, where guidance_scale is the text's; 0 = no image.
    pub image_guidance_scale: f64,
    /// A scale for each step in place of guidance_scale; NULL = none.
    pub guidance_schedule: *const f64,
    /// How many scales there are: as many as steps, or 0 for NULL.
    pub guidance_schedule_count: usize,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_guidance_desc {}

/// The raw predictions of one evaluation. A step that does not need one has NULL.
/// \since 0.1.0
/// \ingroup guidance
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_predictions {
    /// sizeof(diffusion_predictions), set by the caller of diffusion_guidance_combine()
    pub struct_size: u32,
    /// The step they belong to, from 0.
    pub step: u32,
    /// What the model was told.
    pub timestep: f64,
    /// Floats of each prediction: all images of the batch.
    pub count: usize,
    /// With the prompt.
    pub conditional: *const f32,
    /// Without the prompt, or with the negative one.
    pub unconditional: *const f32,
    /// Without the prompt, with the image that three-way guidance follows.
    pub image: *const f32,
    /// With the prompt, from the perturbed network.
    pub perturbed: *const f32,
    /// What the model was asked about. NULL = the predictions are of x0, or to be guided as if they were.
    pub input: *const f32,
    /// What a prediction says of x0: x0_from_input * input + x0_from_prediction * prediction, as in ::diffusion_question.
    /// Only adaptive projected guidance looks at it. Not looked at if input is NULL.
    pub x0_from_input: f64,
    /// See x0_from_input.
    pub x0_from_prediction: f64,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_predictions {}

/// Combines the raw predictions of a job in place of the request's guidance.
///
/// It is called from the session's thread, once for each evaluation of the model; the job waits for it. It must return
/// normally: no exception, no longjmp. It may call into the library, but must not wait for a job of the same session.
///
/// \param predictions Those that the request's own guidance would take at this step, valid during the call.
/// \param out Receives the guided prediction: count floats, all finite; else the job fails with
/// ::DIFFUSION_ERROR_NUMERIC.
/// \param user_data As given to diffusion_request_set_guidance_callback().
/// \returns 0 to go on, anything else to cancel the job.
/// \since 0.1.0
/// \ingroup guidance
pub type diffusion_guidance_callback = Option<
    unsafe extern "C" fn(
        predictions: *const diffusion_predictions,
        out: *mut f32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// The guidance of one way from noise to samples, and what it remembers from step to step.
///
/// It may be used by one thread at a time; a call that meets another one returns ::DIFFUSION_ERROR_BUSY and does
/// nothing.
/// \since 0.1.0
/// \ingroup guidance
#[repr(C)]
pub struct diffusion_guidance {
    _private: [u8; 0],
}

impl Handle for diffusion_guidance {
    type Value = Guider;
}

/// Makes guidance for one way from noise to samples.
///
/// \param desc What is wanted.
/// \param guidance Receives the guidance, to be freed with diffusion_guidance_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a setting out of its range;
/// ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_VERSION_MISMATCH.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup guidance
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_guidance_new(
    desc: *const diffusion_guidance_desc,
    guidance: *mut *mut diffusion_guidance,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(guidance, "guidance")?;
            if desc.is_null() {
                bail!(InvalidArgument, "desc is NULL");
            }
            let desc = in_struct(desc, "desc")?;
            let schedule =
                opt_slice(desc.guidance_schedule, desc.guidance_schedule_count, "guidance_schedule")?;
            let size = [desc.images.max(1) as usize, desc.values as usize];
            let always_unconditional = truth(desc.needs_unconditional, "needs_unconditional")?;
            let options = options(&desc, schedule)?;
            out.set(Guider::new(&options, desc.steps as usize, size, always_unconditional)?);
            Ok(())
        })
    }
}

/// Tells which raw predictions a step takes besides the conditional one, so that nothing more need be evaluated.
///
/// \param guidance The guidance.
/// \param step From 0.
/// \param needs Receives ::DIFFUSION_NEEDS_UNCONDITIONAL, ::DIFFUSION_NEEDS_IMAGE and ::DIFFUSION_NEEDS_PERTURBED,
/// combined with |; 0 on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each guidance.
/// \since 0.1.0
/// \ingroup guidance
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_guidance_get_needs(
    guidance: *const diffusion_guidance,
    step: u32,
    needs: *mut u32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    use diffusion_needs_enum::*;
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            out_value(needs, "needs", 0)?;
            let wanted = in_ref(guidance, "guidance")?.needs(step as usize)?;
            let bits = [
                (wanted.unconditional, DIFFUSION_NEEDS_UNCONDITIONAL),
                (wanted.image, DIFFUSION_NEEDS_IMAGE),
                (wanted.perturbed, DIFFUSION_NEEDS_PERTURBED),
            ];
            let bits =
                bits.into_iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, bit)| all | bit as u32);
            out_value(needs, "needs", bits)
        })
    }
}

/// Combines the raw predictions of one evaluation into the guided one that a sampler takes.
///
/// \param guidance The guidance. Adaptive projected guidance with a momentum remembers: call it once for each
/// evaluation, in order.
/// \param predictions The conditional one and those that diffusion_guidance_get_needs() names; struct_size set.
/// \param out Receives images x values floats. It must not overlap the predictions.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a prediction that is needed and NULL, or a count that
/// is not images x values; ::DIFFUSION_ERROR_BUSY; ::DIFFUSION_ERROR_VERSION_MISMATCH.
/// \threadsafety One thread at a time for each guidance.
/// \since 0.1.0
/// \ingroup guidance
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_guidance_combine(
    guidance: *mut diffusion_guidance,
    predictions: *const diffusion_predictions,
    out: *mut f32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let guider = in_ref(guidance, "guidance")?;
            if predictions.is_null() {
                bail!(InvalidArgument, "predictions is NULL");
            }
            let given = in_struct(predictions, "predictions")?;
            let count = given.count;
            if count != guider.len() {
                bail!(InvalidArgument, "predictions: count is {count}, not {}", guider.len());
            }
            let read = |data: *const f32, name: &str| -> Result<&[f32]> {
                if data.is_null() {
                    return Ok(&[]);
                }
                check_apart((out.cast_const(), "out"), (data, name), count)?;
                in_slice(data, count, name)
            };
            in_slice(given.conditional, count, "conditional")?;
            let predictions = Predictions {
                step: given.step as usize,
                timestep: given.timestep as f32,
                input: read(given.input, "input")?,
                original: match given.input.is_null() {
                    true => [0.0, 1.0],
                    false => [given.x0_from_input, given.x0_from_prediction],
                },
                conditional: read(given.conditional, "conditional")?,
                unconditional: read(given.unconditional, "unconditional")?,
                image: read(given.image, "image")?,
                perturbed: read(given.perturbed, "perturbed")?,
            };
            guider.combine(&predictions, out_slice(out, count, count, "out")?)
        })
    }
}

/// Frees guidance.
///
/// \param guidance The guidance, or NULL for nothing to happen.
/// \threadsafety Any thread; the guidance must not be in use.
/// \since 0.1.0
/// \ingroup guidance
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_guidance_free(guidance: *mut diffusion_guidance) {
    // SAFETY: NULL or guidance the caller gives up.
    unsafe { ffi::free(guidance) }
}

/// Sets who combines the raw predictions of jobs submitted from now on, in place of the request's guidance.
///
/// The request's guidance options still say which predictions are made at which step.
///
/// \param request The request.
/// \param callback Called from the session's thread; NULL = the request's own guidance.
/// \param user_data Handed to callback. It must stay valid until every job submitted with it is finished or freed.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \ingroup guidance
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_guidance_callback(
    request: *mut diffusion_request,
    callback: diffusion_guidance_callback,
    user_data: *mut c_void,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(ptr::null_mut(), || {
            write(in_ref(request, "request")?)?.set_guide(guide_fn(callback, UserData(user_data)));
            Ok(())
        })
    }
}

fn guide_fn(callback: diffusion_guidance_callback, user_data: UserData) -> Option<GuideFn> {
    let callback = callback?;
    Some(Arc::new(move |predictions: &Predictions<'_>, out: &mut [f32]| {
        let pointer = |values: &[f32]| if values.is_empty() { ptr::null() } else { values.as_ptr() };
        let raw = diffusion_predictions {
            struct_size: size_of::<diffusion_predictions>() as u32,
            step: predictions.step as u32,
            timestep: f64::from(predictions.timestep),
            count: out.len(),
            conditional: pointer(predictions.conditional),
            unconditional: pointer(predictions.unconditional),
            image: pointer(predictions.image),
            perturbed: pointer(predictions.perturbed),
            input: pointer(predictions.input),
            x0_from_input: predictions.original[0],
            x0_from_prediction: predictions.original[1],
        };
        // SAFETY: the caller promises a function that may be called with its user_data from another thread.
        match unsafe { callback(&raw const raw, out.as_mut_ptr(), user_data.get()) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }))
}

/// The methods, in the order of the enum.
const METHODS: [GuidanceMethod; 3] = [GuidanceMethod::Cfg, GuidanceMethod::CfgZeroStar, GuidanceMethod::Apg];

fn options(desc: &diffusion_guidance_desc, schedule: Option<&[f64]>) -> Result<GuidanceOptions> {
    use diffusion_guidance_flags_enum::*;
    let known = DIFFUSION_GUIDANCE_SCALE_ZERO as u32
        | DIFFUSION_GUIDANCE_ZERO_INIT_NONE as u32
        | DIFFUSION_GUIDANCE_APG_ETA_ZERO as u32
        | DIFFUSION_GUIDANCE_APG_NORM_ANY as u32;
    if desc.flags & !known != 0 {
        bail!(InvalidArgument, "flags: {:#x} has bits that mean nothing", desc.flags);
    }
    // The field's value, its default for 0, or 0 if a flag says so.
    let number = |name: &str, value: f64, default: f64, zero: diffusion_guidance_flags_enum| match (
        value == 0.0,
        desc.flags & zero as u32 != 0,
    ) {
        (true, true) => Ok(0.0),
        (true, false) => Ok(default),
        (false, false) => Ok(value),
        (false, true) => Err(error!(InvalidArgument, "{name} is {value}, but flags say that it is 0")),
    };
    let default = GuidanceOptions::default();
    let method = match usize::try_from(desc.method).map(|method| method.checked_sub(1)) {
        Ok(None) => Some(default.method),
        Ok(Some(index)) => METHODS.get(index).copied(),
        Err(_) => None,
    };
    Ok(GuidanceOptions {
        method: method
            .ok_or_else(|| error!(InvalidArgument, "method: there is no guidance method {}", desc.method))?,
        guidance_scale: number(
            "guidance_scale",
            desc.guidance_scale,
            default.guidance_scale,
            DIFFUSION_GUIDANCE_SCALE_ZERO,
        )?,
        guidance_schedule: schedule.map(<[f64]>::to_vec),
        guidance_rescale: desc.guidance_rescale,
        guidance_start: desc.guidance_start,
        guidance_stop: if desc.guidance_stop == 0.0 { default.guidance_stop } else { desc.guidance_stop },
        zero_init_steps: number(
            "zero_init_steps",
            f64::from(desc.zero_init_steps),
            default.zero_init_steps as f64,
            DIFFUSION_GUIDANCE_ZERO_INIT_NONE,
        )? as usize,
        apg_eta: number("apg_eta", desc.apg_eta, default.apg_eta, DIFFUSION_GUIDANCE_APG_ETA_ZERO)?,
        apg_norm_threshold: number(
            "apg_norm_threshold",
            desc.apg_norm_threshold,
            default.apg_norm_threshold,
            DIFFUSION_GUIDANCE_APG_NORM_ANY,
        )?,
        apg_momentum: desc.apg_momentum,
        pag_scale: desc.pag_scale,
        image_guidance_scale: Some(desc.image_guidance_scale).filter(|scale| *scale != 0.0),
    })
}
