//! The noise levels that one request's steps go through.

use super::config::FinalSigmasType;
use super::levels::Levels;
use super::parameterization::NoiseLevel;
use super::sampler::Coordinates;
use super::timesteps::{Spread, check_steps, lcm_timesteps, timesteps};
use super::{Options, Profile, Sampler, SchedulerConfig, TimestepSpacing, sigmas};
use crate::util::error::{Result, bail};

/// A place on the way: what the model is told, and how much signal and noise a sampler's x has there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Node {
    pub(super) timestep: f64,
    pub(super) level: NoiseLevel,
}

impl Node {
    /// λ = ln(α/σ).
    pub(super) fn lambda(self) -> f64 {
        self.level.lambda()
    }

    /// σ: in variance-exploding coordinates the noise-to-signal ratio.
    pub(super) fn sigma(self) -> f64 {
        self.level.sigma
    }

    /// α: in variance-exploding coordinates 1.
    pub(super) fn alpha(self) -> f64 {
        self.level.alpha
    }
}

/// The way of one request.
#[derive(Debug)]
pub(super) struct Grid {
    /// Where each step starts and, behind them, where the last one ends.
    pub(super) nodes: Vec<Node>,
    /// Steps of the whole schedule, of which `nodes` may be the end (image-to-image).
    pub(super) total_steps: usize,
    /// Timesteps between two nodes of an evenly spaced schedule. diffusers' DDIM and PNDM step down by this, even
    /// where the next node lies elsewhere.
    pub(super) stride: Option<usize>,
    /// The mix that image-to-image starts from, if it is not that of the first node.
    pub(super) start: Option<NoiseLevel>,
    /// Whether the nodes are those of A1111's samplers that do not work in σ.
    has_own_timesteps: bool,
    /// What unit-variance noise is multiplied by to be the latents before the first step.
    pub(super) init_noise_sigma: f64,
    pub(super) levels: Levels,
    pub(super) coordinates: Coordinates,
}

impl Grid {
    /// Lays out the way of `sampler`.
    ///
    /// # Errors
    /// `InvalidArgument` for steps out of range, or sigmas or timesteps that do not fall; `Format` for a schedule that
    /// makes no sense.
    pub(super) fn new(config: &SchedulerConfig, options: &Options, sampler: Sampler) -> Result<Self> {
        let levels = Levels::new(config, options.profile)?;
        let coordinates = sampler.coordinates(options.profile, config.prediction_type);
        let mut grid = Self {
            nodes: Vec::new(),
            total_steps: 0,
            stride: None,
            start: None,
            has_own_timesteps: false,
            init_noise_sigma: 1.0,
            levels,
            coordinates,
        };
        if options.steps == 0 {
            bail!(InvalidArgument, "steps 0 is not at least 1");
        }
        grid.nodes = match (&options.sigmas, &options.timesteps) {
            (Some(sigmas), None) => grid.given_sigmas(sigmas, options.steps)?,
            (None, Some(timesteps)) => grid.given_timesteps(timesteps, config, options, sampler)?,
            (Some(_), Some(_)) => bail!(InvalidArgument, "sigmas and timesteps are both given"),
            (None, None) => match sigmas::requested(config, options, sampler) {
                Some(schedule) => sigmas::nodes(&grid, schedule, config, options, sampler)?,
                None => grid.spaced(config, options, sampler)?,
            },
        };
        grid.total_steps = grid.len();
        grid.init_noise_sigma = grid.init_noise_sigma(config, options, sampler);
        grid.cut(options, sampler)?;
        Ok(grid)
    }

    /// How many steps there are, at least one.
    pub(super) fn len(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }

