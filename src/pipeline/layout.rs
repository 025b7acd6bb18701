//! The latents' size, and the way between diffusers' layout and the backend's: `[n, c, h, w]` ↔ `[n, h, w, c]`.

/// The latents' size for one request.
#[derive(Clone, Copy)]
pub(super) struct LatentSize {
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl LatentSize {
    /// Of one channel.
    pub(super) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Values of one image.
    pub(super) fn image(&self) -> usize {
        self.channels * self.pixels()
    }

    pub(super) fn len(&self) -> usize {
        self.batch * self.image()
    }
}

/// `src` is `[n, c, pixels]`, `dst` becomes `[n, pixels, c]`.
pub(super) fn to_channels_last(src: &[f32], dst: &mut [f32], c: usize, pixels: usize) {
    for (src, dst) in src.chunks_exact(c * pixels).zip(dst.chunks_exact_mut(c * pixels)) {
        for (channel, plane) in src.chunks_exact(pixels).enumerate() {
            for (pixel, value) in plane.iter().enumerate() {
                dst[pixel * c + channel] = *value;
            }
        }
    }
}

/// `src` is `[n, pixels, c]`, `dst` becomes `[n, c, pixels]`.
pub(super) fn to_channels_first(src: &[f32], dst: &mut [f32], c: usize, pixels: usize) {
    to_channels_last(src, dst, pixels, c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_transposes_of_each_image() {
        // Two images of two pixels and three channels; the digits are image, channel, pixel.
        let first = [0., 1., 10., 11., 20., 21., 100., 101., 110., 111., 120., 121.];
        let last = [0., 10., 20., 1., 11., 21., 100., 110., 120., 101., 111., 121.];
        let mut out = [0.0; 12];
        to_channels_last(&first, &mut out, 3, 2);
        assert_eq!(out, last);
        to_channels_first(&last, &mut out, 3, 2);
        assert_eq!(out, first);
    }
}
