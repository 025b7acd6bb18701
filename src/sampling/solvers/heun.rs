//! Heun: Euler's step, corrected by the direction found at its end.

use super::super::Clip;
use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::clipped_epsilon;
use super::euler::churn;

/// Karras et al. 2022 (arXiv:2206.00364), algorithm 2. Same numbers as k-diffusion's `sample_heun` and diffusers'
/// `HeunDiscreteScheduler`, which knows no churn.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    for (from, to) in settings.grid.steps() {
        let (churned, from) = churn(b, x, from, settings);
        x = step(b, churned, from, to, settings.clip);
        b.end_step(x);
    }
}

/// One step of Heun's method, or of Euler's where no noise is left to ask the model about.
pub(super) fn step(b: &mut Builder, x: Value, from: Node, to: Node, clip: Clip) -> Value {
    let model = b.evaluate(x, from);
    let epsilon = clipped_epsilon(b, x, from, model, clip);
    let euler = [(to.alpha(), model.original), (to.sigma(), epsilon)];
    let end = b.combine(&euler);
    if to.sigma() == 0.0 {
        return end;
    }
    let corrected = b.evaluate(end, to);
    // Both directions dx/dσ point at `end`, so they differ by (x₀ − x₀')/σ'.
    let half = 0.5 * (to.sigma() - from.sigma()) / to.sigma();
    b.combine(&[(1.0, end), (half, model.original), (-half, corrected.original)])
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_k_diffusion_and_diffusers() {
        equals_golden("heun");
    }
}
