//! Jobs.

use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use super::error::{ErrorHandle, diffusion_error, diffusion_status, diffusion_status_enum};
use super::ffi::{self, Handle, Out, Struct, guard, guard_or, in_ref, opt_ref, out_struct, out_value};
use super::image::{ImageHandle, diffusion_image};
use super::option::diffusion_sampler_id;
use super::request::diffusion_progress;
use crate::api::{Job, Report, sampler_number};
use crate::util::error::{Result, bail};

/// Facts about a finished job.
/// \since 0.1.0
/// \ingroup jobs
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_result {
    /// sizeof(diffusion_result), set by the caller
    pub struct_size: u32,
    /// Images diffusion_job_take_image() can give; 0 if only latents were asked for.
    pub image_count: u32,
    /// Width of the images in pixels.
    pub width: u32,
    /// Height of the images in pixels.
    pub height: u32,
    /// Tokens of the prompt, begin and end marks not counted.
    pub prompt_tokens: u32,
    /// How many of them came after the model's max_tokens and had no effect.
    pub prompt_tokens_dropped: u32,
    /// Tokens of the negative prompt, begin and end marks not counted.
    pub negative_tokens: u32,
    /// How many of them came after the model's max_tokens and had no effect.
    pub negative_tokens_dropped: u32,
    /// The sampler that ran; never ::DIFFUSION_SAMPLER_AUTO.
    pub sampler: diffusion_sampler_id,
    /// Denoising steps.
    pub steps: u32,
    /// The seed of image 0; image i has seed + i.
    pub seed: u64,
    /// Nanoseconds in the text encoder.
    pub text_ns: u64,
    /// Nanoseconds in the denoising steps.
    pub denoise_ns: u64,
    /// Nanoseconds in the decoder.
    pub decode_ns: u64,
    /// Nanoseconds from the job's start to its end, without its time in the queue.
    pub total_ns: u64,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_result {}

/// One submitted request: queued, running, then done, failed or cancelled for ever.
/// \since 0.1.0
/// \ingroup jobs
#[repr(C)]
pub struct diffusion_job {
    _private: [u8; 0],
}

pub struct JobHandle {
    job: Job,
    /// What diffusion_job_error() lends out.
    error: OnceLock<ErrorHandle>,
}

impl JobHandle {
    pub(super) fn new(job: Job) -> Self {
        Self { job, error: OnceLock::new() }
    }
}

impl Handle for diffusion_job {
    type Value = JobHandle;
}

/// Waits until a job is finished, but not for ever.
///
/// \param job The job.
/// \param timeout_ms Most milliseconds to wait; 0 = do not wait; negative = as long as it takes.
/// \returns ::DIFFUSION_OK if the job is done; the job's error if it failed or was cancelled, with details in
/// diffusion_job_error(); ::DIFFUSION_PENDING if the time was up first; ::DIFFUSION_ERROR_INVALID_ARGUMENT for NULL;
/// ::DIFFUSION_ERROR_INVALID_STATE in a callback of the job's session, where the wait would never end.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_wait(job: *mut diffusion_job, timeout_ms: i64) -> diffusion_status {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    // SAFETY: NULL or a job that lives during the call.
    unsafe { status(job, |job| job.wait(timeout)) }
}

/// Tells how a job stands, without waiting.
///
/// \param job The job.
/// \returns ::DIFFUSION_PENDING until the job is finished, then ::DIFFUSION_OK or the job's error;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_status(job: *const diffusion_job) -> diffusion_status {
    // SAFETY: NULL or a job that lives during the call.
    unsafe { status(job, Job::status) }
}

/// Tells where a job is now.
///
/// \param job The job.
/// \param progress Receives the moment; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_get_progress(
    job: *const diffusion_job,
    progress: *mut diffusion_progress,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let now = in_ref(job, "job")?.job.progress();
            out_struct(progress, "progress", diffusion_progress::new(&now))
        })
    }
}

/// Asks a job to stop and returns at once.
///
/// A queued job is finished right away; a running one stops within a fraction of a denoising step and ends with
/// ::DIFFUSION_ERROR_CANCELLED, unless it is done first. A finished job stays as it is. No partial image is kept.
///
/// \param job The job, or NULL for nothing to happen.
/// \threadsafety Any thread, callbacks included.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_job_cancel(job: *mut diffusion_job) {
    guard_or((), || {
        // SAFETY: NULL or a job that lives during the call.
        if let Some(handle) = unsafe { opt_ref(job) } {
            handle.job.cancel();
        }
    });
}

/// The error of a failed or cancelled job.
///
/// \param job The job, or NULL.
/// \returns The error, valid until the job is freed and not to be freed itself; NULL while the job is not finished,
/// if it is done, and for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_job_error(job: *const diffusion_job) -> *const diffusion_error {
    guard_or(ptr::null(), || {
        // SAFETY: NULL or a job that lives during the call.
        let Some(handle) = (unsafe { opt_ref(job) }) else { return ptr::null() };
        match handle.job.status() {
            Some(Err(error)) => {
                let handle = handle.error.get_or_init(|| ErrorHandle::new(error));
                (&raw const *handle).cast()
            }
            _ => ptr::null(),
        }
    })
}

