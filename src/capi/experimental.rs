//! What tests of the shared library need. Only in builds with the feature `fault-injection`.

use std::ptr;

use super::error::diffusion_status;
use super::ffi::{guard, in_ref};
use super::session::diffusion_session;

/// For tests only: makes the session's next job panic, as a bug in the library would.
///
/// Exported only by a library built with the cargo feature fault-injection, which a release never has.
///
/// \param session The session.
/// \param compute 1: in one of the engine's threads that compute; 0: in the session's own thread.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup experimental
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_x_inject_panic(
    session: *mut diffusion_session,
    compute: i32,
) -> diffusion_status {
    // SAFETY: NULL or a session that lives during the call.
    unsafe {
        guard(ptr::null_mut(), || {
            in_ref(session, "session")?.plant_panic(compute != 0);
            Ok(())
        })
    }
}
