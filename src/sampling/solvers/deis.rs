//! DEIS: the predicted noise as a polynomial of log ρ, integrated exactly.

use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::{clipped_epsilon, finite_lambda};

/// Zhang & Chen 2022 (arXiv:2204.13902), tAB-DEIS over ρ = σ/α with the polynomial in log ρ. Same numbers as
/// diffusers' `DEISMultistepScheduler.step`.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, config) = (settings.grid, settings.config);
    // The predictions so far, the newest last.
    let mut models: Vec<(Node, Value)> = Vec::new();
    for (i, (from, to)) in grid.steps().enumerate() {
        let model = b.evaluate(x, from);
        let epsilon = clipped_epsilon(b, x, from, model, settings.clip);
        models.push((from, epsilon));

        let mut order = config.solver_order.min(i + 1);
        if config.lower_order_final && grid.total_steps < 15 {
            order = order.min(grid.len() - i);
        }
        // DDIM's step, from which the polynomial departs: nothing is divided by an α of 0.
        let mut terms = vec![(to.alpha(), model.original)];
        let mut newest = to.sigma();
        let nodes: Vec<f64> =
            models.iter().rev().take(order).map(|(node, _)| -finite_lambda(*node)).collect();
        for (j, (_, model)) in models.iter().rev().enumerate().take(order).skip(1) {
            let weight = to.alpha() * (integral(&nodes, j, to) - integral(&nodes, j, from));
            terms.push((weight, *model));
            newest -= weight;
        }
        terms.push((newest, epsilon));
        x = b.combine(&terms);
        b.end_step(x);
    }
}

/// ∫ Lⱼ(log ρ) dρ up to a node, Lⱼ the Lagrange polynomial that is 1 at the `j`th of two or three places of log ρ and
/// 0 at the others.
fn integral(places: &[f64], j: usize, node: Node) -> f64 {
    // ρ·(log ρ)ⁿ goes to 0 with ρ.
    if node.sigma() == 0.0 {
        return 0.0;
    }
    let log = -finite_lambda(node);
    // ∫ (log ρ − c) dρ = ρ·(log ρ − c − 1), ∫ (log ρ − c)(log ρ − d) dρ = ρ·((l − c)(l − d) − (l − c) − (l − d) + 2)
    let others = || places.iter().enumerate().filter(|(i, _)| *i != j).map(|(_, place)| *place);
    let (product, sum) =
        others().map(|c| log - c).fold((1.0, 0.0), |(product, sum), l| (product * l, sum + l));
    let polynomial = if places.len() == 2 { product - 1.0 } else { product - sum + 2.0 };
    libm::exp(log) * polynomial / others().map(|c| places[j] - c).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("deis");
    }
}
