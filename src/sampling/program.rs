//! A sampler, written down: the straight line of operations that takes noise to latents.
//!
//! Every sampler here moves by sums of vectors whose coefficients depend on the noise levels alone. So a solver is a
//! function that writes those sums once, in `f64`, before any model runs: the file of a sampler holds its paper's
//! formulas and nothing else. [`Run`](super::Run) carries the operations out, in the order in which they stand here.

use super::PredictionType;
use super::grid::Node;
use super::parameterization::{Conversion, NoiseLevel};

/// A vector as long as the latents, by the order of its definition. It has one definition and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value(usize);

/// What one evaluation of the model tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evaluated {
    /// The predicted x₀, clipped if the request or the model's config wants that.
    pub(super) original: Value,
    /// The predicted ε, never clipped.
    pub(super) epsilon: Value,
    /// The x₀ predicted without the prompt.
    pub(super) unconditional: Value,
    /// What a model of learned variance puts behind its prediction.
    pub(super) variance: Value,
}

#[derive(Debug)]
pub(super) enum Op {
    /// Asks the model about x.
    Evaluate(Evaluate),
    /// `result` = Σ coefficient · value.
    Combine { terms: Vec<(f64, Value)>, result: Value },
    /// `result` = standard normal noise for the way between two noise-to-signal ratios.
    Noise { from: f64, to: f64, result: Value },
    /// `result` = √variance·noise, or with the logarithms of a range exp(½·(v·log_max + (1 − v)·log_min))·noise with
    /// v = (variance + 1)/2.
    LearnedNoise { variance: Value, noise: Value, range: Option<[f64; 2]>, result: Value },
    /// A step ends at `latents`.
    EndStep { latents: Value },
}

#[derive(Debug)]
pub(super) struct Evaluate {
    pub(super) x: Value,
    pub(super) input_scale: f64,
    pub(super) timestep: f64,
    /// The mix of the model's input.
    pub(super) level: NoiseLevel,
    pub(super) conversion: Conversion,
    pub(super) result: Evaluated,
}

/// The finished operations and where their vectors lie.
#[derive(Debug)]
pub(super) struct Program {
    ops: Vec<Op>,
    /// The place of each value; `None` = nobody uses it, so it is never computed.
    places: Vec<Option<usize>>,
    /// How many vectors are alive at once, at the most.
    place_count: usize,
    steps: Vec<Step>,
}

/// What is known of a step beforehand.
#[derive(Debug)]
struct Step {
    /// Of its first evaluation.
    timestep: f64,
    /// The latents' mix at its end; `None` = that of the grid's next node.
    reached: Option<NoiseLevel>,
}

impl Program {
    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(super) fn place(&self, value: Value) -> Option<usize> {
        self.places[value.0]
    }

    pub(super) fn place_count(&self) -> usize {
        self.place_count
    }

    /// The latents before the first step.
    pub(super) fn start(&self) -> Value {
        Value(0)
    }

    /// How many steps there are.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The timestep of each step's first evaluation.
    pub(super) fn timesteps(&self) -> impl Iterator<Item = f32> {
        self.steps.iter().map(|step| step.timestep as f32)
    }

    /// Where each step's latents are, if not at the grid's next node.
    pub(super) fn reached(&self) -> impl Iterator<Item = Option<NoiseLevel>> {
        self.steps.iter().map(|step| step.reached)
    }

    fn evaluations(&self) -> impl Iterator<Item = &Evaluate> {
        self.ops.iter().filter_map(|op| match op {
            Op::Evaluate(evaluate) => Some(evaluate),
            _ => None,
        })
    }

    /// The step and the timestep of each evaluation.
    pub(super) fn evaluation_timesteps(&self) -> impl Iterator<Item = (usize, f32)> {
        let mut step = 0;
        self.ops.iter().filter_map(move |op| {
            match op {
                Op::Evaluate(evaluate) => return Some((step, evaluate.timestep as f32)),
                Op::EndStep { .. } => step += 1,
                _ => {}
            }
            None
        })
    }

    /// How often the model is evaluated in all.
    pub(super) fn evaluation_count(&self) -> usize {
        self.evaluations().count()
    }

    /// Whether a step needs the prediction without the prompt on its own.
    pub(super) fn needs_unconditional(&self) -> bool {
        self.evaluations().any(|evaluate| self.place(evaluate.result.unconditional).is_some())
    }
}

