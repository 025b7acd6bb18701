//! The option table: the one place that says which options a request has, of what type, between which limits.
//! Setters check against it, introspection reads from it, and the C header must agree with it (a test compares).

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
        "Image width in pixels, a multiple of size_multiple; 0 = the model's own",
    ),
    row(
        OptionId::Height,
        "height",
        SIDE,
        "Image height in pixels, a multiple of size_multiple; 0 = the model's own",
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
        "Seed of the noise, any 64 bits; image i of a batch uses seed + i",
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
        Kind::Enum(&["auto", "ddpm", "ddim", "euler"]),
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
        Kind::Float { default: 0.0, min: 0.0, max: 1.0 },
        "Fresh noise in each ddim step: 0 = none, 1 = as much as ddpm",
    ),
    row(
        OptionId::Noise,
        "noise",
        Kind::Enum(&["auto", "philox", "mt19937"]),
        "Noise generator: philox equals torch's CUDA randn, mt19937 its CPU randn; auto = philox",
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
        };
        self.error(format!("it takes {wanted}, not {given}"))
    }

    pub(crate) fn error(&self, reason: String) -> Error {
        error!(InvalidArgument, "option {}: {reason}", self.name)
    }
}
