//! Whether samplers arrive: solvers at the solution of the probability-flow ODE, as fast as their papers say when steps
//! grow finer, and DDPM at the data's distribution.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::mixture::{GAUSSIANS, denoised, guided, perfect};
use super::*;

/// From where to where: down to where the mixture's parts begin to come apart, and not to 0, whose last step is Euler's
/// for most solvers and would hide the order of all others.
const SIGMAS: [f64; 2] = [14.0, 0.4];

/// How the noise levels lie.
#[derive(Clone, Copy)]
enum Steps {
    /// Even in σ^(1/7) (Karras et al. 2022), smooth but even in nothing that a formula knows.
    Karras,
    /// Even in ln σ but for the first steps, which are short: multistep methods begin with lower orders.
    SlowStart,
}

impl Steps {
    fn sigmas(self, steps: usize) -> Vec<f64> {
        let [max, min] = SIGMAS;
        let between = |t: f64| match self {
            Steps::Karras => (max.powf(1.0 / 7.0) * (1.0 - t) + min.powf(1.0 / 7.0) * t).powi(7),
            Steps::SlowStart => {
                let t = t * t * t * (2.0 - t);
                (max.ln() * (1.0 - t) + min.ln() * t).exp()
            }
        };
        (0..=steps).map(|i| between(i as f64 / steps as f64)).collect()
    }
}

/// Values of x₀ + σ·ε where the way begins.
fn start() -> Vec<f64> {
    (0..64).map(|i| SIGMAS[0] * (i as f64 - 31.5) / 16.0).collect()
}

/// The exact solution: the classical Runge-Kutta method on dx/d(ln σ) = x − E[x₀ | x], in `f64`, in very fine steps.
fn exact() -> Vec<f64> {
    let direction = |x: f64, log: f64| x - denoised(x, NoiseLevel { alpha: 1.0, sigma: log.exp() });
    let steps = 4000;
    let [max, min] = SIGMAS.map(f64::ln);
    let h = (min - max) / steps as f64;
    let solve = |mut x: f64| {
        for i in 0..steps {
            let log = max + h * i as f64;
            let k1 = direction(x, log);
            let k2 = direction(x + 0.5 * h * k1, log + 0.5 * h);
            let k3 = direction(x + 0.5 * h * k2, log + 0.5 * h);
            let k4 = direction(x + h * k3, log + h);
            x += h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4);
        }
        x
    };
    start().into_iter().map(solve).collect()
}

/// The root mean square error of a sampler, which keeps its order up to the end.
fn error(sampler: Sampler, steps: Steps, count: usize, exact: &[f64]) -> f64 {
    let keys = serde_json::json!({
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon", "lower_order_final": false,
    });
    let config = SchedulerConfig::parse(&keys.to_string()).unwrap();
    let options =
        Options { sampler: Some(sampler), sigmas: Some(steps.sigmas(count)), ..Options::new(count) };
    let plan = Arc::new(Plan::new(&config, &options).unwrap());
    // Variance-preserving x is x₀ + σ·ε made smaller.
    let latents = start().iter().map(|x| (x * plan.level(0).alpha) as f32).collect();
    let noise: Vec<NoiseStream> = Vec::new();
    let mut run = Run::new(plan.clone(), latents, 1, Box::new(noise)).unwrap();
    let mut asked = Vec::new();
    let mut denoise = guided(&config, &mut asked, 0.0);
    while !run.is_done() {
        run.step(&mut denoise).unwrap();
    }
    let ends = run.latents().iter().map(|x| f64::from(*x) / plan.level(count).alpha);
    let square: f64 = ends.zip(exact).map(|(x, exact)| (x - exact).powi(2)).sum();
    (square / exact.len() as f64).sqrt()
}

/// Each deterministic solver, on what steps and from how many on its order shows, and up to which the last bits of
/// `f32` leave it alone.
const SOLVERS: &[(Sampler, Steps, usize)] = &[
    (Sampler::Ddim, Steps::Karras, 40),
    (Sampler::Euler, Steps::Karras, 40),
    (Sampler::EulerCfgPp, Steps::Karras, 40),
    (Sampler::Heun, Steps::Karras, 40),
    (Sampler::Dpm2, Steps::Karras, 40),
    (Sampler::Lms, Steps::SlowStart, 80),
    (Sampler::Ipndm, Steps::Karras, 80),
    (Sampler::Pndm, Steps::Karras, 80),
    (Sampler::Plms, Steps::Karras, 80),
    (Sampler::Dpmpp2m, Steps::Karras, 80),
    (Sampler::DpmSolverSinglestep, Steps::Karras, 80),
    (Sampler::UniPcBh1, Steps::Karras, 80),
    (Sampler::UniPcBh2, Steps::Karras, 80),
    (Sampler::Deis, Steps::Karras, 80),
    (Sampler::ResMultistep, Steps::Karras, 80),
    (Sampler::GradientEstimation, Steps::Karras, 160),
];

