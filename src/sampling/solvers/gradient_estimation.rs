//! Gradient estimation: Euler with a direction that leaves the last one behind.

use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::lms::Directions;

/// The paper's γ.
const GAMMA: f64 = 2.0;

/// Permenter & Yuan 2023 (arXiv:2306.04848), gradient estimation: the direction is γ·dᵢ + (1 − γ)·dᵢ₋₁. Same numbers as
/// ComfyUI's `gradient_estimation`, whose step to σ = 0 is Euler's.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let mut history = Directions::default();
    for (from, to) in settings.grid.steps() {
        let model = b.evaluate(x, from);
        history.push(b, model, from, to, 2);
        let step = to.sigma() - from.sigma();
        let coefficients = [GAMMA * step, (1.0 - GAMMA) * step];
        x = history.step(b, model, to, if to.sigma() > 0.0 { &coefficients } else { &[] });
        b.end_step(x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_the_formula() {
        equals_golden("gradient_estimation");
    }
}
