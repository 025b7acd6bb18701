//! The guided model as a sampler sees it: one evaluation for a whole batch.

use std::ops::Range;

use super::Pipeline;
use super::layout::{LatentSize, to_channels_first, to_channels_last};
use super::request::{Observer, Request};
use super::start::LATENTS;
use super::text::{Conditioning, PROMPTS};
use crate::backend::{Backend, Input, Shape, Tensor};
use crate::models::unet_2d_condition::{
    AddedConditions, Block, Context, Perturbation, Perturbed, PerturbedBlocks, UNet2DConditionModel,
};
use crate::sampling::Evaluation;
use crate::sampling::guidance::{Guidance, Predictions};
use crate::util::buffer;
use crate::util::error::{Result, bail};

/// How many rows of time embeddings are computed at a time: few products for usual numbers of steps, and for the largest
/// U-Nets some 20 MB of biases.
const ROWS_AHEAD: usize = 256;

/// Checks what a request asks of guidance.
///
/// # Errors
/// `InvalidArgument`, naming the option and its value; `Unsupported` for what the model cannot do.
pub(super) fn check<B: Backend>(pipeline: &Pipeline<B>, request: &Request) -> Result<()> {
    request.guidance.check()?;
    if request.guidance.image_guidance_scale.is_some() {
        bail!(Unsupported, "image_guidance_scale is set, but the U-Net takes no image besides the latents");
    }
    blocks(pipeline, request).map(|_| ())
}

/// The blocks that perturbed-attention guidance perturbs, if it is on.
fn blocks<B: Backend>(pipeline: &Pipeline<B>, request: &Request) -> Result<Vec<Block>> {
    if request.guidance.pag_scale == 0.0 {
        return Ok(Vec::new());
    }
    let find = |name: &String| match pipeline.unet.attention_block(name) {
        Some(block) => Ok(block),
        None => bail!(InvalidArgument, "pag_applied_layers: the U-Net has no block {name} with attention"),
    };
    let default = ["mid_block".to_owned()];
    let names: &[String] =
        if request.pag_applied_layers.is_empty() { &default } else { &request.pag_applied_layers };
    names.iter().map(find).collect()
}

/// Evaluates what guidance needs as one batch and combines it.
pub(super) struct Denoiser<'a, B: Backend> {
    backend: &'a B,
    unet: &'a UNet2DConditionModel<B>,
    size: LatentSize,
    guidance: Guidance,
    /// What the perturbed part of a batch loses, and where.
    perturbation: Perturbation,
    blocks: Vec<Block>,
    rows: Rows,
    /// The step and timestep of every evaluation that the sampler is going to ask for.
    foreseen: Vec<(usize, f32)>,
    /// How many of them are answered.
    answered: usize,
    pub(super) rows_ahead: usize,
    /// What is on the device: for these parts of the rows.
    conditions: Option<(Range<usize>, Conditions<B>)>,
    /// What goes to the U-Net, in its layout.
    nhwc: Vec<f32>,
    /// What comes back, as long as the largest batch, and that in our layout.
    output: Vec<f32>,
    predictions: Vec<f32>,
}

/// What the U-Net sees besides the latents, and what it has made of that.
struct Conditions<B: Backend> {
    /// The step as the device may have recorded it. Stands first, to be dropped before what it borrows; everything that
    /// the step does (the context, the perturbed rows, the shapes) follows from the parts of the rows.
    step: B::Repeated,
    context: Context<B>,
    added: Option<AddedConditions<B>>,
    times: Times<B>,
}

/// What some timesteps add to the channels of the U-Net.
struct Times<B: Backend> {
    timesteps: Vec<f32>,
    /// [`UNet2DConditionModel::time_biases`] of them.
    biases: Option<B::Tensor>,
}

/// The conditions of each row on the host, in equal parts: unconditional, as diffusers batches them, then conditional,
/// then conditional for the perturbed network. What a step needs of them is without a gap.
struct Rows {
    parts: usize,
    /// `[parts, batch, max_tokens · cross_attention_dim]`
    context: Vec<f32>,
    max_tokens: usize,
    context_dim: usize,
    /// `[parts, batch, projection_dim]`; empty unless the model is an SDXL.
    pooled: Vec<f32>,
    /// SDXL's: original size, crop, target size, each (height, width) in pixels.
    time_ids: [f32; 6],
}

