//! diffusers' scheduler classes: which sampler each stands for, and what it takes for absent keys.

use super::Sampler;

/// What a class's levels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// A table of training timesteps.
    Table,
    /// A flow.
    Flow,
    /// EDM's continuous σ.
    Edm,
}

/// A class of diffusers.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchedulerClass {
    pub(super) sampler: Sampler,
    /// Whether the sampler gives the class's own numbers.
    pub(super) exact: bool,
    pub(super) family: Family,
    /// Whether it reads `use_karras_sigmas`, `use_exponential_sigmas` and `use_beta_sigmas`.
    pub(super) has_sigma_schedules: bool,
    /// Whether it reads `use_flow_sigmas`, `flow_shift` and `use_dynamic_shifting`.
    pub(super) has_flow_sigmas: bool,
    pub(super) beta_start: f64,
    pub(super) beta_end: f64,
    pub(super) beta_schedule: &'static str,
    pub(super) clip_sample: bool,
    pub(super) set_alpha_to_one: bool,
    pub(super) lower_order_final: bool,
    pub(super) sigma_data: f64,
}

const TABLE: SchedulerClass = SchedulerClass {
    sampler: Sampler::Ddim,
    exact: true,
    family: Family::Table,
    has_sigma_schedules: false,
    has_flow_sigmas: false,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    // A class that never clips was made for latents, which ±1 would ruin.
    clip_sample: false,
    set_alpha_to_one: true,
    lower_order_final: true,
    sigma_data: 1.0,
};
/// k-diffusion's samplers.
const SIGMAS: SchedulerClass = SchedulerClass { has_sigma_schedules: true, ..TABLE };
const SIGMAS_SD: SchedulerClass = SchedulerClass { beta_start: 0.00085, beta_end: 0.012, ..SIGMAS };
/// Those made for DPM-Solver's λ.
const LAMBDAS: SchedulerClass = SchedulerClass { has_flow_sigmas: true, ..SIGMAS };
const DISTILLED: SchedulerClass =
    SchedulerClass { beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", ..TABLE };
const FLOW: SchedulerClass = SchedulerClass { family: Family::Flow, ..TABLE };
const EDM: SchedulerClass = SchedulerClass { family: Family::Edm, sigma_data: 0.5, ..TABLE };

impl SchedulerClass {
    /// The class of that name; `None` for one that nobody knows, or that samples nothing there is a sampler for.
    ///
    /// The sampler may depend on further keys, which `SchedulerConfig::parse` reads.
    pub(super) fn named(class_name: &str) -> Option<Self> {
        use Sampler::*;
        let is = |class: SchedulerClass, sampler| SchedulerClass { sampler, ..class };
        let pixels = SchedulerClass { clip_sample: true, ..TABLE };
        Some(match class_name {
            "DDIMScheduler" | "DDIMParallelScheduler" => pixels,
            "DDPMScheduler" | "DDPMParallelScheduler" => is(pixels, Ddpm),
            "PNDMScheduler" => SchedulerClass { set_alpha_to_one: false, ..is(TABLE, Pndm) },
            "EulerAncestralDiscreteScheduler" => is(TABLE, EulerAncestral),
            "EulerDiscreteScheduler" => is(SIGMAS, Euler),
            "LMSDiscreteScheduler" => is(SIGMAS, Lms),
            "HeunDiscreteScheduler" => is(SIGMAS_SD, Heun),
            "KDPM2DiscreteScheduler" => is(SIGMAS_SD, Dpm2),
            "KDPM2AncestralDiscreteScheduler" => is(SIGMAS_SD, Dpm2Ancestral),
            "DPMSolverSDEScheduler" => is(SIGMAS_SD, DpmppSde),
            "DPMSolverMultistepScheduler" => is(LAMBDAS, Dpmpp2m),
            "DPMSolverSinglestepScheduler" => {
                SchedulerClass { lower_order_final: false, ..is(LAMBDAS, DpmSolverSinglestep) }
            }
            "UniPCMultistepScheduler" => is(LAMBDAS, UniPcBh2),
            "DEISMultistepScheduler" => is(LAMBDAS, Deis),
            "SASolverScheduler" => is(LAMBDAS, SaSolver),
            // The class has noise levels of its own, made for audio.
            "IPNDMScheduler" => SchedulerClass { exact: false, ..is(TABLE, Ipndm) },
            "LCMScheduler" => is(DISTILLED, Lcm),
            "TCDScheduler" => is(DISTILLED, Tcd),
            "FlowMatchEulerDiscreteScheduler" => {
                SchedulerClass { has_sigma_schedules: true, ..is(FLOW, Euler) }
            }
            "FlowMatchHeunDiscreteScheduler" => is(FLOW, Heun),
            "EDMEulerScheduler" => is(EDM, Euler),
            "EDMDPMSolverMultistepScheduler" => is(EDM, Dpmpp2m),
            _ => return None,
        })
    }
}
