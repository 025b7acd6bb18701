//! Lists GPUs.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{CUdevice_attribute, CUresult};

use super::error::opened;
use super::library::{self, Search};
use crate::util::error::{Result, bail};
use crate::util::log::Log;

/// A GPU of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// In the driver's order, from 0.
    pub index: usize,
    pub name: String,
    /// Bytes it has, free or not.
    pub memory: u64,
    /// Major and minor.
    pub compute_capability: (u32, u32),
}

/// The GPUs that the driver sees.
///
/// # Errors
/// `Unsupported` without a driver or a GPU, `Device` if the driver fails.
pub fn devices(search: &Search, log: &Log) -> Result<Vec<DeviceInfo>> {
    library::load(search, log)?;
    let count = match result::init().and_then(|()| result::device::get_count()) {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        count => opened("this machine", "CUDA", count)?,
    };
    if count == 0 {
        bail!(Unsupported, "no NVIDIA GPU: the driver finds none in this machine");
    }
    let info = |ordinal| {
        let device = result::device::get(ordinal)?;
        let attribute = |which| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, which) }
                .map(|value| u32::try_from(value).unwrap_or(0))
        };
        Ok(DeviceInfo {
            index: usize::try_from(ordinal).unwrap_or(0),
            name: result::device::get_name(device)?,
            // SAFETY: the device exists.
            memory: unsafe { result::device::total_mem(device) }? as u64,
            compute_capability: (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
        })
    };
    (0..count).map(|ordinal| opened(&format!("GPU {ordinal}"), "listing", info(ordinal))).collect()
}
