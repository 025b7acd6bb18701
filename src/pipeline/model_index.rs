//! `model_index.json`: which classes a diffusers folder is made of.

use std::path::Path;

use serde_json::{Map, Value};

use crate::util::error::{Result, bail, error};
use crate::weights::json::read_json;

/// The pipelines this library runs, by how they condition the U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// One CLIP text encoder (SD 1.x, SD 2.x).
    StableDiffusion,
    /// Two text encoders, a pooled embedding and time ids (SDXL).
    StableDiffusionXl,
}

/// What `model_index.json` says.
#[derive(Debug, Clone)]
pub(super) struct ModelIndex {
    pub(super) class: String,
    pub(super) family: Family,
    /// SDXL: without a negative prompt the unconditional embeddings are zeros.
    pub(super) force_zeros_for_empty_prompt: bool,
}

/// The class each component must have; a folder that names another cannot be run as the pictures it was trained for.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
    ("text_encoder", &["CLIPTextModel", "CLIPTextModelWithProjection"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
];
const SECOND_COMPONENTS: &[(&str, &[&str])] = &[
    ("text_encoder_2", &["CLIPTextModelWithProjection"]),
    ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"]),
];

impl ModelIndex {
    /// Reads `folder/model_index.json` and checks that every component is one this library has.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder or file, `Format` when it is not an index, `Unsupported` for a
    /// pipeline or component class that is not built in.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let what = if folder.exists() { "is not a folder" } else { "does not exist" };
            bail!(NotFound, "{}: the model folder {what}", folder.display());
        }
        let path = folder.join("model_index.json");
        let value: Value = read_json(&path)?;
        let index =
            value.as_object().ok_or_else(|| error!(Format, "{}: not a JSON object", path.display()))?;
        let class = index
            .get("_class_name")
            .and_then(Value::as_str)
            .ok_or_else(|| error!(Format, "{}: _class_name is missing or not a string", path.display()))?;
        let family = match class {
            "StableDiffusionPipeline" => Family::StableDiffusion,
            "StableDiffusionXLPipeline" => Family::StableDiffusionXl,
            _ => bail!(
                Unsupported,
                "{}: pipeline class {class:?} is not supported (StableDiffusionPipeline and \
                 StableDiffusionXLPipeline are)",
                path.display()
            ),
        };
        check_components(index, COMPONENTS, &path)?;
        if family == Family::StableDiffusionXl {
            check_components(index, SECOND_COMPONENTS, &path)?;
        }
        let zeros = index.get("force_zeros_for_empty_prompt").and_then(Value::as_bool);
        Ok(Self {
            class: class.to_owned(),
            family,
            // diffusers' default of StableDiffusionXLPipeline.
            force_zeros_for_empty_prompt: zeros.unwrap_or(family == Family::StableDiffusionXl),
        })
    }
}

/// Each component is `[library, class]`.
fn check_components(index: &Map<String, Value>, wanted: &[(&str, &[&str])], path: &Path) -> Result<()> {
    for (component, classes) in wanted {
        let class = index
            .get(*component)
            .and_then(|v| v.get(1))
            .and_then(Value::as_str)
            .ok_or_else(|| error!(Format, "{}: component {component:?} is missing", path.display()))?;
        if !classes.contains(&class) {
            bail!(
                Unsupported,
                "{}: {component} has class {class:?}, which is not supported ({} is)",
                path.display(),
                classes.join(" or ")
            );
        }
    }
    Ok(())
}
