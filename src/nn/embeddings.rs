//! Numbers as vectors: timesteps and SDXL's image sizes.

use super::layers::linear;
use crate::backend::{Activation, Backend, Epilogue};
use crate::util::error::Result;
use crate::weights::Scope;

/// diffusers' `get_timestep_embedding` with `max_period` 10000: for each value, sines and cosines of the value
/// times falling frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinusoid {
    /// Numbers per value. The last is 0 when this is odd.
    pub channels: usize,
    /// Cosines first.
    pub flip_sin_to_cos: bool,
    pub freq_shift: f32,
}

impl Sinusoid {
    /// `[values.len(), channels]`, row-major.
    ///
    /// The frequencies and angles are rounded to f32 where diffusers rounds them: at timestep 999 an angle's last
    /// bit is worth 6e-5, so exact angles would give other numbers than the model was trained with.
    pub fn embed(&self, values: &[f32]) -> Vec<f32> {
        let half = self.channels / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = -(std::f64::consts::LN_10 * 4.0) as f32 * i as f32;
                libm::exp(f64::from(exponent / (half as f32 - self.freq_shift))) as f32
            })
            .collect();
        let mut out = Vec::with_capacity(values.len() * self.channels);
        for value in values {
            let angles = || frequencies.iter().map(|f| f64::from(value * f));
            let sines = angles().map(|a| libm::sin(a) as f32);
            let cosines = angles().map(|a| libm::cos(a) as f32);
            if self.flip_sin_to_cos {
                out.extend(cosines.chain(sines));
            } else {
                out.extend(sines.chain(cosines));
            }
            if self.channels % 2 == 1 {
                out.push(0.0);
            }
        }
        out
    }
}

/// diffusers' `TimestepEmbedding`: linear, SiLU, linear.
pub struct TimestepEmbedding<B: Backend> {
    linear_1: B::Linear,
    linear_2: B::Linear,
}

impl<B: Backend> TimestepEmbedding<B> {
    /// # Errors
    /// Those of the weights.
    pub fn load(scope: &Scope<'_>, inputs: usize, outputs: usize, b: &B) -> Result<Self> {
        Ok(Self {
            linear_1: linear(&scope.at("linear_1"), inputs, outputs, b)?,
            linear_2: linear(&scope.at("linear_2"), outputs, outputs, b)?,
        })
    }

    /// `[n, 1, 1, inputs]` to `[n, 1, 1, outputs]`.
    pub fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let h = b.linear(x, &self.linear_1, Epilogue::activation(Activation::Silu))?;
        b.linear(&h, &self.linear_2, Epilogue::default())
    }
}
