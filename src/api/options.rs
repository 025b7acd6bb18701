//! The option table: the one place that says which options a request has, of what type, between which limits.
//! Setters check against it, introspection reads from it, and the C header must agree with it (a test compares).

use crate::pipeline::request::{SAMPLERS, SigmaSchedule};
use crate::util::error::{Error, Result, error};
use crate::util::limits;

/// An option of a request. The numbers are `diffusion_option` values and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum OptionId {
    Prompt = 1,
    NegativePrompt = 2,
    Width = 3,
    Height = 4,
    Steps = 5,
    GuidanceScale = 6,
    Seed = 7,
    BatchSize = 8,
    Sampler = 9,
    TimestepSpacing = 10,
    Eta = 11,
    Noise = 12,
    Latents = 13,
    Output = 14,
    SigmaSchedule = 15,
    Sigmas = 16,
    Timesteps = 17,
    SChurn = 18,
    STmin = 19,
    STmax = 20,
    SNoise = 21,
    Profile = 22,
    Image = 23,
    Mask = 24,
    Strength = 25,
    VariationSeed = 26,
    VariationStrength = 27,
    EtaNoiseSeedDelta = 28,
    DynamicThresholdingRatio = 29,
    DynamicThresholdingMax = 30,
    GuidanceMethod = 31,
    GuidanceSchedule = 32,
    GuidanceRescale = 33,
    GuidanceStart = 34,
    GuidanceStop = 35,
    ZeroInitSteps = 36,
    ApgEta = 37,
    ApgNormThreshold = 38,
    ApgMomentum = 39,
    PagScale = 40,
    PagAppliedLayers = 41,
    Perturbation = 42,
}

/// What values an option takes, and which it has when it is not set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// UTF-8 text.
    String,
    Int {
        default: i64,
        min: i64,
        max: i64,
    },
    Float {
        default: f64,
        min: f64,
        max: f64,
    },
    /// One of these names; the value is the index, and 0, the default, is "auto".
    Enum(&'static [&'static str]),
    /// A list of numbers.
    Floats,
    /// A picture.
    Image,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    pub id: OptionId,
    pub name: &'static str,
    pub kind: Kind,
    pub summary: &'static str,
}

const fn row(id: OptionId, name: &'static str, kind: Kind, summary: &'static str) -> OptionSpec {
    OptionSpec { id, name, kind, summary }
}

/// "auto", then the name of each sampler or sigma schedule: choice `n` is element `n - 1` of the table.
static SAMPLER_NAMES: [&str; SAMPLERS.len() + 1] = {
    let mut names = ["auto"; SAMPLERS.len() + 1];
    let mut i = 0;
    while i < SAMPLERS.len() {
        names[i + 1] = SAMPLERS[i].name;
        i += 1;
    }
    names
};
static SIGMA_SCHEDULE_NAMES: [&str; SigmaSchedule::ALL.len() + 1] = {
    let mut names = ["auto"; SigmaSchedule::ALL.len() + 1];
    let mut i = 0;
    while i < SigmaSchedule::ALL.len() {
        names[i + 1] = SigmaSchedule::ALL[i].name();
        i += 1;
    }
    names
};

const SIDE: Kind = Kind::Int { default: 0, min: 0, max: limits::IMAGE_SIDE as i64 };

