//! DPM-Solver, singlestep: steps come in groups of growing order, and each goes from where its group began.

use super::super::config::AlgorithmType;
use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::dpmpp::Integrator;

/// Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, and for predictions of x₀ arXiv:2211.01095, algorithm 1, with
/// the schedule's own levels in between. Same numbers as diffusers' `DPMSolverSinglestepScheduler`, which counts every
/// evaluation as a step.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (config, grid) = (settings.config, settings.grid);
    let highest = config.solver_order.clamp(1, 3);
    // Image-to-image has left out the first ones.
    let left_out = grid.total_steps - grid.len();
    // The place and the prediction of each step so far, and the latents where the group began.
    let mut past: Vec<(Node, Value)> = Vec::new();
    let mut start = x;
    for (step, (from, to)) in grid.steps().enumerate() {
        let model = b.evaluate(x, from);
        let prediction = match config.algorithm_type {
            AlgorithmType::DataPrediction => model.original,
            AlgorithmType::NoisePrediction => model.epsilon,
        };
        past.push((from, prediction));
        // Orders 1, 2, 3, 1, 2, 3, … (diffusers' `get_order_list`).
        let wanted = (left_out + step) % highest + 1;
        let is_last = step + 1 == grid.len();
        let order = if to.sigma() == 0.0 || is_last && wanted == highest && config.lower_order_final {
            1
        } else {
            // λ is infinite without signal: no group of several steps can begin there.
            wanted.min(past.iter().filter(|(node, _)| node.alpha() > 0.0).count()).max(1)
        };
        if order == 1 {
            start = x;
        }
        let terms = if order == 1 && config.algorithm_type == AlgorithmType::NoisePrediction {
            // The same as the data form, and finite where α or σ' is 0.
            vec![(to.alpha(), model.original), (to.sigma(), model.epsilon)]
        } else {
            let group = &past[past.len() - order..];
            let integrator = Integrator::new(group[0].0, to, 0.0, config.algorithm_type);
            integrator.singlestep(start, group, config.solver_type)
        };
        x = b.combine(&terms);
        b.end_step(x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("dpm-solver");
    }
}
