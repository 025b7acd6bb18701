//! What the network's output means.

/// The quantity a model was trained to predict from xₜ = αₜ·x₀ + σₜ·ε.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PredictionType {
    /// The noise ε (Ho et al. 2020, arXiv:2006.11239).
    Epsilon,
    /// v = αₜ·ε − σₜ·x₀ (Salimans & Ho 2022, arXiv:2202.00512).
    VPrediction,
    /// The clean sample x₀.
    Sample,
}

/// How signal and noise mix at one moment, α² + σ² = 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseLevel {
    pub alpha: f32,
    pub sigma: f32,
}

impl NoiseLevel {
    /// The mix at a cumulative product ᾱₜ (`alphas_cumprod[t]`): α = √ᾱ, σ = √(1 − ᾱ).
    pub fn from_alpha_cumprod(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt() as f32, sigma: (1.0 - alpha_cumprod).sqrt() as f32 }
    }

    /// The mix at a noise-to-signal ratio σ/α, as Euler's sigmas count noise.
    pub fn from_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { alpha: alpha as f32, sigma: (ratio * alpha) as f32 }
    }
}

impl PredictionType {
    /// diffusers' name: `epsilon`, `v_prediction` or `sample`.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
        }
    }

    /// Splits one value `x` of xₜ into the (x₀, ε) that the model's `prediction` for it implies.
    ///
    /// `Epsilon` needs α > 0 and `Sample` needs σ > 0; elsewhere the answer is not finite.
    #[inline]
    pub fn split(self, NoiseLevel { alpha, sigma }: NoiseLevel, x: f32, prediction: f32) -> (f32, f32) {
        match self {
            PredictionType::Epsilon => ((x - sigma * prediction) / alpha, prediction),
            PredictionType::VPrediction => (alpha * x - sigma * prediction, alpha * prediction + sigma * x),
            PredictionType::Sample => (prediction, (x - alpha * prediction) / sigma),
        }
    }
}
