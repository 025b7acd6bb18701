//! The samplers there are, and the facts about each that others need to know.

use super::timesteps::Spread;
use super::{Clip, Options, PredictionType, Profile, SchedulerConfig, SigmaSchedule, TimestepSpacing};

/// How the latents travel from noise to picture. The facts of each are its row in [`SAMPLERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sampler {
    Ddpm,
    Ddim,
    Euler,
    EulerAncestral,
    EulerCfgPp,
    Heun,
    Dpm2,
    Dpm2Ancestral,
    Lms,
    Pndm,
    Plms,
    Dpmpp2sAncestral,
    Dpmpp2m,
    Dpmpp2mSde,
    Dpmpp2mSdeHeun,
    DpmppSde,
    Dpmpp3mSde,
    DpmSolverSinglestep,
    UniPcBh1,
    UniPcBh2,
    Deis,
    Ipndm,
    Lcm,
    Tcd,
    SaSolver,
    Restart,
    ErSde,
    ResMultistep,
    GradientEstimation,
}

/// Facts about a sampler, for documentation, option tables and programs that show a menu.
#[derive(Debug, Clone, Copy)]
pub struct SamplerInfo {
    pub sampler: Sampler,
    /// The name options and results show.
    pub name: &'static str,
    /// The paper and where in it, or the code that defined it.
    pub source: &'static str,
    /// Global order of accuracy: the error falls with steps^-order.
    pub order: u32,
    /// Evaluations of the model a step.
    pub evaluations: u32,
    /// Whether it draws fresh noise at its default settings.
    pub stochastic: bool,
    /// When to use it.
    pub summary: &'static str,
}

const fn row(
    sampler: Sampler,
    name: &'static str,
    (order, evaluations, stochastic): (u32, u32, bool),
    source: &'static str,
    summary: &'static str,
) -> SamplerInfo {
    SamplerInfo { sampler, name, source, order, evaluations, stochastic, summary }
}

