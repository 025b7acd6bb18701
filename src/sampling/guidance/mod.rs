//! How the raw predictions of one evaluation combine into the one that the sampler sees.
//!
//! [`GuidanceOptions`] say what a request wants, [`Guidance`] says at each step which [`Predictions`] that takes and
//! combines them, image by image, so that a batch never changes a picture. The CFG++ samplers add nothing here: they ask
//! for the raw unconditional prediction besides the guided one.

mod formulas;
mod options;
#[cfg(test)]
pub(crate) mod tests;

pub use options::{GuidanceMethod, GuidanceOptions};

use crate::util::buffer;
use crate::util::error::{Result, bail};

/// Which predictions one step takes besides the conditional one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Without the prompt (or with the negative one).
    pub unconditional: bool,
    /// With the image that three-way guidance follows, without the prompt.
    pub image: bool,
    /// With the prompt and with some of the network's layers perturbed.
    pub perturbed: bool,
}

/// The raw predictions of one evaluation, each a batch `[images, values of one image]` or, where the step does not need
/// it, empty.
#[derive(Debug, Clone, Copy)]
pub struct Predictions<'a> {
    /// The step it belongs to, from 0.
    pub step: usize,
    pub timestep: f32,
    /// What the model was asked about, and what its predictions say of x₀: `original[0]`·input + `original[1]`·prediction.
    /// An empty input stands for zeros.
    pub input: &'a [f32],
    pub original: [f64; 2],
    pub conditional: &'a [f32],
    pub unconditional: &'a [f32],
    pub image: &'a [f32],
    pub perturbed: &'a [f32],
}

/// One request's guidance and what it remembers from step to step.
#[derive(Debug)]
pub struct Guidance {
    options: GuidanceOptions,
    steps: usize,
    images: usize,
    /// The sampler asks for the unconditional prediction at every step.
    always_unconditional: bool,
    /// The first step that is guided, and the first after it that is not.
    interval: (usize, usize),
    /// APG's difference of x₀ with what stays of earlier ones, `[images, values of one image]`.
    average: Vec<f32>,
}

impl Guidance {
    /// For `steps` steps of `images` images of `values` values each. `always_unconditional` is
    /// [`Plan::needs_unconditional`](super::Plan::needs_unconditional).
    ///
    /// # Errors
    /// Those of [`GuidanceOptions::check`]; `InvalidArgument` for a schedule of another length; `OutOfMemory`.
    pub fn new(
        options: &GuidanceOptions,
        steps: usize,
        images: usize,
        values: usize,
        always_unconditional: bool,
    ) -> Result<Self> {
        options.check()?;
        if let Some(schedule) = options.guidance_schedule.as_ref().filter(|list| list.len() != steps) {
            bail!(InvalidArgument, "guidance_schedule has {} scales for {steps} steps", schedule.len());
        }
        let apg = options.method == GuidanceMethod::Apg;
        let average = buffer::zeros(if apg { images.saturating_mul(values) } else { 0 }, "guidance")?;
        // Truncated, as diffusers' guiders do.
        let step = |fraction: f64| (fraction * steps as f64) as usize;
        Ok(Self {
            interval: (step(options.guidance_start), step(options.guidance_stop)),
            options: options.clone(),
            steps,
            images,
            always_unconditional,
            average,
        })
    }

    /// The scale of one step.
    fn scale(&self, step: usize) -> f64 {
        let schedule = self.options.guidance_schedule.as_deref().unwrap_or_default();
        schedule.get(step).copied().unwrap_or(self.options.guidance_scale)
    }

    fn is_guided(&self, step: usize) -> bool {
        (self.interval.0..self.interval.1).contains(&step) && !self.is_zero(step)
    }

    /// Whether CFG-Zero* leaves the latents of this step to themselves.
    fn is_zero(&self, step: usize) -> bool {
        self.options.method == GuidanceMethod::CfgZeroStar && step < self.options.zero_init_steps
    }

