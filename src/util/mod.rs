//! What every layer may use: errors, limits, memory, threads, cancellation, logging.

pub mod buffer;
pub mod cancel;
pub mod error;
pub mod file;
pub mod limits;
pub mod log;
pub mod panic;
pub mod thread;
