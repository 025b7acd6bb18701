//! How the conditional and the unconditional prediction combine.

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, equation 6 in diffusers' scale):
/// `unconditional += guidance_scale · (conditional − unconditional)`, value by value.
///
/// At a scale of 1 the result is the conditional prediction, above it the prompt counts for more.
/// Both slices hold the same images in the same order; what one has beyond the other's length is left alone.
pub fn classifier_free_guidance(unconditional: &mut [f32], conditional: &[f32], guidance_scale: f32) {
    for (uncond, cond) in unconditional.iter_mut().zip(conditional) {
        *uncond += guidance_scale * (cond - *uncond);
    }
}
