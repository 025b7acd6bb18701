//! Checkpoints: the folder of one component, its JSON config and its tensors.

mod checkpoint;
mod files;
pub mod json;
mod mapped;
mod scope;
#[cfg(test)]
pub(crate) mod tests;

pub use checkpoint::{Checkpoint, Spread};
pub use scope::Scope;
