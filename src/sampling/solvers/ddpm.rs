//! DDPM: ancestral sampling, a little fresh noise at each step.

use super::super::config::VarianceType;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};

/// Ho et al. 2020 (arXiv:2006.11239), algorithm 2 in the form of equation 7: draws xₛ, s < t the next timestep
/// visited, from the posterior q(xₛ | xₜ, x₀) at the predicted x₀. Same numbers as diffusers' `DDPMScheduler.step`.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    for (from, to) in settings.grid.steps() {
        let model = b.evaluate(x, from);
        // xₜ = ratio·xₛ + √added·noise
        let ratio = from.alpha() / to.alpha();
        let (variance, previous) = (from.sigma().powi(2), to.sigma().powi(2));
        let added = variance - ratio * ratio * previous;
        let mut terms =
            vec![(to.alpha() * added / variance, model.original), (ratio * previous / variance, x)];
        // diffusers adds no noise at timestep 0, but does when a spacing ends above it.
        if from.timestep > 0.0 {
            let std_dev = match settings.config.variance_type {
                VarianceType::FixedSmall => (previous / variance * added).max(1e-20).sqrt(),
                VarianceType::FixedLarge => added.sqrt(),
            };
            terms.push((std_dev * settings.options.s_noise, b.noise(from.sigma(), to.sigma())));
        }
        x = b.combine(&terms);
        b.end_step(x);
    }
}
