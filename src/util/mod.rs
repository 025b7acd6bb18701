//! What every layer may use: errors, limits, cancellation, logging.

pub mod cancel;
pub mod error;
pub mod file;
pub mod limits;
pub mod log;
pub mod panic;
