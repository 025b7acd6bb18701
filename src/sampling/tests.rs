#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Against `tests/golden/sampling.*`, which tools/golden_sampling.py makes from diffusers, torch and numpy.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::testing::{self, golden_json, relative_l2};
use crate::util::error::{Result, Status, bail};

pub(super) struct Golden {
    pub(super) cases: Value,
    arrays: testing::Golden,
}

impl Golden {
    pub(super) fn load() -> Self {
        Self { cases: golden_json("sampling"), arrays: testing::Golden::open("sampling") }
    }

    fn cases(&self, key: &str) -> &[Value] {
        let cases = self.cases[key].as_array().unwrap();
        assert!(!cases.is_empty());
        cases
    }

    pub(super) fn f32s(&self, name: &str) -> Vec<f32> {
        self.arrays.values(name)
    }

    fn i32s(&self, name: &str) -> Vec<i32> {
        self.arrays.bytes(name).into_iter().map(i32::from_le_bytes).collect()
    }

    fn i64s(&self, name: &str) -> Vec<i64> {
        self.arrays.bytes(name).into_iter().map(i64::from_le_bytes).collect()
    }
}

/// The config of a case: its keys, and a class.
fn config(class: &str, keys: &Value) -> SchedulerConfig {
    let mut keys = keys.clone();
    keys["_class_name"] = class.into();
    SchedulerConfig::parse(&keys.to_string()).unwrap()
}

fn spacing(name: &Value) -> Option<TimestepSpacing> {
    [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace]
        .into_iter()
        .find(|spacing| name.as_str() == Some(spacing.name()))
}

#[track_caller]
fn assert_close(actual: &[f64], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let e = f64::from(*e);
        assert!((a - e).abs() <= tolerance * e.abs(), "{what}[{i}]: {a} but diffusers has {e}");
    }
}

#[test]
fn schedules_equal_diffusers() {
    let golden = Golden::load();
    for case in golden.cases("schedules") {
        let name = case["name"].as_str().unwrap();
        let schedule = Schedule::new(&config("DDIMScheduler", &case["config"])).unwrap();
        let tables = [("betas", schedule.betas()), ("alphas_cumprod", schedule.alphas_cumprod())];
        for (table, values) in tables {
            let expected = golden.f32s(&format!("{table}.{name}"));
            let what = format!("{table}.{name}");
            if table == "betas" && schedule.alphas_cumprod().ends_with(&[0.0]) {
                // Here β is 1 − α with α = ᾱₜ/ᾱₜ₋₁ in `f32`: it is as exact as α is.
                let one_minus = |beta: f32| 1.0 - beta;
                let alphas: Vec<f64> = values.iter().map(|beta| 1.0 - beta).collect();
                assert_close(&alphas, &expected.into_iter().map(one_minus).collect::<Vec<_>>(), 1e-6, &what);
            } else {
                assert_close(values, &expected, 1e-6, &what);
            }
        }
        for timestep in case["timesteps"].as_array().unwrap() {
            let ramp = |from: f32, to: f32| {
                (0..16).map(|i| from + (to - from) * i as f32 / 15.0).collect::<Vec<_>>()
            };
            let (mut samples, noise) = (ramp(-2.0, 2.0), ramp(1.0, -3.0));
            schedule.add_noise(&mut samples, &noise, &[timestep.as_u64().unwrap() as usize]).unwrap();
            let expected = golden.f32s(&format!("add_noise.{name}.{timestep}"));
            assert!(relative_l2(&samples, &expected) < 1e-6, "add_noise.{name}.{timestep}");
        }
    }
}

#[test]
fn timesteps_and_sigmas_equal_diffusers() {
    let golden = Golden::load();
    let configs = golden.cases("schedules");
    for case in golden.cases("plans") {
        let name = case["config"].as_str().unwrap();
        let keys = &configs.iter().find(|config| config["name"] == *name).unwrap()["config"];
        let steps = case["steps"].as_u64().unwrap() as usize;
        let what = format!("{name}.{}.{steps}", case["spacing"].as_str().unwrap());
        let timesteps = golden.i32s(&format!("timesteps.{what}"));
        for sampler in [Sampler::Ddpm, Sampler::Ddim] {
            let mut config = config("DDIMScheduler", keys);
            config.prediction_type = PredictionType::VPrediction;
            let plan = plan(&config, Some(sampler), spacing(&case["spacing"]), steps, 0.0).unwrap();
            let actual: Vec<i32> = plan.timesteps().iter().map(|t| *t as i32).collect();
            assert_eq!(actual, timesteps, "{what}");
            assert_eq!(plan.init_noise_sigma(), 1.0);
        }

        let config = config("EulerDiscreteScheduler", keys);
        let spacing = spacing(&case["spacing"]).unwrap();
        let euler_timesteps = match spacing {
            TimestepSpacing::Linspace => golden.f32s(&format!("euler_timesteps.{what}")),
            TimestepSpacing::Leading | TimestepSpacing::Trailing => {
                timesteps.iter().map(|t| *t as f32).collect()
            }
        };
        let plan = plan(&config, None, Some(spacing), steps, 0.0).unwrap();
        assert_eq!(plan.timesteps(), euler_timesteps, "{what}");
        let sigmas: Vec<f64> = (0..=steps).map(|i| plan.level(i).sigma).collect();
        assert_close(&sigmas, &golden.f32s(&format!("sigmas.{what}")), 1e-6, &what);
        let init_noise_sigma = case["init_noise_sigma"].as_f64().unwrap() as f32;
        assert_close(&[f64::from(plan.init_noise_sigma())], &[init_noise_sigma], 1e-6, &what);
    }
}

