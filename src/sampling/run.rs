//! Carries a plan out: one evaluation of the model at a time, so that whoever runs it may stop, look or steer between
//! any two.

use std::sync::Arc;

use super::noise::NoiseSource;
use super::parameterization::{Conversion, NoiseLevel};
use super::program::{Evaluate, Op, Value};
use super::{Plan, clip};
use crate::util::buffer;
use crate::util::error::{Result, bail, error};

/// What a sampler wants to know next: the model's prediction for `input`.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation<'a> {
    /// The step it belongs to, from 0.
    pub step: usize,
    /// A batch `[images, values of one image]`, scaled as the model was trained on: `alpha`·x₀ + `sigma`·ε.
    pub input: &'a [f32],
    pub timestep: f32,
    pub alpha: f64,
    pub sigma: f64,
    /// What a prediction means: x₀ = `original[0]`·input + `original[1]`·prediction.
    pub original: [f64; 2],
}

/// One evaluation of the (guided) model: reads the question, writes the prediction and, unless it is empty, the
/// prediction without the prompt. An error leaves the run where it was.
pub type Denoise<'a> = dyn FnMut(Evaluation<'_>, &mut [f32], &mut [f32]) -> Result<()> + 'a;

/// A plan under way. It owns the latents and whatever the sampler remembers, allocated once.
///
/// ```text
/// let mut run = Run::new(plan, latents, images, noise)?;     // latents: unit noise · plan.init_noise_sigma()
/// while !run.is_done() { run.step(&mut denoise)?; }
/// ```
///
/// or, evaluation by evaluation, `while let Some(evaluation) = run.ask()? { … run.tell(&prediction, &[])?; }`.
pub struct Run {
    plan: Arc<Plan>,
    noise: Box<dyn NoiseSource + Send>,
    images: usize,
    /// The vectors of the program, each as long as the latents.
    places: Vec<Vec<f32>>,
    input: Vec<f32>,
    prediction: Vec<f32>,
    unconditional: Vec<f32>,
    clip: clip::Scratch,
    latents: Value,
    /// The next operation; the one that waits for its prediction if `asked`.
    next: usize,
    asked: bool,
    step: usize,
}

impl Run {
    /// Starts from `latents`, a batch `[images, values of one image]` at [`Plan::level`] 0.
    ///
    /// # Errors
    /// `InvalidArgument`: latents that do not divide into images; `OutOfMemory`.
    pub fn new(
        plan: Arc<Plan>,
        latents: Vec<f32>,
        images: usize,
        noise: Box<dyn NoiseSource + Send>,
    ) -> Result<Self> {
        let len = latents.len();
        if images == 0 || !len.is_multiple_of(images) {
            bail!(InvalidArgument, "{len} latents do not divide into {images} images");
        }
        let program = plan.program();
        let zeros = |len| buffer::zeros(len, "a sampler");
        let mut places = vec![latents];
        for _ in 1..program.place_count() {
            places.push(zeros(len)?);
        }
        Ok(Self {
            input: zeros(len)?,
            prediction: zeros(len * plan.prediction_values())?,
            unconditional: zeros(if program.needs_unconditional() { len } else { 0 })?,
            clip: clip::Scratch::new(plan.clip(), len / images)?,
            latents: program.start(),
            places,
            plan,
            noise,
            images,
            next: 0,
            asked: false,
            step: 0,
        })
    }

    /// The plan that is carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many steps are done.
    pub fn step_index(&self) -> usize {
        self.step
    }

    /// Whether every step is done.
    pub fn is_done(&self) -> bool {
        self.step == self.plan.len()
    }

    /// The latents after the steps done so far, at [`Plan::level`] `step_index()`.
    pub fn latents(&self) -> &[f32] {
        self.plan.program().place(self.latents).map_or(&[], |place| &self.places[place])
    }

    /// The same, to be changed between steps (say, to keep what a mask protects).
    pub fn latents_mut(&mut self) -> &mut [f32] {
        match self.plan.program().place(self.latents) {
            Some(place) => &mut self.places[place],
            None => &mut [],
        }
    }