/// Tells what a finished job did.
///
/// \param job The job.
/// \param result Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the job is finished; the job's error if it failed
/// or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_get_result(
    job: *const diffusion_job,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let report = in_ref(job, "job")?.job.report()?;
            out_struct(result, "result", diffusion_result::new(&report))
        })
    }
}

/// Takes an image out of a finished job.
///
/// It may be called again for the same image: the handles share the pixels.
///
/// \param job The job.
/// \param index Which image of the batch, 0 to image_count - 1.
/// \param image Receives the image, to be freed with diffusion_image_free(); NULL on failure. It does not depend on
/// the job.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the job is finished; the job's error if it failed
/// or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT if there is no such image.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_take_image(
    job: *mut diffusion_job,
    index: u32,
    image: *mut *mut diffusion_image,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(image, "image")?;
            out.set(ImageHandle::new(in_ref(job, "job")?.job.image(index)?));
            Ok(())
        })
    }
}

/// The size of one image's latents.
///
/// \param job The job.
/// \param count Receives the number of floats, channels x height/f x width/f; 0 on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the job is finished; the job's error if it failed
/// or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_job_copy_latents
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_latents_size(
    job: *const diffusion_job,
    count: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            out_value(count, "count", 0)?;
            out_value(count, "count", in_ref(job, "job")?.job.latents_len()?)
        })
    }
}

/// Copies the final latents of one image.
///
/// They are what diffusers returns for `output_type="latent"`: channels x height/f x width/f floats, scaled as the
/// U-Net sees them. Given back as ::DIFFUSION_OPTION_LATENTS with 0 steps they decode to the same image.
///
/// \param job The job.
/// \param index Which image of the batch, 0 to batch_size - 1.
/// \param dst Receives the floats.
/// \param dst_count How many floats dst has room for, at least what diffusion_job_latents_size() tells.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL; ::DIFFUSION_ERROR_INVALID_STATE before the job is
/// finished; the job's error if it failed or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT if there is no such
/// image.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_job_copy_latents(
    job: *const diffusion_job,
    index: u32,
    dst: *mut f32,
    dst_count: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let handle = in_ref(job, "job")?;
            if dst.is_null() {
                bail!(InvalidArgument, "dst is NULL");
            }
            // No more than is needed becomes a slice: dst_count may be any number.
            let count = dst_count.min(handle.job.latents_len()?);
            handle.job.copy_latents(index, std::slice::from_raw_parts_mut(dst, count))
        })
    }
}

/// Frees a job. One that is not finished is cancelled first.
///
/// It returns when the progress callback can no longer run, which for a running job takes a fraction of a denoising
/// step: cancel first and free later, or free on another thread, where that is too long. In a callback of the job's
/// own session it returns at once, and the progress callback is not called again; nor is the log, if everything else is
/// freed by then.
///
/// \param job The job, or NULL for nothing to happen.
/// \threadsafety Any thread, callbacks included; the job must not be in use by another call.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_job_free(job: *mut diffusion_job) {
    // SAFETY: NULL or a job the caller gives up.
    unsafe { ffi::free(job) }
}

impl diffusion_result {
    fn new(report: &Report) -> Self {
        Self {
            struct_size: 0,
            image_count: report.image_count,
            width: report.width,
            height: report.height,
            prompt_tokens: report.prompt.tokens,
            prompt_tokens_dropped: report.prompt.dropped,
            negative_tokens: report.negative_prompt.tokens,
            negative_tokens_dropped: report.negative_prompt.dropped,
            sampler: sampler_number(report.sampler),
            steps: report.steps,
            seed: report.seed,
            text_ns: nanoseconds(report.text_time),
            denoise_ns: nanoseconds(report.denoise_time),
            decode_ns: nanoseconds(report.decode_time),
            total_ns: nanoseconds(report.total_time),
        }
    }
}

/// A duration in C's terms: 64 bits last for 584 years.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

unsafe fn status(
    job: *const diffusion_job,
    ask: impl FnOnce(&Job) -> Option<Result<()>>,
) -> diffusion_status {
    let mut answer = diffusion_status_enum::DIFFUSION_OK as diffusion_status;
    // SAFETY: NULL or a job that lives during the call.
    let failure = unsafe {
        guard(ptr::null_mut(), || match ask(&in_ref(job, "job")?.job) {
            Some(result) => result,
            None => {
                answer = diffusion_status_enum::DIFFUSION_PENDING as diffusion_status;
                Ok(())
            }
        })
    };
    if failure < 0 { failure } else { answer }
}
