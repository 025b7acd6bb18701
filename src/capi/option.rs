//! The option table, as C sees it.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{Struct, c_string, guard, guard_or, opt_str, out_struct};
use crate::api::OptionId;
use crate::api::options::{Kind, OPTIONS};
use crate::util::error::error;

/// An option of a request: a value of ::diffusion_option_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_option = i32;

/// Values of ::diffusion_option. In brackets: type, default, range. diffusion_option_get_info() tells the same.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_option_enum {
    /// What the image shows. [string, ""]
    DIFFUSION_OPTION_PROMPT = 1,
    /// What guidance steers away from; unset is not the same as empty for some SDXL models. [string, unset]
    DIFFUSION_OPTION_NEGATIVE_PROMPT = 2,
    /// Image width in pixels, a multiple of size_multiple; 0 = the model's own. [int, 0, 0..8192]
    DIFFUSION_OPTION_WIDTH = 3,
    /// Image height in pixels, a multiple of size_multiple; 0 = the model's own. [int, 0, 0..8192]
    DIFFUSION_OPTION_HEIGHT = 4,
    /// Denoising steps; 0 = decode the given latents as they are. [int, 20, 0..1000]
    DIFFUSION_OPTION_STEPS = 5,
    /// Strength of classifier-free guidance; 1 and below turn it off. [float, 7.5, 0..100]
    DIFFUSION_OPTION_GUIDANCE_SCALE = 6,
    /// Seed of the noise, any 64 bits; image i of a batch uses seed + i. [int, 0, any]
    DIFFUSION_OPTION_SEED = 7,
    /// Images to make at once. [int, 1, 1..64]
    DIFFUSION_OPTION_BATCH_SIZE = 8,
    /// How noise becomes an image; auto = the model's default_sampler. [::diffusion_sampler, auto]
    DIFFUSION_OPTION_SAMPLER = 9,
    /// Which training timesteps the sampler visits; auto = the model's own. [::diffusion_timestep_spacing, auto]
    DIFFUSION_OPTION_TIMESTEP_SPACING = 10,
    /// Fresh noise in each ddim step: 0 = none, 1 = as much as ddpm. [float, 0, 0..1]
    DIFFUSION_OPTION_ETA = 11,
    /// Noise generator: philox equals torch's CUDA randn, mt19937 its CPU randn; auto = philox.
    /// [::diffusion_noise, auto]
    DIFFUSION_OPTION_NOISE = 12,
    /// Start noise of unit variance, batch x channels x height/f x width/f, in place of noise from the seed.
    /// [floats, unset]
    ///
    /// NCHW as in diffusers: the latents of image 0 first, f the model's reduction (8 for all Stable Diffusion
    /// models). With 0 steps these are the latents to decode, as diffusion_job_copy_latents() gives them.
    DIFFUSION_OPTION_LATENTS = 13,
    /// What to make: auto = image; latents skips the decoder. [::diffusion_output, auto]
    DIFFUSION_OPTION_OUTPUT = 14,
}

/// How noise becomes an image: a value of ::diffusion_sampler_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_sampler = i32;

/// Values of ::diffusion_sampler.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_sampler_enum {
    /// The one of the model's scheduler_config.json.
    DIFFUSION_SAMPLER_AUTO = 0,
    /// Denoising diffusion probabilistic models (Ho et al. 2020).
    DIFFUSION_SAMPLER_DDPM = 1,
    /// Denoising diffusion implicit models (Song et al. 2020).
    DIFFUSION_SAMPLER_DDIM = 2,
    /// Euler's method on the probability flow (Karras et al. 2022, algorithm 2 without churn).
    DIFFUSION_SAMPLER_EULER = 3,
}

/// Which training timesteps a sampler visits: a value of ::diffusion_timestep_spacing_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_timestep_spacing = i32;

/// Values of ::diffusion_timestep_spacing (Lin et al. 2023, table 2).
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_timestep_spacing_enum {
    /// The one of the model's scheduler_config.json.
    DIFFUSION_TIMESTEP_SPACING_AUTO = 0,
    /// Even steps from the first timestep.
    DIFFUSION_TIMESTEP_SPACING_LEADING = 1,
    /// Even steps to the last timestep.
    DIFFUSION_TIMESTEP_SPACING_TRAILING = 2,
    /// Even steps from the first to the last timestep.
    DIFFUSION_TIMESTEP_SPACING_LINSPACE = 3,
}

/// Where noise comes from: a value of ::diffusion_noise_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_noise = i32;

/// Values of ::diffusion_noise.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_noise_enum {
    /// ::DIFFUSION_NOISE_PHILOX
    DIFFUSION_NOISE_AUTO = 0,
    /// Philox 4x32-10: equal to torch.randn on CUDA.
    DIFFUSION_NOISE_PHILOX = 1,
    /// Mersenne Twister: equal to torch.randn on the CPU.
    DIFFUSION_NOISE_MT19937 = 2,
}

/// What a job makes: a value of ::diffusion_output_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_output = i32;

/// Values of ::diffusion_output.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_output_enum {
    /// ::DIFFUSION_OUTPUT_IMAGE
    DIFFUSION_OUTPUT_AUTO = 0,
    /// Images, and the latents they were decoded from.
    DIFFUSION_OUTPUT_IMAGE = 1,
    /// Latents only: the decoder does not run.
    DIFFUSION_OUTPUT_LATENTS = 2,
}

