//! Where the latents of a request start: its noise and, for image-to-image, the picture's latents.

use super::Pipeline;
use super::inpaint::Inpaint;
use super::layout::{LatentSize, to_channels_first};
use super::request::{Picture, Profile, Request};
use super::text::download;
use crate::backend::{Backend, Shape};
use crate::sampling::{NoiseLevel, NoiseSource, NoiseStream, Plan};
use crate::util::buffer;
use crate::util::error::{Result, bail};

/// What memory is missing for, in errors.
pub(super) const LATENTS: &str = "latents";

/// What a run starts from.
pub(super) struct Start {
    /// `[batch, channels, h, w]` at [`Plan::level`] 0.
    pub(super) latents: Vec<f32>,
    /// Where the sampler's fresh noise comes from.
    pub(super) noise: Box<dyn NoiseSource + Send>,
    pub(super) inpaint: Option<Inpaint>,
}

impl<B: Backend> Pipeline<B> {
    /// Draws the first noise and encodes the request's picture.
    ///
    /// Each image's stream gives, as diffusers' generators do, first the sample of the encoder's distribution, then the
    /// first noise, then the sampler's noise.
    pub(super) fn start(
        &self,
        backend: &B,
        request: &Request,
        size: LatentSize,
        plan: &Plan,
    ) -> Result<Start> {
        let mut streams = Streams::new(request, size);
        let Some(picture) = &request.image else {
            let mut latents = streams.first_noise()?;
            let scale = plan.init_noise_sigma();
            latents.iter_mut().for_each(|x| *x *= scale);
            return Ok(Start { latents, noise: streams.into_source(plan)?, inpaint: None });
        };
        let original = self.encode(backend, picture, size, &mut streams)?;
        let noise = streams.first_noise()?;
        let mut latents = buffer::copy(&noise, LATENTS)?;
        if request.mask.is_some() && request.strength == 1.0 {
            // Nothing of the picture remains below the mask; diffusers' `is_strength_max`.
            let scale = plan.init_noise_sigma();
            latents.iter_mut().for_each(|x| *x *= scale);
        } else {
            let level = plan.level(0);
            latents.iter_mut().zip(&original).for_each(|(x, original)| *x = noised(level, *original, *x));
        }
        let mut inpaint = None;
        if let Some(mask) = &request.mask {
            if request.profile == Profile::Diffusers {
                // diffusers encodes the masked picture, too, which models of more channels take.
                streams.draw()?;
            }
            inpaint = Some(Inpaint::new(mask, size, original, noise)?);
        }
        Ok(Start { latents, noise: streams.into_source(plan)?, inpaint })
    }

    /// The latents of a picture as the U-Net sees them, one for each image of the batch.
    ///
    /// In the diffusers profile they are samples of the encoder's distribution, in the others its means: those programs
    /// spend no random numbers of the seed on it.
    fn encode(
        &self,
        backend: &B,
        picture: &Picture,
        size: LatentSize,
        streams: &mut Streams<'_>,
    ) -> Result<Vec<f32>> {
        let mut pixels = buffer::copy(&picture.rgb, "image")?;
        pixels.iter_mut().for_each(|x| *x = 2.0 * *x - 1.0);
        let shape = Shape::image(1, picture.height as usize, picture.width as usize, 3);
        let moments = self.vae.encode(backend, &backend.upload(shape, &pixels)?)?;
        let moments = download(backend, &moments)?;
        if moments.len() != 2 * size.image() {
            bail!(Internal, "the encoder gives {} values for latents of {}", moments.len(), size.image());
        }
        let mut planes = buffer::zeros(moments.len(), LATENTS)?;
        to_channels_first(&moments, &mut planes, 2 * size.channels, size.pixels());
        let (means, log_variances) = planes.split_at(size.image());

        let mut latents = match streams.request.profile {
            Profile::Diffusers => streams.draw()?,
            Profile::A1111 | Profile::ComfyUi => buffer::zeros(size.len(), LATENTS)?,
        };
        let channels = self.vae.config().unscale();
        for image in latents.chunks_exact_mut(size.image()) {
            for (i, x) in image.iter_mut().enumerate() {
                let deviation = (0.5 * log_variances[i].clamp(-30.0, 20.0)).exp();
                let (scale, shift) = channels[i / size.pixels()];
                *x = (means[i] + deviation * *x - shift) / scale;
            }
        }
        if !latents.iter().all(|x| x.is_finite()) {
            bail!(Numeric, "the encoded image is not all finite");
        }
        Ok(latents)
    }
}

/// A value of the forward process: alpha·x₀ + sigma·ε.
pub(super) fn noised(level: NoiseLevel, original: f32, noise: f32) -> f32 {
    (level.alpha * f64::from(original) + level.sigma * f64::from(noise)) as f32
}

/// The random numbers of a request: a stream for each image, from which draws go on.
pub(super) struct Streams<'a> {
    request: &'a Request,
    size: LatentSize,
    streams: Vec<NoiseStream>,
}

impl<'a> Streams<'a> {
    pub(super) fn new(request: &'a Request, size: LatentSize) -> Self {
        let stream = |index| NoiseStream::new(request.noise(), request.image_seed(index));
        Self { request, size, streams: (0..size.batch as u64).map(stream).collect() }
    }

