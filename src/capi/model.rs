//! Models.

use std::ffi::{CString, c_char};
use std::path::Path;

use super::engine::diffusion_engine;
use super::error::{diffusion_error, diffusion_status};
use super::ffi::{
    self, Handle, Out, Struct, c_string, guard, in_ref, in_str, in_struct, opt_str, out_struct,
};
use crate::api::{Model, ModelOptions, WeightFormat};
use crate::util::error::{Result, bail};

/// What the weights are in memory: a value of ::diffusion_weight_format_enum.
/// \since 0.1.0
/// \ingroup models
pub type diffusion_weight_format = i32;

/// Values of ::diffusion_weight_format.
/// \ingroup models
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_weight_format_enum {
    /// In the precision of the files on the CPU, in that of the engine on CUDA.
    DIFFUSION_WEIGHT_FORMAT_AS_STORED = 0,
    /// Linear layers and convolutions, but for the U-Net's first and last, as 8-bit integers with a scale for every 64
    /// inputs of an output. The weights of Stable Diffusion 1.5 take 1.18 GB for 2.14 GB in f16, a step about the same
    /// time. One evaluation of the U-Net of models/emoji-64 is 0.6 % off (relative L2), its pictures have a PSNR of
    /// 52 dB and more against f16. CPU only.
    DIFFUSION_WEIGHT_FORMAT_INT8 = 1,
}

/// How to load a model. All zero (but for struct_size) is the default.
/// \since 0.1.0
/// \ingroup models
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_model_desc {
    /// sizeof(diffusion_model_desc)
    pub struct_size: u32,
    /// What the weights are in memory. A format that the device does not have is ::DIFFUSION_ERROR_UNSUPPORTED.
    pub weights: diffusion_weight_format,
    /// Variant in the names of the weight files: "fp16" picks model.fp16.safetensors. NULL = the plain files, or
    /// the only ones there are.
    pub variant: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_model_desc {}

/// Facts about a model. The strings are valid until the model is freed.
/// \since 0.1.0
/// \ingroup models
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_model_info {
    /// sizeof(diffusion_model_info), set by the caller
    pub struct_size: u32,
    /// Width in pixels of the images the model was trained for.
    pub width: u32,
    /// Height in pixels of the images the model was trained for.
    pub height: u32,
    /// Width and height of an image must be multiples of this.
    pub size_multiple: u32,
    /// Channels of the latents.
    pub latent_channels: u32,
    /// Longest prompt in tokens, begin and end marks not counted. Tokens past it are dropped.
    pub max_tokens: u32,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Bytes of the weights in their files.
    pub weight_bytes: u64,
    /// The pipeline's class in model_index.json, such as "StableDiffusionPipeline".
    pub pipeline_class: *const c_char,
    /// What the network predicts: "epsilon", "v_prediction", "sample", "flow_prediction" or "edm_v_prediction".
    pub prediction_type: *const c_char,
    /// The sampler of the model's scheduler_config.json, as ::DIFFUSION_OPTION_SAMPLER spells it.
    pub default_sampler: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_model_info {}

/// The weights of a pipeline, loaded once, immutable, and shared by any number of sessions.
/// \since 0.1.0
/// \ingroup models
#[repr(C)]
pub struct diffusion_model {
    _private: [u8; 0],
}

pub struct ModelHandle {
    pub(super) model: Model,
    pipeline_class: CString,
    prediction_type: CString,
    default_sampler: CString,
}

impl Handle for diffusion_model {
    type Value = ModelHandle;
}

/// Loads a model from a folder in diffusers layout.
///
/// The folder holds model_index.json and, for each component it names, a folder with its config and weights as
/// safetensors: one file, or shards with an index. Every tensor is accounted for: one that is missing, unknown or
/// of the wrong shape is an error that names it. The files must not change until the function returns.
///
/// \param engine What the model runs on; the model keeps it alive.
/// \param path The folder, UTF-8.
/// \param desc What is wanted; NULL = all defaults.
/// \param model Receives the model, to be freed with diffusion_model_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NOT_FOUND if the folder or one of its files is not there;
/// ::DIFFUSION_ERROR_FORMAT for a file that is corrupt or contradicts another; ::DIFFUSION_ERROR_UNSUPPORTED for a
/// component this version does not know or weights the device does not have; ::DIFFUSION_ERROR_IO;
/// ::DIFFUSION_ERROR_NUMERIC;
/// ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_INVALID_ARGUMENT; on CUDA also
/// ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, ::DIFFUSION_ERROR_DEVICE and ::DIFFUSION_ERROR_DEVICE_LOST.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup models
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_model_load(
    engine: *mut diffusion_engine,
    path: *const c_char,
    desc: *const diffusion_model_desc,
    model: *mut *mut diffusion_model,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(model, "model")?;
            let engine = &in_ref(engine, "engine")?.engine;
            let path = Path::new(in_str(path, "path")?);
            let desc = in_struct(desc, "desc")?;
            let model = Model::load(engine, path, options(&desc)?)?;
            let pipeline_class = c_string(&model.info().pipeline_class);
            let prediction_type = c_string(model.info().prediction_type);
            let default_sampler = c_string(model.default_sampler());
            out.set(ModelHandle { model, pipeline_class, prediction_type, default_sampler });
            Ok(())
        })
    }
}

/// What a description says.
///
/// # Safety
/// Its strings are NULL or valid for `'a`.
pub(super) unsafe fn options<'a>(desc: &diffusion_model_desc) -> Result<ModelOptions<'a>> {
    let weights = match desc.weights {
        0 => WeightFormat::AsStored,
        1 => WeightFormat::Int8,
        number => bail!(InvalidArgument, "weights: there is no format {number}"),
    };
    // SAFETY: passed on from the caller.
    Ok(ModelOptions { variant: unsafe { opt_str(desc.variant, "variant") }?, weights })
}

/// Frees a model.
///
/// Sessions and requests made from it go on working and keep the weights until they are freed too.
///
/// \param model The model, or NULL for nothing to happen.
/// \threadsafety Any thread; the model must not be in use.
/// \since 0.1.0
/// \ingroup models
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_free(model: *mut diffusion_model) {
    // SAFETY: NULL or a model the caller gives up.
    unsafe { ffi::free(model) }
}

/// Tells what a model is.
///
/// \param model The model.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup models
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_model_get_info(
    model: *const diffusion_model,
    info: *mut diffusion_model_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let handle = in_ref(model, "model")?;
            let model = handle.model.info();
            let facts = diffusion_model_info {
                struct_size: 0,
                width: model.width,
                height: model.height,
                size_multiple: model.size_multiple,
                latent_channels: model.latent_channels,
                max_tokens: model.max_tokens,
                parameters: model.parameters,
                weight_bytes: model.weight_bytes,
                pipeline_class: handle.pipeline_class.as_ptr(),
                prediction_type: handle.prediction_type.as_ptr(),
                default_sampler: handle.default_sampler.as_ptr(),
            };
            out_struct(info, "info", facts)
        })
    }
}