    /// Ends the run and gives its latents.
    pub fn into_latents(mut self) -> Vec<f32> {
        let place = self.plan.program().place(self.latents);
        place.map(|place| std::mem::take(&mut self.places[place])).unwrap_or_default()
    }

    /// The next question to the model, the same until it is answered; `None` when every step is done.
    pub fn ask(&mut self) -> Result<Option<Evaluation<'_>>> {
        let plan = self.plan.clone();
        if !self.asked {
            self.advance(&plan);
        }
        let Some(Op::Evaluate(evaluate)) = plan.program().ops().get(self.next) else {
            return Ok(None);
        };
        if !self.asked {
            let x = self.value(evaluate.x)?;
            let scale = evaluate.input_scale;
            // Unscaled input is passed on to the bit.
            for (input, x) in self.input.iter_mut().zip(&self.places[x]) {
                *input = (scale * f64::from(*x)) as f32;
            }
            self.asked = true;
        }
        let NoiseLevel { alpha, sigma } = evaluate.level;
        let [from_x, from_prediction] = evaluate.conversion.original;
        Ok(Some(Evaluation {
            step: self.step,
            input: &self.input,
            timestep: evaluate.timestep as f32,
            alpha,
            sigma,
            original: [from_x / evaluate.input_scale, from_prediction],
        }))
    }

    /// Answers [`Run::ask`] and goes on up to the next question or the end of the step.
    ///
    /// `prediction` has the latents' length, twice that if the model predicts its variance (each image's prediction,
    /// then its variance); `unconditional` has the latents' length where [`Plan::needs_unconditional`], else it is
    /// not read.
    ///
    /// # Errors
    /// `InvalidState` without a question, `InvalidArgument` for a wrong length, `Numeric` for a value that is not
    /// finite. The run stays at its question.
    pub fn tell(&mut self, prediction: &[f32], unconditional: &[f32]) -> Result<()> {
        let plan = self.plan.clone();
        let Some(Op::Evaluate(evaluate)) = plan.program().ops().get(self.next).filter(|_| self.asked) else {
            bail!(InvalidState, "a prediction was given before it was asked for");
        };
        let len = self.input.len();
        self.check(prediction, "prediction", len * plan.prediction_values())?;
        if plan.needs_unconditional() {
            self.check(unconditional, "unconditional prediction", len)?;
        }
        self.store(evaluate, prediction, unconditional, &plan)?;
        self.asked = false;
        self.next += 1;
        self.finish_step(&plan);
        Ok(())
    }

    /// Takes one step: asks `denoise` as often as the sampler needs. Does nothing when every step is done.
    ///
    /// # Errors
    /// Those of `denoise`, after which the step can be gone on with; those of [`Run::tell`].
    pub fn step(&mut self, denoise: &mut Denoise<'_>) -> Result<()> {
        let step = self.step;
        let mut prediction = std::mem::take(&mut self.prediction);
        let mut unconditional = std::mem::take(&mut self.unconditional);
        let mut result = Ok(());
        while self.step == step && result.is_ok() {
            result = match self.ask() {
                Ok(None) => break,
                Ok(Some(evaluation)) => denoise(evaluation, &mut prediction, &mut unconditional),
                Err(error) => Err(error),
            };
            if result.is_ok() {
                result = self.tell(&prediction, &unconditional);
            }
        }
        (self.prediction, self.unconditional) = (prediction, unconditional);
        result
    }

    fn check(&self, values: &[f32], what: &str, len: usize) -> Result<()> {
        if values.len() != len {
            bail!(InvalidArgument, "the {what} has {} values, not {len}", values.len());
        }
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            bail!(Numeric, "the {what} of step {} is {} at value {i}", self.step, values[i]);
        }
        Ok(())
    }

    fn value(&self, value: Value) -> Result<usize> {
        let place = self.plan.program().place(value);
        place.ok_or_else(|| error!(Internal, "a sampler reads a value that was never computed"))
    }

    /// Carries out operations up to the next evaluation, past no end of a step.
    fn advance(&mut self, plan: &Plan) {
        let program = plan.program();
        while let Some(op) = program.ops().get(self.next) {
            match op {
                Op::Evaluate(_) | Op::EndStep { .. } => return,
                Op::Combine { terms, result } => {
                    if let Some(place) = program.place(*result) {
                        self.combine(place, terms, plan);
                    }
                }
                Op::Noise { from, to, result } => {
                    if let Some(place) = program.place(*result) {
                        self.noise.draw(*from, *to, self.images, &mut self.places[place]);
                    }
                }
                Op::LearnedNoise { variance, noise, range, result } => {
                    let places = [*variance, *noise, *result].map(|value| program.place(value));
                    if let [Some(variance), Some(noise), Some(result)] = places {
                        let mut out = std::mem::take(&mut self.places[result]);
                        let inputs = self.places[variance].iter().zip(&self.places[noise]);
                        for (out, (v, noise)) in out.iter_mut().zip(inputs) {
                            let v = f64::from(*v);
                            let std_dev = match range {
                                // Nothing keeps a model from predicting a little less than none.
                                None => v.max(0.0).sqrt(),
                                Some([log_min, log_max]) => {
                                    let fraction = (v + 1.0) / 2.0;
                                    libm::exp(0.5 * (fraction * log_max + (1.0 - fraction) * log_min))
                                }
                            };
                            *out = (std_dev * f64::from(*noise)) as f32;
                        }
                        self.places[result] = out;
                    }
                }
            }
            self.next += 1;
        }
    }

    /// [`Run::advance`], and past the end of a step if one is reached.
    fn finish_step(&mut self, plan: &Plan) {
        self.advance(plan);
        if let Some(Op::EndStep { latents }) = plan.program().ops().get(self.next) {
            self.latents = *latents;
            self.step += 1;
            self.next += 1;
        }
    }

    fn combine(&mut self, place: usize, terms: &[(f64, Value)], plan: &Plan) {
        /// Sums of so many values at once stay in the first-level cache.
        const BLOCK: usize = 512;
        // No result lies where its own operation reads.
        let mut out = std::mem::take(&mut self.places[place]);
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let mut sums = [0.0f64; BLOCK];
            for (coefficient, value) in terms {
                let Some(from) = plan.program().place(*value) else { continue };
                let from = &self.places[from][block * BLOCK..][..out.len()];
                for (sum, x) in sums.iter_mut().zip(from) {
                    *sum += coefficient * f64::from(*x);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum as f32;
            }
        }
        self.places[place] = out;
    }

    /// Reads an answer: computes what later operations use of it.
    fn store(
        &mut self,
        evaluate: &Evaluate,
        prediction: &[f32],
        unconditional: &[f32],
        plan: &Plan,
    ) -> Result<()> {
        let x = self.value(evaluate.x)?;
        let image = (self.input.len() / self.images).max(1);
        let factor = plan.prediction_values();
        let Conversion { original, epsilon } = evaluate.conversion;
        let results = [
            (evaluate.result.original, original, prediction, factor),
            (evaluate.result.epsilon, epsilon, prediction, factor),
            (evaluate.result.unconditional, original, unconditional, 1),
        ];
        for (value, [from_x, from_prediction], prediction, factor) in results {
            let Some(place) = plan.program().place(value) else { continue };
            let mut out = std::mem::take(&mut self.places[place]);
            let images = out.chunks_mut(image).zip(self.places[x].chunks(image));
            for ((out, x), prediction) in images.zip(prediction.chunks(image * factor)) {
                for ((out, x), prediction) in out.iter_mut().zip(x).zip(prediction) {
                    *out = (from_x * f64::from(*x) + from_prediction * f64::from(*prediction)) as f32;
                }
            }
            self.places[place] = out;
        }
        if let Some(place) = plan.program().place(evaluate.result.variance) {
            let out = self.places[place].chunks_mut(image);
            for (out, prediction) in out.zip(prediction.chunks(image * factor)) {
                out.copy_from_slice(&prediction[image..]);
            }
        }
        if let Some(place) = plan.program().place(evaluate.result.original) {
            for out in self.places[place].chunks_mut(image) {
                self.clip.apply(plan.clip(), out);
            }
        }
        Ok(())
    }
}
