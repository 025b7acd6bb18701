//! Sessions, and the ways to start a job.

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{self, Handle, Out, Struct, guard, in_ref, in_struct};
use super::image::{ImageHandle, diffusion_image};
use super::job::{JobHandle, diffusion_job};
use super::model::diffusion_model;
use super::request::{diffusion_request, read};
use crate::api::{Session, SessionOptions};

/// How to make a session. All zero (but for struct_size) is the default.
/// \since 0.1.0
/// \ingroup jobs
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_session_desc {
    /// sizeof(diffusion_session_desc)
    pub struct_size: u32,
    /// Jobs that may wait behind the running one; 0 = 16.
    pub queue_limit: u32,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_session_desc {}

/// A thread and working memory for one model: runs the jobs submitted to it one after another.
///
/// It keeps the memory that its largest job needed until it is freed, so that the next one starts with it.
///
/// Sessions of one model share its weights and run side by side. After ::DIFFUSION_ERROR_INTERNAL in one of its
/// jobs a session takes no more (::DIFFUSION_ERROR_INVALID_STATE); other sessions are not touched. After a job that
/// ran out of memory, the host's or the device's, it works as before. After ::DIFFUSION_ERROR_DEVICE_LOST every job
/// of the engine fails; engines on other devices are not touched.
/// \since 0.1.0
/// \ingroup jobs
#[repr(C)]
pub struct diffusion_session {
    _private: [u8; 0],
}

impl Handle for diffusion_session {
    type Value = Session;
}

/// Makes a session.
///
/// \param model What the session runs; the session keeps it alive.
/// \param desc What is wanted; NULL = all defaults.
/// \param session Receives the session, to be freed with diffusion_session_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_OUT_OF_MEMORY; on CUDA also
/// ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, ::DIFFUSION_ERROR_DEVICE and ::DIFFUSION_ERROR_DEVICE_LOST.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_session_new(
    model: *mut diffusion_model,
    desc: *const diffusion_session_desc,
    session: *mut *mut diffusion_session,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(session, "session")?;
            let model = &in_ref(model, "model")?.model;
            let desc: diffusion_session_desc = in_struct(desc, "desc")?;
            out.set(Session::new(model, SessionOptions { queue_limit: desc.queue_limit })?);
            Ok(())
        })
    }
}

/// Frees a session.
///
/// Jobs submitted to it go on, and keep its thread and memory until they are freed too; without any, this waits
/// until the thread has ended.
///
/// \param session The session, or NULL for nothing to happen.
/// \threadsafety Any thread; the session must not be in use.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_session_free(session: *mut diffusion_session) {
    // SAFETY: NULL or a session the caller gives up.
    unsafe { ffi::free(session) }
}

/// Puts a copy of a request into a session's queue and returns at once.
///
/// \param session Where the job runs; the job keeps it alive.
/// \param request What to generate. It may be changed, submitted again or freed right after.
/// \param job Receives the job, to be freed with diffusion_job_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; the first failure of the request's setters; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a
/// request of another model, a size that is no multiple of size_multiple, or latents that do not fit;
/// ::DIFFUSION_ERROR_UNSUPPORTED for a sampler, schedule or guidance that the model cannot have;
/// ::DIFFUSION_ERROR_BUSY if the queue is full or another thread changes the request;
/// ::DIFFUSION_ERROR_INVALID_STATE after an internal error in the session; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_job_wait
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_submit(
    session: *mut diffusion_session,
    request: *const diffusion_request,
    job: *mut *mut diffusion_job,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(job, "job")?;
            let session = in_ref(session, "session")?;
            let job = session.submit(&*read(in_ref(request, "request")?)?)?;
            out.set(JobHandle::new(job));
            Ok(())
        })
    }
}

/// Generates an image and waits for it: diffusion_submit(), diffusion_job_wait(), diffusion_job_take_image().
///
/// \param session Where the job runs.
/// \param request What to generate. Its progress callback may cancel.
/// \param image Receives the first image of the batch, to be freed with diffusion_image_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; whatever diffusion_submit() or the job fails with; ::DIFFUSION_ERROR_INVALID_ARGUMENT if
/// the request asks for latents only; ::DIFFUSION_ERROR_INVALID_STATE in a callback of the same session.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup jobs
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_generate(
    session: *mut diffusion_session,
    request: *const diffusion_request,
    image: *mut *mut diffusion_image,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(image, "image")?;
            let session = in_ref(session, "session")?;
            // A copy, so that the request is free while the job runs.
            let request = read(in_ref(request, "request")?)?.clone();
            out.set(ImageHandle::new(session.generate(&request)?));
            Ok(())
        })
    }
}
