//! Status codes and error objects.

use std::ffi::{CString, c_char};

use super::ffi::{self, Handle, c_string, guard_or, opt_ref};
use crate::util::error::Error;

/// What a function has to say: 0 is success, above 0 is an outcome that is no error, below 0 is an error.
///
/// The values are those of ::diffusion_status_enum. Numbers never change their meaning; later versions may add
/// some, so treat an unknown negative value as an error.
/// \since 0.1.0
/// \ingroup errors
pub type diffusion_status = i32;

/// Values of ::diffusion_status.
/// \ingroup errors
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_status_enum {
    /// Success.
    DIFFUSION_OK = 0,
    /// Not finished yet.
    DIFFUSION_PENDING = 1,
    /// The time was up first. (Not used in this version.)
    DIFFUSION_TIMEOUT = 2,
    /// Nothing is left to do: a sampler has taken all its steps.
    DIFFUSION_DONE = 3,
    /// A bug in the library; the message says where. The session it happened in cannot be used any more.
    DIFFUSION_ERROR_INTERNAL = -1,
    /// An argument or option value outside its documented range.
    DIFFUSION_ERROR_INVALID_ARGUMENT = -2,
    /// The object cannot do this now.
    DIFFUSION_ERROR_INVALID_STATE = -3,
    /// The object is in use by another thread, or the session's queue is full.
    DIFFUSION_ERROR_BUSY = -4,
    /// There is no such file or folder.
    DIFFUSION_ERROR_NOT_FOUND = -5,
    /// The operating system failed to read or write.
    DIFFUSION_ERROR_IO = -6,
    /// A corrupt or unrecognised file.
    DIFFUSION_ERROR_FORMAT = -7,
    /// Valid, but not supported by this build, device or model.
    DIFFUSION_ERROR_UNSUPPORTED = -8,
    /// Host memory ran out, or the engine's limit was reached.
    DIFFUSION_ERROR_OUT_OF_MEMORY = -9,
    /// Device memory ran out.
    DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY = -10,
    /// The device failed.
    DIFFUSION_ERROR_DEVICE = -11,
    /// The device is gone; CUDA asks that the process be started anew to use it again.
    DIFFUSION_ERROR_DEVICE_LOST = -12,
    /// The job was cancelled.
    DIFFUSION_ERROR_CANCELLED = -13,
    /// The caller's buffer is too small; the message says how much is needed.
    DIFFUSION_ERROR_BUFFER_TOO_SMALL = -14,
    /// The caller's structure has settings this library does not know: the header is newer than the library.
    DIFFUSION_ERROR_VERSION_MISMATCH = -15,
    /// NaN or infinity in weights or results.
    DIFFUSION_ERROR_NUMERIC = -16,
}

/// The name of a status.
///
/// \param status Any number.
/// \returns The name without its prefix, such as "OK" or "NOT_FOUND"; "UNKNOWN" for a number that is no status.
/// Static: valid for ever.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup errors
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_status_name(status: diffusion_status) -> *const c_char {
    let name = match status {
        0 => c"OK",
        1 => c"PENDING",
        2 => c"TIMEOUT",
        3 => c"DONE",
        -1 => c"INTERNAL",
        -2 => c"INVALID_ARGUMENT",
        -3 => c"INVALID_STATE",
        -4 => c"BUSY",
        -5 => c"NOT_FOUND",
        -6 => c"IO",
        -7 => c"FORMAT",
        -8 => c"UNSUPPORTED",
        -9 => c"OUT_OF_MEMORY",
        -10 => c"DEVICE_OUT_OF_MEMORY",
        -11 => c"DEVICE",
        -12 => c"DEVICE_LOST",
        -13 => c"CANCELLED",
        -14 => c"BUFFER_TOO_SMALL",
        -15 => c"VERSION_MISMATCH",
        -16 => c"NUMERIC",
        _ => c"UNKNOWN",
    };
    name.as_ptr()
}

/// An error: a status for programs, one line for people, and what lies behind it.
///
/// Functions that can fail for a reason worth telling take `diffusion_error **error` last. It may be NULL. The
/// function sets it to NULL when it succeeds and to a new object when it fails; the caller frees that object.
/// Objects are immutable.
/// \since 0.1.0
/// \ingroup errors
#[repr(C)]
pub struct diffusion_error {
    _private: [u8; 0],
}

pub struct ErrorHandle {
    error: Error,
    message: CString,
    detail: CString,
}

impl ErrorHandle {
    pub(super) fn new(error: Error) -> Self {
        // Names of files and tensors may have line feeds.
        let line = |text: &str| text.replace(['\n', '\r'], " ");
        let detail: Vec<String> = error.detail_lines().iter().map(|text| line(text)).collect();
        let (message, detail) = (c_string(&line(error.message())), c_string(&detail.join("\n")));
        Self { error, message, detail }
    }
}

impl Handle for diffusion_error {
    type Value = ErrorHandle;
}

/// The error's status.
///
/// \param error The error, or NULL.
/// \returns A negative status; ::DIFFUSION_OK for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup errors
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_error_status(error: *const diffusion_error) -> diffusion_status {
    // SAFETY: NULL or an error that lives during the call.
    guard_or(0, || unsafe { opt_ref(error) }.map_or(0, |handle| handle.error.status() as diffusion_status))
}

/// What went wrong, in one line without a trailing dot that names the file, tensor, option or value.
///
/// \param error The error, or NULL.
/// \returns UTF-8, valid until the error is freed; "" for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup errors
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_message(error: *const diffusion_error) -> *const c_char {
    guard_or(c"".as_ptr(), || {
        // SAFETY: NULL or an error that lives during the call.
        unsafe { opt_ref(error) }.map_or(c"".as_ptr(), |handle| handle.message.as_ptr())
    })
}

/// What lies behind the error: causes and logs, outermost first.
///
/// \param error The error, or NULL.
/// \returns UTF-8 of any number of lines, valid until the error is freed; "" if there is nothing to add, and for
/// NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup errors
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_detail(error: *const diffusion_error) -> *const c_char {
    // SAFETY: NULL or an error that lives during the call.
    guard_or(c"".as_ptr(), || unsafe { opt_ref(error) }.map_or(c"".as_ptr(), |handle| handle.detail.as_ptr()))
}

/// Whether the calling program is to blame rather than a file, the system or the library.
///
/// \param error The error, or NULL.
/// \returns 1 for ::DIFFUSION_ERROR_INVALID_ARGUMENT, ::DIFFUSION_ERROR_INVALID_STATE, ::DIFFUSION_ERROR_BUSY,
/// ::DIFFUSION_ERROR_BUFFER_TOO_SMALL and ::DIFFUSION_ERROR_VERSION_MISMATCH, else 0; 0 for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup errors
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_is_usage(error: *const diffusion_error) -> i32 {
    // SAFETY: NULL or an error that lives during the call.
    guard_or(0, || unsafe { opt_ref(error) }.is_some_and(|handle| handle.error.status().is_usage()).into())
}

/// Frees an error.
///
/// Not for the borrowed error of diffusion_job_error().
///
/// \param error The error, or NULL for nothing to happen.
/// \threadsafety Any thread; the error must not be in use.
/// \since 0.1.0
/// \ingroup errors
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_free(error: *mut diffusion_error) {
    // SAFETY: NULL or an error the caller gives up.
    unsafe { ffi::free(error) }
}
