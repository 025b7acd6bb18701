//! The devices that an engine can be asked for, and those that this machine has.

use std::path::PathBuf;

pub use crate::backend::cuda::Precision;
use crate::backend::cuda::library::Search;
use crate::backend::cuda::list;
pub use crate::backend::cuda::list::DeviceInfo;
use crate::util::error::{Error, Result, Status};
use crate::util::log::Log;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// CUDA if there is a GPU that can be used, else the CPU. The log says why not.
    #[default]
    Auto,
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The CUDA devices of this machine, as they were when asked.
#[derive(Debug, Clone, Default)]
pub struct DeviceList {
    /// In the driver's order: [`super::EngineOptions::device_index`] counts in it.
    pub devices: Vec<DeviceInfo>,
    /// Why there are none, for people.
    pub reason: Option<Error>,
}

impl DeviceList {
    /// Asks the driver, which is looked for in `directory` too. A machine without driver or GPU has an empty list and
    /// a reason.
    ///
    /// # Errors
    /// `Device` if there is a driver and it fails.
    pub fn new(directory: Option<PathBuf>) -> Result<Self> {
        match list::devices(&Search { directory }, &Log::off()) {
            Ok(devices) => Ok(Self { devices, reason: None }),
            Err(reason) if reason.status() == Status::Unsupported => {
                Ok(Self { devices: Vec::new(), reason: Some(reason) })
            }
            Err(error) => Err(error),
        }
    }
}
