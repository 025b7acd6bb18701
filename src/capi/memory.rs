//! How much memory a request needs.

use std::ffi::c_char;
use std::path::Path;

use super::engine::diffusion_engine;
use super::error::{diffusion_error, diffusion_status};
use super::ffi::{Struct, guard, in_ref, in_str, in_struct, out_struct, truth};
use super::model::{diffusion_model_desc, options};
use crate::api::MemoryQuery;

/// What decides how much memory a text-to-image request takes. All zero (but for struct_size) is one image of the
/// model's size without guidance.
/// \since 0.1.0
/// \ingroup models
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_memory_query {
    /// sizeof(diffusion_memory_query)
    pub struct_size: u32,
    /// Width of the images in pixels; 0 = the model's.
    pub width: u32,
    /// Height of the images in pixels; 0 = the model's.
    pub height: u32,
    /// Images of one request; 0 = 1.
    pub batch_size: u32,
    /// 1 with guidance (a guidance scale above 1), which doubles the batch; 0 without.
    pub guided: i32,
    /// Denoising steps; 0 = 20.
    pub steps: u32,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_memory_query {}

/// Bytes of the memory of the device in use (the host's for the CPU, the GPU's for CUDA) that a model and one request on
/// it take, with what the session keeps in reserve. It is the ::diffusion_engine_info::memory_peak to come, and what the
/// driver takes for itself is not counted.
/// \since 0.1.0
/// \ingroup models
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_memory_prediction {
    /// sizeof(diffusion_memory_prediction), set by the caller
    pub struct_size: u32,
    /// 1 if the request runs within limit while nothing else does in the engine, else 0. It may be 1 with a total above
    /// limit: reserves are given up before a request fails.
    pub fits: i32,
    /// Of the model's weights, which all its sessions share.
    pub weights: u64,
    /// The most that a session takes at a time beside them.
    pub activations: u64,
    /// Both.
    pub total: u64,
    /// The most that there can be: ::diffusion_engine_info::memory_limit, or on CUDA what the GPU has if that is less
    /// or there is no limit; 0 = no limit.
    pub limit: u64,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_memory_prediction {}

/// Predicts how much memory one request takes, before its model is loaded.
///
/// Of the model's folder only configs, tokenizers and the headers of the weight files are read; on the device nothing is
/// allocated. Image-to-image, perturbed attention and several sessions take more.
///
/// \param engine What the model would run on.
/// \param path The model's folder, UTF-8, as for diffusion_model_load().
/// \param desc As for diffusion_model_load(); NULL = all defaults.
/// \param query The request; NULL = all defaults.
/// \param prediction Receives the prediction; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK, whether it fits or not; ::DIFFUSION_ERROR_NOT_FOUND, ::DIFFUSION_ERROR_FORMAT,
/// ::DIFFUSION_ERROR_UNSUPPORTED and ::DIFFUSION_ERROR_IO as diffusion_model_load();
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT also for a size, a batch_size or steps that no request may have;
/// ::DIFFUSION_ERROR_OUT_OF_MEMORY.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup models
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_predict_memory(
    engine: *const diffusion_engine,
    path: *const c_char,
    desc: *const diffusion_model_desc,
    query: *const diffusion_memory_query,
    prediction: *mut diffusion_memory_prediction,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let engine = &in_ref(engine, "engine")?.engine;
            let path = Path::new(in_str(path, "path")?);
            let options = options(&in_struct(desc, "desc")?)?;
            let query = in_struct(query, "query")?;
            let query = MemoryQuery {
                width: query.width,
                height: query.height,
                batch_size: query.batch_size,
                steps: query.steps,
                guided: truth(query.guided, "guided")?,
            };
            let predicted = engine.predict_memory(path, options, &query)?;
            let facts = diffusion_memory_prediction {
                struct_size: 0,
                fits: i32::from(predicted.fits),
                weights: predicted.weights,
                activations: predicted.activations,
                total: predicted.total,
                limit: predicted.limit,
            };
            out_struct(prediction, "prediction", facts)
        })
    }
}
