//! One request, from its text to its images.

use std::sync::Arc;
use std::time::Instant;

use super::Pipeline;
use super::layout::{to_channels_first, to_channels_last};
use super::request::{Observer, Output, Request, Stage, TokenCount};
use super::text::{Conditioning, download};
use crate::backend::{Backend, Shape};
use crate::models::unet_2d_condition::AddedConditions;
use crate::sampling::guidance::classifier_free_guidance;
use crate::sampling::{Evaluation, NoiseStream, Options, Plan, Run};
use crate::util::error::{Result, bail};
use crate::util::limits;

/// The latents' size for one request.
#[derive(Clone, Copy)]
struct LatentSize {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
}

impl LatentSize {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Values of one image.
    fn image(&self) -> usize {
        self.channels * self.pixels()
    }

    fn len(&self) -> usize {
        self.batch * self.image()
    }
}

impl<B: Backend> Pipeline<B> {
    /// Checks what can be checked without computing: sizes, counts, the length of given latents.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option, its value and what it should be.
    pub fn check(&self, request: &Request) -> Result<()> {
        self.latent_size(request).map(|_| ())
    }

    /// Runs a request to its end on `backend`, telling `observer` about each step from the calling thread.
    ///
    /// # Errors
    /// What [`Pipeline::check`] returns; `Cancelled` or any other error of the observer or the backend;
    /// `OutOfMemory`; `Numeric` when the model's output is not finite.
    pub fn generate(&self, backend: &B, request: &Request, observer: &mut dyn Observer) -> Result<Output> {
        let size = self.latent_size(request)?;
        let plan = match request.steps {
            0 => None,
            steps => {
                let options = Options {
                    sampler: request.sampler,
                    spacing: request.timestep_spacing,
                    eta: Some(request.eta),
                    ..Options::new(steps as usize)
                };
                Some(Arc::new(Plan::new(&self.scheduler, &options)?))
            }
        };

        let (mut prompt_tokens, mut negative_tokens) = (TokenCount::default(), TokenCount::default());
        let start = Instant::now();
        let mut latents = Vec::new();
        let (mut text_time, mut denoise_time) = Default::default();
        match &plan {
            None => latents.extend_from_slice(request.latents.as_deref().unwrap_or_default()),
            Some(plan) => {
                observer.progress(Stage::Text, 0, request.steps)?;
                let (conditional, unconditional) = self.encode_prompts(backend, request)?;
                prompt_tokens = conditional.tokens;
                negative_tokens = unconditional.as_ref().map_or(negative_tokens, |u| u.tokens);
                text_time = start.elapsed();

                let start = Instant::now();
                latents = self.denoise(
                    backend,
                    request,
                    size,
                    plan,
                    &conditional,
                    unconditional.as_ref(),
                    observer,
                )?;
                denoise_time = start.elapsed();
            }
        }
        if !latents.iter().all(|x| x.is_finite()) {
            bail!(Numeric, "the latents after {} steps are not all finite", request.steps);
        }

        let start = Instant::now();
        let mut images = Vec::new();
        if request.decode {
            for image in latents.chunks_exact(size.image()) {
                observer.progress(Stage::Decode, request.steps, request.steps)?;
                images.push(self.decode(backend, size, image)?);
            }
        }
        Ok(Output {
            width: (size.width * self.vae_scale_factor()) as u32,
            height: (size.height * self.vae_scale_factor()) as u32,
            images,
            latents: latents.chunks_exact(size.image()).map(<[f32]>::to_vec).collect(),
            sampler: plan.as_ref().map_or(self.info.default_sampler, |plan| plan.sampler()),
            prompt: prompt_tokens,
            negative_prompt: negative_tokens,
            text_time,
            denoise_time,
            decode_time: start.elapsed(),
        })
    }

    fn latent_size(&self, request: &Request) -> Result<LatentSize> {
        let factor = self.vae_scale_factor();
        let side = |name: &str, value: u32, native: u32| -> Result<usize> {
            let side = if value == 0 { native } else { value };
            if side == 0 || side > limits::IMAGE_SIDE || !(side as usize).is_multiple_of(factor) {
                bail!(
                    InvalidArgument,
                    "{name} is {side}; it must be a multiple of {factor} from {factor} to {}",
                    limits::IMAGE_SIDE
                );
            }
            Ok(side as usize / factor)
        };
        if request.batch_size == 0 || request.batch_size > limits::BATCH_SIZE {
            bail!(
                InvalidArgument,
                "batch_size is {}; it must be from 1 to {}",
                request.batch_size,
                limits::BATCH_SIZE
            );
        }
        if request.steps > limits::STEPS {
            bail!(InvalidArgument, "steps is {}; it must be from 0 to {}", request.steps, limits::STEPS);
        }
        let size = LatentSize {
            batch: request.batch_size as usize,
            channels: self.info.latent_channels as usize,
            height: side("height", request.height, self.info.height)?,
            width: side("width", request.width, self.info.width)?,
        };
        match &request.latents {
            Some(latents) if latents.len() != size.len() => bail!(
                InvalidArgument,
                "latents has {} values; {} images of {}×{}×{} take {}",
                latents.len(),
                size.batch,
                size.channels,
                size.height,
                size.width,
                size.len()
            ),
            None if request.steps == 0 => {
                bail!(InvalidArgument, "steps is 0, which decodes given latents, but latents is not set")
            }
            Some(latents) => match latents.iter().position(|x| !x.is_finite()) {
                Some(i) => bail!(InvalidArgument, "latents[{i}] is {}, not a finite number", latents[i]),
                None => Ok(size),
            },
            None => Ok(size),
        }
    }