/// Writes a [`Program`].
#[derive(Debug)]
pub(super) struct Builder {
    prediction_type: PredictionType,
    sigma_data: f64,
    ops: Vec<Op>,
    values: usize,
    steps: Vec<Step>,
    /// Index of the first operation since the last step ended.
    step_start: usize,
}

impl Builder {
    /// An empty program for a model that predicts `prediction_type`, and the latents that it starts from.
    pub(super) fn new(prediction_type: PredictionType, sigma_data: f64) -> (Self, Value) {
        let builder = Self {
            prediction_type,
            sigma_data,
            ops: Vec::new(),
            values: 1,
            steps: Vec::new(),
            step_start: 0,
        };
        (builder, Value(0))
    }

    fn value(&mut self) -> Value {
        self.values += 1;
        Value(self.values - 1)
    }

    /// What the model says of `x`, which lies at `node`.
    pub(super) fn evaluate(&mut self, x: Value, node: Node) -> Evaluated {
        let result = Evaluated {
            original: self.value(),
            epsilon: self.value(),
            unconditional: self.value(),
            variance: self.value(),
        };
        let input_scale = self.prediction_type.input_scale(node.level, self.sigma_data);
        self.ops.push(Op::Evaluate(Evaluate {
            x,
            input_scale,
            timestep: node.timestep,
            level: NoiseLevel {
                alpha: node.level.alpha * input_scale,
                sigma: node.level.sigma * input_scale,
            },
            conversion: self.prediction_type.conversion(node.level, self.sigma_data),
            result,
        }));
        result
    }

    /// Σ coefficient · value. Terms of coefficient 0 are left out: they may stand for what was never computed.
    pub(super) fn combine(&mut self, terms: &[(f64, Value)]) -> Value {
        let result = self.value();
        let terms = terms.iter().copied().filter(|(coefficient, _)| *coefficient != 0.0).collect();
        self.ops.push(Op::Combine { terms, result });
        result
    }

    /// Standard normal noise for the way from one noise-to-signal ratio to another. Drawn where it stands, in the
    /// order of the program, even if its coefficient turns out to be 0.
    pub(super) fn noise(&mut self, from: f64, to: f64) -> Value {
        let result = self.value();
        self.ops.push(Op::Noise { from, to, result });
        result
    }

    /// Noise of the variance that the model has predicted, or of one between two logarithms of a variance.
    pub(super) fn learned_noise(&mut self, variance: Value, noise: Value, range: Option<[f64; 2]>) -> Value {
        let result = self.value();
        self.ops.push(Op::LearnedNoise { variance, noise, range, result });
        result
    }

    /// Ends a step with its latents, at the grid's next node.
    pub(super) fn end_step(&mut self, latents: Value) {
        self.push_step(latents, None);
    }

    /// Ends a step with its latents, at a node that the grid does not have in its place.
    pub(super) fn end_step_at(&mut self, latents: Value, node: Node) {
        self.push_step(latents, Some(node.level));
    }

    fn push_step(&mut self, latents: Value, reached: Option<NoiseLevel>) {
        let first = self.ops[self.step_start..].iter().find_map(|op| match op {
            Op::Evaluate(evaluate) => Some(evaluate.timestep),
            _ => None,
        });
        self.ops.push(Op::EndStep { latents });
        self.steps.push(Step { timestep: first.unwrap_or(0.0), reached });
        self.step_start = self.ops.len();
    }

    /// Finds the place of every value: a place is free again once its value has been used for the last time.
    pub(super) fn finish(self) -> Program {
        // The operation with which each value's life ends; `None` = nobody uses it.
        let mut end = vec![None; self.values];
        let mut latents = Value(0);
        for (i, op) in self.ops.iter().enumerate() {
            for value in op.uses() {
                end[value.0] = Some(i);
            }
            match op {
                // Callers see the latents of one step until the next has ended.
                Op::EndStep { latents: next } => {
                    end[latents.0] = Some(i);
                    latents = *next;
                }
                // Drawn even if unused, so that the stream moves on.
                Op::Noise { result, .. } => end[result.0] = Some(i),
                _ => {}
            }
        }
        end[latents.0] = Some(self.ops.len());
        let mut ending = vec![Vec::new(); self.ops.len() + 1];
        for (value, end) in end.iter().enumerate() {
            if let Some(end) = end {
                ending[*end].push(value);
            }
        }

        let mut places = vec![None; self.values];
        places[0] = Some(0);
        let (mut free, mut place_count) = (Vec::new(), 1);
        for (op, ending) in self.ops.iter().zip(&ending) {
            // Results first: none may lie where its own operation still reads.
            for value in op.results().into_iter().filter(|value| end[value.0].is_some()) {
                places[value.0] = Some(free.pop().unwrap_or_else(|| {
                    place_count += 1;
                    place_count - 1
                }));
            }
            free.extend(ending.iter().filter_map(|value| places[*value]));
        }
        Program { ops: self.ops, places, place_count, steps: self.steps }
    }
}

