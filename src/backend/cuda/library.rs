//! Stands in for the search for libraries until that is there: takes libcuda from the system path alone.

use std::path::PathBuf;

use crate::util::error::{Result, bail};
use crate::util::log::Log;

/// Where to look for CUDA's libraries beside the system path.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub directory: Option<PathBuf>,
}

/// Loads the driver's library, before anything else of CUDA is used.
pub fn load(_: &Search, _: &Log) -> Result<()> {
    // SAFETY: a driver's library may be loaded at any time.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        bail!(Unsupported, "no CUDA driver: libcuda.so.1 was not found");
    }
    Ok(())
}

/// Loads cuBLASLt, before anything of it is used.
pub fn load_blas(_: &Search, _: &Log) -> Result<()> {
    // SAFETY: cuBLASLt may be loaded at any time.
    if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        bail!(Unsupported, "no cuBLASLt: libcublasLt.so was not found");
    }
    Ok(())
}