/// What values an option takes: a value of ::diffusion_option_type_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_option_type = i32;

/// Values of ::diffusion_option_type.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_option_type_enum {
    /// UTF-8 text: diffusion_request_set_string().
    DIFFUSION_OPTION_TYPE_STRING = 1,
    /// A whole number: diffusion_request_set_int().
    DIFFUSION_OPTION_TYPE_INT = 2,
    /// A number: diffusion_request_set_float().
    DIFFUSION_OPTION_TYPE_FLOAT = 3,
    /// One of some choices: diffusion_request_set_int() by number, diffusion_request_set_string() by name.
    DIFFUSION_OPTION_TYPE_ENUM = 4,
    /// A list of numbers: diffusion_request_set_floats().
    DIFFUSION_OPTION_TYPE_FLOATS = 5,
}

/// What an option is. The strings are static: valid for ever.
/// \since 0.1.0
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_option_info {
    /// sizeof(diffusion_option_info), set by the caller
    pub struct_size: u32,
    /// The option.
    pub option: diffusion_option,
    /// What values it takes.
    pub r#type: diffusion_option_type,
    /// For ::DIFFUSION_OPTION_TYPE_ENUM: the choices are 0 to choice_count - 1. Else 0.
    pub choice_count: u32,
    /// The least value of a number or enum; else 0. For ::DIFFUSION_OPTION_SEED the nearest double.
    pub min: f64,
    /// The greatest value of a number or enum; else 0. For ::DIFFUSION_OPTION_SEED the nearest double.
    pub max: f64,
    /// The value of a number or enum that is not set; else 0.
    pub default_value: f64,
    /// The name bindings and tools use, such as "guidance_scale".
    pub name: *const c_char,
    /// One line for people.
    pub summary: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_option_info {}

/// How many options there are.
///
/// \returns The number of options; diffusion_option_get_info() takes 0 to one less.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_option_count() -> usize {
    OPTIONS.len()
}

/// Tells what an option is, so that bindings and user interfaces need no list of their own.
///
/// \param index 0 to diffusion_option_count() - 1. Not the option's number.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_option_get_info(
    index: usize,
    info: *mut diffusion_option_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let row = OPTIONS.get(index).zip(texts().get(index));
            let (spec, texts) = row.ok_or_else(|| {
                error!(InvalidArgument, "index: {index} is not less than the {} options", OPTIONS.len())
            })?;
            let (kind, choices, [min, max, default_value]) = numbers(spec.kind);
            let facts = diffusion_option_info {
                struct_size: 0,
                option: spec.id as diffusion_option,
                r#type: kind as diffusion_option_type,
                choice_count: choices.len() as u32,
                min,
                max,
                default_value,
                name: texts.name.as_ptr(),
                summary: texts.summary.as_ptr(),
            };
            out_struct(info, "info", facts)
        })
    }
}

/// Finds an option by name.
///
/// \param name Such as "guidance_scale".
/// \returns The option; 0 if there is none of that name, and for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_option_find(name: *const c_char) -> diffusion_option {
    guard_or(0, || {
        // SAFETY: NULL or a string that lives during the call.
        let name = unsafe { opt_str(name, "name") }.ok().flatten();
        name.and_then(OptionId::from_name).map_or(0, |id| id as diffusion_option)
    })
}

/// The name of an enum option's choice.
///
/// \param option The option.
/// \param value The choice, from 0.
/// \returns Such as "euler"; NULL if there is no such option or choice. Static: valid for ever.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_option_choice(option: diffusion_option, value: i32) -> *const c_char {
    guard_or(ptr::null(), || {
        let index = OPTIONS.iter().position(|spec| spec.id as diffusion_option == option);
        let choices = index.and_then(|index| texts().get(index)).map(|texts| &texts.choices);
        let choice = choices.zip(usize::try_from(value).ok()).and_then(|(choices, value)| choices.get(value));
        choice.map_or(ptr::null(), |choice| choice.as_ptr())
    })
}

/// The table's texts with a NUL at the end.
struct Texts {
    name: CString,
    summary: CString,
    choices: Vec<CString>,
}

fn texts() -> &'static [Texts] {
    static TEXTS: OnceLock<Vec<Texts>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let row = |spec: &crate::api::OptionSpec| Texts {
            name: c_string(spec.name),
            summary: c_string(spec.summary),
            choices: numbers(spec.kind).1.iter().map(|choice| c_string(choice)).collect(),
        };
        OPTIONS.iter().map(row).collect()
    })
}

/// A kind in C's terms: type, choices, and `[min, max, default]`.
fn numbers(kind: Kind) -> (diffusion_option_type_enum, &'static [&'static str], [f64; 3]) {
    use diffusion_option_type_enum::*;
    match kind {
        Kind::String => (DIFFUSION_OPTION_TYPE_STRING, &[], [0.0; 3]),
        Kind::Int { default, min, max } => {
            (DIFFUSION_OPTION_TYPE_INT, &[], [min as f64, max as f64, default as f64])
        }
        Kind::Float { default, min, max } => (DIFFUSION_OPTION_TYPE_FLOAT, &[], [min, max, default]),
        Kind::Enum(choices) => (DIFFUSION_OPTION_TYPE_ENUM, choices, [0.0, (choices.len() - 1) as f64, 0.0]),
        Kind::Floats => (DIFFUSION_OPTION_TYPE_FLOATS, &[], [0.0; 3]),
    }
}
