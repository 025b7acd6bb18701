//! LMS: a linear multistep method (Adams-Bashforth) over σ.

use super::super::Profile;
use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Evaluated, Value};

/// How many directions a step looks at.
const ORDER: usize = 4;

/// k-diffusion's `sample_lms`, diffusers' `LMSDiscreteScheduler.step`: the polynomial through the last directions,
/// integrated. ComfyUI ends at the last predicted x₀ instead.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let mut history = Directions::default();
    let mut sigmas = Vec::new();
    for (from, to) in settings.grid.steps() {
        let model = b.evaluate(x, from);
        history.push(b, model, from, to, ORDER);
        sigmas.insert(0, from.sigma());
        sigmas.truncate(ORDER);
        let euler = to.sigma() == 0.0 && settings.options.profile == Profile::ComfyUi;
        let coefficients = if euler { Vec::new() } else { coefficients(&sigmas, to.sigma()) };
        x = history.step(b, model, to, &coefficients);
        b.end_step(x);
    }
}

/// ∫ from `sigmas[0]` to `to` of each Lagrange polynomial over `sigmas`, whose latest stands first.
fn coefficients(sigmas: &[f64], to: f64) -> Vec<f64> {
    let Some(from) = sigmas.first() else { return Vec::new() };
    let step = to - from;
    let basis = |j: usize| {
        // Π (τ − σₖ)/(σⱼ − σₖ) as a polynomial in τ − σ₀, constant first.
        let mut polynomial = vec![1.0];
        for (_, sigma) in sigmas.iter().enumerate().filter(|(k, _)| *k != j) {
            let (root, scale) = (sigma - from, sigmas[j] - sigma);
            let mut product = vec![0.0; polynomial.len() + 1];
            for (power, c) in polynomial.iter().enumerate() {
                product[power] -= root * c / scale;
                product[power + 1] += c / scale;
            }
            polynomial = product;
        }
        // Horner's scheme for the antiderivative.
        let terms = polynomial.iter().enumerate().rev();
        terms.fold(0.0, |sum, (power, c)| (sum + c / (power + 1) as f64) * step)
    };
    (0..sigmas.len()).map(basis).collect()
}

/// The directions dx/dσ of the last steps, the latest first.
#[derive(Default)]
pub(super) struct Directions(Vec<Value>);

impl Directions {
    /// Notes the direction at `from`, and keeps `most`.
    pub(super) fn push(&mut self, b: &mut Builder, model: Evaluated, from: Node, to: Node, most: usize) {
        // x = α·x₀ + σ·ε: ε where α stays 1, ε − x₀ on a flow's straight path.
        let slope = (to.alpha() - from.alpha()) / (to.sigma() - from.sigma());
        let direction = if slope == 0.0 {
            model.epsilon
        } else {
            b.combine(&[(slope, model.original), (1.0, model.epsilon)])
        };
        self.0.insert(0, direction);
        self.0.truncate(most);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// x + Σ coefficient·direction at `to`, for coefficients whose sum is the step in σ, or Euler's step without any.
    /// Says so as Euler's step plus differences of directions: nothing cancels where σ is in the thousands.
    pub(super) fn step(&self, b: &mut Builder, model: Evaluated, to: Node, coefficients: &[f64]) -> Value {
        let mut terms = vec![(to.alpha(), model.original), (to.sigma(), model.epsilon)];
        if let Some((latest, earlier)) = self.0.split_first() {
            let earlier = earlier.iter().zip(coefficients.iter().skip(1));
            terms.extend(earlier.clone().map(|(direction, c)| (*c, *direction)));
            terms.push((-earlier.map(|(_, c)| c).sum::<f64>(), *latest));
        }
        b.combine(&terms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_k_diffusion_and_diffusers() {
        equals_golden("lms");
    }
}