/// Every sampler, in the order of the enum.
pub static SAMPLERS: &[SamplerInfo] = &[
    row(
        Sampler::Ddpm,
        "ddpm",
        (1, 1, true),
        "Ho et al. 2020, arXiv:2006.11239, algorithm 2",
        "The original; needs hundreds of steps",
    ),
    row(
        Sampler::Ddim,
        "ddim",
        (1, 1, false),
        "Song et al. 2020, arXiv:2010.02502, equation 12",
        "The plain deterministic one; eta adds noise",
    ),
    row(
        Sampler::Euler,
        "euler",
        (1, 1, false),
        "Karras et al. 2022, arXiv:2206.00364, algorithm 2 without its correction",
        "Simple and robust",
    ),
    row(
        Sampler::EulerAncestral,
        "euler_ancestral",
        (1, 1, true),
        "k-diffusion sample_euler_ancestral; for flows diffusers LTXEulerAncestralRFScheduler",
        "Varied pictures that never settle as steps grow",
    ),
    row(
        Sampler::EulerCfgPp,
        "euler_cfg_pp",
        (1, 1, false),
        "Chung et al. 2024, arXiv:2406.08070, algorithm 2",
        "Guidance scales of 0 to 1 without oversaturation",
    ),
    row(
        Sampler::Heun,
        "heun",
        (2, 2, false),
        "Karras et al. 2022, arXiv:2206.00364, algorithm 2",
        "Precise; twice the work of a step",
    ),
    row(
        Sampler::Dpm2,
        "dpm2",
        (2, 2, false),
        "k-diffusion sample_dpm_2: Karras et al. 2022, algorithm 2, with DPM-Solver-2's midpoint, arXiv:2206.00927",
        "As heun, and mostly a little more precise",
    ),
    row(
        Sampler::Dpm2Ancestral,
        "dpm2_ancestral",
        (2, 2, true),
        "k-diffusion sample_dpm_2_ancestral",
        "As dpm2, with fresh noise",
    ),
    row(
        Sampler::Lms,
        "lms",
        (4, 1, false),
        "Adams-Bashforth for uneven steps of sigma; k-diffusion sample_lms",
        "An older multistep method, cheap and smooth",
    ),
    row(
        Sampler::Pndm,
        "pndm",
        (2, 1, false),
        "Liu et al. 2022, arXiv:2202.09778, algorithm 2; diffusers PNDMScheduler",
        "Runge-Kutta steps first, then multistep; four evaluations in each of the first three steps",
    ),
    row(
        Sampler::Plms,
        "plms",
        (2, 1, false),
        "Liu et al. 2022, arXiv:2202.09778, without Runge-Kutta steps (latent diffusion)",
        "Stable Diffusion 1's first default; two evaluations in the first step",
    ),
    row(
        Sampler::Dpmpp2sAncestral,
        "dpmpp_2s_ancestral",
        (2, 2, true),
        "Lu et al. 2022, arXiv:2211.01095, algorithm 1; k-diffusion sample_dpmpp_2s_ancestral",
        "Detailed and varied; twice the work of a step",
    ),
    row(
        Sampler::Dpmpp2m,
        "dpmpp_2m",
        (2, 1, false),
        "Lu et al. 2022, arXiv:2211.01095, algorithm 2",
        "The usual choice for 15 to 30 steps",
    ),
    row(
        Sampler::Dpmpp2mSde,
        "dpmpp_2m_sde",
        (2, 1, true),
        "Lu et al. 2022, arXiv:2211.01095, SDE-DPM-Solver++(2M); k-diffusion sample_dpmpp_2m_sde, midpoint",
        "Detailed pictures in 20 to 40 steps",
    ),
    row(
        Sampler::Dpmpp2mSdeHeun,
        "dpmpp_2m_sde_heun",
        (2, 1, true),
        "k-diffusion sample_dpmpp_2m_sde, heun",
        "As dpmpp_2m_sde, a little smoother",
    ),
    row(
        Sampler::DpmppSde,
        "dpmpp_sde",
        (2, 2, true),
        "Lu et al. 2022, arXiv:2211.01095, for the SDE; k-diffusion sample_dpmpp_sde",
        "Good with few steps; twice the work of a step",
    ),
    row(
        Sampler::Dpmpp3mSde,
        "dpmpp_3m_sde",
        (2, 1, true),
        "k-diffusion sample_dpmpp_3m_sde",
        "For many steps; three predictions, though its weights make it of order 2",
    ),
    row(
        Sampler::DpmSolverSinglestep,
        "dpm_solver_singlestep",
        (2, 1, false),
        "Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, for the data prediction of arXiv:2211.01095",
        "As dpmpp_2m, but steps come in groups",
    ),
    row(
        Sampler::UniPcBh1,
        "unipc_bh1",
        (3, 1, false),
        "Zhao et al. 2023, arXiv:2302.04867, UniPC-2 with B(h) = h",
        "Predictor and corrector; good below 10 steps",
    ),
    row(
        Sampler::UniPcBh2,
        "unipc_bh2",
        (3, 1, false),
        "Zhao et al. 2023, arXiv:2302.04867, UniPC-2 with B(h) = exp(h) - 1",
        "Predictor and corrector; good for guided pictures in few steps",
    ),
    row(
        Sampler::Deis,
        "deis",
        (2, 1, false),
        "Zhang & Chen 2022, arXiv:2204.13902, tAB-DEIS over log rho; diffusers DEISMultistepScheduler",
        "Exponential integrator; good with few steps",
    ),
    row(
        Sampler::Ipndm,
        "ipndm",
        (2, 1, false),
        "Zhang & Chen 2022, arXiv:2204.13902, iPNDM; diffusers IPNDMScheduler.step",
        "Multistep without PNDM's warm-up",
    ),
    row(
        Sampler::Lcm,
        "lcm",
        (1, 1, true),
        "Luo et al. 2023, arXiv:2310.04378, algorithm 3",
        "For models distilled by consistency: 1 to 8 steps",
    ),
    row(
        Sampler::Tcd,
        "tcd",
        (1, 1, true),
        "Zheng et al. 2024, arXiv:2402.19159, algorithm 4",
        "For models distilled along trajectories; eta is its gamma, 0.3 by default",
    ),
    row(
        Sampler::SaSolver,
        "sa_solver",
        (2, 1, true),
        "Xue et al. 2023, arXiv:2309.05019, algorithm 1; diffusers SASolverScheduler",
        "Stochastic Adams predictor and corrector; fresh noise in the middle of the way only, times eta",
    ),
    row(
        Sampler::Restart,
        "restart",
        (2, 2, true),
        "Xu et al. 2023, arXiv:2306.14878, with the restarts of A1111",
        "Heun that, from 20 steps on, goes back up and down again to shed errors",
    ),
    row(
        Sampler::ErSde,
        "er_sde",
        (3, 1, true),
        "Cui et al. 2023, arXiv:2309.06169, ER-SDE-Solver-3; ComfyUI er_sde",
        "Extended reverse-time SDE; detailed with few steps",
    ),
    row(
        Sampler::ResMultistep,
        "res_multistep",
        (2, 1, false),
        "Zhang et al. 2023, arXiv:2308.02157, multistep; ComfyUI res_multistep",
        "dpmpp_2m with the weights of a refined exponential solver",
    ),
    row(
        Sampler::GradientEstimation,
        "gradient_estimation",
        (1, 1, false),
        "Permenter & Yuan 2023, arXiv:2306.04848, gradient estimation; ComfyUI gradient_estimation",
        "Euler that leans on the last step's direction",
    ),
];

