//! The sigma schedules there are, and the facts about each that others need to know.

/// How noise levels are spaced between a model's most and its least. The facts of each are its row in
/// [`SIGMA_SCHEDULES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigmaSchedule {
    Discrete,
    Simple,
    SgmUniform,
    Karras,
    Exponential,
    Polyexponential,
    Beta,
    KlOptimal,
    AlignYourSteps,
    AlignYourStepsXl,
    DdimUniform,
    LinearQuadratic,
    Lcm,
    Turbo,
}

/// Facts about a sigma schedule, for documentation, option tables and programs that show a menu.
#[derive(Debug, Clone, Copy)]
pub struct SigmaScheduleInfo {
    pub schedule: SigmaSchedule,
    /// The name options use.
    pub name: &'static str,
    /// The paper and where in it, or the code that defined it.
    pub source: &'static str,
    /// What it does and when to use it.
    pub summary: &'static str,
}

const fn row(
    schedule: SigmaSchedule,
    name: &'static str,
    source: &'static str,
    summary: &'static str,
) -> SigmaScheduleInfo {
    SigmaScheduleInfo { schedule, name, source, summary }
}

/// Every sigma schedule, in the order of the enum.
pub static SIGMA_SCHEDULES: &[SigmaScheduleInfo] = &[
    row(
        SigmaSchedule::Discrete,
        "discrete",
        "k-diffusion DiscreteSchedule.get_sigmas; diffusers timestep_spacing",
        "Even in timesteps: what models are trained on; other programs' normal and uniform",
    ),
    row(
        SigmaSchedule::Simple,
        "simple",
        "ComfyUI simple_scheduler",
        "Even in timesteps, whole ones of the model's table, without its least noisy",
    ),
    row(
        SigmaSchedule::SgmUniform,
        "sgm_uniform",
        "Stability generative-models; ComfyUI normal_scheduler, sgm",
        "Even in timesteps, one more than the steps, without its least noisy; for distilled models",
    ),
    row(
        SigmaSchedule::Karras,
        "karras",
        "Karras et al. 2022, arXiv:2206.00364, equation 5 with rho 7",
        "Many steps at little noise; the usual choice for dpmpp samplers in 15 to 30 steps",
    ),
    row(
        SigmaSchedule::Exponential,
        "exponential",
        "k-diffusion get_sigmas_exponential",
        "Even in the logarithm of the noise; goes with the SDE samplers",
    ),
    row(
        SigmaSchedule::Polyexponential,
        "polyexponential",
        "k-diffusion get_sigmas_polyexponential with rho 1",
        "At rho 1 the same as exponential, under the name other programs have for it",
    ),
    row(
        SigmaSchedule::Beta,
        "beta",
        "Lee et al. 2024, arXiv:2407.12173, alpha and beta 0.6",
        "Many steps at both ends, few in the middle",
    ),
    row(
        SigmaSchedule::KlOptimal,
        "kl_optimal",
        "Sabour et al. 2024, arXiv:2404.14507, for Gaussian data; A1111 kl_optimal",
        "Even in the arc tangent of the noise: optimal if the data were one Gaussian",
    ),
    row(
        SigmaSchedule::AlignYourSteps,
        "align_your_steps",
        "Sabour et al. 2024, arXiv:2404.14507, Stable Diffusion 1.5's table",
        "Found by optimisation for Stable Diffusion 1 in 10 steps, other counts in between",
    ),
    row(
        SigmaSchedule::AlignYourStepsXl,
        "align_your_steps_xl",
        "Sabour et al. 2024, arXiv:2404.14507, SDXL's table",
        "Found by optimisation for SDXL in 10 steps, other counts in between",
    ),
    row(
        SigmaSchedule::DdimUniform,
        "ddim_uniform",
        "Song et al. 2020, arXiv:2010.02502, appendix D.2; ComfyUI ddim_scheduler",
        "Whole strides of timesteps from the second; the count of steps may come out a little higher",
    ),
    row(
        SigmaSchedule::LinearQuadratic,
        "linear_quadratic",
        "Genmo Mochi 1; ComfyUI linear_quadratic_schedule",
        "Small even steps at the most noise, then ever larger ones; for flow models",
    ),
    row(
        SigmaSchedule::Lcm,
        "lcm",
        "Luo et al. 2023, arXiv:2310.04378, section 4.3; diffusers LCMScheduler",
        "The timesteps that consistency models were distilled at",
    ),
    row(
        SigmaSchedule::Turbo,
        "turbo",
        "Sauer et al. 2023, arXiv:2311.17042; ComfyUI SDTurboScheduler",
        "Counts down from the last timestep, as models distilled adversarially want it: 1 to 4 steps",
    ),
];

impl SigmaSchedule {
    /// Every one, in the order of the enum.
    pub const ALL: [SigmaSchedule; 14] = [
        SigmaSchedule::Discrete,
        SigmaSchedule::Simple,
        SigmaSchedule::SgmUniform,
        SigmaSchedule::Karras,
        SigmaSchedule::Exponential,
        SigmaSchedule::Polyexponential,
        SigmaSchedule::Beta,
        SigmaSchedule::KlOptimal,
        SigmaSchedule::AlignYourSteps,
        SigmaSchedule::AlignYourStepsXl,
        SigmaSchedule::DdimUniform,
        SigmaSchedule::LinearQuadratic,
        SigmaSchedule::Lcm,
        SigmaSchedule::Turbo,
    ];

    /// The row of [`SIGMA_SCHEDULES`].
    pub fn info(self) -> &'static SigmaScheduleInfo {
        // The table is in the order of the enum; a test holds that.
        &SIGMA_SCHEDULES[self as usize]
    }

    /// The name options use, such as `karras`.
    pub const fn name(self) -> &'static str {
        SIGMA_SCHEDULES[self as usize].name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        assert_eq!(SIGMA_SCHEDULES.len(), SigmaSchedule::ALL.len());
        for (i, (info, schedule)) in SIGMA_SCHEDULES.iter().zip(SigmaSchedule::ALL).enumerate() {
            assert_eq!((info.schedule, schedule as usize), (schedule, i), "{}", info.name);
            assert_eq!(SIGMA_SCHEDULES.iter().filter(|other| other.name == info.name).count(), 1);
        }
    }
}