#[test]
fn timesteps_of_every_step_count_equal_diffusers() {
    let golden = Golden::load();
    let config = config("DDIMScheduler", &json!({}));
    for spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace] {
        let sums = golden.i64s(&format!("timestep_sums.{}", spacing.name()));
        assert_eq!(sums.len(), 1000);
        for (steps, sum) in (1..).zip(sums) {
            let timesteps = timesteps::timesteps(&config, timesteps::Spread::Whole, spacing, steps).unwrap();
            let actual: i64 = (1..).zip(&timesteps).map(|(i, t)| i * *t as i64).sum();
            assert_eq!((timesteps.len(), actual), (steps, sum), "{spacing:?} {steps}");
        }
    }
}

/// The tool's made-up model.
fn denoise(evaluation: Evaluation<'_>, prediction: &mut [f32], _: &mut [f32]) -> Result<()> {
    for (prediction, x) in prediction.iter_mut().zip(evaluation.input) {
        *prediction = (x * 0.8).tanh() * 0.9 + 0.3 * (x + evaluation.timestep * 0.01).sin();
    }
    Ok(())
}

/// A plan with the options that these tests vary.
fn plan(
    config: &SchedulerConfig,
    sampler: Option<Sampler>,
    spacing: Option<TimestepSpacing>,
    steps: usize,
    eta: f64,
) -> Result<Arc<Plan>> {
    let options = Options { sampler, spacing, eta: Some(eta), ..Options::new(steps) };
    Plan::new(config, &options).map(Arc::new)
}

/// Runs a plan from its first noise to its last step.
fn run(plan: &Arc<Plan>, noise: Noise, seeds: &[u64], image: usize) -> Vec<f32> {
    let mut streams: Vec<NoiseStream> = seeds.iter().map(|seed| NoiseStream::new(noise, *seed)).collect();
    let mut latents = vec![0.0; seeds.len() * image];
    for (latents, stream) in latents.chunks_mut(image).zip(&mut streams) {
        stream.normal(latents);
    }
    latents.iter_mut().for_each(|x| *x *= plan.init_noise_sigma());
    let mut run = Run::new(plan.clone(), latents, seeds.len(), Box::new(streams)).unwrap();
    while !run.is_done() {
        run.step(&mut denoise).unwrap();
    }
    run.into_latents()
}

#[test]
fn trajectories_equal_diffusers() {
    let golden = Golden::load();
    let seeds: Vec<u64> =
        golden.cases("trajectory_seeds").iter().map(|seed| seed.as_u64().unwrap()).collect();
    for case in golden.cases("trajectories") {
        let config = config(case["class"].as_str().unwrap(), &case["config"]);
        let (steps, eta) = (case["steps"].as_u64().unwrap() as usize, case["eta"].as_f64().unwrap());
        let plan = plan(&config, None, spacing(&case["spacing"]), steps, eta).unwrap();
        assert_eq!(plan.sampler().name(), case["sampler"]);
        let latents = run(&plan, Noise::Mt19937, &seeds, 64);
        let name = case["latents"].as_str().unwrap();
        let error = relative_l2(&latents, &golden.f32s(name));
        if plan.sampler() == Sampler::Euler {
            let exact = relative_l2(&latents, &golden.f32s(&format!("exact_{name}")));
            assert!(exact <= 1e-5, "{exact:e} from exact: {case}");
        }
        // diffusers loses to cancellation what it subtracts at σ of thousands, in the first step.
        let tolerance = f64::max(1e-5, f64::from(plan.init_noise_sigma()) * 4e-7);
        assert!(error <= tolerance, "{error:e}: {case}");
    }
}

#[test]
fn an_image_is_the_same_in_any_batch() {
    for (sampler, eta) in [(Sampler::Ddpm, 0.0), (Sampler::Ddim, 0.7), (Sampler::Euler, 0.0)] {
        for noise in [Noise::Philox, Noise::Mt19937] {
            let plan = plan(&config("PNDMScheduler", &json!({})), Some(sampler), None, 9, eta).unwrap();
            let batch = run(&plan, noise, &[5, 6, 7], 36);
            for (seed, image) in [5, 6, 7].into_iter().zip(batch.chunks(36)) {
                assert_eq!(run(&plan, noise, &[seed], 36), image, "{sampler:?} {noise:?}");
            }
        }
    }
}

