//! Keeping the predicted x₀ in the range that a model was trained on.

use crate::util::error::{Result, error};

/// How a predicted x₀ is clipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// It is not.
    None,
    /// To ±this (diffusers' `clip_sample`).
    Range(f32),
    /// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3; diffusers' `thresholding`): to ± the
    /// `ratio` quantile s of each image's |x₀|, where s is kept in 1..=`max`, and then divided by s.
    Dynamic { ratio: f64, max: f64 },
}

/// Memory for the sorting that a quantile takes.
#[derive(Debug)]
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// For images of `len` values.
    pub(super) fn new(clip: Clip, len: usize) -> Result<Self> {
        let mut scratch = Vec::new();
        if let Clip::Dynamic { .. } = clip {
            scratch
                .try_reserve_exact(len)
                .map_err(|_| error!(OutOfMemory, "no memory for {len} values of a sampler"))?;
        }
        Ok(Self(scratch))
    }

    /// Clips one image.
    pub(super) fn apply(&mut self, clip: Clip, image: &mut [f32]) {
        match clip {
            Clip::None => {}
            Clip::Range(range) => image.iter_mut().for_each(|x| *x = x.clamp(-range, range)),
            Clip::Dynamic { ratio, max } => {
                let threshold = self.quantile(image, ratio).clamp(1.0, max) as f32;
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
