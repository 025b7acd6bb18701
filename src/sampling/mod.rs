//! Sampling: how noise becomes latents. Pure maths on the host; it knows slices of `f32`, never tensors.
//!
//! Five things that papers often mix are kept apart, after Karras et al. 2022 (arXiv:2206.00364) and k-diffusion:
//!
//! - [`Schedule`]: how much noise each training timestep carries, and which timesteps are visited;
//! - [`PredictionType`]: what the network's output means;
//! - the samplers `ddpm`, `ddim` and `euler`: how one step is taken, one file each;
//! - [`guidance`]: how conditional and unconditional predictions combine;
//! - [`NoiseStream`]: where random numbers come from.
//!
//! [`SchedulerConfig`] says which of them a model wants, [`Plan`] puts them together for one request.

mod cephes;
pub mod config;
mod ddim;
mod ddpm;
mod euler;
pub mod guidance;
pub mod noise;
pub mod parameterization;
mod plan;
pub mod schedule;
#[cfg(test)]
mod tests;

pub use config::SchedulerConfig;
pub use noise::NoiseStream;
pub use parameterization::PredictionType;
pub use plan::{Denoise, Plan};
pub use schedule::Schedule;

/// How the latents travel from noise to picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sampler {
    Ddpm,
    Ddim,
    Euler,
}

impl Sampler {
    /// The name options and results show: `ddpm`, `ddim` or `euler`.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Ddpm => "ddpm",
            Sampler::Ddim => "ddim",
            Sampler::Euler => "euler",
        }
    }
}

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
