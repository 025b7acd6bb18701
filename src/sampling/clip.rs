//! Keeping the predicted x₀ in the range that a model was trained on.

use crate::util::buffer;
use crate::util::error::{Result, bail};

/// How a predicted x₀ is clipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// It is not.
    None,
    /// To ±this (diffusers' `clip_sample`).
    Range(f32),
    /// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3; diffusers' `thresholding`): to ± the
    /// `ratio` quantile s of each image's |x₀|, where s is kept in 1..=`max`, and then divided by s. `ratio` is in 0..=1, `max` above 0.
    Dynamic { ratio: f64, max: f64 },
}

impl Clip {
    /// Fails with `InvalidArgument` for a range that holds nothing, or a quantile that there is not.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Clip::Range(range) if range.is_nan() || range <= 0.0 => {
                bail!(InvalidArgument, "clip range {range} is not above 0");
            }
            Clip::Dynamic { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                bail!(InvalidArgument, "dynamic thresholding ratio {ratio} is not in 0..=1");
            }
            Clip::Dynamic { max, .. } if max.is_nan() || max <= 0.0 => {
                bail!(InvalidArgument, "dynamic thresholding maximum {max} is not above 0");
            }
            _ => Ok(()),
        }
    }
}

/// Memory for the sorting that a quantile takes.
#[derive(Debug)]
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// For images of `len` values.
    pub(super) fn new(clip: Clip, len: usize) -> Result<Self> {
        let len = if let Clip::Dynamic { .. } = clip { len } else { 0 };
        Ok(Self(buffer::reserve(len, "a sampler")?))
    }

    /// Clips one image.
    pub(super) fn apply(&mut self, clip: Clip, image: &mut [f32]) {
        match clip {
            Clip::None => {}
            Clip::Range(range) => image.iter_mut().for_each(|x| *x = x.clamp(-range, range)),
            Clip::Dynamic { ratio, max } => {
                // Not `clamp`: a maximum below 1 wins, as in torch.
                let threshold = self.quantile(image, ratio).max(1.0).min(max) as f32;
                image.iter_mut().for_each(|x| *x = x.clamp(-threshold, threshold) / threshold);
            }
        }
    }

    /// torch's `quantile` of |x|: between two values it is in between.
    fn quantile(&mut self, image: &[f32], ratio: f64) -> f64 {
        self.0.clear();
        self.0.extend(image.iter().map(|x| x.abs()));
        let at = ratio * self.0.len().saturating_sub(1) as f64;
        let index = at as usize;
        if index >= self.0.len() {
            return 0.0;
        }
        let (_, low, above) = self.0.select_nth_unstable_by(index, f32::total_cmp);
        let low = f64::from(*low);
        let high = above.iter().copied().min_by(f32::total_cmp).map_or(low, f64::from);
        low + at.fract() * (high - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::error::Status;

    fn clipped(clip: Clip, mut image: Vec<f32>) -> Option<Vec<f32>> {
        Scratch::new(clip, image.len()).ok()?.apply(clip, &mut image);
        Some(image)
    }

    /// By hand; batches of images are in the trajectories of solvers/ddim.rs, against diffusers' `_threshold_sample`.
    #[test]
    fn dynamic_thresholds_are_quantiles() {
        let image = || vec![-4.0, 1.0, 2.0, -3.0, 0.0];
        // |x| sorted: 0 1 2 3 4.
        for (ratio, max, threshold) in [
            (0.75, 9.0, 3.0),
            (0.625, 9.0, 2.5),
            (1.0, 9.0, 4.0),
            (0.75, 1.5, 1.5),
            (0.0, 9.0, 1.0),
            (0.75, 0.5, 0.5),
        ] {
            let expected = image().iter().map(|x: &f32| x.clamp(-threshold, threshold) / threshold).collect();
            assert_eq!(clipped(Clip::Dynamic { ratio, max }, image()), Some(expected), "{ratio} {max}");
        }
        assert_eq!(clipped(Clip::Range(2.0), image()), Some(vec![-2.0, 1.0, 2.0, -2.0, 0.0]));
        assert_eq!(clipped(Clip::None, image()), Some(image()));
        assert_eq!(clipped(Clip::Dynamic { ratio: 0.5, max: 1.0 }, Vec::new()), Some(Vec::new()));
    }

    #[test]
    fn what_clips_nothing_sensible_is_refused() {
        for clip in [
            Clip::Range(0.0),
            Clip::Range(f32::NAN),
            Clip::Dynamic { ratio: -0.1, max: 1.0 },
            Clip::Dynamic { ratio: f64::NAN, max: 1.0 },
            Clip::Dynamic { ratio: 0.9, max: -1.0 },
            Clip::Dynamic { ratio: 0.9, max: f64::NAN },
        ] {
            let error = clip.check().err().map(|error| error.status());
            assert_eq!(error, Some(Status::InvalidArgument), "{clip:?}");
        }
        assert!(Clip::Dynamic { ratio: 0.995, max: 1.0 }.check().is_ok());
    }
}
