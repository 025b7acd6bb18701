//! RES multistep: the refined exponential solver.

use super::super::config::SolverType;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::dpmpp::Multistep;

/// Zhang et al. 2023 (arXiv:2308.02157), the multistep form of order 2: φ₁ and φ₂ weigh the two last
/// predictions, with the older one at c₂ = −(λ − λ₋₁)/h. These are the weights of DPM-Solver++(2M) with Heun's
/// difference instead of the midpoint's. Same numbers as ComfyUI's `res_multistep` without noise.
pub(super) fn write(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    Multistep::k_diffusion(2, 0.0, SolverType::Heun).write(b, x, settings);
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_the_papers() {
        equals_golden("res-multistep");
    }
}
