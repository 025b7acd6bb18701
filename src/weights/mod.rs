//! Checkpoints: the folder of one component, its JSON config and its tensors.

mod checkpoint;
mod files;
pub mod json;
mod mapped;
mod scope;
#[cfg(test)]
pub(crate) mod tests;

pub use checkpoint::Checkpoint;
pub use scope::Scope;

use std::io;
use std::path::Path;

use crate::util::error::{Error, error};

/// The error for a file that the operating system would not give us.
fn io_error(path: &Path, cause: &io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::NotFound => error!(NotFound, "{}: the file does not exist", path.display()),
        _ => error!(Io, "{}: {cause}", path.display()),
    }
}