    /// The prompt's conditioning and, when guidance is on, the negative prompt's.
    fn encode_prompts(&self, backend: &B, request: &Request) -> Result<(Conditioning, Option<Conditioning>)> {
        let conditional = self.text.encode(backend, &request.prompt)?;
        if request.guidance_scale <= 1.0 {
            return Ok((conditional, None));
        }
        let unconditional = match &request.negative_prompt {
            None if self.index.force_zeros_for_empty_prompt => Conditioning::zeros_like(&conditional),
            negative => self.text.encode(backend, negative.as_deref().unwrap_or_default())?,
        };
        Ok((conditional, Some(unconditional)))
    }

    #[allow(clippy::too_many_arguments)]
    fn denoise(
        &self,
        backend: &B,
        request: &Request,
        size: LatentSize,
        plan: &Arc<Plan>,
        conditional: &Conditioning,
        unconditional: Option<&Conditioning>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<f32>> {
        let mut noise: Vec<NoiseStream> = (0..size.batch as u64)
            .map(|image| NoiseStream::new(request.noise, request.seed.wrapping_add(image)))
            .collect();
        let mut latents = match &request.latents {
            Some(latents) => latents.clone(),
            None => {
                let mut latents = vec![0.0; size.len()];
                for (stream, image) in noise.iter_mut().zip(latents.chunks_exact_mut(size.image())) {
                    stream.normal(image);
                }
                latents
            }
        };
        let scale = plan.init_noise_sigma();
        latents.iter_mut().for_each(|x| *x *= scale);

        // The unconditional half first, as diffusers batches them; one image's rows never see another's.
        let mut rows = Vec::with_capacity(2 * size.batch);
        rows.extend(std::iter::repeat_n(unconditional, size.batch).flatten());
        rows.extend(std::iter::repeat_n(conditional, size.batch));
        let n = rows.len();
        let context: Vec<f32> = rows.iter().flat_map(|r| r.context.iter().copied()).collect();
        let max_tokens = self.text.max_tokens();
        let context = backend.upload(Shape::tokens(n, max_tokens, self.text.context_dim()), &context)?;
        let added = self.added_conditions(backend, &rows, size)?;

        let shape = Shape::image(n, size.height, size.width, size.channels);
        let mut nhwc = vec![0.0; shape.len()];
        let mut prediction = vec![0.0; shape.len()];
        let mut denoise = |evaluation: Evaluation<'_>, out: &mut [f32], _: &mut [f32]| -> Result<()> {
            for half in nhwc.chunks_exact_mut(size.len()) {
                to_channels_last(evaluation.input, half, size.channels, size.pixels());
            }
            let sample = backend.upload(shape, &nhwc)?;
            let output =
                self.unet.forward(backend, &sample, evaluation.timestep, &context, added.as_ref())?;
            backend.download(&output, &mut nhwc)?;
            to_channels_first(&nhwc, &mut prediction, size.channels, size.pixels());
            let (guided, conditional) = prediction.split_at_mut(size.len());
            classifier_free_guidance(guided, conditional, request.guidance_scale as f32);
            out.copy_from_slice(guided);
            Ok(())
        };
        let mut run = Run::new(plan.clone(), latents, size.batch, Box::new(noise))?;
        while !run.is_done() {
            observer.progress(Stage::Denoise, run.step_index() as u32, plan.len() as u32)?;
            run.step(&mut denoise)?;
        }
        observer.progress(Stage::Denoise, plan.len() as u32, plan.len() as u32)?;
        Ok(run.into_latents())
    }

    /// SDXL's pooled embedding and time ids: original size, crop, target size, each (height, width) in pixels.
    fn added_conditions(
        &self,
        backend: &B,
        rows: &[&Conditioning],
        size: LatentSize,
    ) -> Result<Option<AddedConditions<B>>> {
        let Some(width) = rows.first().map(|r| r.pooled.len()).filter(|len| *len > 0) else {
            return Ok(None);
        };
        let pooled: Vec<f32> = rows.iter().flat_map(|r| r.pooled.iter().copied()).collect();
        let factor = self.vae_scale_factor();
        let (height_px, width_px) = ((size.height * factor) as f32, (size.width * factor) as f32);
        Ok(Some(AddedConditions {
            text_embeds: backend.upload(Shape::vector(rows.len(), width), &pooled)?,
            time_ids: [height_px, width_px, 0.0, 0.0, height_px, width_px].repeat(rows.len()),
        }))
    }

    /// One image's latents `[c, h, w]` to RGB in `[0, 1]`.
    fn decode(&self, backend: &B, size: LatentSize, latents: &[f32]) -> Result<Vec<f32>> {
        let mut nhwc = vec![0.0; size.image()];
        to_channels_last(latents, &mut nhwc, size.channels, size.pixels());
        let latents = backend.upload(Shape::image(1, size.height, size.width, size.channels), &nhwc)?;
        let decoded = self.vae.decode(backend, &latents)?;
        let mut rgb = download(backend, &decoded)?;
        if !rgb.iter().all(|x| x.is_finite()) {
            bail!(Numeric, "the decoded image is not all finite");
        }
        rgb.iter_mut().for_each(|x| *x = (*x * 0.5 + 0.5).clamp(0.0, 1.0));
        Ok(rgb)
    }
}
