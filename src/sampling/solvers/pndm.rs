//! PNDM and PLMS: Adams-Bashforth for the predicted noise, with DDIM's step to follow it.

use super::super::grid::Node;
use super::super::levels::Levels;
use super::super::parameterization::NoiseLevel;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::super::sampler::Coordinates;
use super::super::{PredictionType, Profile, Sampler};
use super::{clipped_epsilon, one_stride_below};

/// Adams-Bashforth by the number of predictions there are, the newest first.
const ADAMS_BASHFORTH: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// The steps that PNDM takes by Runge-Kutta before it goes on with Adams-Bashforth.
const RUNGE_KUTTA_STEPS: usize = 3;

/// Liu et al. 2022 (arXiv:2202.09778), algorithm 2; PLMS, of latent diffusion, has an improved Euler step in place of
/// the Runge-Kutta ones. Same numbers as diffusers' `PNDMScheduler.step`, where PLMS's first step counts as two. The
/// last step is never by Runge-Kutta, which diffusers forgets to take at all below four steps.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, steps) = (settings.grid, settings.grid.len());
    let warm_up = if settings.sampler == Sampler::Pndm { RUNGE_KUTTA_STEPS.min(steps - 1) } else { 0 };
    let pndm = Pndm { settings, form: Form::new(settings) };
    // The directions so far, the newest last.
    let mut directions: Vec<Value> = Vec::new();
    for (i, (from, next)) in grid.steps().enumerate() {
        let (direction, start) = pndm.direction(b, x, from);
        directions.push(direction);
        x = if i < warm_up {
            pndm.runge_kutta(b, &start, direction, (from, next))
        } else if i == 0 && steps > 1 {
            pndm.improved_euler(b, &start, direction, (from, next))
        } else {
            let weights = ADAMS_BASHFORTH[directions.len().min(4) - 1];
            let terms: Sum = weights.iter().copied().zip(directions.iter().rev().copied()).collect();
            pndm.transfer(b, &start, from.level, one_stride_below(grid, from, next).level, &terms)
        };
        b.end_step(x);
    }
}

/// What the predictions are that a sum is taken of.
enum Form {
    /// The paper's: ε.
    Epsilon,
    /// v = α·ε − σ·x₀ of variance-preserving coordinates. diffusers sums the v of such a model, and only then makes an ε
    /// of it, with the x of the step. It needs no division by α.
    Velocity,
    /// ε − x₀, the velocity of a flow, which starts without signal, where ε says nothing.
    Flow,
}

impl Form {
    fn new(settings: &Settings<'_>) -> Self {
        let grid = settings.grid;
        let preserving =
            grid.coordinates == Coordinates::Model && matches!(grid.levels, Levels::Discrete { .. });
        let v = settings.config.prediction_type == PredictionType::VPrediction
            && settings.options.profile == Profile::Diffusers;
        let no_signal = grid.nodes.first().is_some_and(|first| first.alpha() == 0.0);
        if matches!(grid.levels, Levels::Flow { .. }) {
            Form::Flow
        } else if preserving && (v || no_signal) {
            Form::Velocity
        } else {
            Form::Epsilon
        }
    }
}

/// Σ coefficient · value.
type Sum = Vec<(f64, Value)>;

struct Pndm<'a> {
    settings: &'a Settings<'a>,
    form: Form,
}

impl Pndm<'_> {
    /// The direction at x, and x as a sum.
    fn direction(&self, b: &mut Builder, x: Value, node: Node) -> (Value, Sum) {
        let model = b.evaluate(x, node);
        let epsilon = clipped_epsilon(b, x, node, model, self.settings.clip);
        match self.form {
            // In its parts, so that they cancel in `f64` where σ is in the thousands.
            Form::Epsilon => (epsilon, vec![(node.alpha(), model.original), (node.sigma(), epsilon)]),
            Form::Velocity => {
                let v = b.combine(&[(node.alpha(), epsilon), (-node.sigma(), model.original)]);
                (v, vec![(1.0, x)])
            }
            Form::Flow => (b.combine(&[(1.0, epsilon), (-1.0, model.original)]), vec![(1.0, x)]),
        }
    }

    /// The paper's φ (equation 9): from one level to another in a direction that is a sum. DDIM's step.
    fn transfer(
        &self,
        b: &mut Builder,
        x: &[(f64, Value)],
        from: NoiseLevel,
        to: NoiseLevel,
        direction: &[(f64, Value)],
    ) -> Value {
        let (of_x, of_direction) = match self.form {
            Form::Epsilon => {
                let ratio = to.alpha / from.alpha;
                (ratio, to.sigma - ratio * from.sigma)
            }
            Form::Velocity => {
                (to.alpha * from.alpha + to.sigma * from.sigma, to.sigma * from.alpha - to.alpha * from.sigma)
            }
            Form::Flow => (1.0, to.sigma - from.sigma),
        };
        let mut terms: Sum = x.iter().map(|(weight, value)| (of_x * weight, *value)).collect();
        terms.extend(direction.iter().map(|(weight, value)| (of_direction * weight, *value)));
        b.combine(&terms)
    }

    /// The pseudo Runge-Kutta method: four evaluations, two of them half-way.
    fn runge_kutta(
        &self,
        b: &mut Builder,
        x: &[(f64, Value)],
        first: Value,
        (from, to): (Node, Node),
    ) -> Value {
        let grid = self.settings.grid;
        // diffusers puts half a stride below the one end and above the other, which need not be the same place.
        let (half_down, half_up) = match grid.stride {
            Some(stride) => {
                let half = stride / 2;
                let down = (from.timestep as usize).saturating_sub(half);
                (grid.at_timestep(down), grid.at_timestep(to.timestep as usize + half))
            }
            None => {
                let half = self.half_way(from, to);
                (half, half)
            }
        };
        let half = self.transfer(b, x, from.level, half_down.level, &[(1.0, first)]);
        let (second, _) = self.direction(b, half, half_up);
        let half = self.transfer(b, x, from.level, half_up.level, &[(1.0, second)]);
        let (third, _) = self.direction(b, half, half_up);
        let end = self.transfer(b, x, from.level, to.level, &[(1.0, third)]);
        let (fourth, _) = self.direction(b, end, to);
        let sum = [(1.0 / 6.0, first), (1.0 / 3.0, second), (1.0 / 3.0, third), (1.0 / 6.0, fourth)];
        self.transfer(b, x, from.level, to.level, &sum)
    }

    /// The place between two of which no timesteps are known: by the mean of a flow's σ, else by that of log σ.
    fn half_way(&self, from: Node, to: Node) -> Node {
        let grid = self.settings.grid;
        match grid.levels {
            Levels::Flow { .. } => grid.at_sigma(0.5 * (from.sigma() + to.sigma())),
            _ => grid.at_sigma((from.level.ratio() * to.level.ratio()).sqrt()),
        }
    }

    /// PLMS's first step: Euler, and again with the mean of both ends' directions.
    fn improved_euler(
        &self,
        b: &mut Builder,
        x: &[(f64, Value)],
        first: Value,
        (from, to): (Node, Node),
    ) -> Value {
        let grid = self.settings.grid;
        let end = self.transfer(b, x, from.level, one_stride_below(grid, from, to).level, &[(1.0, first)]);
        let (second, _) = self.direction(b, end, to);
        // diffusers starts again one stride above the end, where that may be.
        let start = match grid.stride {
            Some(stride) => grid.at_timestep(to.timestep as usize + stride),
            None => from,
        };
        self.transfer(b, x, start.level, to.level, &[(0.5, first), (0.5, second)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("pndm");
    }
}
