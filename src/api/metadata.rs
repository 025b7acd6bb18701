//! The text about an image that image tools exchange: prompt, negative prompt and settings in three lines.

use super::request::sampler_name;
use crate::pipeline::request::{Request, Sampler};

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
    text.push_str(&format!(
        "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {width}x{height}, Version: libdiffusion {}",
        request.steps,
        sampler_name(sampler),
        request.guidance.guidance_scale,
        request.seed.wrapping_add(index),
        env!("CARGO_PKG_VERSION")
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::request::GuidanceOptions;

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
