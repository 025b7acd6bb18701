//! One request's way from noise to latents: a schedule, a parameterization and a sampler put together.

use super::brownian::BrownianPaths;
use super::clip::Clip;
use super::config::VarianceType;
use super::grid::Grid;
use super::noise::{NoiseSource, NoiseStream};
use super::parameterization::NoiseLevel;
use super::program::{Builder, Program};
use super::{PredictionType, Profile, Sampler, SchedulerConfig, SigmaSchedule, TimestepSpacing, solvers};
use crate::util::error::{Result, bail};

/// What a request asks of sampling. `None` = what the model's config or, in its absence, the profile's class does.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub sampler: Option<Sampler>,
    /// 1 up to the model's training timesteps.
    pub steps: usize,
    pub spacing: Option<TimestepSpacing>,
    pub sigma_schedule: Option<SigmaSchedule>,
    /// The caller's own noise levels, falling, one more than steps: the last is where the last step ends (usually 0).
    pub sigmas: Option<Vec<f64>>,
    /// The caller's own timesteps, falling; the last step ends without noise.
    pub timesteps: Option<Vec<f64>>,
    /// How much of the fresh noise that DDPM would add, 0..=1. `None` = 0 for DDIM, 0.3 for TCD
    /// (its γ), 1 for ancestral and SDE samplers.
    pub eta: Option<f64>,
    /// Churn of Karras et al. 2022, algorithm 2: how much noise is added before steps at noise-to-signal ratios in
    /// `s_tmin..=s_tmax`; for Euler, Heun and DPM2.
    pub s_churn: f64,
    pub s_tmin: f64,
    pub s_tmax: f64,
    /// The standard deviation of all fresh noise.
    pub s_noise: f64,
    pub profile: Profile,
    /// Image-to-image: how much of the way to go, above 0 up to 1.
    pub strength: Option<f64>,
    /// How to clip predictions of x₀.
    pub clip: Option<Clip>,
}

impl Options {
    /// The defaults, for so many steps.
    pub fn new(steps: usize) -> Self {
        Self {
            sampler: None,
            steps,
            spacing: None,
            sigma_schedule: None,
            sigmas: None,
            timesteps: None,
            eta: None,
            s_churn: 0.0,
            s_tmin: 0.0,
            s_tmax: f64::INFINITY,
            s_noise: 1.0,
            profile: Profile::Diffusers,
            strength: None,
            clip: None,
        }
    }

    fn check(&self) -> Result<()> {
        if let Some(eta) = self.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            bail!(InvalidArgument, "eta {eta} is not in 0..=1");
        }
        if let Some(strength) = self.strength.filter(|s| !(*s > 0.0 && *s <= 1.0)) {
            bail!(InvalidArgument, "strength {strength} is not above 0 and up to 1");
        }
        for (name, value) in [("s_churn", self.s_churn), ("s_noise", self.s_noise), ("s_tmin", self.s_tmin)] {
            if !(value >= 0.0 && value.is_finite()) {
                bail!(InvalidArgument, "{name} {value} is not a finite number from 0");
            }
        }
        if self.s_tmax.is_nan() || self.s_tmax < self.s_tmin {
            bail!(InvalidArgument, "s_tmax {} is not at least s_tmin {}", self.s_tmax, self.s_tmin);
        }
        if let Some(clip) = self.clip {
            clip.check()?;
        }
        Ok(())
    }
}

/// What a solver sees.
pub(super) struct Settings<'a> {
    pub(super) config: &'a SchedulerConfig,
    pub(super) options: &'a Options,
    pub(super) grid: &'a Grid,
    pub(super) sampler: Sampler,
    pub(super) clip: Clip,
}

impl Settings<'_> {
    /// η of the request, or the sampler's own.
    pub(super) fn eta(&self, default: f64) -> f64 {
        self.options.eta.unwrap_or(default)
    }
}

/// The steps of one request. Immutable, so threads may share it; a [`Run`](super::Run) carries it out.
#[derive(Debug)]
pub struct Plan {
    sampler: Sampler,
    profile: Profile,
    program: Program,
    /// Where the first step starts and where each ends, in the sampler's coordinates.
    levels: Vec<NoiseLevel>,
    timesteps: Vec<f32>,
    init_noise_sigma: f64,
    clip: Clip,
    prediction_values: usize,
}

