//! UniPC: a predictor and a corrector of any order from one evaluation a step.

use super::super::Sampler;
use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::finite_lambda;

/// Zhao et al. 2023 (arXiv:2302.04867), for the prediction of x₀, B₁(h) = h or B₂(h) = eʰ − 1. Same numbers as
/// diffusers' `UniPCMultistepScheduler.step`, whose corrector is one step late, too: it uses the evaluation that the
/// next step needs anyway, so the last step is not corrected.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, config) = (settings.grid, settings.config);
    let bh1 = settings.sampler == Sampler::UniPcBh1;
    // The predictions so far, the newest last.
    let mut models: Vec<(Node, Value)> = Vec::new();
    // Where the last step came from (corrected), and its order.
    let mut last: Option<(Value, usize)> = None;
    for (i, (from, to)) in grid.steps().enumerate() {
        let model = b.evaluate(x, from).original;
        if let Some((start, order)) = last {
            x = step(b, start, &models, (from, Some(model)), order, bh1);
        }
        models.push((from, model));

        let mut order = config.solver_order.min(i + 1);
        if config.lower_order_final {
            order = order.min(grid.len() - i);
        }
        // No polynomial reaches λ = ∞, nor goes through a step of no length.
        let h = finite_lambda(to) - finite_lambda(from);
        if !h.is_finite() || h == 0.0 {
            order = 1;
        }
        last = Some((x, order));
        x = step(b, x, &models, (to, None), order, bh1);
        b.end_step(x);
    }
}

/// From `x` at the newest of `models` to a node: UniP, or UniC where the node's own prediction is known.
fn step(
    b: &mut Builder,
    x: Value,
    models: &[(Node, Value)],
    (to, known): (Node, Option<Value>),
    order: usize,
    bh1: bool,
) -> Value {
    let Some(&(from, newest)) = models.last() else { return x };
    let h = finite_lambda(to) - finite_lambda(from);
    // hφ₁(−h), the exponential Euler step that the rest corrects.
    let phi_1 = libm::expm1(-h);
    let scale = to.alpha() * if bh1 { -h } else { phi_1 };
    let mut terms = vec![(to.sigma() / from.sigma(), x)];
    let mut newest_coefficient = -to.alpha() * phi_1;

    // The differences of predictions that take part, by their place in units of h.
    let mut places: Vec<(f64, Value)> = models
        .iter()
        .rev()
        .take(order)
        .skip(1)
        .map(|&(node, model)| ((finite_lambda(node) - finite_lambda(from)) / h, model))
        .collect();
    places.extend(known.map(|model| (1.0, model)));
    // ½ satisfies order 2 whatever h is, so the authors use it where one difference is all there is.
    let weights = match places.len() {
        1 => vec![0.5],
        _ => solve(&places.iter().map(|(r, _)| *r).collect::<Vec<f64>>(), h, bh1),
    };
    for ((r, model), weight) in places.into_iter().zip(weights) {
        let coefficient = -scale * weight / r;
        terms.push((coefficient, model));
        newest_coefficient -= coefficient;
    }
    terms.push((newest_coefficient, newest));
    b.combine(&terms)
}

/// Solves Σₖ aₖ·rₖ^(n−1) = n!·hφₙ₊₁(−h)/B(h) for n = 1, 2, … (the condition of the
/// paper's theorem 3.1, written out).
fn solve(r: &[f64], h: f64, bh1: bool) -> Vec<f64> {
    let size = r.len();
    let hh = -h;
    let norm = if bh1 { hh } else { libm::expm1(hh) };
    let (mut phi, mut factorial) = (libm::expm1(hh) / hh - 1.0, 1.0);
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for n in 0..size {
        let mut row: Vec<f64> = r.iter().map(|r| r.powi(n as i32)).collect();
        row.push(phi * factorial / norm);
        rows.push(row);
        factorial *= (n + 2) as f64;
        phi = phi / hh - 1.0 / factorial;
    }
    // Gauss; the places differ, so no pivot of this Vandermonde matrix is 0.
    for pivot in 0..size {
        let of_pivot = rows[pivot].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = row[pivot] / of_pivot[pivot];
            row.iter_mut().zip(&of_pivot).for_each(|(x, of_pivot)| *x -= factor * of_pivot);
        }
    }
    (0..size).map(|i| rows[i][size] / rows[i][i]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("unipc");
    }
}