/// The parts of [`Rows`].
const UNCONDITIONAL: usize = 0;
const CONDITIONAL: usize = 1;
const PERTURBED: usize = 2;

impl<'a, B: Backend> Denoiser<'a, B> {
    /// For one request. `unconditional` is there where [`Guidance::needs_ever`] says so; `foreseen` are the
    /// [`Plan::evaluation_timesteps`](crate::sampling::Plan::evaluation_timesteps). Other evaluations work too, but each
    /// embeds its time for itself.
    ///
    /// # Errors
    /// Those of [`check`]; `OutOfMemory`; `Internal`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        pipeline: &'a Pipeline<B>,
        backend: &'a B,
        request: &Request,
        guidance: Guidance,
        size: LatentSize,
        foreseen: Vec<(usize, f32)>,
        conditional: &Conditioning,
        unconditional: Option<&Conditioning>,
    ) -> Result<Self> {
        let needs = guidance.needs_ever();
        if needs.unconditional && unconditional.is_none() {
            bail!(Internal, "guidance without an unconditional prompt");
        }
        // Where there is none, its place holds what is never used.
        let mut parts = vec![unconditional.unwrap_or(conditional), conditional];
        parts.extend(needs.perturbed.then_some(conditional));
        let repeated = |part: fn(&Conditioning) -> &[f32]| -> Result<Vec<f32>> {
            let len = parts.len() * size.batch * part(conditional).len();
            let mut rows = buffer::reserve(len, PROMPTS)?;
            for prompt in &parts {
                (0..size.batch).for_each(|_| rows.extend_from_slice(part(prompt)));
            }
            Ok(rows)
        };
        let factor = pipeline.vae_scale_factor();
        let (height, width) = ((size.height * factor) as f32, (size.width * factor) as f32);
        let rows = Rows {
            parts: parts.len(),
            context: repeated(|prompt| &prompt.context)?,
            max_tokens: pipeline.text.max_tokens(),
            context_dim: pipeline.text.context_dim(),
            pooled: repeated(|prompt| &prompt.pooled)?,
            time_ids: [height, width, 0.0, 0.0, height, width],
        };
        let most = usize::from(needs.unconditional) + 1 + usize::from(needs.perturbed);
        Ok(Self {
            backend,
            unet: &pipeline.unet,
            size,
            guidance,
            perturbation: request.perturbation,
            blocks: blocks(pipeline, request)?,
            rows,
            foreseen,
            answered: 0,
            rows_ahead: ROWS_AHEAD,
            conditions: None,
            nhwc: buffer::zeros(size.len(), LATENTS)?,
            output: buffer::zeros(most * size.len(), "predictions")?,
            predictions: buffer::zeros(most * size.len(), "predictions")?,
        })
    }

    /// Answers a sampler: the guided prediction to `out` and, unless it is empty, the raw unconditional one to
    /// `unconditional_out`. `observer` may combine the predictions itself.
    ///
    /// # Errors
    /// Those of the model and of [`Observer::guide`].
    pub(super) fn evaluate(
        &mut self,
        evaluation: Evaluation<'_>,
        out: &mut [f32],
        unconditional_out: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let size = self.size;
        let parts = parts(&self.guidance, evaluation.step);
        let n = parts.len() * size.batch;
        let time_biases = self.prepare(&parts, evaluation.timestep)?;

        // All parts see the same sample.
        to_channels_last(evaluation.input, &mut self.nhwc, size.channels, size.pixels());
        let sample =
            Input::Host(Shape::image(size.batch, size.height, size.width, size.channels), &self.nhwc);
        let Some((_, Conditions { step, context, .. })) = &mut self.conditions else {
            bail!(Internal, "the conditions are gone");
        };
        let perturbed = parts.contains(&PERTURBED).then(|| PerturbedBlocks {
            blocks: &self.blocks,
            perturbed: Perturbed { perturbation: self.perturbation, from: n - size.batch },
        });
        let (unet, backend, context) = (self.unet, self.backend, &*context);
        let body = |inputs: &[B::Tensor]| match inputs {
            [sample, biases] => unet.forward_prepared(backend, sample, biases, context, perturbed),
            _ => bail!(Internal, "a step of {} inputs", inputs.len()),
        };
        let output = &mut self.output[..parts.len() * size.len()];
        backend.repeat(step, &[sample, Input::Device(&time_biases)], &body, output)?;
        self.answered += 1;
        let predictions = &mut self.predictions[..parts.len() * size.len()];
        to_channels_first(output, predictions, size.channels, size.pixels());

        let part = |part: usize| -> &[f32] {
            let at = parts.contains(&part).then(|| (part - parts.start) * size.len());
            at.map_or(&[], |at| &predictions[at..at + size.len()])
        };
        let predictions = Predictions {
            step: evaluation.step,
            timestep: evaluation.timestep,
            input: evaluation.input,
            original: evaluation.original,
            conditional: part(CONDITIONAL),
            unconditional: part(UNCONDITIONAL),
            image: &[],
            perturbed: part(PERTURBED),
        };
        if out.len() != size.len() {
            bail!(Unsupported, "the sampler takes a predicted variance, which the U-Net does not give");
        }
        if !observer.guide(&predictions, out)? {
            self.guidance.combine(&predictions, out)?;
        }
        if !unconditional_out.is_empty() {
            unconditional_out.copy_from_slice(predictions.unconditional);
        }
        Ok(())
    }

    /// Sees to it that the conditions of `parts` are on the device, and gives what `timestep` adds to the channels of the
    /// U-Net.
    fn prepare(&mut self, parts: &Range<usize>, timestep: f32) -> Result<B::Tensor> {
        let (b, unet, n) = (self.backend, self.unet, parts.len() * self.size.batch);
        if self.conditions.as_ref().is_none_or(|(there, _)| there != parts) {
            self.conditions = None;
            let (context, added) = self.rows.upload(b, parts, self.size.batch)?;
            let times = Times { timesteps: Vec::new(), biases: None };
            let context = unet.prepare_context(b, &context)?;
            let conditions = Conditions { step: B::Repeated::default(), context, added, times };
            self.conditions = Some((parts.clone(), conditions));
        }
        let ahead = self.foreseen.get(self.answered..).unwrap_or_default();
        let ahead = ahead.iter().take_while(|(step, _)| self::parts(&self.guidance, *step) == *parts);
        let Some((_, Conditions { added, times, .. })) = &mut self.conditions else {
            bail!(Internal, "the conditions are gone");
        };
        if !times.timesteps.contains(&timestep) {
            let mut timesteps = vec![timestep];
            if ahead.clone().any(|(_, next)| *next == timestep) {
                // Let go of the old ones first: nothing reads them any more.
                *times = Times { timesteps: Vec::new(), biases: None };
                for (_, next) in ahead {
                    if timesteps.len() >= self.rows_ahead / n {
                        break;
                    }
                    if !timesteps.contains(next) {
                        timesteps.push(*next);
                    }
                }
            }
            let biases = Some(unet.time_biases(b, &timesteps, n, added.as_ref())?);
            *times = Times { timesteps, biases };
        }
        match (times.timesteps.iter().position(|t| *t == timestep), &times.biases) {
            (Some(row), Some(biases)) => {
                let width = biases.shape().c;
                b.view(biases, row * width, Shape::vector(1, width))
            }
            _ => bail!(Internal, "timestep {timestep} was not embedded"),
        }
    }
}