    /// The two ends of each step.
    pub(super) fn steps(&self) -> impl Iterator<Item = (Node, Node)> + '_ {
        self.nodes.iter().zip(self.nodes.iter().skip(1)).map(|(from, to)| (*from, *to))
    }

    /// The place of a σ.
    pub(super) fn at_sigma(&self, sigma: f64) -> Node {
        let timestep = if sigma > 0.0 { self.levels.timestep(sigma) } else { 0.0 };
        self.node(timestep, sigma)
    }

    /// The place of a noise-to-signal ratio.
    pub(super) fn at_ratio(&self, ratio: f64) -> Node {
        match self.levels {
            Levels::Flow { .. } => self.at_sigma(ratio / (1.0 + ratio)),
            Levels::Discrete { .. } | Levels::Edm { .. } => self.at_sigma(ratio),
        }
    }

    /// The place of a σ that the model is told to be at `timestep`.
    pub(super) fn node(&self, timestep: f64, sigma: f64) -> Node {
        let level = match self.coordinates {
            Coordinates::Model => self.levels.mix(sigma),
            Coordinates::VarianceExploding => NoiseLevel { alpha: 1.0, sigma },
        };
        Node { timestep, level }
    }

    /// The place of a training timestep, exact even where no signal is left; for samplers that never divide by α.
    pub(super) fn at_timestep(&self, timestep: usize) -> Node {
        Node { timestep: timestep as f64, level: self.levels.at_timestep(timestep) }
    }

    /// The nodes of diffusers' timestep spacing.
    fn spaced(&mut self, config: &SchedulerConfig, options: &Options, sampler: Sampler) -> Result<Vec<Node>> {
        if let Levels::Flow { shift, .. } = self.levels {
            check_steps(config.num_train_timesteps, options.steps)?;
            let spaced = sigmas::flow(self, sampler, shift, options.steps).into_iter();
            let mut nodes: Vec<Node> = spaced.map(|(timestep, sigma)| self.node(timestep, sigma)).collect();
            nodes.push(self.end(config, options, sampler));
            return Ok(nodes);
        }
        if options.profile == Profile::A1111
            && options.spacing.is_none()
            && let Some((nodes, start)) = sigmas::a1111_timesteps(self, options, sampler)?
        {
            self.has_own_timesteps = true;
            self.start = start;
            return Ok(nodes);
        }
        let spread = sampler.spread();
        let spacing = sampler.spacing(config, options);
        let distilled = matches!(sampler, Sampler::Lcm | Sampler::Tcd)
            && options.profile == Profile::Diffusers
            && options.spacing.is_none()
            && matches!(self.levels, Levels::Discrete { .. });
        let timesteps = match distilled {
            true => lcm_timesteps(config, options.steps)?,
            false => timesteps(config, spread, spacing, options.steps)?,
        };
        if sampler == Sampler::Euler && config.log_linear && options.profile == Profile::Diffusers {
            let sigmas = sigmas::log_linear(&self.levels, options.steps).into_iter();
            // The last of them is where the last step ends.
            let timesteps = timesteps.into_iter().chain([0.0]);
            return Ok(timesteps.zip(sigmas).map(|(timestep, sigma)| self.node(timestep, sigma)).collect());
        }
        let exact = spread == Spread::Whole && self.coordinates == Coordinates::Model;
        if exact {
            self.stride = Some(config.num_train_timesteps / options.steps);
        }
        let mut nodes: Vec<Node> = timesteps
            .iter()
            .map(|&timestep| match exact {
                true => self.at_timestep(timestep as usize),
                // The schedule's sigmas are `f32` in diffusers.
                false => self.node(timestep, f64::from(self.levels.sigma_linear(timestep) as f32)),
            })
            .collect();
        nodes.push(self.end(config, options, sampler));
        // Rounding repeats timesteps of nearly as many steps as a model has. DDIM and its kin do not mind.
        if !exact {
            drop_standing(&mut nodes);
        }
        Ok(nodes)
    }

    /// The nodes of the caller's own noise levels.
    fn given_sigmas(&self, sigmas: &[f64], steps: usize) -> Result<Vec<Node>> {
        if sigmas.len() != steps + 1 {
            bail!(InvalidArgument, "sigmas has {} values; {steps} steps take {}", sigmas.len(), steps + 1);
        }
        check_falling("sigmas", sigmas)?;
        let most = match self.levels {
            Levels::Flow { .. } => 1.0,
            _ => SIGMA_MOST,
        };
        if let Some(first) = sigmas.first().filter(|sigma| **sigma > most) {
            bail!(InvalidArgument, "sigmas[0] is {first}, above {most}");
        }
        if let Some(i) = sigmas.iter().position(|sigma| *sigma > 0.0 && *sigma < SIGMA_LEAST) {
            bail!(InvalidArgument, "sigmas[{i}] is {}, above 0 but below {SIGMA_LEAST}", sigmas[i]);
        }
        Ok(sigmas.iter().map(|sigma| self.at_sigma(*sigma)).collect())
    }

    /// The nodes of the caller's own timesteps, and the end.
    fn given_timesteps(
        &self,
        timesteps: &[f64],
        config: &SchedulerConfig,
        options: &Options,
        sampler: Sampler,
    ) -> Result<Vec<Node>> {
        if timesteps.len() != options.steps {
            bail!(InvalidArgument, "timesteps has {} values for {} steps", timesteps.len(), options.steps);
        }
        if let Levels::Edm { .. } = self.levels {
            bail!(InvalidArgument, "timesteps cannot be given to a model without timesteps; give sigmas");
        }
        check_falling("timesteps", timesteps)?;
        let last = (self.levels.train_timesteps() - 1) as f64;
        if let Some(first) = timesteps.first().filter(|timestep| **timestep > last) {
            bail!(InvalidArgument, "timesteps[0] is {first}, above the model's last, {last}");
        }
        let mut nodes: Vec<Node> =
            timesteps.iter().map(|t| self.node(*t, self.levels.sigma_linear(*t))).collect();
        nodes.push(self.end(config, options, sampler));
        Ok(nodes)
    }

    /// Where the last step of a schedule ends, unless the schedule itself says so.
    fn end(&self, config: &SchedulerConfig, options: &Options, sampler: Sampler) -> Node {
        self.node(0.0, self.end_sigma(config, options, sampler))
    }

    /// The σ of [`Grid::end`]: none, or in some of diffusers' classes the model's least.
    pub(super) fn end_sigma(&self, config: &SchedulerConfig, options: &Options, sampler: Sampler) -> f64 {
        use Sampler::*;
        let least = match sampler {
            _ if options.profile != Profile::Diffusers => false,
            // Of a flow, the classes that have such a key end without noise.
            _ if matches!(self.levels, Levels::Flow { .. }) => false,
            Ddim | Pndm | Plms => !config.set_alpha_to_one,
            // diffusers' classes know no other end.
            Tcd | Deis | SaSolver => true,
            Ddpm | Lcm | EulerAncestral | Heun | Dpm2 | Dpm2Ancestral | Lms | DpmppSde => false,
            _ => config.final_sigmas_type == FinalSigmasType::SigmaMin,
        };
        if least { self.levels.sigma_min() } else { 0.0 }
    }

    /// What the compatibility profile multiplies unit-variance noise by.
    fn init_noise_sigma(&self, config: &SchedulerConfig, options: &Options, sampler: Sampler) -> f64 {
        let Some(first) = self.nodes.first() else { return 1.0 };
        if self.coordinates == Coordinates::Model {
            // ComfyUI mixes a flow's noise with an empty picture at any level.
            return match (&self.levels, options.profile) {
                (Levels::Flow { .. }, Profile::ComfyUi) => first.sigma(),
                _ => 1.0,
            };
        }
        let sigma = first.sigma();
        let unit_variance = match options.profile {
            Profile::Diffusers => sampler.spacing(config, options) == TimestepSpacing::Leading,
            Profile::A1111 => false,
            // "max denoise": only a schedule that starts at the model's most noise.
            Profile::ComfyUi => {
                sigma > self.levels.sigma_max() || {
                    let max = self.levels.sigma_max();
                    (sigma - max).abs() <= 1e-5 * max
                }
            }
        };
        if unit_variance { libm::hypot(sigma, 1.0) } else { sigma }
    }

    /// Leaves the end of the way that image-to-image of a given strength goes.
    fn cut(&mut self, options: &Options, sampler: Sampler) -> Result<()> {
        let Some(strength) = options.strength else { return Ok(()) };
        let (steps, laid_out) = (options.steps, self.len());
        let given = options.sigmas.is_some() || options.timesteps.is_some();
        let left_out = match options.profile {
            // diffusers' `get_timesteps`. Where its last step goes nowhere, the one before is left instead.
            Profile::Diffusers => match ((steps as f64 * strength) as usize).min(steps) {
                0 => laid_out,
                taken => (steps - taken).min(laid_out.saturating_sub(1)),
            },
            Profile::A1111 => {
                let taken = sigmas::a1111_steps(steps, strength);
                match sampler {
                    // Has been laid out from there already.
                    Sampler::UniPcBh1 | Sampler::UniPcBh2 if self.has_own_timesteps => 0,
                    // So many timesteps, the end included.
                    _ if self.has_own_timesteps => (laid_out + 1).saturating_sub(taken),
                    _ => (steps - 1).saturating_sub(taken),
                }
            }
            // `SplitSigmasDenoise`.
            Profile::ComfyUi if given => {
                laid_out.saturating_sub((laid_out as f64 * strength).round_ties_even() as usize)
            }
            // A longer schedule has been laid out already (see `sigmas::nodes`).
            Profile::ComfyUi if strength > 0.9999 => 0,
            Profile::ComfyUi => laid_out.saturating_sub(steps),
        };
        if left_out >= laid_out {
            bail!(InvalidArgument, "strength {strength} of {steps} steps leaves none to take");
        }
        self.nodes.drain(..left_out);
        Ok(())
    }
}

/// Leaves out what a step would end at that goes nowhere: solvers divide by its length.
pub(super) fn drop_standing(nodes: &mut Vec<Node>) {
    nodes.dedup_by(|next, node| stands(node, next));
}

/// Whether a step from one node to the next goes nowhere.
pub(super) fn stands(node: &Node, next: &Node) -> bool {
    next.level.ratio() >= node.level.ratio() * (1.0 - 1e-6)
}

/// The range of a caller's σ: what `f32` latents can be multiplied and divided by.
const SIGMA_LEAST: f64 = 1e-6;
const SIGMA_MOST: f64 = 1e6;

/// Values from a caller, each below the one before it and none below 0.
fn check_falling(what: &str, values: &[f64]) -> Result<()> {
    if let Some(i) = values.iter().position(|value| !value.is_finite() || *value < 0.0) {
        bail!(InvalidArgument, "{what}[{i}] is {}, not a finite number from 0", values[i]);
    }
    match values.windows(2).position(|pair| pair[1] >= pair[0]) {
        Some(i) => bail!(
            InvalidArgument,
            "{what}[{}] is {}, not below the {} before it",
            i + 1,
            values[i + 1],
            values[i]
        ),
        None => Ok(()),
    }
}
