//! SA-Solver: a stochastic Adams predictor and corrector.

use super::super::grid::Node;
use super::super::levels::Levels;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::finite_lambda;

/// Xue et al. 2023 (arXiv:2309.05019), algorithm 1, with x₀ prediction. Same numbers as diffusers'
/// `SASolverScheduler.step`: noise is drawn in every step, and the last one is not corrected.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, config) = (settings.grid, settings.config);
    // The predictions so far, the newest last.
    let mut models: Vec<(Node, Value)> = Vec::new();
    // The step before, to be corrected.
    let mut last: Option<(Step, usize)> = None;
    for (i, (from, to)) in grid.steps().enumerate() {
        let model = b.evaluate(x, from).original;
        models.push((from, model));
        if let Some((step, order)) = &last {
            x = step.write(b, &models, *order, true, settings.options.s_noise);
        }

        let (mut predictor, mut corrector) =
            (config.predictor_order.min(i + 1), config.corrector_order.min(i + 2));
        if config.lower_order_final {
            predictor = predictor.min(grid.len() - i);
            corrector = corrector.min(grid.len() - i + 1);
        }
        let step = Step {
            x,
            from,
            to,
            tau: tau(settings, from),
            noise: b.noise(from.level.ratio(), to.level.ratio()),
        };
        // No polynomial reaches λ = ∞, nor goes through a step of no length.
        if !step.h().is_finite() || step.h() == 0.0 {
            predictor = 1;
        }
        x = step.write(b, &models, predictor, false, settings.options.s_noise);
        last = Some((step, corrector));
        b.end_step(x);
    }
}

/// How stochastic a step is. diffusers adds noise in the middle of the way, between two whole training timesteps; an
/// EDM model's timesteps are not those, so there its middle is told by σ.
fn tau(settings: &Settings<'_>, from: Node) -> f64 {
    let noisy = match settings.grid.levels {
        Levels::Discrete { .. } | Levels::Flow { .. } => (200.0..=800.0).contains(&from.timestep.floor()),
        Levels::Edm { .. } => (0.05..=1.0).contains(&from.level.ratio()),
    };
    if noisy { settings.eta(1.0) } else { 0.0 }
}

/// What predictor and corrector have in common.
struct Step {
    x: Value,
    from: Node,
    to: Node,
    tau: f64,
    noise: Value,
}

impl Step {
    fn h(&self) -> f64 {
        finite_lambda(self.to) - finite_lambda(self.from)
    }

    /// The predictor or, with the prediction of the step's end as the newest, the corrector.
    fn write(
        &self,
        b: &mut Builder,
        models: &[(Node, Value)],
        order: usize,
        corrects: bool,
        s_noise: f64,
    ) -> Value {
        let (h, alpha, rate) = (self.h(), self.to.alpha(), 1.0 + self.tau * self.tau);
        let models: Vec<(Node, Value)> = models.iter().rev().take(order).copied().collect();
        let places: Vec<f64> =
            models.iter().map(|(node, _)| finite_lambda(*node) - finite_lambda(self.to)).collect();
        let mut weights: Vec<f64> = match order {
            1 => vec![-libm::expm1(-rate * h)],
            _ => integrals(&places, h, rate).into_iter().map(|integral| rate * integral).collect(),
        };
        // diffusers, like the authors' code, shifts weight by O(h³) at order 2: "slightly improves the image quality".
        if let [newest, older] = weights.as_mut_slice() {
            let exact = (h * rate + libm::expm1(-rate * h)) / (rate * rate);
            let shift = match corrects {
                true => h / 2.0 - exact / h,
                false => (h * h / 2.0 - exact) / (places[0] - places[1]),
            };
            *newest += rate * shift;
            *older -= rate * shift;
        }

        // τ²·h, where h may be infinite.
        let decay = if self.tau > 0.0 { self.tau * self.tau * h } else { 0.0 };
        let mut terms = vec![(libm::exp(-decay) * self.to.sigma() / self.from.sigma(), self.x)];
        terms.extend(models.iter().zip(weights).map(|((_, model), weight)| (alpha * weight, *model)));
        let std_dev = self.to.sigma() * (-libm::expm1(-2.0 * decay)).sqrt();
        terms.push((std_dev * s_noise, self.noise));
        b.combine(&terms)
    }
}

/// ∫ e^(rate·u)·Lⱼ(u) du over u from −h to 0, for each Lagrange polynomial through `places`.
fn integrals(places: &[f64], h: f64, rate: f64) -> Vec<f64> {
    // ∫ uⁿ·e^(rate·u) du, by parts.
    let end = libm::exp(-rate * h);
    let mut moments = vec![-libm::expm1(-rate * h) / rate];
    for n in 1..places.len() {
        let below = moments[n - 1];
        moments.push((-(-h).powi(n as i32) * end - n as f64 * below) / rate);
    }
    let lagrange = |j: usize| {
        // Coefficients by power, multiplied out factor by factor.
        let mut polynomial = vec![1.0];
        for (_, c) in places.iter().enumerate().filter(|(i, _)| *i != j) {
            let norm = places[j] - c;
            polynomial.push(0.0);
            for power in (0..polynomial.len()).rev() {
                let lower = if power > 0 { polynomial[power - 1] } else { 0.0 };
                polynomial[power] = (lower - c * polynomial[power]) / norm;
            }
        }
        polynomial
    };
    (0..places.len()).map(|j| lagrange(j).iter().zip(&moments).map(|(c, moment)| c * moment).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("sa_solver");
    }
}
