//! The guided model as a sampler sees it: one evaluation for a whole batch.

use std::ops::Range;

use super::Pipeline;
use super::layout::{LatentSize, to_channels_first, to_channels_last};
use super::request::{Observer, Request};
use super::text::Conditioning;
use crate::backend::{Backend, Shape};
use crate::models::unet_2d_condition::{
    AddedConditions, Block, Perturbation, Perturbed, PerturbedBlocks, UNet2DConditionModel,
};
use crate::sampling::Evaluation;
use crate::sampling::guidance::{Guidance, Predictions};
use crate::util::error::{Result, bail};

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
    /// What is on the device: for these parts of the rows.
    conditions: Option<(Range<usize>, Conditions<B>)>,
    /// Both as long as the largest batch: the U-Net's layout, and ours.
    nhwc: Vec<f32>,
    predictions: Vec<f32>,
}

/// What the U-Net sees besides the latents.
struct Conditions<B: Backend> {
    context: B::Tensor,
    added: Option<AddedConditions<B>>,
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
    /// For one request. `unconditional` is there where [`Guidance::needs_ever`] says so.
    ///
    /// # Errors
    /// Those of [`check`]; `Internal`.
    pub(super) fn new(
        pipeline: &'a Pipeline<B>,
        backend: &'a B,
        request: &Request,
        guidance: Guidance,
        size: LatentSize,
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
        let repeated = |part: fn(&Conditioning) -> &[f32]| -> Vec<f32> {
            parts.iter().flat_map(|prompt| part(prompt).repeat(size.batch)).collect()
        };
        let factor = pipeline.vae_scale_factor();
        let (height, width) = ((size.height * factor) as f32, (size.width * factor) as f32);
        let rows = Rows {
            parts: parts.len(),
            context: repeated(|prompt| &prompt.context),
            max_tokens: pipeline.text.max_tokens(),
            context_dim: pipeline.text.context_dim(),
            pooled: repeated(|prompt| &prompt.pooled),
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
            conditions: None,
            nhwc: vec![0.0; most * size.len()],
            predictions: vec![0.0; most * size.len()],
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
        let (size, needs) = (self.size, self.guidance.needs(evaluation.step));
        let first = if needs.unconditional { UNCONDITIONAL } else { CONDITIONAL };
        let last = if needs.perturbed { PERTURBED } else { CONDITIONAL };
        let parts = first..last + 1;
        let n = parts.len() * size.batch;

        let nhwc = &mut self.nhwc[..parts.len() * size.len()];
        for part in nhwc.chunks_exact_mut(size.len()) {
            to_channels_last(evaluation.input, part, size.channels, size.pixels());
        }
        let sample = self.backend.upload(Shape::image(n, size.height, size.width, size.channels), nhwc)?;
        if self.conditions.as_ref().is_none_or(|(there, _)| *there != parts) {
            self.conditions = None;
            self.conditions = Some((parts.clone(), self.rows.upload(self.backend, &parts, size.batch)?));
        }
        let Some((_, Conditions { context, added })) = &self.conditions else {
            bail!(Internal, "the conditions are gone");
        };
        let perturbed = needs.perturbed.then(|| PerturbedBlocks {
            blocks: &self.blocks,
            perturbed: Perturbed { perturbation: self.perturbation, from: n - size.batch },
        });
        let output = self.unet.forward(
            self.backend,
            &sample,
            evaluation.timestep,
            context,
            added.as_ref(),
            perturbed,
        )?;
        self.backend.download(&output, nhwc)?;
        let predictions = &mut self.predictions[..parts.len() * size.len()];
        to_channels_first(nhwc, predictions, size.channels, size.pixels());

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
}

impl Rows {
    /// Copies the conditions of some parts to the device.
    fn upload<B: Backend>(&self, backend: &B, parts: &Range<usize>, batch: usize) -> Result<Conditions<B>> {
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
        Ok(Conditions { context, added })
    }
}
