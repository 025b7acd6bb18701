//! Sampling: how noise becomes latents. Pure maths on the host; it knows slices of `f32`, never tensors.
//!
//! Five things that papers often mix are kept apart, after Karras et al. 2022 (arXiv:2206.00364) and k-diffusion:
//!
//! - [`Schedule`]: how much noise each training timestep carries, and which timesteps are visited;
//! - [`PredictionType`]: what the network's output means;
//! - `solvers`: how one step is taken, a file each family;
//! - [`guidance`]: how conditional and unconditional predictions combine;
//! - [`NoiseStream`]: where random numbers come from.
//!
//! [`SchedulerConfig`] says which of them a model wants, [`Plan`] puts them together for one request, [`Run`] carries the
//! plan out.

mod beta;
mod brownian;
mod cephes;
pub mod clip;
pub mod config;
#[cfg(test)]
mod convergence;
mod grid;
pub mod guidance;
mod levels;
#[cfg(test)]
mod mixture;
pub mod noise;
mod normal;
#[cfg(test)]
mod page;
pub mod parameterization;
mod plan;
mod program;
mod run;
mod sampler;
pub mod schedule;
mod scheduler_class;
mod sigma_schedule;
mod sigmas;
mod solvers;
#[cfg(test)]
mod tests;
mod timesteps;

pub use clip::Clip;
pub use config::SchedulerConfig;
pub use noise::{NoiseSource, NoiseStream};
pub use parameterization::{NoiseLevel, PredictionType};
pub use plan::{Options, Plan};
pub use run::{Denoise, Evaluation, Run};
pub use sampler::{SAMPLERS, Sampler, SamplerInfo};
pub use schedule::Schedule;
pub use sigma_schedule::{SIGMA_SCHEDULES, SigmaSchedule, SigmaScheduleInfo};

/// Which of the training timesteps a sampler visits (table 2 of Lin et al. 2023, arXiv:2305.08891).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestepSpacing {
    /// Multiples of the stride plus `steps_offset`; the noisiest timesteps are left out.
    Leading,
    /// Counts down from the last timestep.
    Trailing,
    /// Spreads evenly from the first timestep to the last, both included.
    Linspace,
}

impl TimestepSpacing {
    /// The name configs and options use: `leading`, `trailing` or `linspace`.
    pub fn name(self) -> &'static str {
        match self {
            TimestepSpacing::Leading => "leading",
            TimestepSpacing::Trailing => "trailing",
            TimestepSpacing::Linspace => "linspace",
        }
    }
}

/// Where the noise comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Noise {
    /// Philox 4×32-10: equal to torch's CUDA `randn`.
    Philox,
    /// Mersenne Twister: equal to torch's CPU `randn`.
    Mt19937,
}

impl Noise {
    /// The name options use: `philox` or `mt19937`.
    pub fn name(self) -> &'static str {
        match self {
            Noise::Philox => "philox",
            Noise::Mt19937 => "mt19937",
        }
    }
}

/// Whose numbers to give where programs use one name for different arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    Diffusers,
    A1111,
    ComfyUi,
}

impl Profile {
    /// The name options use: `diffusers`, `a1111` or `comfyui`.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Diffusers => "diffusers",
            Profile::A1111 => "a1111",
            Profile::ComfyUi => "comfyui",
        }
    }
}