impl Op {
    fn uses(&self) -> Vec<Value> {
        match self {
            Op::Evaluate(evaluate) => vec![evaluate.x],
            Op::Combine { terms, .. } => terms.iter().map(|(_, value)| *value).collect(),
            Op::Noise { .. } => Vec::new(),
            Op::LearnedNoise { variance, noise, .. } => vec![*variance, *noise],
            Op::EndStep { latents } => vec![*latents],
        }
    }

    fn results(&self) -> Vec<Value> {
        match self {
            Op::Evaluate(Evaluate { result, .. }) => {
                vec![result.original, result.epsilon, result.unconditional, result.variance]
            }
            Op::Combine { result, .. } | Op::Noise { result, .. } | Op::LearnedNoise { result, .. } => {
                vec![*result]
            }
            Op::EndStep { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(timestep: f64) -> Node {
        Node { timestep, level: NoiseLevel { alpha: 1.0, sigma: timestep + 0.5 } }
    }

    /// Follows what lies in each place through the whole program: nobody may read a place that holds something else.
    fn check(program: &Program) {
        let mut held = vec![None; program.place_count()];
        held[program.place(program.start()).unwrap()] = Some(program.start());
        let mut latents = program.start();
        for op in program.ops() {
            for value in op.uses().into_iter().chain([latents]) {
                assert_eq!(held[program.place(value).unwrap()], Some(value), "{op:?}");
            }
            for value in op.results() {
                if let Some(place) = program.place(value) {
                    assert!(op.uses().iter().all(|used| program.place(*used) != Some(place)), "{op:?}");
                    held[place] = Some(value);
                }
            }
            if let Op::EndStep { latents: next } = op {
                latents = *next;
            }
        }
        assert_eq!(held[program.place(latents).unwrap()], Some(latents));
    }

    #[test]
    fn no_value_is_overwritten_while_it_is_needed() {
        // Programs of any shape, from a small generator of numbers.
        let mut state = 1u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..200 {
            let (mut b, x) = Builder::new(PredictionType::Epsilon, 1.0);
            let mut known = vec![x];
            for step in 0..1 + random(8) {
                for _ in 0..1 + random(3) {
                    let evaluated = b.evaluate(known[random(known.len())], node(step as f64));
                    known.extend([evaluated.original, evaluated.epsilon]);
                    if random(2) == 0 {
                        known.push(b.noise(1.0, 0.5));
                    }
                    let terms: Vec<_> =
                        (0..1 + random(5)).map(|_| (1.0, known[random(known.len())])).collect();
                    known.push(b.combine(&terms));
                }
                b.end_step(known[random(known.len())]);
            }
            check(&b.finish());
        }
    }

    #[test]
    fn a_one_step_method_needs_no_more_room_the_longer_it_runs() {
        let places = |steps: usize| {
            let (mut b, mut x) = Builder::new(PredictionType::Epsilon, 1.0);
            for step in (0..steps).rev() {
                let model = b.evaluate(x, node(step as f64));
                x = b.combine(&[(1.0, model.original), (0.5, model.epsilon)]);
                b.end_step(x);
            }
            b.finish().place_count()
        };
        assert_eq!((places(2), places(500)), (4, 4));
    }

    #[test]
    fn what_nobody_uses_is_not_computed_but_drawn() {
        let (mut b, x) = Builder::new(PredictionType::Epsilon, 1.0);
        let model = b.evaluate(x, node(1.0));
        let (unused, drawn) = (b.combine(&[(1.0, model.original)]), b.noise(1.0, 0.0));
        b.end_step(model.original);
        let program = b.finish();
        assert_eq!(program.place(unused), None);
        assert_eq!(program.place(model.epsilon), None);
        assert!(program.place(drawn).is_some());
        assert!(!program.needs_unconditional());
    }
}
