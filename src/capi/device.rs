//! Lists of devices.

use std::ffi::{CString, c_char};
use std::path::PathBuf;

use super::engine::{device_number, diffusion_device};
use super::error::{diffusion_error, diffusion_status};
use super::ffi::{
    self, Handle, Out, Struct, c_string, guard, guard_or, in_ref, in_struct, opt_ref, opt_str, out_struct,
    reserved,
};
use crate::api::{Device, DeviceList};
use crate::util::error::error;

/// Where to look for devices. All zero (but for struct_size) is the default.
/// \since 0.1.0
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_device_list_desc {
    /// sizeof(diffusion_device_list_desc)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// ::diffusion_engine_desc::cuda_library_directory.
    pub cuda_library_directory: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_device_list_desc {}

/// Facts about a device.
/// \since 0.1.0
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_device_info {
    /// sizeof(diffusion_device_info), set by the caller
    pub struct_size: u32,
    /// Its kind, for ::diffusion_engine_desc::device: ::DIFFUSION_DEVICE_CUDA in this version.
    pub device: diffusion_device,
    /// Which of its kind, for ::diffusion_engine_desc::device_index.
    pub device_index: u32,
    /// 10 times the compute capability, as in sm_90: 90 is 9.0. Engines need 80.
    pub compute_capability: u32,
    /// Bytes of memory the device has, free or not.
    pub memory: u64,
    /// What its maker calls it. Valid until the list is freed.
    pub name: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_device_info {}

/// The CUDA devices of a machine, as they were when the list was made. The CPU is always there and in no list.
/// \since 0.1.0
/// \ingroup engine
#[repr(C)]
pub struct diffusion_device_list {
    _private: [u8; 0],
}

pub struct DeviceListHandle {
    list: DeviceList,
    names: Vec<CString>,
    reason: CString,
}

impl Handle for diffusion_device_list {
    type Value = DeviceListHandle;
}

/// Lists the CUDA devices of this machine.
///
/// A machine without a driver or a GPU is no error: its list is empty, and diffusion_device_list_reason() says why. A
/// device in the list may still not do for an engine (too old, or without cuBLASLt): diffusion_engine_new() tells.
///
/// \param desc Where to look; NULL = all defaults.
/// \param list Receives the list, to be freed with diffusion_device_list_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_DEVICE if the driver fails; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_device_list_new(
    desc: *const diffusion_device_list_desc,
    list: *mut *mut diffusion_device_list,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(list, "list")?;
            let desc = in_struct(desc, "desc")?;
            reserved(desc.reserved, "desc")?;
            let directory = opt_str(desc.cuda_library_directory, "cuda_library_directory")?;
            let list = DeviceList::new(directory.map(PathBuf::from))?;
            let names = list.devices.iter().map(|device| c_string(&device.name)).collect();
            let reason = c_string(list.reason.as_ref().map_or("", |reason| reason.message()));
            out.set(DeviceListHandle { list, names, reason });
            Ok(())
        })
    }
}

/// Frees a list of devices. Engines do not need it.
///
/// \param list The list, or NULL for nothing to happen.
/// \threadsafety Any thread; the list must not be in use.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_device_list_free(list: *mut diffusion_device_list) {
    // SAFETY: NULL or a list the caller gives up.
    unsafe { ffi::free(list) }
}

/// How many devices a list has.
///
/// \param list The list.
/// \returns The number of devices; 0 for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_device_list_count(list: *const diffusion_device_list) -> usize {
    // SAFETY: NULL or a list.
    guard_or(0, || unsafe { opt_ref(list) }.map_or(0, |handle| handle.names.len()))
}

/// Tells what a device is.
///
/// \param list The list.
/// \param index 0 to diffusion_device_list_count() - 1.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_device_list_get_info(
    list: *const diffusion_device_list,
    index: usize,
    info: *mut diffusion_device_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let DeviceListHandle { list, names, .. } = in_ref(list, "list")?;
            let (device, name) = list.devices.get(index).zip(names.get(index)).ok_or_else(|| {
                error!(InvalidArgument, "index: {index} is not less than the {} devices", names.len())
            })?;
            let (major, minor) = device.compute_capability;
            let facts = diffusion_device_info {
                struct_size: 0,
                device: device_number(Device::Cuda),
                device_index: device.index as u32,
                compute_capability: major * 10 + minor,
                memory: device.memory,
                name: name.as_ptr(),
            };
            out_struct(info, "info", facts)
        })
    }
}

/// Why a list is empty.
///
/// \param list The list.
/// \returns One line, such as what is missing and how to get it; "" for a list with devices, or NULL. Valid until the
/// list is freed.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_device_list_reason(list: *const diffusion_device_list) -> *const c_char {
    // SAFETY: NULL or a list.
    guard_or(c"".as_ptr(), || unsafe { opt_ref(list) }.map_or(c"".as_ptr(), |handle| handle.reason.as_ptr()))
}
