//! The checks every exported function shares: guard, handles, strings, structures.
//!
//! Functions here are `unsafe` for one reason: the pointers come from C. Each must be NULL or what the header
//! says it is.

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::{MaybeUninit, size_of};
use std::ptr;

use super::error::{ErrorHandle, diffusion_error, diffusion_status, diffusion_status_enum};
use crate::util::error::{Result, bail, error};
use crate::util::panic;
use crate::util::thread::Arithmetic;

/// `struct_size` beyond this is garbage rather than a newer structure.
const STRUCT_SIZE_MAX: usize = 4096;

/// An opaque C type: a pointer to it is a pointer to a `Value` in a box.
pub(super) trait Handle {
    type Value;
}

/// A `repr(C)` structure that crosses the boundary by copy.
///
/// # Safety
/// The first field is `struct_size: u32`, all bytes zero is a valid value, and there is no padding.
pub(super) unsafe trait Struct: Copy {}

/// Runs the body of an exported function: nothing unwinds out of it, and its error goes to the caller.
pub(super) unsafe fn guard(
    error: *mut *mut diffusion_error,
    body: impl FnOnce() -> Result<()>,
) -> diffusion_status {
    // SAFETY: `error` is NULL or writable.
    unsafe { guard_outcome(error, || body().map(|()| diffusion_status_enum::DIFFUSION_OK)) }
}

/// [`guard`] for functions that have more than one way to succeed.
pub(super) unsafe fn guard_outcome(
    error: *mut *mut diffusion_error,
    body: impl FnOnce() -> Result<diffusion_status_enum>,
) -> diffusion_status {
    let _arithmetic = Arithmetic::standard();
    panic::install_hook();
    // SAFETY: `error` is NULL or writable.
    unsafe {
        if !error.is_null() {
            error.write(ptr::null_mut());
        }
        match panic::catch(body).and_then(|result| result) {
            Ok(outcome) => outcome as diffusion_status,
            Err(failure) => {
                let status = failure.status() as diffusion_status;
                if !error.is_null() {
                    error.write(into_handle(ErrorHandle::new(failure)));
                }
                status
            }
        }
    }
}

/// [`guard`] for functions that cannot fail: `fallback` stands for what a panic left unanswered.
pub(super) fn guard_or<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    let _arithmetic = Arithmetic::standard();
    panic::install_hook();
    panic::catch(body).unwrap_or(fallback)
}

/// The value behind a handle, or an error that names the NULL parameter.
pub(super) unsafe fn in_ref<'a, H: Handle>(handle: *const H, name: &str) -> Result<&'a H::Value> {
    // SAFETY: as `opt_ref`.
    unsafe { opt_ref(handle) }.ok_or_else(|| error!(InvalidArgument, "{name} is NULL"))
}

/// The value behind a handle; `None` for NULL.
pub(super) unsafe fn opt_ref<'a, H: Handle>(handle: *const H) -> Option<&'a H::Value> {
    // SAFETY: a handle that is not NULL came from `into_handle` and was not freed.
    unsafe { handle.cast::<H::Value>().as_ref() }
}

/// Gives a value to the caller.
pub(super) fn into_handle<H: Handle>(value: impl Into<Box<H::Value>>) -> *mut H {
    Box::into_raw(value.into()).cast()
}

/// Takes a value back from the caller and drops it; NULL is nothing.
pub(super) unsafe fn free<H: Handle>(handle: *mut H) {
    guard_or((), || {
        if !handle.is_null() {
            // SAFETY: the handle came from `into_handle`, and the caller gives it up.
            drop(unsafe { Box::from_raw(handle.cast::<H::Value>()) });
        }
    });
}

/// A truth value.
pub(super) fn truth(value: i32, name: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => bail!(InvalidArgument, "{name} {value} is neither 0 nor 1"),
    }
}

/// A field that must be 0 until it means something: a program that sets it wants a newer library.
pub(super) fn reserved(value: u32, name: &str) -> Result<()> {
    if value != 0 {
        bail!(VersionMismatch, "{name}: reserved is {value}, which this version does not know");
    }
    Ok(())
}

/// An out-parameter for a handle. It is NULL from the start, and so stays NULL when the function fails.
pub(super) struct Out<H: Handle>(*mut *mut H);

impl<H: Handle> Out<H> {
    pub(super) unsafe fn new(out: *mut *mut H, name: &str) -> Result<Self> {
        if out.is_null() {
            bail!(InvalidArgument, "{name} is NULL");
        }
        // SAFETY: not NULL, so writable.
        unsafe { out.write(ptr::null_mut()) };
        Ok(Self(out))
    }

    pub(super) fn set(self, value: H::Value) {
        // SAFETY: `new` checked the pointer, and it lives as long as the call.
        unsafe { self.0.write(into_handle(value)) };
    }
}

/// An out-parameter for a number.
pub(super) unsafe fn out_value<T>(out: *mut T, name: &str, value: T) -> Result<()> {
    if out.is_null() {
        bail!(InvalidArgument, "{name} is NULL");
    }
    // SAFETY: not NULL, so writable.
    unsafe { out.write(value) };
    Ok(())
}

