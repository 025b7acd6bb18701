//! The text about an image that image tools exchange: prompt, negative prompt and settings in three lines.

use std::fmt::Write;

use crate::pipeline::request::{GuidanceMethod, Profile, Request, Sampler};

/// What made image `index` of a batch, in the form that Stable Diffusion tools write and read:
///
/// ```text
/// a blue cat
/// Negative prompt: blurry
/// Steps: 20, Sampler: ddim, CFG scale: 2.5, Seed: 1, Size: 64x64, Version: libdiffusion 0.1.0
/// ```
pub(super) fn metadata(request: &Request, sampler: Sampler, width: u32, height: u32, index: u64) -> String {
    let mut text = request.prompt.clone();
    if let Some(negative) = request.negative_prompt.as_deref().filter(|text| !text.is_empty()) {
        text.push_str("\nNegative prompt: ");
        text.push_str(negative);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "\nSteps: {}, Sampler: {}", request.asked_steps(), sampler.name());
    if let Some(schedule) = request.sigma_schedule {
        let _ = write!(text, ", Schedule type: {}", schedule.name());
    }
    let _ = write!(
        text,
        ", CFG scale: {}, Seed: {}, Size: {width}x{height}",
        request.guidance.guidance_scale,
        request.image_seed(index)
    );
    if request.variation_strength > 0.0 {
        let seed = request.variation_seed.wrapping_add(index);
        let strength = request.variation_strength;
        let _ = write!(text, ", Variation seed: {seed}, Variation seed strength: {strength}");
    }
    if request.image.is_some() {
        let _ = write!(text, ", Denoising strength: {}", request.strength);
    }
    let guidance = &request.guidance;
    if guidance.guidance_rescale > 0.0 {
        let _ = write!(text, ", CFG rescale: {}", guidance.guidance_rescale);
    }
    if guidance.method != GuidanceMethod::Cfg {
        let _ = write!(text, ", Guidance: {}", guidance.method.name());
    }
    if guidance.pag_scale > 0.0 {
        let _ = write!(text, ", PAG scale: {}", guidance.pag_scale);
    }
    if let Some(eta) = request.eta {
        let _ = write!(text, ", Eta: {eta}");
    }
    if request.eta_noise_seed_delta != 0 {
        let _ = write!(text, ", ENSD: {}", request.eta_noise_seed_delta as i64);
    }
    if request.profile != Profile::Diffusers {
        let _ = write!(text, ", Profile: {}", request.profile.name());
        if request.profile == Profile::ComfyUi && request.batch_size > 1 {
            let _ = write!(text, ", Batch size: {}, Batch pos: {index}", request.batch_size);
        }
    }
    let _ = write!(text, ", Version: libdiffusion {}", env!("CARGO_PKG_VERSION"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::request::GuidanceOptions;

    #[test]
    fn what_is_not_the_default_is_told_too() {
        use crate::pipeline::request::{Picture, SigmaSchedule};
        use std::sync::Arc;
        let request = Request {
            seed: 7,
            sigma_schedule: Some(SigmaSchedule::Karras),
            variation_seed: 40,
            variation_strength: 0.25,
            image: Some(Picture { width: 1, height: 1, rgb: Arc::new(vec![0.0; 3]) }),
            strength: 0.5,
            eta: Some(0.0),
            eta_noise_seed_delta: 31337,
            profile: Profile::A1111,
            ..Request::default()
        };
        let text = metadata(&request, Sampler::Euler, 8, 8, 2);
        let settings = "Steps: 20, Sampler: euler, Schedule type: karras, CFG scale: 7.5, Seed: 7, Size: 8x8, \
                        Variation seed: 42, Variation seed strength: 0.25, Denoising strength: 0.5, Eta: 0, \
                        ENSD: 31337, Profile: a1111, Version: ";
        assert!(text.contains(settings), "{text}");
        let levels = Request { sigmas: Some(vec![9.0, 3.0, 1.0, 0.0]), ..Request::default() };
        assert!(metadata(&levels, Sampler::Euler, 8, 8, 0).contains("\nSteps: 3, "));
        let batch = Request { seed: 7, profile: Profile::ComfyUi, batch_size: 4, ..Request::default() };
        let text = metadata(&batch, Sampler::Euler, 8, 8, 2);
        assert!(
            text.contains("Seed: 7, Size: 8x8, Profile: comfyui, Batch size: 4, Batch pos: 2, "),
            "{text}"
        );
    }

    #[test]
    fn the_settings_are_there_and_an_absent_negative_prompt_is_not() {
        let mut request = Request {
            prompt: "a blue cat".to_owned(),
            negative_prompt: Some("blurry".to_owned()),
            guidance: GuidanceOptions::at_scale(2.5),
            seed: u64::MAX,
            ..Request::default()
        };
        assert_eq!(
            metadata(&request, Sampler::Ddim, 64, 32, 0),
            format!(
                "a blue cat\nNegative prompt: blurry\nSteps: 20, Sampler: ddim, CFG scale: 2.5, \
                 Seed: 18446744073709551615, Size: 64x32, Version: libdiffusion {}",
                env!("CARGO_PKG_VERSION")
            )
        );
        request.negative_prompt = None;
        let text = metadata(&request, Sampler::Euler, 64, 64, 1);
        assert!(
            text.starts_with("a blue cat\nSteps: 20, Sampler: euler, CFG scale: 2.5, Seed: 0, "),
            "{text}"
        );
    }
}