/// Every option, in the order of the ids.
pub static OPTIONS: &[OptionSpec] = &[
    row(OptionId::Prompt, "prompt", Kind::String, "What the image shows"),
    row(
        OptionId::NegativePrompt,
        "negative_prompt",
        Kind::String,
        "What guidance steers away from; unset is not the same as empty for some SDXL models",
    ),
    row(
        OptionId::Width,
        "width",
        SIDE,
        "Image width in pixels, a multiple of size_multiple; 0 = that of the option image, else the model's own",
    ),
    row(
        OptionId::Height,
        "height",
        SIDE,
        "Image height in pixels, a multiple of size_multiple; 0 = that of the option image, else the model's own",
    ),
    row(
        OptionId::Steps,
        "steps",
        Kind::Int { default: 20, min: 0, max: limits::STEPS as i64 },
        "Denoising steps; 0 = decode the given latents as they are",
    ),
    row(
        OptionId::GuidanceScale,
        "guidance_scale",
        Kind::Float { default: 7.5, min: 0.0, max: 100.0 },
        "Strength of classifier-free guidance; 1 and below turn it off",
    ),
    row(
        OptionId::Seed,
        "seed",
        Kind::Int { default: 0, min: i64::MIN, max: i64::MAX },
        "Seed of the noise, any 64 bits; image i of a batch uses seed + i (but see variation_seed and profile)",
    ),
    row(
        OptionId::BatchSize,
        "batch_size",
        Kind::Int { default: 1, min: 1, max: limits::BATCH_SIZE as i64 },
        "Images to make at once",
    ),
    row(
        OptionId::Sampler,
        "sampler",
        Kind::Enum(&SAMPLER_NAMES),
        "How noise becomes an image; auto = the model's default_sampler",
    ),
    row(
        OptionId::TimestepSpacing,
        "timestep_spacing",
        Kind::Enum(&["auto", "leading", "trailing", "linspace"]),
        "Which training timesteps the sampler visits; auto = the model's own",
    ),
    row(
        OptionId::Eta,
        "eta",
        Kind::Float { default: -1.0, min: -1.0, max: 1.0 },
        "How much fresh noise a step adds: 0 = none, 1 = as much as ddpm; negative = the sampler's own",
    ),
    row(
        OptionId::Noise,
        "noise",
        Kind::Enum(&["auto", "philox", "mt19937"]),
        "Noise generator: philox equals torch's CUDA randn, mt19937 its CPU randn; auto = the profile's",
    ),
    row(
        OptionId::Latents,
        "latents",
        Kind::Floats,
        "Start noise of unit variance, batch x channels x height/f x width/f, in place of noise from the seed",
    ),
    row(
        OptionId::Output,
        "output",
        Kind::Enum(&["auto", "image", "latents"]),
        "What to make: auto = image; latents skips the decoder",
    ),
    row(
        OptionId::SigmaSchedule,
        "sigma_schedule",
        Kind::Enum(&SIGMA_SCHEDULE_NAMES),
        "How the noise levels are laid out; auto = the model's own, else by timestep_spacing",
    ),
    row(
        OptionId::Sigmas,
        "sigmas",
        Kind::Floats,
        "Noise levels of your own, falling, one more than steps: the last (often 0) is where the last step ends",
    ),
    row(
        OptionId::Timesteps,
        "timesteps",
        Kind::Floats,
        "Training timesteps of your own, falling, one a step, in place of sigmas or a schedule",
    ),
    row(
        OptionId::SChurn,
        "s_churn",
        Kind::Float { default: 0.0, min: 0.0, max: 1000.0 },
        "Noise put back before each step and taken away in it, over all steps; for euler, heun and dpm2",
    ),
    row(
        OptionId::STmin,
        "s_tmin",
        Kind::Float { default: 0.0, min: 0.0, max: 1e6 },
        "The least noise level at which s_churn acts",
    ),
    row(
        OptionId::STmax,
        "s_tmax",
        Kind::Float { default: 0.0, min: 0.0, max: 1e6 },
        "The greatest noise level at which s_churn acts; 0 = any",
    ),
    row(
        OptionId::SNoise,
        "s_noise",
        Kind::Float { default: 1.0, min: 0.0, max: 10.0 },
        "What all fresh noise is multiplied by",
    ),
    row(
        OptionId::Profile,
        "profile",
        Kind::Enum(&["auto", "diffusers", "a1111", "comfyui"]),
        "Whose numbers to give where programs differ; auto = diffusers",
    ),
    row(
        OptionId::Image,
        "image",
        Kind::Image,
        "The picture that image-to-image and inpainting start from, width x height pixels",
    ),
    row(
        OptionId::Mask,
        "mask",
        Kind::Image,
        "What to paint anew: white is painted, black keeps the pixels of the option image to the bit",
    ),
    row(
        OptionId::Strength,
        "strength",
        Kind::Float { default: 0.8, min: 0.0, max: 1.0 },
        "How much of the way to go from the option image, above 0; 1 = all steps",
    ),
    row(
        OptionId::VariationSeed,
        "variation_seed",
        Kind::Int { default: 0, min: i64::MIN, max: i64::MAX },
        "Seed to vary the picture of seed towards, any 64 bits; image i of a batch uses variation_seed + i",
    ),
    row(
        OptionId::VariationStrength,
        "variation_strength",
        Kind::Float { default: 0.0, min: 0.0, max: 1.0 },
        "How far to go from seed to variation_seed: 0 = not at all, 1 = all the way",
    ),
    row(
        OptionId::EtaNoiseSeedDelta,
        "eta_noise_seed_delta",
        Kind::Int { default: 0, min: i64::MIN, max: i64::MAX },
        "Added to the seeds of the noise that steps add; 0 = it goes on where the first noise ends",
    ),
    row(
        OptionId::DynamicThresholdingRatio,
        "dynamic_thresholding_ratio",
        Kind::Float { default: 0.0, min: 0.0, max: 1.0 },
        "Quantile of each prediction's values that becomes the limit of all; 0 = as the model's config says",
    ),
    row(
        OptionId::DynamicThresholdingMax,
        "dynamic_thresholding_max",
        Kind::Float { default: 1.0, min: 1.0, max: 1e6 },
        "The most that the limit of dynamic_thresholding_ratio may be",
    ),
    row(
        OptionId::GuidanceMethod,
        "guidance_method",
        Kind::Enum(&["auto", "cfg", "cfg_zero_star", "apg"]),
        "How the predictions with and without the prompt combine; auto = cfg",
    ),
    row(
        OptionId::GuidanceSchedule,
        "guidance_schedule",
        Kind::Floats,
        "A guidance scale for each step that is taken, in place of guidance_scale",
    ),
    row(
        OptionId::GuidanceRescale,
        "guidance_rescale",
        Kind::Float { default: 0.0, min: 0.0, max: 1.0 },
        "How far guided predictions are brought back to the contrast of unguided ones",
    ),
    row(
        OptionId::GuidanceStart,
        "guidance_start",
        Kind::Float { default: 0.0, min: 0.0, max: 1.0 },
        "The part of the steps after which guidance begins",
    ),
    row(
        OptionId::GuidanceStop,
        "guidance_stop",
        Kind::Float { default: 1.0, min: 0.0, max: 1.0 },
        "The part of the steps after which guidance ends",
    ),
    row(
        OptionId::ZeroInitSteps,
        "zero_init_steps",
        Kind::Int { default: 1, min: 0, max: limits::STEPS as i64 },
        "Steps at the start that cfg_zero_star takes with a prediction of zero",
    ),
    row(
        OptionId::ApgEta,
        "apg_eta",
        Kind::Float { default: 1.0, min: 0.0, max: 10.0 },
        "What apg keeps of guidance along the predicted x0: 0 = nothing, 1 = all",
    ),
    row(
        OptionId::ApgNormThreshold,
        "apg_norm_threshold",
        Kind::Float { default: 15.0, min: 0.0, max: 1e6 },
        "The longest difference that apg guides by; 0 = any",
    ),
    row(
        OptionId::ApgMomentum,
        "apg_momentum",
        Kind::Float { default: 0.0, min: -0.99, max: 0.99 },
        "What apg keeps of the differences of earlier steps; its paper's is negative",
    ),
    row(
        OptionId::PagScale,
        "pag_scale",
        Kind::Float { default: 0.0, min: 0.0, max: 100.0 },
        "Strength of guidance away from a perturbed network; 0 turns it off",
    ),
    row(
        OptionId::PagAppliedLayers,
        "pag_applied_layers",
        Kind::String,
        "Blocks that pag_scale perturbs, such as mid_block,down_blocks.1,up_blocks.0; empty = mid_block",
    ),
    row(
        OptionId::Perturbation,
        "perturbation",
        Kind::Enum(&["auto", "identity_attention", "skip_layer"]),
        "What those blocks lose: what attention sees, or all their layers; auto = identity_attention",
    ),
];