#[test]
fn a_failed_evaluation_leaves_the_latents() {
    for sampler in [Sampler::Ddpm, Sampler::Ddim, Sampler::Euler] {
        let plan = plan(&config("DDIMScheduler", &json!({})), Some(sampler), None, 4, 1.0).unwrap();
        let start = |seed| {
            let noise = vec![NoiseStream::new(Noise::Philox, seed)];
            Run::new(plan.clone(), vec![0.5; 16], 1, Box::new(noise)).unwrap()
        };
        let (mut failing, mut smooth) = (start(0), start(0));
        let mut cancelled = |_: Evaluation<'_>, _: &mut [f32], _: &mut [f32]| bail!(Cancelled, "cancelled");
        let error = failing.step(&mut cancelled).unwrap_err();
        assert_eq!(error.status(), Status::Cancelled);
        assert_eq!((failing.latents(), failing.step_index()), ([0.5; 16].as_slice(), 0));
        // The streams have not moved either, so the step can be taken again.
        for _ in 0..4 {
            failing.step(&mut denoise).unwrap();
            smooth.step(&mut denoise).unwrap();
        }
        assert!(failing.is_done());
        assert_eq!(failing.latents(), smooth.latents());
    }
}

#[test]
fn options_out_of_range_are_errors() {
    let config = config("DDIMScheduler", &json!({"steps_offset": 1, "num_train_timesteps": 100}));
    let status = |options: Options| Plan::new(&config, &options).map_or_else(|e| e.status(), |_| panic!());
    for steps in [0, 101, 100] {
        assert_eq!(status(Options::new(steps)), Status::InvalidArgument, "{steps}");
    }
    let ten = Options::new(10);
    for options in [
        Options { eta: Some(-0.1), ..ten.clone() },
        Options { eta: Some(1.5), ..ten.clone() },
        Options { eta: Some(f64::NAN), ..ten.clone() },
        Options { s_churn: -1.0, ..ten.clone() },
        Options { s_noise: f64::INFINITY, ..ten.clone() },
        Options { s_tmin: 2.0, s_tmax: 1.0, ..ten.clone() },
        Options { strength: Some(0.0), ..ten.clone() },
        Options { strength: Some(1.1), ..ten.clone() },
        Options { strength: Some(0.05), ..ten.clone() },
        Options { sigmas: Some(vec![]), ..ten.clone() },
        Options { sigmas: Some(vec![1.0, 2.0, 0.0]), ..Options::new(2) },
        Options { sigmas: Some(vec![1.0, f64::NAN, 0.0]), ..Options::new(2) },
        Options { sigmas: Some(vec![1.0, 0.0]), timesteps: Some(vec![5.0]), ..Options::new(1) },
        Options { timesteps: Some(vec![5.0, 5.0]), ..Options::new(2) },
        Options { timesteps: Some(vec![100.0]), ..Options::new(1) },
    ] {
        let what = format!("{options:?}");
        assert_eq!(status(options), Status::InvalidArgument, "{what}");
    }
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let config = config("DDIMScheduler", &json!({}));
    let plan = plan(&config, None, None, 9, 0.0).unwrap();
    let run = |latents, images| {
        let noise = vec![NoiseStream::new(Noise::Philox, 0); images];
        Run::new(plan.clone(), vec![0.0; latents], images, Box::new(noise))
    };
    let status = |result: Result<()>| result.map_err(|e| e.status());
    assert!(run(6, 4).is_err() && run(6, 0).is_err());
    assert_eq!(status(run(0, 2).unwrap().step(&mut denoise)), Ok(()));
    let mut run = run(6, 2).unwrap();
    assert_eq!(status(run.tell(&[0.0; 6], &[])), Err(Status::InvalidState));
    let first = run.ask().unwrap().unwrap().input.to_vec();
    assert_eq!(status(run.tell(&[0.0; 5], &[])), Err(Status::InvalidArgument));
    assert_eq!(status(run.tell(&[f32::NAN; 6], &[])), Err(Status::Numeric));
    assert_eq!(run.ask().unwrap().unwrap().input, first);
    assert_eq!(status(run.tell(&[0.0; 6], &[])), Ok(()));
    assert_eq!(run.step_index(), 1);
}

#[test]
fn epsilon_models_cannot_start_without_signal() {
    let config = config("DDIMScheduler", &json!({"rescale_betas_zero_snr": true}));
    let plan = |sampler, spacing| plan(&config, Some(sampler), Some(spacing), 10, 0.0);
    for sampler in [Sampler::Ddim, Sampler::Ddpm] {
        let error = plan(sampler, TimestepSpacing::Trailing).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("rescale_betas_zero_snr"), "{error}");
        assert!(plan(sampler, TimestepSpacing::Leading).is_ok());
    }
    assert!(plan(Sampler::Euler, TimestepSpacing::Trailing).is_ok());
}
