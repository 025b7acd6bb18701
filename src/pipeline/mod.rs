//! What happens to one request: text → start → denoise → decode → image.

mod denoiser;
mod generate;
mod inpaint;
mod layout;
mod model_index;
mod rehearse;
pub mod request;
mod start;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_guidance;
#[cfg(test)]
mod tests_img2img;
#[cfg(test)]
mod tests_step;
mod text;

use std::path::Path;
use std::sync::Arc;

use crate::backend::Backend;
use crate::models::autoencoder_kl::{AutoencoderKL, AutoencoderKLConfig};
use crate::models::config::SampleSize;
use crate::models::unet_2d_condition::{UNet2DConditionConfig, UNet2DConditionModel};
use crate::sampling::{Sampler, SchedulerConfig};
use crate::util::error::{Result, bail};
use crate::util::limits;
use crate::util::log::Log;
use crate::weights::json::read_json;
use crate::weights::{Checkpoint, Scope, Spread};
use model_index::{Family, ModelIndex};
use text::TextEncoders;

/// The latents' size that Stable Diffusion 1.x was trained at, for configs that do not say.
const DEFAULT_SAMPLE_SIZE: SampleSize = SampleSize::Square(64);

/// A loaded model: every component of a diffusers folder, ready to run on one device. Immutable, so any number
/// of threads may run requests on it at once, each with a backend of its own.
pub struct Pipeline<B: Backend> {
    index: ModelIndex,
    scheduler: SchedulerConfig,
    text: TextEncoders<B>,
    unet: UNet2DConditionModel<B>,
    vae: AutoencoderKL<B>,
    info: Info,
}

/// Facts about a loaded model.
#[derive(Debug, Clone)]
pub struct Info {
    /// diffusers' class, such as `StableDiffusionPipeline`.
    pub pipeline_class: String,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: &'static str,
    /// What the model's scheduler config asks for.
    pub default_sampler: Sampler,
    /// The image size in pixels that the model was trained at.
    pub width: u32,
    pub height: u32,
    /// Image sides must be multiples of this.
    pub size_multiple: u32,
    pub latent_channels: u32,
    /// Longest prompt in tokens, begin and end marks not counted.
    pub max_tokens: u32,
    /// Parameters of all components, and the bytes of their weights in the files.
    pub parameters: u64,
    pub weight_bytes: u64,
}

