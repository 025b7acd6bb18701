//! What samplers and sigma schedules there are.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{Struct, c_string, guard, out_struct};
use super::option::{diffusion_sampler_id, diffusion_sigma_schedule};
use crate::api::sampling::{SAMPLERS, SIGMA_SCHEDULES};
use crate::util::error::error;

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
