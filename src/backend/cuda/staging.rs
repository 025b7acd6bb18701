//! Pinned host memory, through which values go to and from the device without the driver copying them once more.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdeviceptr, CUresult};

use super::device::Device;
use super::stream::Stream;
use crate::util::error::{Result, bail};

/// What a session begins with, in bytes.
const SMALLEST: usize = 1 << 20;
/// Longer copies are done in pieces of at most this many bytes, so that the next is written while one is on its way.
const PIECE: usize = 4 << 20;
/// Pieces of the largest size that there is room for.
const PIECES: usize = 4;
/// The start of each copy, in bytes, so that values are aligned for any vector code.
const ALIGN: usize = 64;

/// A session's pinned memory. Copies take one part after the other; when it is used up, the next waits until the stream
/// has done those before. It grows to what the largest copy needs, at most twice [`PIECE`], and stays.
pub(super) struct Staging {
    memory: Option<Pinned>,
    used: usize,
}

struct Pinned {
    start: NonNull<u8>,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: plain memory, which its owner may use from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        // SAFETY: `Pinned` frees the memory.
        let start = unsafe { result::malloc_host(bytes, 0) };
        if start == Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) {
            bail!(OutOfMemory, "copying needs {} MiB of pinned host memory", bytes.div_ceil(1 << 20));
        }
        let Some(start) = NonNull::new(device.check("pinned memory", start)?.cast::<u8>()) else {
            bail!(Device, "pinned memory: {} gave none", device.name());
        };
        // SAFETY: as many bytes were just allocated. Zeroing makes every later slice of them initialised.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { start, bytes, device: Arc::clone(device) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(_callers) = self.device.bind_to_drop() {
            // SAFETY: allocated in `new`. The driver waits for copies that use it.
            let _ = unsafe { result::free_host(self.start.as_ptr().cast::<c_void>()) };
        }
    }
}

impl Staging {
    pub(super) const fn new() -> Self {
        Self { memory: None, used: 0 }
    }

    /// `bytes` bytes that no copy of the stream uses.
    fn take(&mut self, stream: &Stream, device: &Arc<Device>, bytes: usize) -> Result<&mut [u8]> {
        let capacity = self.memory.as_ref().map_or(0, |memory| memory.bytes);
        if self.used + bytes > capacity {
            stream.synchronize("copying")?;
            self.used = 0;
            if bytes > capacity {
                self.memory = None;
                self.memory = Some(Pinned::new(device, (bytes * PIECES).next_power_of_two().max(SMALLEST))?);
            }
        }
        let start = self.used;
        self.used = (start + bytes).next_multiple_of(ALIGN);
        let Some(memory) = &mut self.memory else {
            // Nothing was asked for.
            return Ok(&mut []);
        };
        // SAFETY: within the allocation, initialised, and what the stream still reads lies before `start`.
        Ok(unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr().add(start), bytes) })
    }

    /// Copies `units` units of `unit` bytes to the device, where they stand in the stream like any other work. `write`
    /// puts some of them, from the first to the last of a range, in host memory.
    pub(super) fn upload(
        &mut self,
        stream: &Stream,
        device: &Arc<Device>,
        to: CUdeviceptr,
        units: usize,
        unit: usize,
        mut write: impl FnMut(std::ops::Range<usize>, &mut [u8]),
    ) -> Result<()> {
        let most = (PIECE / unit.max(1)).max(1);
        for first in (0..units).step_by(most) {
            let range = first..units.min(first + most);
            let piece = self.take(stream, device, range.len() * unit)?;
            write(range, piece);
            // SAFETY: the caller's memory has room; the piece stays as it is until the stream has read it.
            let copied = unsafe {
                sys::cuMemcpyHtoDAsync_v2(
                    to + (first * unit) as u64,
                    piece.as_ptr().cast::<c_void>(),
                    piece.len(),
                    stream.handle(),
                )
            };
            device.check("copying to the device", copied.result())?;
        }
        Ok(())
    }

    /// Copies `units` units of `unit` bytes from the device, when the stream has done all before. `read` gets some of
    /// them, from the first to the last of a range, from host memory.
    pub(super) fn download(
        &mut self,
        stream: &Stream,
        device: &Arc<Device>,
        from: CUdeviceptr,
        units: usize,
        unit: usize,
        mut read: impl FnMut(std::ops::Range<usize>, &mut [u8]),
    ) -> Result<()> {
        let most = (PIECE / unit.max(1)).max(1);
        for first in (0..units).step_by(most) {
            let range = first..units.min(first + most);
            let piece = self.take(stream, device, range.len() * unit)?;
            // SAFETY: the caller's memory has that much; the piece is nobody else's.
            let copied = unsafe {
                sys::cuMemcpyDtoHAsync_v2(
                    piece.as_mut_ptr().cast::<c_void>(),
                    from + (first * unit) as u64,
                    piece.len(),
                    stream.handle(),
                )
            };
            device.check("copying from the device", copied.result())?;
            stream.synchronize("copying from the device")?;
            read(range, piece);
            // All copies are done.
            self.used = 0;
        }
        Ok(())
    }
}
