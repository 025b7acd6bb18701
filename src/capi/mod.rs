//! The C ABI: check, convert, call [`crate::api`], store. No logic lives here.
//!
//! Each file exports one noun. The doc comments are those of `include/diffusion.h`, which `tools/header` writes
//! from these files, in the order in which they stand here and in the group that `\ingroup` names.
// The names are C's, and what callers must keep to is said in the header's words.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod ffi;

pub mod version;

pub mod error;

pub mod engine;

pub mod device;

pub mod model;

pub mod memory;

pub mod option;

pub mod request;

pub mod session;

pub mod job;

pub mod image;

pub mod schedule;

pub mod sampler_desc;

pub mod sampler;

pub mod sampler_info;

pub mod guidance;

#[cfg(feature = "fault-injection")]
pub mod experimental;

#[cfg(test)]
mod tests;
