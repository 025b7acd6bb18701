//! Requests.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{self, Handle, Out, Struct, UserData, guard, in_ref, opt_ref, opt_str};
use super::image::{ImageHandle, diffusion_image};
use super::model::diffusion_model;
use super::option::diffusion_option;
use crate::api::{OptionId, Progress, ProgressFn, Request};
use crate::util::error::{Result, bail, error};

/// Where a job is: a value of ::diffusion_stage_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_stage = i32;

/// Values of ::diffusion_stage. A job passes them in this order, and may leave some out.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_stage_enum {
    /// It waits in its session's queue.
    DIFFUSION_STAGE_QUEUED = 0,
    /// The text encoder runs.
    DIFFUSION_STAGE_TEXT = 1,
    /// The encoder makes latents of ::DIFFUSION_OPTION_IMAGE, where there is one.
    DIFFUSION_STAGE_ENCODE = 2,
    /// The denoising steps run.
    DIFFUSION_STAGE_DENOISE = 3,
    /// The decoder makes images.
    DIFFUSION_STAGE_DECODE = 4,
    /// Done, failed or cancelled.
    DIFFUSION_STAGE_FINISHED = 5,
}

/// A moment in a job's life.
/// \since 0.1.0
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_progress {
    /// sizeof(diffusion_progress), set by the caller of diffusion_job_get_progress()
    pub struct_size: u32,
    /// Where the job is.
    pub stage: diffusion_stage,
    /// Denoising steps done.
    pub step: u32,
    /// Denoising steps in all; 0 before the job runs.
    pub steps: u32,
    /// Nanoseconds since the job was submitted; stands still once it is finished.
    pub elapsed_ns: u64,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_progress {}

/// Hears of a job's progress: of the beginning of each stage and the end of each denoising step.
///
/// It is called from the session's thread, one call at a time, between diffusion_submit() and the end of the job;
/// the job waits for it. It must return normally: no exception, no longjmp. It may call into the library, free the
/// job included, but must not wait for a job of the same session. Everything it hears can be polled with
/// diffusion_job_get_progress() instead.
///
/// \param progress Where the job is, valid during the call.
/// \param user_data As given to diffusion_request_set_progress_callback().
/// \returns 0 to go on, anything else to cancel the job.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_progress_callback =
    Option<unsafe extern "C" fn(progress: *const diffusion_progress, user_data: *mut c_void) -> i32>;

/// What to generate: a value for each option.
///
/// A request belongs to one model and may be submitted any number of times, and changed in between: each job
/// works on a copy. It may be used by one thread at a time; a call that meets another thread's returns
/// ::DIFFUSION_ERROR_BUSY and does nothing.
/// \since 0.1.0
/// \ingroup requests
#[repr(C)]
pub struct diffusion_request {
    _private: [u8; 0],
}

impl Handle for diffusion_request {
    type Value = RwLock<Request>;
}

/// Makes a request with every option at its default.
///
/// \param model The model the request is for; the request keeps it alive.
/// \param request Receives the request, to be freed with diffusion_request_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_request_new(
    model: *const diffusion_model,
    request: *mut *mut diffusion_request,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(request, "request")?;
            out.set(RwLock::new(Request::new(&in_ref(model, "model")?.model)));
            Ok(())
        })
    }
}

/// Sets a string option, or an enum option by the name of its choice.
///
/// Like every setter, it checks the value. A setter that fails leaves the option as it was, and the request
/// remembers the first failure, which diffusion_submit() reports with its message: a program may set everything
/// and check once.
///
/// \param request The request.
/// \param option An option of type ::DIFFUSION_OPTION_TYPE_STRING or ::DIFFUSION_OPTION_TYPE_ENUM.
/// \param value UTF-8, copied; at most 1 MiB. NULL unsets the option.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type, an unknown choice or
/// text that is not UTF-8; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_string(
    request: *mut diffusion_request,
    option: diffusion_option,
    value: *const c_char,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        set(request, option, |request, id| {
            let text = opt_str(value, id.spec().name).map_err(|error| request.reject(error))?;
            request.set_string(id, text)
        })
    }
}

/// Sets an integer option, or an enum option by the number of its choice.
///
/// \param request The request.
/// \param option An option of type ::DIFFUSION_OPTION_TYPE_INT or ::DIFFUSION_OPTION_TYPE_ENUM.
/// \param value A value in the option's range.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type or a value outside its
/// range; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \sa diffusion_request_set_string
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_int(
    request: *mut diffusion_request,
    option: diffusion_option,
    value: i64,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe { set(request, option, |request, id| request.set_int(id, value)) }
}

/// Sets a float option.
///
/// \param request The request.
/// \param option An option of type ::DIFFUSION_OPTION_TYPE_FLOAT.
/// \param value A value in the option's range.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type or a value outside its
/// range; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \sa diffusion_request_set_string
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_float(
    request: *mut diffusion_request,
    option: diffusion_option,
    value: f64,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe { set(request, option, |request, id| request.set_float(id, value)) }
}

