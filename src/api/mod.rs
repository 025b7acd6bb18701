//! The Rust face of the library: what the C functions call, and what a Rust program may use directly.
//!
//! An [`Engine`] computes, a [`Model`] holds weights, a [`Session`] runs [`Request`]s one after another, each as
//! a [`Job`] that makes [`Image`]s. Every object keeps alive what it was made from.

mod backend;
mod device;
mod engine;
pub mod guidance;
mod image;
mod image_file;
mod job;
mod memory;
mod metadata;
mod model;
pub mod options;
mod request;
pub mod sampling;
pub mod schedule;
mod session;
#[cfg(test)]
mod tests;

pub use device::{Device, DeviceInfo, DeviceList, Precision};
pub use engine::{Engine, EngineOptions};
pub use image::{Format, Image};
pub use job::{Job, JobStage, Progress, Report};
pub use memory::{MemoryPrediction, MemoryQuery};
pub use model::{Model, ModelOptions};
pub use options::{OptionId, OptionSpec};
pub(crate) use request::sampler_number;
pub use request::{GuideFn, ProgressFn, Request};
pub use sampling::Stepper;
pub use schedule::Schedule;
pub use session::{Session, SessionOptions};

pub use crate::backend::WeightFormat;
pub use crate::pipeline::Info as ModelInfo;
pub use crate::pipeline::request::{Noise, Profile, Sampler, SigmaSchedule, TimestepSpacing};
pub use crate::util::error::{Error, Result, Status};
pub use crate::util::log::{Level, Log};

/// How the library was built, one `key: value` a line.
pub fn build_info() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "generic avx2 avx512",
        "aarch64" => "generic neon",
        _ => "generic",
    };
    let features = if cfg!(feature = "fault-injection") { "fault-injection" } else { "" };
    format!(
        "version: {}\ntarget: {}-{}\nprofile: {profile}\ncpu: {cpu}\nfeatures: {features}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}