    /// The next draw of each image's stream: `[batch, channels, h, w]`.
    fn draw(&mut self) -> Result<Vec<f32>> {
        let mut values = buffer::zeros(self.size.len(), LATENTS)?;
        for (stream, image) in self.streams.iter_mut().zip(values.chunks_exact_mut(self.size.image())) {
            stream.normal(image);
        }
        Ok(values)
    }

    /// Noise of unit variance: the request's own, or drawn; a variation of it if one is asked for.
    ///
    /// ComfyUI draws the noise of a batch at once from one stream: there, an image depends on its place in its batch.
    pub(super) fn first_noise(&mut self) -> Result<Vec<f32>> {
        let Request { variation_seed, variation_strength, .. } = *self.request;
        let mut noise = match (&self.request.latents, self.request.profile) {
            (Some(latents), _) => buffer::copy(latents, LATENTS)?,
            (None, Profile::ComfyUi) => self.whole_batch(self.request.seed)?,
            (None, _) => self.draw()?,
        };
        if variation_strength > 0.0 {
            let other = match self.request.profile {
                Profile::ComfyUi => self.whole_batch(variation_seed)?,
                _ => {
                    let mut values = buffer::zeros(self.size.len(), LATENTS)?;
                    for (i, image) in values.chunks_exact_mut(self.size.image()).enumerate() {
                        let seed = variation_seed.wrapping_add(i as u64);
                        NoiseStream::new(self.request.noise(), seed).normal(image);
                    }
                    values
                }
            };
            let images = noise.chunks_exact_mut(self.size.image());
            for (low, high) in images.zip(other.chunks_exact(self.size.image())) {
                slerp(variation_strength, low, high, self.size);
            }
        }
        Ok(noise)
    }

    fn whole_batch(&self, seed: u64) -> Result<Vec<f32>> {
        let mut values = buffer::zeros(self.size.len(), LATENTS)?;
        NoiseStream::new(self.request.noise(), seed).normal(&mut values);
        Ok(values)
    }

    /// Where the sampler's noise comes from. Each image's stream goes on, unless eta_noise_seed_delta asks for others.
    /// ComfyUI's samplers begin a stream of their own, on the CPU at the next seed so that it is not the first noise
    /// again; images after the first, which there share it, have seeds of their own here.
    pub(super) fn into_source(self, plan: &Plan) -> Result<Box<dyn NoiseSource + Send>> {
        let comfyui = self.request.profile == Profile::ComfyUi;
        let delta = self.request.eta_noise_seed_delta;
        let seeds: Vec<u64> = (0..self.size.batch as u64)
            .map(|index| match comfyui {
                true => self.request.seed.wrapping_add(1).wrapping_add(index),
                false => self.request.image_seed(index),
            })
            .map(|seed| seed.wrapping_add(delta))
            .collect();
        let noise = self.request.noise();
        let streams = match comfyui || delta != 0 {
            true => seeds.iter().map(|seed| NoiseStream::new(noise, *seed)).collect(),
            false => self.streams,
        };
        plan.noise_source(streams, &seeds, self.size.len())
    }
}

/// Spherical interpolation of two noises `[channels, h, w]`, from `low` (at 0) to `high` (at 1), in place of `low`.
///
/// As A1111 defines it: column by column, for it takes the norm along the height; and where the columns are nearly
/// parallel on average, a straight mix, whose ends are the other way round.
pub(super) fn slerp(strength: f64, low: &mut [f32], high: &[f32], size: LatentSize) {
    /// A mean cosine above this is "nearly parallel".
    const PARALLEL: f64 = 0.9995;
    let columns: Vec<usize> = (0..size.channels)
        .flat_map(|channel| (0..size.width).map(move |x| channel * size.pixels() + x))
        .collect();
    let cosine = |low: &[f32], first: usize| {
        let (mut dot, mut low_square, mut high_square) = (0.0, 0.0, 0.0);
        for i in (first..).step_by(size.width).take(size.height) {
            let (a, b) = (f64::from(low[i]), f64::from(high[i]));
            dot += a * b;
            low_square += a * a;
            high_square += b * b;
        }
        // 0/0 only for noise of zeros, which has no direction.
        if dot == 0.0 { 0.0 } else { (dot / (low_square * high_square).sqrt()).clamp(-1.0, 1.0) }
    };
    let cosines: Vec<f64> = columns.iter().map(|first| cosine(low, *first)).collect();
    if cosines.iter().sum::<f64>() / cosines.len() as f64 > PARALLEL {
        for (low, high) in low.iter_mut().zip(high) {
            *low = (f64::from(*low) * strength + f64::from(*high) * (1.0 - strength)) as f32;
        }
        return;
    }
    for (first, cosine) in columns.into_iter().zip(cosines) {
        let omega = libm::acos(cosine);
        let sine = libm::sin(omega);
        // Parallel and opposite columns (all are, in latents of height 1) have no arc between them.
        let (of_low, of_high) = match sine < 1e-6 {
            true => (1.0 - strength, strength),
            false => (libm::sin((1.0 - strength) * omega) / sine, libm::sin(strength * omega) / sine),
        };
        for i in (first..).step_by(size.width).take(size.height) {
            low[i] = (of_low * f64::from(low[i]) + of_high * f64::from(high[i])) as f32;
        }
    }
}