/// Sets a list of numbers.
///
/// Whether the count fits width, height and batch_size is checked by diffusion_submit().
///
/// \param request The request.
/// \param option An option of type ::DIFFUSION_OPTION_TYPE_FLOATS.
/// \param data Finite numbers, copied; the option says in which order. NULL with a count of 0 unsets the option.
/// \param count How many numbers.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type, a number that is not
/// finite, or NULL with a count; ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \sa diffusion_request_set_string
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_floats(
    request: *mut diffusion_request,
    option: diffusion_option,
    data: *const f32,
    count: usize,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        set(request, option, |request, id| {
            let values = match (data.is_null(), count) {
                (true, 0) => None,
                (true, _) => return Err(request.reject(error!(InvalidArgument, "data is NULL"))),
                (false, _) if count > isize::MAX as usize / size_of::<f32>() => {
                    return Err(request.reject(error!(InvalidArgument, "count: {count} is too large")));
                }
                (false, _) => Some(std::slice::from_raw_parts(data, count)),
            };
            request.set_floats(id, values)
        })
    }
}

/// Sets an image.
///
/// Whether its size fits the request is checked by diffusion_submit(). The request shares the image's pixels: the image
/// may be freed at once.
///
/// \param request The request.
/// \param option An option of type ::DIFFUSION_OPTION_TYPE_IMAGE.
/// \param image From diffusion_image_new(), diffusion_image_load_png() or a job. NULL unsets the option.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \sa diffusion_request_set_string
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_image(
    request: *mut diffusion_request,
    option: diffusion_option,
    image: *const diffusion_image,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        set(request, option, |request, id| request.set_image(id, opt_ref(image).map(ImageHandle::image)))
    }
}

/// Sets who hears of the progress of jobs submitted from now on.
///
/// \param request The request.
/// \param callback Called from the session's thread; NULL = nobody.
/// \param user_data Handed to callback. It must stay valid until every job submitted with it is finished or freed.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_set_progress_callback(
    request: *mut diffusion_request,
    callback: diffusion_progress_callback,
    user_data: *mut c_void,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(ptr::null_mut(), || {
            write(in_ref(request, "request")?)?.set_progress(progress_fn(callback, UserData(user_data)));
            Ok(())
        })
    }
}

/// Makes a request as new: every option at its default, no callbacks, the first failure forgotten.
///
/// \param request The request.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
/// \threadsafety One thread at a time for each request.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_reset(request: *mut diffusion_request) -> diffusion_status {
    // SAFETY: NULL or a request that lives during the call.
    unsafe {
        guard(ptr::null_mut(), || {
            write(in_ref(request, "request")?)?.reset();
            Ok(())
        })
    }
}

/// Frees a request. Jobs submitted with it are not touched.
///
/// \param request The request, or NULL for nothing to happen.
/// \threadsafety Any thread; the request must not be in use.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_request_free(request: *mut diffusion_request) {
    // SAFETY: NULL or a request the caller gives up.
    unsafe { ffi::free(request) }
}

impl diffusion_progress {
    pub(super) fn new(progress: &Progress) -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            stage: progress.stage as diffusion_stage,
            step: progress.step,
            steps: progress.steps,
            elapsed_ns: super::job::nanoseconds(progress.elapsed),
        }
    }
}

/// The request for reading; `Busy` while another thread changes it.
pub(super) fn read(request: &RwLock<Request>) -> Result<RwLockReadGuard<'_, Request>> {
    match request.try_read() {
        Ok(request) => Ok(request),
        Err(TryLockError::Poisoned(request)) => Ok(request.into_inner()),
        Err(TryLockError::WouldBlock) => bail!(Busy, "the request is being changed by another thread"),
    }
}

/// The request for changing; `Busy` while another thread uses it.
pub(super) fn write(request: &RwLock<Request>) -> Result<RwLockWriteGuard<'_, Request>> {
    match request.try_write() {
        Ok(request) => Ok(request),
        Err(TryLockError::Poisoned(request)) => Ok(request.into_inner()),
        Err(TryLockError::WouldBlock) => bail!(Busy, "the request is in use by another thread"),
    }
}

unsafe fn set(
    request: *mut diffusion_request,
    option: diffusion_option,
    body: impl FnOnce(&mut Request, OptionId) -> Result<()>,
) -> diffusion_status {
    // SAFETY: NULL or a request that lives during the call.
    unsafe {
        guard(ptr::null_mut(), || {
            let mut request = write(in_ref(request, "request")?)?;
            let id = OptionId::from_number(option).map_err(|error| request.reject(error))?;
            body(&mut request, id)
        })
    }
}

fn progress_fn(callback: diffusion_progress_callback, user_data: UserData) -> Option<ProgressFn> {
    let callback = callback?;
    Some(Arc::new(move |progress: &Progress| {
        let progress = diffusion_progress::new(progress);
        // SAFETY: the caller promises a function that may be called with its user_data from another thread.
        match unsafe { callback(&raw const progress, user_data.get()) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }))
}