impl Plan {
    /// Works out the steps. `options` override the config, whose betas and prediction type stay, as with diffusers'
    /// `from_config`.
    ///
    /// Fails with `InvalidArgument` for options out of range, `Format` for a schedule that makes no sense,
    /// `Unsupported` for a sampler that the prediction type forbids or an epsilon model asked to start from pure noise.
    pub fn new(config: &SchedulerConfig, options: &Options) -> Result<Self> {
        config.check()?;
        options.check()?;
        let sampler = options.sampler.unwrap_or(config.sampler);
        let grid = Grid::new(config, options, sampler)?;
        let Some(first) = grid.nodes.first().filter(|_| grid.len() > 0) else {
            bail!(InvalidArgument, "a schedule without steps");
        };
        // x₀ = (x − σ·ε)/α has no answer where α is 0.
        if first.alpha() == 0.0 && config.prediction_type == PredictionType::Epsilon {
            bail!(
                Unsupported,
                "prediction_type epsilon cannot start at timestep {}, where rescale_betas_zero_snr leaves no signal",
                first.timestep
            );
        }
        let (mut builder, latents) = Builder::new(config.prediction_type, config.sigma_data);
        let clip = options.clip.unwrap_or(sampler.clip(config));
        solvers::write(&mut builder, latents, &Settings { config, options, grid: &grid, sampler, clip });
        let program = builder.finish();
        let nodes = grid.nodes.iter().skip(1).map(|node| Some(node.level)).chain(std::iter::repeat(None));
        let ends = program.reached().zip(nodes).filter_map(|(reached, node)| reached.or(node));
        Ok(Self {
            sampler,
            profile: options.profile,
            timesteps: program.timesteps().collect(),
            levels: std::iter::once(grid.start.unwrap_or(first.level)).chain(ends).collect(),
            program,
            init_noise_sigma: grid.init_noise_sigma,
            clip,
            prediction_values: match config.variance_type {
                VarianceType::Learned | VarianceType::LearnedRange => 2,
                VarianceType::FixedSmall | VarianceType::FixedLarge => 1,
            },
        })
    }

    /// The sampler that runs: the one asked for, else the config's.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// How many steps there are, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// How often the model is evaluated in all.
    pub fn evaluations(&self) -> usize {
        self.program.evaluation_count()
    }

    /// What [`Run`](super::Run) is going to ask the model, in order: the step, from 0, and the timestep of each evaluation.
    pub fn evaluation_timesteps(&self) -> impl Iterator<Item = (usize, f32)> {
        self.program.evaluation_timesteps()
    }

    /// The timestep of each step's first evaluation, noisiest first but where Restart goes back up; it may have a
    /// fraction.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// The signal and noise of the latents after `steps` steps: alpha·x₀ + sigma·ε. Image-to-image starts from
    /// level 0.
    pub fn level(&self, steps: usize) -> NoiseLevel {
        self.levels[steps.min(self.levels.len() - 1)]
    }

    /// What unit-variance noise must be multiplied by to be the latents before the first step.
    pub fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma as f32
    }

    /// Whether the sampler needs the prediction without the prompt on its own, too (the CFG++ samplers).
    pub fn needs_unconditional(&self) -> bool {
        self.program.needs_unconditional()
    }

    /// Values of a prediction for each of the latents: 2 for a model that predicts its variance, whether or not the
    /// sampler uses it, else 1.
    pub fn prediction_values(&self) -> usize {
        self.prediction_values
    }

    /// Where the sampler's fresh noise comes from: each image's goes on from the stream that drew its first noise, or
    /// follows a Brownian path of its own, one for each of `seeds`, with the samplers of DPM-Solver++'s SDE (but for
    /// `dpmpp_2m_sde` and `dpmpp_2m_sde_heun` in the `diffusers` profile, as diffusers' class draws from the stream).
    /// `len` values are drawn at a time, for the whole batch.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn noise_source(
        &self,
        streams: Vec<NoiseStream>,
        seeds: &[u64],
        len: usize,
    ) -> Result<Box<dyn NoiseSource + Send>> {
        let brownian = match self.sampler {
            Sampler::Dpmpp2mSde | Sampler::Dpmpp2mSdeHeun => self.profile != Profile::Diffusers,
            Sampler::DpmppSde | Sampler::Dpmpp3mSde => true,
            _ => false,
        };
        Ok(if brownian { Box::new(BrownianPaths::new(seeds, len)?) } else { Box::new(streams) })
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn clip(&self) -> Clip {
        self.clip
    }
}
