//! A queue of work on a device.

use std::sync::Arc;

use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::sys::CUstream;

use super::device::Device;
use crate::util::error::Result;

/// A stream: what it is told to do it does in order, later. Only sessions' own streams are used, never the null stream,
/// for which others would wait.
pub(super) struct Stream {
    stream: CUstream,
    device: Arc<Device>,
}

// SAFETY: a handle of the driver, which may be used from any thread to which the context is bound.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The context has to be bound.
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        let stream = device.check("making a stream", result::stream::create(StreamKind::NonBlocking))?;
        Ok(Self { stream, device: Arc::clone(device) })
    }

    /// For calls of the driver; it is there as long as `self`.
    pub(super) fn handle(&self) -> CUstream {
        self.stream
    }

    /// Waits until everything is done; `what` names in the error who waits.
    pub(super) fn synchronize(&self, what: &str) -> Result<()> {
        // SAFETY: the stream exists.
        self.device.check(what, unsafe { result::stream::synchronize(self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(_callers) = self.device.bind_to_drop() {
            // SAFETY: made in `new`, destroyed once. What was submitted is done first, so that memory that comes back
            // to a device afterwards is unused.
            let _ = unsafe { result::stream::synchronize(self.stream) };
            // SAFETY: as above.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}
