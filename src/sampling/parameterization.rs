//! What the network's output means.

/// The quantity a model was trained to predict from its input xₜ = αₜ·x₀ + σₜ·ε.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PredictionType {
    /// The noise ε (Ho et al. 2020, arXiv:2006.11239); α² + σ² = 1.
    Epsilon,
    /// v = αₜ·ε − σₜ·x₀ (Salimans & Ho 2022, arXiv:2202.00512); α² + σ² = 1.
    VPrediction,
    /// The clean sample x₀; α² + σ² = 1.
    Sample,
    /// The velocity ε − x₀ of a straight path (Liu et al. 2022, arXiv:2209.03003); α + σ = 1.
    Flow,
    /// v of a model preconditioned as in Karras et al. 2022 (arXiv:2206.00364, table 1): the input is
    /// (x₀ + σ·ε)/√(σ² + σ_data²), the timestep ¼·ln σ.
    EdmV,
}

/// How signal and noise mix at one moment: x = `alpha`·x₀ + `sigma`·ε.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseLevel {
    pub alpha: f64,
    pub sigma: f64,
}

impl NoiseLevel {
    /// The variance-preserving mix at a cumulative product ᾱₜ (`alphas_cumprod[t]`): α = √ᾱ, σ = √(1 − ᾱ).
    pub fn from_alpha_cumprod(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// The noise-to-signal ratio σ/α; infinite without signal.
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Half the logarithm of the signal-to-noise ratio, λ = ln(α/σ) (Lu et al. 2022, arXiv:2206.00927).
    pub fn lambda(self) -> f64 {
        libm::log(self.alpha / self.sigma)
    }
}

/// What a prediction says of a sampler's x: x₀ = `original`·(x, prediction), ε = `epsilon`·(x, prediction).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    pub original: [f64; 2],
    pub epsilon: [f64; 2],
}

impl PredictionType {
    /// diffusers' name, where it has one: `epsilon`, `v_prediction`, `sample`, `flow_prediction` or `edm_v_prediction`.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
            PredictionType::Flow => "flow_prediction",
            PredictionType::EdmV => "edm_v_prediction",
        }
    }

    /// The factor that makes the model's input of an x = `alpha`·x₀ + `sigma`·ε. `sigma_data` is EDM's.
    pub fn input_scale(self, NoiseLevel { alpha, sigma }: NoiseLevel, sigma_data: f64) -> f64 {
        match self {
            PredictionType::Epsilon | PredictionType::VPrediction | PredictionType::Sample => {
                1.0 / libm::hypot(alpha, sigma)
            }
            PredictionType::Flow => 1.0 / (alpha + sigma),
            PredictionType::EdmV => 1.0 / libm::hypot(alpha * sigma_data, sigma),
        }
    }

    /// How to read a prediction for the input made from x at `level`.
    ///
    /// `Epsilon` needs α > 0 and `Sample` needs σ > 0; elsewhere the answer is not finite.
    pub fn conversion(self, level: NoiseLevel, sigma_data: f64) -> Conversion {
        let NoiseLevel { alpha, sigma } = level;
        let scale = self.input_scale(level, sigma_data);
        // The mix of the model's own input.
        let (a, s) = (alpha * scale, sigma * scale);
        match self {
            PredictionType::Epsilon => {
                Conversion { original: [1.0 / alpha, -sigma / alpha], epsilon: [0.0, 1.0] }
            }
            PredictionType::VPrediction => Conversion { original: [a * scale, -s], epsilon: [s * scale, a] },
            PredictionType::Sample => {
                Conversion { original: [0.0, 1.0], epsilon: [1.0 / sigma, -alpha / sigma] }
            }
            PredictionType::Flow => Conversion { original: [scale, -s], epsilon: [scale, a] },
            PredictionType::EdmV => Conversion {
                original: [a * sigma_data * sigma_data * scale, -s * sigma_data],
                epsilon: [s * scale, a * sigma_data],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x₀ and ε come back from the prediction that is defined by them, in any scale of x.
    #[test]
    fn conversions_invert_the_definitions() {
        let (x0, noise, data) = (0.7, -1.3, 0.5);
        for (alpha, sigma) in [(0.6, 0.8), (1.0, 0.02), (1.0, 14.6), (0.3, 0.7), (2.0, 1.5)] {
            let level = NoiseLevel { alpha, sigma };
            let x = alpha * x0 + sigma * noise;
            let vp = (alpha * alpha + sigma * sigma).sqrt();
            let edm = (sigma * sigma / (alpha * alpha) + data * data).sqrt();
            let cases = [
                (PredictionType::Epsilon, noise, x / vp),
                (PredictionType::VPrediction, (alpha * noise - sigma * x0) / vp, x / vp),
                (PredictionType::Sample, x0, x / vp),
                (PredictionType::Flow, noise - x0, x / (alpha + sigma)),
                // D = c_skip·y + c_out·v with y = x/α, ratio r = σ/α, c_skip = d²/(r² + d²), c_out = −r·d/√(r² + d²).
                (
                    PredictionType::EdmV,
                    (data * data / (edm * edm) * x / alpha - x0) * edm / (sigma / alpha * data),
                    x / alpha / edm,
                ),
            ];
            for (prediction_type, prediction, input) in cases {
                let scale = prediction_type.input_scale(level, data);
                assert!((x * scale - input).abs() < 1e-12, "{prediction_type:?}");
                let Conversion { original, epsilon } = prediction_type.conversion(level, data);
                let read = |[from_x, from_prediction]: [f64; 2]| from_x * x + from_prediction * prediction;
                assert!((read(original) - x0).abs() < 1e-12, "{prediction_type:?} {alpha} {sigma}");
                assert!((read(epsilon) - noise).abs() < 1e-12, "{prediction_type:?} {alpha} {sigma}");
            }
        }
    }
}
