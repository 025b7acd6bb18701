//! The analytic denoiser of `tools/mixture.py`, and the runner of the fixtures that it makes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::*;
use crate::testing::{Golden, golden_json, relative_l2};
use crate::util::error::Result;

/// Weight, mean and standard deviation of each Gaussian.
pub(super) const GAUSSIANS: [[f64; 3]; 3] = [[0.3, -1.2, 0.3], [0.5, 0.4, 0.2], [0.2, 1.5, 0.4]];
/// Images of a fixture's batch.
const IMAGES: usize = 2;

/// E[x₀ | x] for x = alpha·x₀ + sigma·ε.
pub(super) fn denoised(x: f64, NoiseLevel { alpha, sigma }: NoiseLevel) -> f64 {
    let parts = GAUSSIANS.map(|[weight, mean, std]| {
        let (off, variance) = (x - alpha * mean, alpha * alpha * std * std + sigma * sigma);
        let log = weight.ln() - 0.5 * off * off / variance - 0.5 * variance.ln();
        (log, mean + alpha * std * std * off / variance)
    });
    let most = parts.iter().map(|(log, _)| *log).fold(f64::MIN, f64::max);
    let sum: f64 = parts.iter().map(|(log, _)| (log - most).exp()).sum();
    parts.iter().map(|(log, mean)| (log - most).exp() / sum * mean).sum()
}

/// The answer of a perfect model of that type to its own input x.
pub(super) fn prediction(prediction_type: PredictionType, x: f64, level: NoiseLevel, sigma_data: f64) -> f64 {
    shifted_prediction(prediction_type, x, level, sigma_data, 0.0)
}

/// The same for data that lie `shift` further up.
fn shifted_prediction(
    prediction_type: PredictionType,
    x: f64,
    level: NoiseLevel,
    sigma_data: f64,
    shift: f64,
) -> f64 {
    let NoiseLevel { alpha, sigma } = level;
    let x0 = denoised(x - alpha * shift, level) + shift;
    let epsilon = (x - alpha * x0) / sigma;
    match prediction_type {
        PredictionType::Epsilon => epsilon,
        PredictionType::VPrediction => alpha * epsilon - sigma * x0,
        PredictionType::Sample => x0,
        PredictionType::Flow => epsilon - x0,
        PredictionType::EdmV => {
            // x₀ = c_skip·y + c_out·v with y = x/α (Karras et al. 2022, table 1, c_out turned round).
            let (y, ratio) = (x / alpha, sigma / alpha);
            let norm = (ratio * ratio + sigma_data * sigma_data).sqrt();
            ((sigma_data / norm).powi(2) * y - x0) * norm / (ratio * sigma_data)
        }
    }
}

/// A perfect model that writes down when it was asked.
pub(super) fn perfect(
    config: &SchedulerConfig,
    asked: &mut Vec<(f64, f64)>,
) -> impl FnMut(Evaluation<'_>, &mut [f32], &mut [f32]) -> Result<()> {
    let (prediction_type, sigma_data) = (config.prediction_type, config.sigma_data);
    move |evaluation, out, _| {
        let level = NoiseLevel { alpha: evaluation.alpha, sigma: evaluation.sigma };
        asked.push((f64::from(evaluation.timestep), level.ratio()));
        // The second half of what a model of learned variance answers for an image is the variance.
        let (image, factor) = (evaluation.input.len().div_ceil(IMAGES), out.len() / evaluation.input.len());
        for (out, input) in out.chunks_mut(image * factor).zip(evaluation.input.chunks(image)) {
            let (predictions, variances) = out.split_at_mut(input.len());
            for (out, x) in predictions.iter_mut().zip(input) {
                *out = prediction(prediction_type, f64::from(*x), level, sigma_data) as f32;
            }
            for (out, x) in variances.iter_mut().zip(input) {
                *out = (0.5 + 0.4 * (3.0 * f64::from(*x) / level.alpha.hypot(level.sigma)).sin()) as f32;
            }
        }
        Ok(())
    }
}

/// The noise of a fixture, draw by draw, and how much of it is left.
pub(super) struct Injected(Arc<Mutex<VecDeque<Vec<f32>>>>);

impl NoiseSource for Injected {
    fn draw(&mut self, _: f64, _: f64, _: usize, out: &mut [f32]) {
        let next =
            self.0.lock().unwrap().pop_front().expect("the sampler draws more noise than the fixture has");
        out.copy_from_slice(&next);
    }
}

/// [`perfect`], and without the prompt the data lie `shift` further up.
pub(super) fn guided(
    config: &SchedulerConfig,
    asked: &mut Vec<(f64, f64)>,
    shift: f64,
) -> impl FnMut(Evaluation<'_>, &mut [f32], &mut [f32]) -> Result<()> {
    let (prediction_type, sigma_data) = (config.prediction_type, config.sigma_data);
    let mut conditional = perfect(config, asked);
    move |evaluation, out, unconditional| {
        let level = NoiseLevel { alpha: evaluation.alpha, sigma: evaluation.sigma };
        for (out, x) in unconditional.iter_mut().zip(evaluation.input) {
            *out = shifted_prediction(prediction_type, f64::from(*x), level, sigma_data, shift) as f32;
        }
        conditional(evaluation, out, &mut [])
    }
}

