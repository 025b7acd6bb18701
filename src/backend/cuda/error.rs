//! What the driver says, as errors of the library.

use std::sync::OnceLock;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::util::error::{Error, Result, bail, error};

/// Whether a device still works. Some errors break its context for good: from there on every call of the driver
/// repeats them, and which operation hears of them first is chance.
#[derive(Default)]
pub(super) struct Health(OnceLock<Error>);

impl Health {
    /// Fails with `DeviceLost` after an error that the device did not survive.
    pub(super) fn check(&self) -> Result<()> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The driver's result, with errors as `DeviceOutOfMemory`, `DeviceLost` (also of every later [`Health::check`])
    /// or `Device`; `what` names the operation.
    pub(super) fn of<T>(
        &self,
        device: &str,
        what: &str,
        result: std::result::Result<T, DriverError>,
    ) -> Result<T> {
        let code = match result {
            Ok(value) => return Ok(value),
            Err(DriverError(code)) => code,
        };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            bail!(DeviceOutOfMemory, "{what}: out of memory on {device}");
        }
        if !is_sticky(code) {
            bail!(Device, "{what}: {code:?} on {device}");
        }
        let lost = || {
            error!(DeviceLost, "{device} is lost: {code:?} in {what} or before it; start the process anew")
        };
        Err(self.0.get_or_init(lost).clone())
    }
}

/// The driver's result while there is no context yet that could be lost.
pub(super) fn opened<T>(device: &str, what: &str, result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(|DriverError(code)| error!(Device, "{what}: {code:?} on {device}"))
}

/// Whether a context that has had this error has it for ever.
fn is_sticky(code: CUresult) -> bool {
    use CUresult::*;
    matches!(
        code,
        CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}
