//! Leaves the threads of a host that uses CUDA itself, and what it captures on them, as they were.

use std::ptr;

use cudarc::driver::result::ctx;
use cudarc::driver::sys::{CUcontext, CUstreamCaptureMode, cuThreadExchangeStreamCaptureMode};

/// What the host has set of CUDA on the calling thread: the context that is current, and what captures of streams forbid
/// it. Set again when this is dropped. The driver has to be loaded by then.
pub(crate) struct CallersState {
    context: CUcontext,
    capture: CUstreamCaptureMode,
}

impl CallersState {
    pub(crate) fn keep() -> Self {
        let context = ctx::get_current().ok().flatten().unwrap_or(ptr::null_mut());
        Self { context, capture: exchange_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED) }
    }
}

impl Drop for CallersState {
    fn drop(&mut self) {
        // SAFETY: the thread's own context, or none. If the host has ended it meanwhile, the driver refuses.
        let _ = unsafe { ctx::set_current(self.context) };
        exchange_capture(self.capture);
    }
}

/// Lets this thread allocate and free while others capture streams: by default the driver would refuse, and spoil a
/// host's capture. While it captures itself it is refused, unless [`CallersState`] allows even that.
pub(super) fn disregard_other_captures() {
    let before = exchange_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if before == CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED {
        exchange_capture(before);
    }
}

fn exchange_capture(mut mode: CUstreamCaptureMode) -> CUstreamCaptureMode {
    // SAFETY: the driver is loaded and initialised, and any that is new enough has the function. It writes the mode that
    // was, one of the enumeration's; it fails for a mode that is none, and when the process ends, which is no matter.
    let _ = unsafe { cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    mode
}