    /// Whether the unconditional prediction guides this step.
    fn is_classifier_free(&self, step: usize) -> bool {
        self.is_guided(step) && (self.always_unconditional || self.scale(step) > 1.0)
    }

    /// What `step` takes. Nothing more has to be evaluated.
    pub fn needs(&self, step: usize) -> Needs {
        let classifier_free = self.is_classifier_free(step);
        Needs {
            unconditional: classifier_free || self.always_unconditional,
            image: classifier_free && self.options.image_guidance_scale.is_some(),
            perturbed: self.is_guided(step) && self.options.pag_scale > 0.0,
        }
    }

    /// What any of the steps takes.
    pub fn needs_ever(&self) -> Needs {
        (0..self.steps).map(|step| self.needs(step)).fold(Needs::default(), |all, step| Needs {
            unconditional: all.unconditional || step.unconditional,
            image: all.image || step.image,
            perturbed: all.perturbed || step.perturbed,
        })
    }

    /// Writes the guided prediction to `out`, `[images, values of one image]`.
    ///
    /// # Errors
    /// `InvalidArgument`: a prediction that [`Guidance::needs`] names is not as long as `out`.
    pub fn combine(&mut self, predictions: &Predictions<'_>, out: &mut [f32]) -> Result<()> {
        let Predictions { step, input, original, conditional, unconditional, image, perturbed, .. } =
            *predictions;
        let (len, needs) = (out.len(), self.needs(step));
        for (name, needed, values) in [
            ("conditional", true, conditional),
            ("unconditional", needs.unconditional, unconditional),
            ("image", needs.image, image),
            ("perturbed", needs.perturbed, perturbed),
        ] {
            if needed && values.len() != len {
                bail!(InvalidArgument, "the {name} prediction has {} values, not {len}", values.len());
            }
        }
        if self.options.method == GuidanceMethod::Apg {
            if self.average.len() != len {
                bail!(InvalidArgument, "guidance was made for {} values, not {len}", self.average.len());
            }
            if !input.is_empty() && input.len() != len {
                bail!(InvalidArgument, "the input has {} values, not {len}", input.len());
            }
            let [from_input, from_prediction] = original;
            if from_prediction == 0.0 || !from_prediction.is_finite() || !from_input.is_finite() {
                bail!(
                    InvalidArgument,
                    "x0 = {from_input} * input + {from_prediction} * prediction, which says nothing"
                );
            }
        }
        if self.is_zero(step) {
            out.fill(0.0);
            return Ok(());
        }
        let classifier_free = self.is_classifier_free(step);
        let scale = self.scale(step);
        let options = &self.options;
        let values = (len / self.images.max(1)).max(1);
        for (i, out) in out.chunks_mut(values).enumerate() {
            let range = i * values..i * values + out.len();
            let c = &conditional[range.clone()];
            if !classifier_free {
                out.copy_from_slice(c);
            } else if let Some(image_scale) = options.image_guidance_scale {
                let (u, image) = (&unconditional[range.clone()], &image[range.clone()]);
                formulas::image_and_text(u, image, c, image_scale, scale, out);
            } else {
                let u = &unconditional[range.clone()];
                match options.method {
                    GuidanceMethod::Cfg => formulas::classifier_free(u, c, scale, out),
                    GuidanceMethod::CfgZeroStar => formulas::zero_star(u, c, scale, out),
                    GuidanceMethod::Apg => {
                        let x = input.get(range.clone()).unwrap_or_default();
                        let average = &mut self.average[range.clone()];
                        formulas::adaptive_projected([u, c, x], original, scale, options, average, out);
                    }
                }
            }
            if needs.perturbed {
                formulas::perturbed_attention(c, &perturbed[range], options.pag_scale, out);
            }
            if (classifier_free || needs.perturbed) && options.guidance_rescale > 0.0 {
                formulas::rescale(out, c, options.guidance_rescale);
            }
        }
        Ok(())
    }
}