/// The parts of the rows that a step evaluates.
fn parts(guidance: &Guidance, step: usize) -> Range<usize> {
    let needs = guidance.needs(step);
    let first = if needs.unconditional { UNCONDITIONAL } else { CONDITIONAL };
    let last = if needs.perturbed { PERTURBED } else { CONDITIONAL };
    first..last + 1
}

impl Rows {
    /// Copies the conditions of some parts to the device.
    fn upload<B: Backend>(
        &self,
        backend: &B,
        parts: &Range<usize>,
        batch: usize,
    ) -> Result<(B::Tensor, Option<AddedConditions<B>>)> {
        let n = parts.len() * batch;
        let slice = |all: &'_ [f32]| -> Range<usize> {
            let part = all.len() / self.parts;
            parts.start * part..parts.end * part
        };
        let context = Shape::tokens(n, self.max_tokens, self.context_dim);
        let context = backend.upload(context, &self.context[slice(&self.context)])?;
        let added = if self.pooled.is_empty() {
            None
        } else {
            let width = self.pooled.len() / (self.parts * batch);
            Some(AddedConditions {
                text_embeds: backend.upload(Shape::vector(n, width), &self.pooled[slice(&self.pooled)])?,
                time_ids: self.time_ids.repeat(n),
            })
        };
        Ok((context, added))
    }
}