/// What a sampler's x is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// The model's own: variance-preserving, or a flow's straight path.
    Model,
    /// x₀ + σ·ε with σ the noise-to-signal ratio.
    VarianceExploding,
}

impl Sampler {
    /// The row of [`SAMPLERS`].
    pub fn info(self) -> &'static SamplerInfo {
        // The table is in the order of the enum; a test holds that.
        &SAMPLERS[self as usize]
    }

    /// The name options and results show, such as `dpmpp_2m`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Samplers of diffusers that work in the model's own coordinates.
    fn is_variance_preserving(self) -> bool {
        use Sampler::*;
        matches!(self, Ddpm | Ddim | Pndm | Plms | Lcm | Tcd) || self.spread() == Spread::OneMore
    }

    pub(super) fn coordinates(self, profile: Profile, prediction_type: PredictionType) -> Coordinates {
        let model = match prediction_type {
            PredictionType::Flow => true,
            PredictionType::EdmV => false,
            _ => match profile {
                Profile::Diffusers => self.is_variance_preserving(),
                Profile::A1111 => {
                    matches!(self, Sampler::Ddim | Sampler::Plms | Sampler::UniPcBh1 | Sampler::UniPcBh2)
                }
                Profile::ComfyUi => false,
            },
        };
        if model { Coordinates::Model } else { Coordinates::VarianceExploding }
    }

    pub(super) fn spread(self) -> Spread {
        use Sampler::*;
        match self {
            Ddpm | Ddim | Pndm | Plms | Lcm | Tcd => Spread::Whole,
            Dpmpp2m | Dpmpp2mSde | Dpmpp2mSdeHeun | Dpmpp3mSde | DpmSolverSinglestep | UniPcBh1
            | UniPcBh2 | Deis | SaSolver => Spread::OneMore,
            _ => Spread::Exact,
        }
    }

    /// How diffusers' class of the sampler, made `from_config`, clips.
    pub(super) fn clip(self, config: &SchedulerConfig) -> Clip {
        use Sampler::*;
        match (config.clip, self) {
            (clip, Ddpm | Ddim | Lcm) => clip,
            (clip @ Clip::Range(_), Heun) => clip,
            (clip @ Clip::Dynamic { .. }, _) if self.spread() == Spread::OneMore => clip,
            _ => Clip::None,
        }
    }

    /// The request's timestep spacing, else the config's, else that of diffusers' class.
    pub(super) fn spacing(self, config: &SchedulerConfig, options: &Options) -> TimestepSpacing {
        let asked = options.spacing.or(match options.sigma_schedule {
            Some(SigmaSchedule::Turbo) => Some(TimestepSpacing::Trailing),
            // diffusers' singlestep class has one spacing, whatever the config says.
            _ => config.timestep_spacing.filter(|_| self != Sampler::DpmSolverSinglestep),
        });
        asked.unwrap_or(match self {
            Sampler::Ddpm | Sampler::Ddim | Sampler::Pndm | Sampler::Plms | Sampler::Lcm | Sampler::Tcd => {
                TimestepSpacing::Leading
            }
            _ => TimestepSpacing::Linspace,
        })
    }
}