impl OptionId {
    /// The option with this number.
    pub fn from_number(number: i32) -> Result<Self> {
        OPTIONS
            .iter()
            .map(|spec| spec.id)
            .find(|id| *id as i32 == number)
            .ok_or_else(|| error!(InvalidArgument, "there is no option {number}"))
    }

    /// The option with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        OPTIONS.iter().find(|spec| spec.name == name).map(|spec| spec.id)
    }

    /// The option's row of the table.
    pub fn spec(self) -> &'static OptionSpec {
        // The ids count from 1 in the order of the table; a test holds that.
        &OPTIONS[self as usize - 1]
    }
}

impl OptionSpec {
    /// `value`, if the option is an integer in whose range it lies or an enum that has it.
    pub(crate) fn check_int(&self, value: i64) -> Result<i64> {
        match self.kind {
            Kind::Int { min, max, .. } if (min..=max).contains(&value) => Ok(value),
            Kind::Int { min, max, .. } => Err(self.error(format!("{value} is not in {min}..{max}"))),
            Kind::Enum(choices) if usize::try_from(value).is_ok_and(|v| v < choices.len()) => Ok(value),
            Kind::Enum(choices) => Err(self.error(format!(
                "{value} is not in 0..{} ({})",
                choices.len() - 1,
                choices.join(", ")
            ))),
            _ => Err(self.type_error("an integer")),
        }
    }

    /// `value`, if the option is a float in whose range it lies.
    pub(crate) fn check_float(&self, value: f64) -> Result<f64> {
        match self.kind {
            Kind::Float { min, max, .. } if (min..=max).contains(&value) => Ok(value),
            Kind::Float { min, max, .. } => Err(self.error(format!("{value} is not in {min}..{max}"))),
            _ => Err(self.type_error("a float")),
        }
    }

    /// The number of the choice called `name`, if the option is an enum.
    pub(crate) fn check_choice(&self, name: &str) -> Result<i64> {
        match self.kind {
            Kind::Enum(choices) => choices
                .iter()
                .position(|choice| *choice == name)
                .map(|index| index as i64)
                .ok_or_else(|| self.error(format!("{name:?} is not one of {}", choices.join(", ")))),
            _ => Err(self.type_error("a string")),
        }
    }

    /// Fails if `text` is too long.
    pub(crate) fn check_text(&self, text: Option<&str>) -> Result<()> {
        let (length, most) = (text.map_or(0, str::len), limits::PROMPT_BYTES);
        if length > most {
            return Err(self.error(format!("the text has {length} bytes, more than {most}")));
        }
        Ok(())
    }

    pub(crate) fn type_error(&self, given: &str) -> Error {
        let wanted = match self.kind {
            Kind::String => "a string",
            Kind::Int { .. } => "an integer",
            Kind::Float { .. } => "a float",
            Kind::Enum(_) => "one of its choices",
            Kind::Floats => "a list of floats",
            Kind::Image => "an image",
        };
        self.error(format!("it takes {wanted}, not {given}"))
    }

    pub(crate) fn error(&self, reason: String) -> Error {
        error!(InvalidArgument, "option {}: {reason}", self.name)
    }
}
