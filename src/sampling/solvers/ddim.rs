//! DDIM: deterministic at η = 0, and anything up to DDPM's noise above it.

use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::one_stride_below;

/// Song et al. 2020 (arXiv:2010.02502), equations 12 and 16. Same numbers as diffusers' `DDIMScheduler.step`.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, eta) = (settings.grid, settings.eta(0.0));
    for (from, next) in grid.steps() {
        let to = one_stride_below(grid, from, next);
        let model = b.evaluate(x, from);
        // The posterior's standard deviation, in any scale of x: σ'/σ·√(σ² − (α/α')²·σ'²)
        let (sigma, ratio) = (from.sigma(), from.alpha() / to.alpha());
        let variance = (to.sigma() / sigma).powi(2) * (sigma * sigma - (ratio * to.sigma()).powi(2));
        let std_dev = eta * variance.max(0.0).sqrt();
        // At η = 1 rounding can leave a hair below zero.
        let direction = (to.sigma().powi(2) - std_dev * std_dev).max(0.0).sqrt();
        let mut terms = vec![(to.alpha(), model.original), (direction, model.epsilon)];
        if eta > 0.0 {
            terms.push((std_dev * settings.options.s_noise, b.noise(from.level.ratio(), to.level.ratio())));
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
        equals_golden("ddim");
    }
}