/// An array of `count` values that is read; `None` for NULL with a count of 0.
pub(super) unsafe fn opt_slice<'a, T>(data: *const T, count: usize, name: &str) -> Result<Option<&'a [T]>> {
    match (data.is_null(), count) {
        (true, 0) => Ok(None),
        (true, _) => bail!(InvalidArgument, "{name} is NULL"),
        (false, _) => {
            check_count::<T>(count, name)?;
            // SAFETY: not NULL, so the caller has `count` values there.
            Ok(Some(unsafe { std::slice::from_raw_parts(data, count) }))
        }
    }
}

/// An array of `count` values that is read.
pub(super) unsafe fn in_slice<'a, T>(data: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if data.is_null() {
        bail!(InvalidArgument, "{name} is NULL");
    }
    // SAFETY: as `opt_slice`.
    Ok(unsafe { opt_slice(data, count, name)? }.unwrap_or_default())
}

/// An array of the caller's with room for `room` values, of which the first `count` are written. Values that are
/// read meanwhile must lie elsewhere ([`check_apart`]).
pub(super) unsafe fn out_slice<'a, T>(
    data: *mut T,
    room: usize,
    count: usize,
    name: &str,
) -> Result<&'a mut [T]> {
    if data.is_null() {
        bail!(InvalidArgument, "{name} is NULL");
    }
    if room < count {
        bail!(BufferTooSmall, "{name} has room for {room} values; there are {count}");
    }
    check_count::<T>(count, name)?;
    // SAFETY: not NULL, so the caller has room for `count` values there.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, count) })
}

/// Fails if two arrays of `count` values share memory.
pub(super) fn check_apart<T>(a: (*const T, &str), b: (*const T, &str), count: usize) -> Result<()> {
    let distance = (a.0 as usize).abs_diff(b.0 as usize);
    if distance < count.saturating_mul(size_of::<T>()) {
        bail!(InvalidArgument, "{} overlaps {}", a.1, b.1);
    }
    Ok(())
}

fn check_count<T>(count: usize, name: &str) -> Result<()> {
    if count > isize::MAX as usize / size_of::<T>() {
        bail!(InvalidArgument, "{name}: {count} values are too many");
    }
    Ok(())
}

/// A string parameter.
pub(super) unsafe fn in_str<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: as `opt_str`.
    unsafe { opt_str(text, name)? }.ok_or_else(|| error!(InvalidArgument, "{name} is NULL"))
}

/// A string parameter that may be NULL.
pub(super) unsafe fn opt_str<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so NUL-terminated and alive during the call.
    let bytes = unsafe { CStr::from_ptr(text) };
    match bytes.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(cause) => bail!(InvalidArgument, "{name} is not UTF-8: bad byte at {}", cause.valid_up_to()),
    }
}

/// A structure from the caller; NULL means all defaults. A shorter structure (from an older header) has zeros for
/// the rest; a longer one (from a newer header) must have zeros where this library knows nothing.
pub(super) unsafe fn in_struct<T: Struct>(desc: *const T, name: &str) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    if !desc.is_null() {
        // SAFETY: not NULL, so its first field can be read and the structure has that many bytes; `Struct` makes
        // any part of it over zeros a valid `T`.
        unsafe {
            let size = struct_size(desc.cast(), name)?;
            let known = size.min(size_of::<T>());
            ptr::copy_nonoverlapping(desc.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
            let rest = std::slice::from_raw_parts(desc.cast::<u8>().add(known), size - known);
            if rest.iter().any(|byte| *byte != 0) {
                bail!(
                    VersionMismatch,
                    "{name}: struct_size {size} has settings that this library (size {}) does not know",
                    size_of::<T>()
                );
            }
        }
    }
    // SAFETY: zeros, partly overwritten by a valid value.
    Ok(unsafe { value.assume_init() })
}

/// Fills the caller's structure as far as it reaches, all but its `struct_size`.
pub(super) unsafe fn out_struct<T: Struct>(info: *mut T, name: &str, value: T) -> Result<()> {
    const FIRST: usize = size_of::<u32>();
    if info.is_null() {
        bail!(InvalidArgument, "{name} is NULL");
    }
    // SAFETY: not NULL, so its first field can be read and the structure has that many bytes.
    unsafe {
        let known = struct_size(info.cast(), name)?.min(size_of::<T>());
        let source = (&raw const value).cast::<u8>().add(FIRST);
        ptr::copy_nonoverlapping(source, info.cast::<u8>().add(FIRST), known - FIRST);
    }
    Ok(())
}

unsafe fn struct_size(pointer: *const c_void, name: &str) -> Result<usize> {
    // SAFETY: every structure begins with its size.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if !(size_of::<u32>()..=STRUCT_SIZE_MAX).contains(&size) {
        bail!(InvalidArgument, "{name}: struct_size is {size}; set it to the size of the structure");
    }
    Ok(size)
}

/// A copy for C of a text of ours.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// What a callback gets back untouched.
#[derive(Clone, Copy)]
pub(super) struct UserData(pub(super) *mut c_void);

// SAFETY: the library never looks behind the pointer; the header tells the caller that callbacks come from other
// threads.
unsafe impl Send for UserData {}
// SAFETY: as for Send.
unsafe impl Sync for UserData {}

impl UserData {
    /// The pointer. A method, so that closures capture the whole `UserData`.
    pub(super) fn get(self) -> *mut c_void {
        self.0
    }
}
