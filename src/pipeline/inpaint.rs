//! Inpainting with ordinary models: what a mask protects is put back after each step, and in the pixels at the end.

use super::layout::LatentSize;
use super::request::Picture;
use super::start::noised;
use crate::sampling::{NoiseLevel, Plan};
use crate::util::buffer;
use crate::util::error::Result;

/// What a mask protects, in latents. As diffusers' `StableDiffusionInpaintPipeline` does for U-Nets of four channels.
pub(super) struct Inpaint {
    size: LatentSize,
    /// For each latent pixel, whether it is painted anew.
    painted: Vec<bool>,
    /// The picture's latents and the noise that goes on them, `[batch, channels, h, w]`.
    original: Vec<f32>,
    noise: Vec<f32>,
}

impl Inpaint {
    /// A latent pixel goes with the pixel in the upper left corner of those it stands for (torch's `interpolate`,
    /// nearest).
    pub(super) fn new(mask: &Picture, size: LatentSize, original: Vec<f32>, noise: Vec<f32>) -> Result<Self> {
        let (width, height) = (mask.width as usize, mask.height as usize);
        let corner = |i: usize| {
            let (y, x) = (i / size.width * height / size.height, i % size.width * width / size.width);
            y * width + x
        };
        let mut painted = buffer::reserve(size.pixels(), "a mask")?;
        painted.extend((0..size.pixels()).map(|i| is_painted(mask, corner(i))));
        Ok(Self { size, painted, original, noise })
    }

    /// Puts back what is protected after `steps` steps of `plan`, noised to where the latents are.
    ///
    /// `ends_clean`: whether what comes after the last step is a picture without noise. diffusers takes it for one even
    /// where the schedule ends a little above.
    pub(super) fn restore(&self, latents: &mut [f32], plan: &Plan, steps: usize, ends_clean: bool) {
        let level = match steps == plan.len() && ends_clean {
            true => NoiseLevel { alpha: 1.0, sigma: 0.0 },
            false => plan.level(steps),
        };
        let pixels = self.size.pixels();
        let planes = self.original.chunks_exact(pixels).zip(self.noise.chunks_exact(pixels));
        for (latents, (original, noise)) in latents.chunks_exact_mut(pixels).zip(planes) {
            for i in (0..pixels).filter(|i| !self.painted[*i]) {
                latents[i] = noised(level, original[i], noise[i]);
            }
        }
    }
}

/// Puts the pixels of `picture` that `mask` protects into a decoded image, to the bit.
pub(super) fn paste(picture: &Picture, mask: &Picture, rgb: &mut [f32]) {
    for (i, (pixel, original)) in rgb.chunks_exact_mut(3).zip(picture.rgb.chunks_exact(3)).enumerate() {
        if !is_painted(mask, i) {
            pixel.copy_from_slice(original);
        }
    }
}

/// Whether pixel `i` is white rather than black: its mean of red, green and blue is at least a half.
fn is_painted(mask: &Picture, i: usize) -> bool {
    let pixel: &[f32] = mask.rgb.get(3 * i..3 * i + 3).unwrap_or_default();
    pixel.iter().map(|x| f64::from(*x)).sum::<f64>() >= 1.5
}
