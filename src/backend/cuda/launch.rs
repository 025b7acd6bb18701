//! How operations launch kernels.

use std::ffi::c_void;

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::Cuda;
use crate::util::error::{Result, bail};

/// A kernel's parameter. A pointer is a [`CUdeviceptr`].
///
/// # Safety
/// The type has the layout of the kernel's.
pub(super) unsafe trait Parameter {}

// SAFETY: `unsigned int` in a kernel.
unsafe impl Parameter for u32 {}
// SAFETY: `unsigned long long`, or a pointer.
unsafe impl Parameter for CUdeviceptr {}
// SAFETY: `float`.
unsafe impl Parameter for f32 {}
// SAFETY: `int`.
unsafe impl Parameter for i32 {}

/// A kernel's parameters in their order.
pub(super) type Parameters<'a> = &'a [&'a dyn Parameter];

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// In x, y and z, at most 2^31 - 1, 65535 and 65535.
    pub(super) blocks: [usize; 3],
    /// Of a block.
    pub(super) threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub(super) shared: u32,
}

impl Grid {
    /// Blocks of 256 threads that do `items` items between them, one a thread.
    pub(super) fn of_items(items: usize) -> Self {
        Self { blocks: [items.div_ceil(256), 1, 1], threads: 256, shared: 0 }
    }
}

impl Cuda {
    /// Puts a kernel of `kernels/<family>.cu` in the session's stream, or in what it records. The operation has called
    /// [`Cuda::tensor`] before. Kernels with nothing to do must not be launched.
    ///
    /// # Safety
    /// The parameters are the kernel's, pointers have the room that it expects, and their memory belongs to tensors or
    /// blocks of this session, or to weights.
    pub(super) unsafe fn launch(
        &self,
        family: &'static str,
        name: &str,
        grid: Grid,
        parameters: Parameters<'_>,
    ) -> Result<()> {
        let [x, y, z] = grid.blocks;
        let (Ok(x @ ..=0x7fff_ffff), Ok(y @ ..=0xffff), Ok(z @ ..=0xffff)) =
            (u32::try_from(x), u32::try_from(y), u32::try_from(z))
        else {
            bail!(Unsupported, "{name}: {x} × {y} × {z} blocks, more than a GPU runs");
        };
        let function = self.device.kernel(family, name, grid.shared)?;
        let mut addresses: Vec<*mut c_void> = parameters
            .iter()
            .map(|&parameter| std::ptr::from_ref(parameter).cast::<c_void>().cast_mut())
            .collect();
        // SAFETY: the function is loaded, the caller answers for its parameters, and the driver copies them.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared,
                self.pool.stream.handle(),
                &mut addresses,
            )
        };
        self.device.check(name, launched)
    }

    /// `name_TYPE`: the kernel for the type of the activations.
    pub(super) fn typed(&self, name: &str) -> String {
        format!("{name}_{}", self.device.precision.suffix())
    }
}

/// A size as a kernel counts it; `operation` has to have fewer than 2^32 of `what`.
pub(super) fn count(operation: &str, what: &str, size: usize) -> Result<u32> {
    match u32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!(Unsupported, "{operation}: {size} {what}, more than its kernel counts"),
    }
}