/// Reads a case's "options" by the names of [`Options`].
pub(super) fn options(case: &Value) -> Options {
    let mut options = Options::new(0);
    let named = case["sampler"].as_str().unwrap();
    options.sampler = SAMPLERS.iter().find(|info| info.name == named).map(|info| info.sampler);
    assert!(options.sampler.is_some(), "unknown sampler {named}");
    for (name, value) in case["options"].as_object().unwrap() {
        let number = || value.as_f64().unwrap();
        let numbers = || Some(value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect());
        let text = || value.as_str().unwrap();
        match name.as_str() {
            "steps" => options.steps = value.as_u64().unwrap() as usize,
            "eta" => options.eta = Some(number()),
            "s_churn" => options.s_churn = number(),
            "s_tmin" => options.s_tmin = number(),
            "s_tmax" => options.s_tmax = number(),
            "s_noise" => options.s_noise = number(),
            "strength" => options.strength = Some(number()),
            "sigmas" => options.sigmas = numbers(),
            "timesteps" => options.timesteps = numbers(),
            "spacing" => {
                options.spacing =
                    [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace]
                        .into_iter()
                        .find(|spacing| spacing.name() == text());
            }
            "profile" => {
                options.profile = [Profile::Diffusers, Profile::A1111, Profile::ComfyUi]
                    .into_iter()
                    .find(|profile| profile.name() == text())
                    .unwrap();
            }
            "sigma_schedule" => {
                options.sigma_schedule =
                    SigmaSchedule::ALL.into_iter().find(|schedule| schedule.name() == text());
            }
            other => panic!("unknown option {other}"),
        }
    }
    options
}

/// The config of a case, Stable Diffusion's unless it brings its own, for one prediction type.
pub(super) fn config(case: &Value, prediction_type: &str) -> SchedulerConfig {
    let mut keys = serde_json::json!({
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    });
    for (key, value) in case["config"].as_object().into_iter().flatten() {
        keys[key] = value.clone();
    }
    keys["prediction_type"] = prediction_type.into();
    SchedulerConfig::parse(&keys.to_string()).unwrap()
}

/// Runs every case of `tests/golden/solvers-<name>`, for each of its prediction types.
pub(super) fn equals_golden(name: &str) {
    let golden = Golden::open(&format!("solvers-{name}"));
    let cases = golden_json(&format!("solvers-{name}"));
    let cases = cases.as_array().unwrap();
    assert!(!cases.is_empty());
    let array = |case: &Value, what: &str| case[what].as_str().map(|key| golden.values(key));
    for case in cases {
        for prediction_type in case["prediction_types"].as_array().unwrap() {
            let config = config(case, prediction_type.as_str().unwrap());
            let what = format!("{prediction_type} {case}");
            let plan = Plan::new(&config, &options(case)).unwrap_or_else(|e| panic!("{e}: {what}"));
            let draws = array(case, "draws").unwrap_or_default();
            let start = array(case, "start").unwrap();
            let draws: VecDeque<Vec<f32>> = draws.chunks(start.len()).map(<[f32]>::to_vec).collect();
            let draws = Arc::new(Mutex::new(draws));
            let mut run = Run::new(Arc::new(plan), start, IMAGES, Box::new(Injected(draws.clone()))).unwrap();
            let mut asked = Vec::new();
            let shift = case["unconditional"].as_f64().unwrap_or(0.0);
            let mut denoise = guided(&config, &mut asked, shift);
            while !run.is_done() {
                run.step(&mut denoise).unwrap_or_else(|e| panic!("{e}: {what}"));
            }
            drop(denoise);
            let left = draws.lock().unwrap().len();
            assert_eq!(left, 0, "draws left: {what}");
            let error = relative_l2(run.latents(), &array(case, "latents").unwrap());
            assert!(error <= 1e-4, "{error:.2e}: {what}");
            // Evaluation by evaluation, so that a wrong timestep shows, which this model does not look at.
            let compare = |kind: &str, actual: Vec<f64>, tolerance: f64| {
                let Some(expected) = array(case, kind) else { return };
                assert_eq!(actual.len(), expected.len(), "{kind}: {what}");
                for (a, e) in actual.iter().zip(&expected) {
                    let e = f64::from(*e);
                    assert!((a - e).abs() <= tolerance * e.abs().max(1e-2), "{kind} {a} not {e}: {what}");
                }
            };
            compare("timesteps", asked.iter().map(|(timestep, _)| *timestep).collect(), 2e-4);
            compare("sigmas", asked.iter().map(|(_, sigma)| *sigma).collect(), 2e-5);
        }
    }
}
