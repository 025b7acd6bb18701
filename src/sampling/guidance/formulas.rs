//! The formulas, each for one image: `u` is the unconditional prediction, `c` the conditional one, `out` the guided one,
//! all of one length. Sums over an image are `f64`, in the order of its values.

use super::GuidanceOptions;

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, equation 6 in diffusers' scale): u + scale·(c − u).
pub(super) fn classifier_free(u: &[f32], c: &[f32], scale: f64, out: &mut [f32]) {
    let scale = scale as f32;
    for (out, (u, c)) in out.iter_mut().zip(u.iter().zip(c)) {
        *out = u + scale * (c - u);
    }
}

/// Guidance by an image and a text (Brooks et al. 2022, arXiv:2211.09800, equation 3), where `i` is the prediction with
/// the image alone: u + image_scale·(i − u) + text_scale·(c − i).
pub(super) fn image_and_text(
    u: &[f32],
    i: &[f32],
    c: &[f32],
    image_scale: f64,
    text_scale: f64,
    out: &mut [f32],
) {
    let (image_scale, text_scale) = (image_scale as f32, text_scale as f32);
    for (out, ((u, i), c)) in out.iter_mut().zip(u.iter().zip(i).zip(c)) {
        *out = u + image_scale * (i - u) + text_scale * (c - i);
    }
}

/// CFG-Zero* (Fan et al. 2025, arXiv:2503.18886, equation 9; diffusers' `ClassifierFreeZeroStarGuidance`): classifier-free
/// guidance from s·u, where s is the scale at which u comes closest to c.
pub(super) fn zero_star(u: &[f32], c: &[f32], scale: f64, out: &mut [f32]) {
    // diffusers' guard against a prediction of zeros.
    let s = dot(c, u) / (dot(u, u) + 1e-8);
    for (out, (u, c)) in out.iter_mut().zip(u.iter().zip(c)) {
        let (u, c) = (s * f64::from(*u), f64::from(*c));
        *out = (u + scale * (c - u)) as f32;
    }
}

/// Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, algorithm 1) of the x₀ that the predictions `u` and
/// `c` for `x` imply: the difference d = x₀(c) − x₀(u) plus `apg_momentum` times the last one (`average`), cut to the norm
/// `apg_norm_threshold`, of whose part along x₀(c) only `apg_eta` counts; x₀(c) + (scale − 1)·d, as a prediction. An empty
/// `x` stands for zeros. With all of d it is classifier-free guidance.
pub(super) fn adaptive_projected(
    [u, c, x]: [&[f32]; 3],
    [from_x, from_prediction]: [f64; 2],
    scale: f64,
    options: &GuidanceOptions,
    average: &mut [f32],
    out: &mut [f32],
) {
    for (average, (u, c)) in average.iter_mut().zip(u.iter().zip(c)) {
        let difference = from_prediction * (f64::from(*c) - f64::from(*u));
        *average = (difference + options.apg_momentum * f64::from(*average)) as f32;
    }
    let norm = dot(average, average).sqrt();
    let threshold = options.apg_norm_threshold;
    let shorten = if threshold > 0.0 && norm > threshold { threshold / norm } else { 1.0 };
    let original = |i: usize| {
        let x = x.get(i).copied().unwrap_or_default();
        from_x * f64::from(x) + from_prediction * f64::from(c[i])
    };
    let (mut along, mut squared) = (0.0, 0.0);
    for (i, d) in average.iter().enumerate() {
        let original = original(i);
        along += f64::from(*d) * original;
        squared += original * original;
    }
    // torch's `normalize` divides by no less.
    let along = shorten * along / squared.max(1e-24);
    // Back to a prediction: x cancels.
    let scale = (scale - 1.0) / from_prediction;
    for (i, (out, d)) in out.iter_mut().zip(average.iter()).enumerate() {
        let d = shorten * f64::from(*d) + (options.apg_eta - 1.0) * along * original(i);
        *out = (f64::from(c[i]) + scale * d) as f32;
    }
}

/// Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377, equation 16), and skip-layer guidance likewise, where
/// `p` is the conditional prediction of the perturbed network: adds scale·(c − p).
pub(super) fn perturbed_attention(c: &[f32], p: &[f32], scale: f64, out: &mut [f32]) {
    let scale = scale as f32;
    for (out, (c, p)) in out.iter_mut().zip(c.iter().zip(p)) {
        *out += scale * (c - p);
    }
}

/// Guidance rescale (Lin et al. 2023, arXiv:2305.08891, equations 15 and 16; diffusers' `rescale_noise_cfg`): brings the
/// guided prediction `factor` of the way back to the standard deviation of c.
pub(super) fn rescale(out: &mut [f32], c: &[f32], factor: f64) {
    let (wanted, is) = (deviation(c), deviation(out));
    // A prediction that is the same everywhere has no deviation to bring back.
    if is > 0.0 {
        let scale = factor * (wanted / is) + (1.0 - factor);
        out.iter_mut().for_each(|x| *x = (scale * f64::from(*x)) as f32);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The standard deviation but for a factor that depends on the length alone.
fn deviation(x: &[f32]) -> f64 {
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len().max(1) as f64;
    x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>().sqrt()
}
