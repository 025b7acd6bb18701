//! DPM2: a midpoint method over σ.

use super::super::Sampler;
use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::euler::{AncestralStep, churn};

pub(super) fn write(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    match settings.sampler {
        Sampler::Dpm2Ancestral => ancestral(b, x, settings),
        _ => plain(b, x, settings),
    }
}

/// k-diffusion's `sample_dpm_2`: Karras et al. 2022 (arXiv:2206.00364), algorithm 2, with the midpoint of
/// DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927) for Heun's correction. diffusers' `KDPM2DiscreteScheduler` lists
/// the midpoints between its timesteps and gives the same numbers.
fn plain(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    for (from, to) in settings.grid.steps() {
        let (churned, from) = churn(b, x, from, settings);
        let terms = midpoint(b, churned, [from, to], settings);
        x = b.combine(&terms);
        b.end_step(x);
    }
}

/// k-diffusion's `sample_dpm_2_ancestral`, diffusers' `KDPM2AncestralDiscreteScheduler`; for flow models ComfyUI's
/// `sample_dpm_2_ancestral_RF`.
fn ancestral(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let eta = settings.eta(1.0);
    for (from, to) in settings.grid.steps() {
        let step = AncestralStep::new(settings.grid, from, to, eta);
        let terms = midpoint(b, x, [from, step.down], settings);
        x = step.up(b, &terms, settings);
        b.end_step(x);
    }
}

/// The sum that x is after a step in the direction found at its geometric middle, or Euler's where no noise is left.
fn midpoint(b: &mut Builder, x: Value, [from, to]: [Node; 2], settings: &Settings<'_>) -> Vec<(f64, Value)> {
    let model = b.evaluate(x, from);
    let mut terms = vec![(to.alpha(), model.original), (to.sigma(), model.epsilon)];
    if to.sigma() > 0.0 {
        let middle = settings.grid.at_sigma((from.sigma() * to.sigma()).sqrt());
        let x = b.combine(&[(middle.alpha(), model.original), (middle.sigma(), model.epsilon)]);
        let corrected = b.evaluate(x, middle);
        // Both directions dx/dσ point at the middle, so they differ by (x₀ − x₀')/σ there.
        let step = (to.sigma() - from.sigma()) / middle.sigma();
        terms.extend([(step, model.original), (-step, corrected.original)]);
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_k_diffusion_and_diffusers() {
        equals_golden("dpm2");
    }
}
