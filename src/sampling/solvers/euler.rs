//! Euler: the probability-flow ODE in straight steps of σ.

use super::super::plan::Settings;
use super::super::program::{Builder, Value};

/// Karras et al. 2022 (arXiv:2206.00364), algorithm 2 without churn and without its second-order correction, over
/// x = x₀ + σ·ε. Same numbers as diffusers' `EulerDiscreteScheduler.step` at its default `s_churn=0`.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    for (from, to) in settings.grid.steps() {
        let model = b.evaluate(x, from);
        // x + (σ' − σ)·dx/dσ with dx/dσ = ε, from the other end: nothing cancels where σ is in the thousands.
        x = b.combine(&[(to.alpha(), model.original), (to.sigma(), model.epsilon)]);
        b.end_step(x);
    }
}
