//! One request, from its text to its images.

use std::sync::Arc;
use std::time::Instant;

use super::Pipeline;
use super::denoiser::{self, Denoiser};
use super::inpaint;
use super::layout::{LatentSize, to_channels_last};
use super::request::{Observer, Output, Picture, Request, Stage, TokenCount};
use super::start::{LATENTS, Start};
use super::text::{Conditioning, download};
use crate::backend::{Backend, Shape};
use crate::sampling::guidance::{Guidance, Needs};
use crate::sampling::{Plan, Run};
use crate::util::buffer;
use crate::util::error::{Result, bail};
use crate::util::limits;

impl<B: Backend> Pipeline<B> {
    /// Checks what can be checked without computing: sizes, counts, given latents, the steps of the sampler.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option, its value and what it should be; `Unsupported` for a sampler or schedule
    /// that this model cannot have.
    pub fn check(&self, request: &Request) -> Result<()> {
        let size = self.latent_size(request)?;
        denoiser::check(self, request)?;
        if let Some(plan) = self.plan(request)? {
            guidance(request, &plan, size)?;
        }
        Ok(())
    }

    /// Runs a request to its end on `backend`, telling `observer` about each step from the calling thread.
    ///
    /// # Errors
    /// What [`Pipeline::check`] returns; `Cancelled` or any other error of the observer or the backend;
    /// `OutOfMemory`; `Numeric` when the model's output is not finite.
    pub fn generate(&self, backend: &B, request: &Request, observer: &mut dyn Observer) -> Result<Output> {
        let size = self.latent_size(request)?;
        let plan = self.plan(request)?;
        let steps = plan.as_ref().map_or(0, |plan| plan.len() as u32);

        let (mut prompt_tokens, mut negative_tokens) = (TokenCount::default(), TokenCount::default());
        let start = Instant::now();
        let latents;
        let (mut text_time, mut denoise_time) = Default::default();
        match &plan {
            None => latents = buffer::copy(request.latents.as_deref().unwrap_or_default(), LATENTS)?,
            Some(plan) => {
                observer.progress(Stage::Text, 0, steps)?;
                let guidance = guidance(request, plan, size)?;
                let (conditional, unconditional) =
                    self.encode_prompts(backend, request, guidance.needs_ever())?;
                prompt_tokens = conditional.tokens;
                negative_tokens = unconditional.as_ref().map_or(negative_tokens, |u| u.tokens);
                text_time = start.elapsed();

                if request.image.is_some() {
                    observer.progress(Stage::Encode, 0, steps)?;
                }
                let from = self.start(backend, request, size, plan)?;

                let start = Instant::now();
                latents = self.denoise(
                    backend,
                    request,
                    size,
                    plan,
                    from,
                    guidance,
                    &conditional,
                    unconditional.as_ref(),
                    observer,
                )?;
                denoise_time = start.elapsed();
            }
        }
        if !latents.iter().all(|x| x.is_finite()) {
            bail!(Numeric, "the latents after {steps} steps are not all finite");
        }

        let start = Instant::now();
        let mut images = Vec::new();
        if request.decode {
            for image in latents.chunks_exact(size.image()) {
                observer.progress(Stage::Decode, steps, steps)?;
                let mut rgb = self.decode(backend, size, image)?;
                if let (Some(picture), Some(mask)) = (&request.image, &request.mask) {
                    inpaint::paste(picture, mask, &mut rgb);
                }
                images.push(rgb);
            }
        }
        let copied = |image| buffer::copy(image, LATENTS);
        Ok(Output {
            width: (size.width * self.vae_scale_factor()) as u32,
            height: (size.height * self.vae_scale_factor()) as u32,
            images,
            latents: latents.chunks_exact(size.image()).map(copied).collect::<Result<_>>()?,
            sampler: plan.as_ref().map_or(self.info.default_sampler, |plan| plan.sampler()),
            steps,
            prompt: prompt_tokens,
            negative_prompt: negative_tokens,
            text_time,
            denoise_time,
            decode_time: start.elapsed(),
        })
    }

    /// The steps that the request asks for; `None` when it only decodes.
    fn plan(&self, request: &Request) -> Result<Option<Arc<Plan>>> {
        if request.steps == 0 {
            return Ok(None);
        }
        Ok(Some(Arc::new(Plan::new(&self.scheduler, &request.sampling()?)?)))
    }