#[test]
fn orders_are_those_of_the_papers() {
    for info in SAMPLERS.iter().filter(|info| !info.stochastic) {
        assert!(
            SOLVERS.iter().any(|(sampler, ..)| *sampler == info.sampler),
            "{} is not measured",
            info.name
        );
    }
    let exact = exact();
    for (sampler, steps, count) in SOLVERS {
        let [coarse, fine] = [*count, 2 * count].map(|count| error(*sampler, *steps, count, &exact));
        let (measured, claimed) = ((coarse / fine).log2(), f64::from(sampler.info().order));
        assert!((measured - claimed).abs() < 0.25, "{}: {measured:.2}, not {claimed}", sampler.name());
    }
}

/// A name, a function of a sample, and its mean over the mixture.
type Statistic = (String, Box<dyn Fn(f64) -> f64>, f64);

/// The mixture's E[x], E[x²] and E[cos(k·x)] for a few k, which see how wide its parts are.
fn statistics() -> Vec<Statistic> {
    let mean = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        GAUSSIANS.iter().map(|[weight, mean, std]| weight * f(*mean, *std)).sum()
    };
    let mut statistics: Vec<Statistic> = vec![
        ("mean".into(), Box::new(|x| x), mean(&|mean, _| mean)),
        ("square".into(), Box::new(|x| x * x), mean(&|mean, std| mean * mean + std * std)),
    ];
    for k in 1..=6 {
        let k = f64::from(k);
        let expected = mean(&|mean, std| (k * mean).cos() * (-0.5 * (k * std).powi(2)).exp());
        statistics.push((format!("cos({k}x)"), Box::new(move |x| (k * x).cos()), expected));
    }
    statistics
}

/// Both of Ho et al.'s variances (section 3.2) are the posterior's but for terms of a step's length: the large one for
/// data of variance 1, which this mixture's nearly is, the small one for data without any.
#[test]
fn ddpm_samples_the_mixture() {
    samples_the_mixture("fixed_large", 500);
    samples_the_mixture("fixed_small", 1000);
}

fn samples_the_mixture(variance_type: &str, steps: usize) {
    const IMAGES: usize = 1024;
    const VALUES: usize = 8;
    let keys = serde_json::json!({
        "_class_name": "DDPMScheduler", "clip_sample": false, "timestep_spacing": "trailing",
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "variance_type": variance_type,
    });
    let config = SchedulerConfig::parse(&keys.to_string()).unwrap();
    let plan = Arc::new(Plan::new(&config, &Options::new(steps)).unwrap());
    let mut streams: Vec<NoiseStream> =
        (0..IMAGES as u64).map(|seed| NoiseStream::new(Noise::Philox, seed)).collect();
    let mut latents = vec![0.0; IMAGES * VALUES];
    streams.draw(0.0, 0.0, IMAGES, &mut latents);
    let mut run = Run::new(plan, latents, IMAGES, Box::new(streams)).unwrap();
    let mut asked = Vec::new();
    let mut denoise = perfect(&config, &mut asked);
    while !run.is_done() {
        run.step(&mut denoise).unwrap();
    }
    let latents = run.into_latents();
    let values: Vec<f64> = latents.iter().map(|x| f64::from(*x)).collect();
    let close = |what: &str, samples: &[f64], expected: f64| {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let errors = (mean - expected) / (variance / count).sqrt();
        let what = format!("{variance_type}, {what}");
        assert!(errors.abs() < 3.5, "{what}: {mean}, {errors:.1} standard errors from {expected}");
    };
    let mut mean = 0.0;
    for (what, statistic, expected) in statistics() {
        close(&what, &values.iter().map(|x| statistic(*x)).collect::<Vec<_>>(), expected);
        if what == "mean" {
            mean = expected;
        }
    }
    // The values of an image are independent.
    for i in 0..VALUES {
        for j in 0..i {
            let products: Vec<f64> =
                values.chunks(VALUES).map(|image| (image[i] - mean) * (image[j] - mean)).collect();
            close(&format!("covariance of {i} and {j}"), &products, 0.0);
        }
    }
}
