//! What a request asks of guidance.

use crate::util::error::{Result, bail};

/// How the conditional and the unconditional prediction combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GuidanceMethod {
    /// Classifier-free guidance (Ho & Salimans 2022).
    #[default]
    Cfg,
    /// CFG-Zero* (Fan et al. 2025).
    CfgZeroStar,
    /// Adaptive projected guidance (Sadat et al. 2024).
    Apg,
}

impl GuidanceMethod {
    /// Every one, in the order of the enum.
    pub const ALL: [GuidanceMethod; 3] =
        [GuidanceMethod::Cfg, GuidanceMethod::CfgZeroStar, GuidanceMethod::Apg];

    /// The name options use: `cfg`, `cfg_zero_star` or `apg`.
    pub fn name(self) -> &'static str {
        match self {
            GuidanceMethod::Cfg => "cfg",
            GuidanceMethod::CfgZeroStar => "cfg_zero_star",
            GuidanceMethod::Apg => "apg",
        }
    }
}

/// How strongly, when and by which method the prompt steers. The defaults are classifier-free guidance at 7.5, and of
/// every other number diffusers'.
#[derive(Debug, Clone, PartialEq)]
pub struct GuidanceOptions {
    pub method: GuidanceMethod,
    /// Where a step's scale is 1 or below, guidance by the unconditional prediction is off; a CFG++ sampler takes any.
    pub guidance_scale: f64,
    /// A scale for each step, in place of `guidance_scale`.
    pub guidance_schedule: Option<Vec<f64>>,
    /// How far the guided prediction is brought back to the conditional one's standard deviation, 0..=1.
    pub guidance_rescale: f64,
    /// The steps that are guided, perturbed-attention guidance included: from ⌊start · steps⌋ to before ⌊stop · steps⌋.
    pub guidance_start: f64,
    pub guidance_stop: f64,
    /// CFG-Zero*: steps at the start whose prediction is zero.
    pub zero_init_steps: usize,
    /// APG: what counts of the difference along the conditional x₀; 0 drops it, as the paper does, 1 keeps all.
    pub apg_eta: f64,
    /// APG: the longest difference of x₀ (in the L2 norm of one image); 0 = any.
    pub apg_norm_threshold: f64,
    /// APG: what stays of earlier evaluations' differences, between -1 and 1. The paper's are negative.
    pub apg_momentum: f64,
    /// Perturbed-attention guidance; 0 turns it off.
    pub pag_scale: f64,
    /// Three-way guidance by an image and a text (InstructPix2Pix): the image's scale, where `guidance_scale` is the
    /// text's.
    pub image_guidance_scale: Option<f64>,
}

impl Default for GuidanceOptions {
    fn default() -> Self {
        Self {
            method: GuidanceMethod::Cfg,
            guidance_scale: 7.5,
            guidance_schedule: None,
            guidance_rescale: 0.0,
            guidance_start: 0.0,
            guidance_stop: 1.0,
            zero_init_steps: 1,
            apg_eta: 1.0,
            apg_norm_threshold: 15.0,
            apg_momentum: 0.0,
            pag_scale: 0.0,
            image_guidance_scale: None,
        }
    }
}

impl GuidanceOptions {
    /// The defaults with another scale.
    pub fn at_scale(guidance_scale: f64) -> Self {
        Self { guidance_scale, ..Self::default() }
    }

    /// # Errors
    /// `InvalidArgument`, naming the option and its value.
    pub fn check(&self) -> Result<()> {
        let finite = [("guidance_scale", Some(self.guidance_scale)), ("apg_eta", Some(self.apg_eta))];
        let image = ("image_guidance_scale", self.image_guidance_scale);
        for (name, value) in finite.into_iter().chain([image]) {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                bail!(InvalidArgument, "{name} is {value}, not a finite number");
            }
        }
        for (name, value) in [("pag_scale", self.pag_scale), ("apg_norm_threshold", self.apg_norm_threshold)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                bail!(InvalidArgument, "{name} is {value}, not a finite number from 0");
            }
        }
        for (name, value) in [
            ("guidance_rescale", self.guidance_rescale),
            ("guidance_start", self.guidance_start),
            ("guidance_stop", self.guidance_stop),
        ] {
            if !(0.0..=1.0).contains(&value) {
                bail!(InvalidArgument, "{name} is {value}, not in 0..=1");
            }
        }
        let (start, stop) = (self.guidance_start, self.guidance_stop);
        if start > stop {
            bail!(InvalidArgument, "guidance_start {start} is above guidance_stop {stop}");
        }
        // At ±1 and past it what is remembered never fades, or grows.
        if self.apg_momentum.is_nan() || self.apg_momentum.abs() >= 1.0 {
            bail!(InvalidArgument, "apg_momentum is {}, not between -1 and 1", self.apg_momentum);
        }
        let schedule = self.guidance_schedule.as_deref().unwrap_or_default();
        if let Some(i) = schedule.iter().position(|scale| !scale.is_finite()) {
            bail!(InvalidArgument, "guidance_schedule[{i}] is {}, not a finite number", schedule[i]);
        }
        if self.image_guidance_scale.is_some() && self.method != GuidanceMethod::Cfg {
            bail!(InvalidArgument, "image_guidance_scale takes the method cfg, not {}", self.method.name());
        }
        Ok(())
    }
}