    pub(super) fn latent_size(&self, request: &Request) -> Result<LatentSize> {
        let factor = self.vae_scale_factor();
        let (native_width, native_height) = match &request.image {
            Some(picture) => (picture.width, picture.height),
            None => (self.info.width, self.info.height),
        };
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
            height: side("height", request.height, native_height)?,
            width: side("width", request.width, native_width)?,
        };
        check_pictures(request, (size.width * factor) as u32, (size.height * factor) as u32)?;
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

    /// The prompt's conditioning and, when guidance takes it, the negative prompt's.
    fn encode_prompts(
        &self,
        backend: &B,
        request: &Request,
        needs: Needs,
    ) -> Result<(Conditioning, Option<Conditioning>)> {
        let zeros = request.negative_prompt.is_none() && self.index.force_zeros_for_empty_prompt;
        let mut prompts = vec![request.prompt.as_str()];
        if needs.unconditional && !zeros {
            prompts.push(request.negative_prompt.as_deref().unwrap_or_default());
        }
        let mut encoded = self.text.encode(backend, &prompts)?.into_iter();
        let Some(conditional) = encoded.next() else {
            bail!(Internal, "no prompt was encoded");
        };
        let unconditional = match needs.unconditional {
            true if zeros => Some(Conditioning::zeros_like(&conditional)?),
            _ => encoded.next(),
        };
        Ok((conditional, unconditional))
    }

    #[allow(clippy::too_many_arguments)]
    fn denoise(
        &self,
        backend: &B,
        request: &Request,
        size: LatentSize,
        plan: &Arc<Plan>,
        from: Start,
        guidance: Guidance,
        conditional: &Conditioning,
        unconditional: Option<&Conditioning>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<f32>> {
        // A schedule of the caller's own may end among noise on purpose.
        let ends_clean = request.sigmas.is_none();
        let foreseen = plan.evaluation_timesteps().collect();
        let mut denoiser =
            Denoiser::new(self, backend, request, guidance, size, foreseen, conditional, unconditional)?;
        let mut run = Run::new(plan.clone(), from.latents, size.batch, from.noise)?;
        while !run.is_done() {
            observer.progress(Stage::Denoise, run.step_index() as u32, plan.len() as u32)?;
            run.step(&mut |evaluation, out, unconditional| {
                denoiser.evaluate(evaluation, out, unconditional, observer)
            })?;
            if let Some(inpaint) = &from.inpaint {
                let steps = run.step_index();
                inpaint.restore(run.latents_mut(), plan, steps, ends_clean);
            }
        }
        observer.progress(Stage::Denoise, plan.len() as u32, plan.len() as u32)?;
        Ok(run.into_latents())
    }

    /// One image's latents `[c, h, w]` to RGB in `[0, 1]`.
    fn decode(&self, backend: &B, size: LatentSize, latents: &[f32]) -> Result<Vec<f32>> {
        let mut nhwc = buffer::zeros(size.image(), LATENTS)?;
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

/// The request's guidance over the steps of `plan`.
fn guidance(request: &Request, plan: &Plan, size: LatentSize) -> Result<Guidance> {
    Guidance::new(&request.guidance, plan.len(), size.batch, size.image(), plan.needs_unconditional())
}

/// Checks the picture that a request starts from, and its mask, against the size of the images to make.
fn check_pictures(request: &Request, width: u32, height: u32) -> Result<()> {
    let check = |name: &str, picture: &Picture| {
        if (picture.width, picture.height) != (width, height) {
            bail!(
                InvalidArgument,
                "{name} is {}x{}, but the images to make are {width}x{height}",
                picture.width,
                picture.height
            );
        }
        Ok(())
    };
    let Some(picture) = &request.image else {
        if request.mask.is_some() {
            bail!(InvalidArgument, "mask is set, but the image that it belongs to is not");
        }
        return Ok(());
    };
    if request.steps == 0 {
        bail!(InvalidArgument, "steps is 0, which decodes given latents, but image is set");
    }
    check("image", picture)?;
    request.mask.as_ref().map_or(Ok(()), |mask| check("mask", mask))
}