impl<B: Backend> Pipeline<B> {
    /// Loads a diffusers folder onto `backend`. `variant` picks files such as `model.fp16.safetensors`; without it
    /// the plain file is taken, or the only one there is.
    ///
    /// # Errors
    /// `NotFound` for a missing folder or file, `Format` for a corrupt or contradictory one, `Unsupported` for a
    /// class or option that is not built in, `Numeric` for weights that are not finite, `OutOfMemory`.
    pub fn load(folder: &Path, variant: Option<&str>, backend: &B, log: &Log) -> Result<Self> {
        let index = ModelIndex::read(folder)?;
        let mut scheduler = SchedulerConfig::load(&folder.join("scheduler").join("scheduler_config.json"))?;
        if index.family == Family::StableDiffusion {
            scheduler = scheduler.for_stable_diffusion();
        }
        if scheduler.is_substituted() {
            log.warn(format_args!(
                "{}: the scheduler {} is not built in; {} with its schedule takes its place",
                folder.display(),
                scheduler.class_name,
                scheduler.sampler.name()
            ));
        }
        let threads = backend.clone();
        let mut size = WeightSize {
            headers_only: !B::READS_WEIGHTS,
            spread: Some(Arc::new(move |tasks, body| threads.on_threads(tasks, body))),
            ..WeightSize::default()
        };
        let text = TextEncoders::load(folder, &index, variant, backend, &mut size)?;

        let unet_dir = folder.join("unet");
        let unet_config: UNet2DConditionConfig = read_json(&unet_dir.join("config.json"))?;
        let unet = size.load(&unet_dir, "diffusion_pytorch_model", variant, |root| {
            UNet2DConditionModel::load(root, &unet_config, backend)
        })?;
        let vae_dir = folder.join("vae");
        let vae_config: AutoencoderKLConfig = read_json(&vae_dir.join("config.json"))?;
        let vae = size.load(&vae_dir, "diffusion_pytorch_model", variant, |root| {
            AutoencoderKL::load(root, &vae_config, backend)
        })?;

        check_fit(folder, &unet_config, &vae_config, text.context_dim())?;
        let two_encoders = index.family == Family::StableDiffusionXl;
        if unet.takes_added_conditions() != two_encoders {
            bail!(
                Format,
                "{}: addition_embed_type contradicts {} in model_index.json",
                unet_dir.join("config.json").display(),
                index.class
            );
        }
        let vae_scale_factor = vae_config.scale_factor();
        let (height, width) = unet_config.sample_size.unwrap_or(DEFAULT_SAMPLE_SIZE).sides();
        let pixels = |side: u32| match side.checked_mul(vae_scale_factor as u32) {
            Some(pixels) if (1..=limits::IMAGE_SIDE).contains(&pixels) => Ok(pixels),
            _ => bail!(
                Format,
                "{}: sample_size = {side} makes no images of 1 to {} pixels a side",
                unet_dir.join("config.json").display(),
                limits::IMAGE_SIDE
            ),
        };
        let info = Info {
            pipeline_class: index.class.clone(),
            prediction_type: scheduler.prediction_type.name(),
            default_sampler: scheduler.sampler,
            width: pixels(width)?,
            height: pixels(height)?,
            size_multiple: vae_scale_factor as u32,
            latent_channels: vae_config.latent_channels as u32,
            max_tokens: text.max_tokens().saturating_sub(2) as u32,
            parameters: size.parameters,
            weight_bytes: size.bytes,
        };
        Ok(Self { index, scheduler, text, unet, vae, info })
    }

    /// Facts about the model.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The noise schedule, and how the model wants to be sampled.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Pixels a latent pixel stands for, along each side.
    fn vae_scale_factor(&self) -> usize {
        self.info.size_multiple as usize
    }
}

/// Parameters and bytes of the components loaded so far.
#[derive(Default)]
struct WeightSize {
    parameters: u64,
    bytes: u64,
    /// Whether the backend leaves the weights' bytes alone.
    headers_only: bool,
    /// See [`Checkpoint::spread`].
    spread: Option<Spread>,
}

impl WeightSize {
    /// Opens a component's weights, builds it from them and makes sure that every tensor was used.
    fn load<T>(
        &mut self,
        dir: &Path,
        stem: &str,
        variant: Option<&str>,
        build: impl FnOnce(&Scope<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut checkpoint = Checkpoint::open(dir, stem, variant)?;
        checkpoint.headers_only = self.headers_only;
        checkpoint.spread.clone_from(&self.spread);
        let component = build(&checkpoint.root())?;
        checkpoint.finish()?;
        self.parameters += checkpoint.parameters();
        self.bytes += checkpoint.weight_bytes();
        Ok(component)
    }
}

/// Checks that the components were made for each other.
fn check_fit(
    folder: &Path,
    unet: &UNet2DConditionConfig,
    vae: &AutoencoderKLConfig,
    context_dim: usize,
) -> Result<()> {
    let folder = folder.display();
    if unet.in_channels != vae.latent_channels || unet.out_channels != vae.latent_channels {
        bail!(
            Unsupported,
            "{folder}: the U-Net turns {} channels into {}, the VAE has {} latent channels",
            unet.in_channels,
            unet.out_channels,
            vae.latent_channels
        );
    }
    if vae.in_channels != 3 || vae.out_channels != 3 {
        bail!(Unsupported, "{folder}: the VAE's images have {} channels, not 3", vae.out_channels);
    }
    let dims = unet.cross_attention_dim.expand("cross_attention_dim", unet.block_out_channels.len())?;
    if let Some(dim) = dims.iter().find(|dim| **dim != context_dim) {
        bail!(Format, "{folder}: the U-Net attends to {dim} channels, the text encoders give {context_dim}");
    }
    Ok(())
}
