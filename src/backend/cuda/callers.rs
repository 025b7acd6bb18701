//! Leaves the threads of a host that uses CUDA itself as they were.

use std::ptr;

use cudarc::driver::result::ctx;
use cudarc::driver::sys::CUcontext;

/// Makes current again, when it is dropped, the context that was current on the calling thread when it was made. The
/// driver has to be loaded by then.
pub(crate) struct CallersContext(CUcontext);

impl CallersContext {
    pub(crate) fn keep() -> Self {
        Self(ctx::get_current().ok().flatten().unwrap_or(ptr::null_mut()))
    }
}

impl Drop for CallersContext {
    fn drop(&mut self) {
        // SAFETY: the thread's own context, or none. If the host has ended it meanwhile, the driver refuses.
        let _ = unsafe { ctx::set_current(self.0) };
    }
}
