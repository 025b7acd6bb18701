//! DDPM: ancestral sampling, a little fresh noise at each step.

use super::super::config::VarianceType;
use super::super::levels::Levels;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};

/// Ho et al. 2020 (arXiv:2006.11239), algorithm 2 in the form of equation 7: draws xₛ, s < t the next timestep
/// visited, from the posterior q(xₛ | xₜ, x₀) at the predicted x₀. Same numbers as diffusers' `DDPMScheduler.step`.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, options) = (settings.grid, settings.options);
    let by_timestep = matches!(grid.levels, Levels::Discrete { .. })
        && (grid.stride.is_some() || options.timesteps.is_some());
    for (from, to) in grid.steps() {
        let model = b.evaluate(x, from);
        // xₜ = ratio·xₛ + √added·noise
        let ratio = from.alpha() / to.alpha();
        let (variance, previous) = (from.sigma().powi(2), to.sigma().powi(2));
        let added = variance - ratio * ratio * previous;
        let mut terms =
            vec![(to.alpha() * added / variance, model.original), (ratio * previous / variance, x)];
        // diffusers adds no noise at timestep 0, but does when timesteps end above it.
        let noisy = if by_timestep { from.timestep > 0.0 } else { to.sigma() > 0.0 };
        if noisy {
            // The square of what x is multiplied by to have unit variance, if x₀ has: 1 in DDPM's own coordinates.
            let scale = |alpha: f64, sigma: f64| alpha * alpha + sigma * sigma;
            let to_scale = scale(to.alpha(), to.sigma());
            let small = (previous / variance * added).max(1e-20);
            let large = added * to_scale / scale(from.alpha(), from.sigma());
            let noise = b.noise(from.level.ratio(), to.level.ratio());
            let (std_dev, noise) = match settings.config.variance_type {
                VarianceType::FixedSmall => (small.sqrt(), noise),
                VarianceType::FixedLarge => (large.sqrt(), noise),
                VarianceType::Learned => (to_scale.sqrt(), b.learned_noise(model.variance, noise, None)),
                VarianceType::LearnedRange => {
                    let range = [libm::log(small), libm::log(large.max(1e-20))];
                    (1.0, b.learned_noise(model.variance, noise, Some(range)))
                }
            };
            terms.push((std_dev * options.s_noise, noise));
        }
        x = b.combine(&terms);
        b.end_step(x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("ddpm");
    }
}
