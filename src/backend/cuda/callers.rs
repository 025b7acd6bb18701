//! Leaves the threads of a host that uses CUDA itself, and what it records on them, as they were.

use std::ptr;

use cudarc::driver::result::ctx;
use cudarc::driver::sys::{CUcontext, CUstreamCaptureMode, cuThreadExchangeStreamCaptureMode};

/// What the host has set of CUDA on the calling thread: the context that is current, and what other recordings of
/// streams forbid. Set again when this is dropped. The driver has to be loaded by then.
pub(crate) struct CallersState {
    context: CUcontext,
    capture: CUstreamCaptureMode,
}

impl CallersState {
    pub(crate) fn keep() -> Self {
        let context = ctx::get_current().ok().flatten().unwrap_or(ptr::null_mut());
        Self { context, capture: allow_while_recording() }
    }
}

impl Drop for CallersState {
    fn drop(&mut self) {
        // SAFETY: the thread's own context, or none. If the host has ended it meanwhile, the driver refuses.
        let _ = unsafe { ctx::set_current(self.context) };
        exchange_capture(self.capture);
    }
}

/// Lets this thread allocate and free while the host records a stream, be it on another thread: by default the driver
/// would refuse, and spoil the recording. Tells what it was before.
pub(super) fn allow_while_recording() -> CUstreamCaptureMode {
    exchange_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
}

fn exchange_capture(mut mode: CUstreamCaptureMode) -> CUstreamCaptureMode {
    // SAFETY: the driver is loaded, and any that is new enough has the function. It writes the mode that was, one of
    // the enumeration's. Its only failure is that of an invalid mode.
    let _ = unsafe { cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    mode
}
