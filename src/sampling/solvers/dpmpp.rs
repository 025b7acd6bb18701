//! DPM-Solver++: the probability-flow ODE with its linear part solved exactly, over λ = ln(α/σ).

use super::super::Profile;
use super::super::config::{AlgorithmType, SolverType};
use super::super::grid::Node;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::super::sampler::Sampler;
use super::clipped_epsilon;

pub(super) fn write(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    match settings.sampler {
        Sampler::Dpmpp2sAncestral => two_s_ancestral(b, x, settings),
        _ => two_m(b, x, settings),
    }
}

/// DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2). Same numbers as diffusers'
/// `DPMSolverMultistepScheduler`, whose `solver_order`, `solver_type` and `algorithm_type` of "dpmsolver" the config may
/// set; the other profiles' are those of k-diffusion's `sample_dpmpp_2m`.
fn two_m(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    let config = settings.config;
    let multistep = match settings.options.profile {
        Profile::Diffusers => Multistep {
            order: config.solver_order.clamp(1, 3),
            eta: 0.0,
            solver_type: config.solver_type,
            algorithm_type: config.algorithm_type,
            lowers_order: true,
        },
        Profile::A1111 | Profile::ComfyUi => Multistep::k_diffusion(2, 0.0, SolverType::Midpoint),
    };
    multistep.write(b, x, settings);
}

/// The multistep solvers of one family: DPM-Solver++ over the ODE (η = 0) and over the SDE of that much noise.
pub(super) struct Multistep {
    /// 1..=3.
    pub(super) order: usize,
    pub(super) eta: f64,
    /// How steps of order 2 weigh the difference of two predictions.
    pub(super) solver_type: SolverType,
    pub(super) algorithm_type: AlgorithmType,
    /// Whether the last steps are of lower order where diffusers' config says so.
    pub(super) lowers_order: bool,
}

impl Multistep {
    pub(super) fn k_diffusion(order: usize, eta: f64, solver_type: SolverType) -> Self {
        let algorithm_type = AlgorithmType::DataPrediction;
        Self { order, eta, solver_type, algorithm_type, lowers_order: false }
    }

    pub(super) fn write(&self, b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
        let grid = settings.grid;
        // λ and the prediction of the steps before, the latest last.
        let mut past: Vec<(f64, Value)> = Vec::new();
        for (step, (from, to)) in grid.steps().enumerate() {
            let model = b.evaluate(x, from);
            let prediction = match self.algorithm_type {
                AlgorithmType::DataPrediction => model.original,
                AlgorithmType::NoisePrediction => clipped_epsilon(b, x, from, model, settings.clip),
            };
            let order = self.order_of(step, to, settings).min(past.len() + 1);
            let mut terms = if order == 1 && self.algorithm_type == AlgorithmType::NoisePrediction {
                // The same as below, and finite where α or σ' is 0.
                vec![(to.alpha(), model.original), (to.sigma(), prediction)]
            } else {
                let integrator = Integrator::new(from, to, self.eta, self.algorithm_type);
                integrator.multistep(x, prediction, &past[past.len() + 1 - order..], self.solver_type)
            };
            let std_dev = to.sigma() * (1.0 - decay(from, to, 2.0 * self.eta)).sqrt();
            if std_dev > 0.0 {
                let noise = b.noise(from.level.ratio(), to.level.ratio());
                terms.push((std_dev * settings.options.s_noise, noise));
            }
            x = b.combine(&terms);
            b.end_step(x);
            past.push((from.lambda(), prediction));
        }
    }

    /// The order of a step that has as many predictions before it as it wants.
    fn order_of(&self, step: usize, to: Node, settings: &Settings<'_>) -> usize {
        let (config, grid) = (settings.config, settings.grid);
        let few = self.lowers_order && config.lower_order_final && grid.total_steps < 15;
        let euler_at_final = self.lowers_order && config.euler_at_final;
        match grid.len() - 1 - step {
            // λ is infinite where no noise is left.
            _ if to.sigma() == 0.0 => 1,
            0 if few || euler_at_final => 1,
            1 if few => self.order.min(2),
            _ => self.order,
        }
    }
}

/// exp(−power·h), h = λ' − λ. Unlike h it is finite from no signal (α = 0) and to no noise (σ' = 0).
fn decay(from: Node, to: Node, power: f64) -> f64 {
    libm::pow(to.level.ratio() / from.level.ratio(), power)
}

/// One step of the exponential integrator over λ (Lu et al. 2022, arXiv:2211.01095, proposition 4.1; for the SDE at
/// η = 1, and k-diffusion's way between): x' = `carry`·x + `scale`·Σ `weights[k]`·D⁽ᵏ⁾, where D⁽ᵏ⁾ is hᵏ times the k-th
/// derivative of the prediction by λ.
pub(super) struct Integrator {
    carry: f64,
    scale: f64,
    /// ∫ exp(z − H)·(z/H)ᵏ/k! dz over 0..H with H = h·(1 + η); by parts from one to the next.
    weights: [f64; 3],
    lambda: f64,
    /// λ' − λ.
    h: f64,
}

impl Integrator {
    pub(super) fn new(from: Node, to: Node, eta: f64, algorithm_type: AlgorithmType) -> Self {
        let h = to.lambda() - from.lambda();
        // The noise form (arXiv:2206.00927, proposition 3.1) is the data form with signal and noise exchanged.
        let (carry, scale, big_h) = match algorithm_type {
            AlgorithmType::DataPrediction => {
                (to.sigma() / from.sigma() * decay(from, to, eta), to.alpha(), h * (1.0 + eta))
            }
            AlgorithmType::NoisePrediction => (to.alpha() / from.alpha(), to.sigma(), -h),
        };
        let first = -libm::expm1(-big_h);
        let second = 1.0 - first / big_h;
        let third = 0.5 - second / big_h;
        Self { carry, scale, weights: [first, second, third], lambda: from.lambda(), h }
    }

    /// The step's sum, from the newest prediction and up to two of those before it, the latest last.
    fn multistep(
        &self,
        x: Value,
        newest: Value,
        past: &[(f64, Value)],
        solver_type: SolverType,
    ) -> Vec<(f64, Value)> {
        let [first, second, third] = self.weights;
        let mut sum = vec![(self.carry, x)];
        match *past {
            [(lambda_1, m1)] => {
                let second = match solver_type {
                    SolverType::Midpoint => 0.5 * first,
                    SolverType::Heun => second,
                };
                // D' = (m₀ − m₁)/r
                let slope = second * self.h / (self.lambda - lambda_1);
                sum.extend([(self.scale * (first + slope), newest), (-self.scale * slope, m1)]);
            }
            [(lambda_2, m2), (lambda_1, m1)] => {
                let (r0, r1) = ((self.lambda - lambda_1) / self.h, (lambda_1 - lambda_2) / self.h);
                // With the slopes d₀ = (m₀ − m₁)/r₀ and d₁ = (m₁ − m₂)/r₁ the parabola through the three has
                // D' = d₀ + (d₀ − d₁)·r₀/(r₀ + r₁) and D" = 2·(d₀ − d₁)/(r₀ + r₁). The authors' code leaves out the
                // 2, and diffusers and k-diffusion after it, whose numbers these are.
                let bend = (second * r0 + third) / (r0 + r1);
                let (slope_0, slope_1) = ((second + bend) / r0, -bend / r1);
                sum.extend([
                    (self.scale * (first + slope_0), newest),
                    (self.scale * (slope_1 - slope_0), m1),
                    (-self.scale * slope_1, m2),
                ]);
            }
            _ => sum.push((self.scale * first, newest)),
        }
        sum
    }

    /// The sum of a step from the beginning of a group whose predictions are `group`, the latest last.
    pub(super) fn singlestep(
        &self,
        start: Value,
        group: &[(Node, Value)],
        solver_type: SolverType,
    ) -> Vec<(f64, Value)> {
        let [first, second, third] = self.weights;
        let place = |node: Node| (node.lambda() - self.lambda) / self.h;
        let mut sum = vec![(self.carry, start)];
        match *group {
            [(_, m0), (node, m1)] => {
                let second = match solver_type {
                    SolverType::Midpoint => 0.5 * first,
                    SolverType::Heun => second,
                };
                let slope = second / place(node);
                sum.extend([(self.scale * (first - slope), m0), (self.scale * slope, m1)]);
            }
            [(_, m0), (node_1, m1), (node_2, m2)] => {
                let (r1, r2) = (place(node_1), place(node_2));
                // With the slopes d₁ = (m₁ − m₀)/r₁ and d₂ = (m₂ − m₀)/r₂ the parabola through the three has
                // D' = (r₂·d₁ − r₁·d₂)/(r₂ − r₁) and D" = 2·(d₂ − d₁)/(r₂ − r₁).
                let (slope_1, slope_2) = match solver_type {
                    SolverType::Midpoint => (0.0, second / r2),
                    SolverType::Heun => (
                        (second * r2 - 2.0 * third) / (r2 - r1) / r1,
                        (2.0 * third - second * r1) / (r2 - r1) / r2,
                    ),
                };
                sum.extend([
                    (self.scale * (first - slope_1 - slope_2), m0),
                    (self.scale * slope_1, m1),
                    (self.scale * slope_2, m2),
                ]);
            }
            _ => sum.extend(group.iter().map(|(_, m0)| (self.scale * first, *m0))),
        }
        sum
    }
}

/// DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095, algorithm 1, with its midpoint at r = ½) with ancestral noise.
/// Same numbers as k-diffusion's `sample_dpmpp_2s_ancestral`.
fn two_s_ancestral(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let eta = settings.eta(1.0);
    for (from, to) in settings.grid.steps() {
        let ratio = from.level.ratio();
        let (down, up) = ancestral(ratio, to.level.ratio(), eta);
        let mut original = b.evaluate(x, from).original;
        // λ has no midpoint where it is infinite: without signal before the step, or without noise after it.
        if down > 0.0 && ratio.is_finite() {
            let middle = settings.grid.at_ratio((ratio * down).sqrt());
            let terms = towards(x, original, from, middle, middle.level.ratio());
            let x_middle = b.combine(&terms);
            original = b.evaluate(x_middle, middle).original;
        }
        let mut terms = towards(x, original, from, to, down).to_vec();
        if up > 0.0 {
            terms.push((to.alpha() * up * settings.options.s_noise, b.noise(ratio, to.level.ratio())));
        }
        x = b.combine(&terms);
        b.end_step(x);
    }
}

/// An ancestral step between two noise-to-signal ratios: the one to go down to, and how much noise takes it from there
/// to `to` (k-diffusion's `get_ancestral_step`). It ends with the noise of `to` in any mix of signal and noise, a flow's
/// too; at η = 1 it is DDPM's posterior.
pub(super) fn ancestral(from: f64, to: f64, eta: f64) -> (f64, f64) {
    let fresh = eta * eta * (1.0 - (to / from).powi(2));
    (to * (1.0 - fresh).sqrt(), to * fresh.sqrt())
}

/// The exact solution of the ODE from `from` to the noise-to-signal ratio `ratio` if the predicted x₀ does not change,
/// with as much signal as `to`.
pub(super) fn towards(x: Value, original: Value, from: Node, to: Node, ratio: f64) -> [(f64, Value); 2] {
    [(to.alpha() * ratio / from.sigma(), x), (to.alpha() * (1.0 - ratio / from.level.ratio()), original)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::super::mixture::{config, equals_golden, perfect};
    use super::super::super::{Noise, NoiseStream, Options, Plan, PredictionType, Run, TimestepSpacing};
    use super::*;
    use crate::testing::relative_l2;

    #[test]
    fn trajectories_equal_k_diffusion_and_diffusers() {
        equals_golden("dpmpp");
        equals_golden("dpmsolver");
    }

    /// Latents of a run on the mixture, from the same noise each time.
    fn run(keys: &serde_json::Value, prediction_type: &str, options: &Options) -> Vec<f32> {
        let config = config(&json!({ "config": keys }), prediction_type);
        let plan =
            Arc::new(Plan::new(&config, options).unwrap_or_else(|e| panic!("{e}: {keys} {options:?}")));
        let mut streams = vec![NoiseStream::new(Noise::Mt19937, 1)];
        let mut latents = vec![0.0; 64];
        streams[0].normal(&mut latents);
        let scale = plan.init_noise_sigma();
        latents.iter_mut().for_each(|x| *x *= scale);
        let noise = plan.noise_source(streams, &[1], 64).unwrap();
        let mut run = Run::new(plan, latents, 1, noise).unwrap();
        let mut asked = Vec::new();
        let mut denoise = perfect(&config, &mut asked);
        while !run.is_done() {
            run.step(&mut denoise).unwrap_or_else(|e| panic!("{e}: {keys} {options:?}"));
        }
        run.into_latents()
    }

    const SAMPLERS: [Sampler; 9] = [
        Sampler::Dpmpp2sAncestral,
        Sampler::Dpmpp2m,
        Sampler::Dpmpp2mSde,
        Sampler::Dpmpp2mSdeHeun,
        Sampler::DpmppSde,
        Sampler::Dpmpp3mSde,
        Sampler::DpmSolverSinglestep,
        Sampler::ErSde,
        Sampler::ResMultistep,
    ];

    /// One step or more, from no signal at all, to no noise or some, in either coordinates: numbers all the way.
    #[test]
    fn no_way_makes_a_nan() {
        let mut keys = vec![json!({"rescale_betas_zero_snr": true})];
        for order in 1..=3 {
            for (algorithm_type, solver_type) in [("dpmsolver++", "midpoint"), ("dpmsolver", "heun")] {
                for end in ["zero", "sigma_min"] {
                    keys.push(json!({
                        "solver_order": order, "algorithm_type": algorithm_type, "solver_type": solver_type,
                        "final_sigmas_type": end, "lower_order_final": false,
                    }));
                }
            }
        }
        for sampler in SAMPLERS {
            for prediction_type in
                ["epsilon", "v_prediction", "sample", "edm_v_prediction", "flow_prediction"]
            {
                let flow = prediction_type == PredictionType::Flow.name();
                let first = if flow { 1.0 } else { 3000.0 };
                let grids: [&[f64]; 6] = [
                    &[first, 0.0],
                    &[first, 0.3],
                    &[first, 0.9, 0.2],
                    &[first, 0.9, 0.2, 0.0],
                    &[first, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1],
                    &[0.01, 0.009999999, 0.0],
                ];
                let mut ways: Vec<Options> = grids
                    .into_iter()
                    .map(|sigmas| Options { sigmas: Some(sigmas.to_vec()), ..Options::new(sigmas.len() - 1) })
                    .collect();
                if !flow && prediction_type != "edm_v_prediction" {
                    ways.extend([1, 2, 3].map(|steps| Options {
                        spacing: Some(TimestepSpacing::Trailing),
                        ..Options::new(steps)
                    }));
                }
                for (way, keys) in ways.iter().flat_map(|way| keys.iter().map(move |keys| (way, keys))) {
                    for (profile, eta) in [
                        (Profile::Diffusers, None),
                        (Profile::ComfyUi, Some(0.0)),
                        (Profile::ComfyUi, Some(0.3)),
                    ] {
                        let options = Options { sampler: Some(sampler), profile, eta, ..way.clone() };
                        let latents = run(keys, prediction_type, &options);
                        assert!(
                            latents.iter().all(|x| x.is_finite()),
                            "{prediction_type} {keys} {options:?}"
                        );
                    }
                }
            }
        }
    }

    /// The slope of the error against steps, both logarithmic, for the samplers that are deterministic at η = 0.
    #[test]
    fn errors_fall_with_the_order() {
        let karras = |steps: usize| -> Vec<f64> {
            let place = |i: usize| i as f64 / steps as f64;
            let root =
                |i: usize| 10f64.powf(1.0 / 7.0) * (1.0 - place(i)) + 0.05f64.powf(1.0 / 7.0) * place(i);
            (0..=steps).map(|i| root(i).powi(7)).collect()
        };
        let way = |sampler, steps: usize, keys: &serde_json::Value| {
            let options = Options {
                sampler: Some(sampler),
                sigmas: Some(karras(steps)),
                eta: Some(0.0),
                ..Options::new(steps)
            };
            run(keys, "v_prediction", &options)
        };
        for (sampler, solver_order, expected) in [
            (Sampler::Dpmpp2sAncestral, 2, 2.0),
            (Sampler::Dpmpp2m, 1, 1.0),
            (Sampler::Dpmpp2m, 2, 2.0),
            // Without the 2 of its last term; with it this is 3 (see `Integrator::multistep`).
            (Sampler::Dpmpp2m, 3, 2.0),
            (Sampler::Dpmpp2mSde, 2, 2.0),
            (Sampler::Dpmpp2mSdeHeun, 2, 2.0),
            (Sampler::DpmppSde, 2, 2.0),
            (Sampler::Dpmpp3mSde, 2, 2.0),
            (Sampler::DpmSolverSinglestep, 2, 2.0),
            (Sampler::DpmSolverSinglestep, 3, 3.0),
            (Sampler::ResMultistep, 2, 2.0),
        ] {
            let keys = json!({"solver_order": solver_order, "lower_order_final": false});
            let best = json!({"solver_order": 2.max(solver_order), "lower_order_final": false});
            let exact = way(sampler, 1536, &best);
            let error = |steps| relative_l2(&way(sampler, steps, &keys), &exact);
            let slope = (error(48) / error(96)).log2();
            assert!((slope - expected).abs() < 0.35, "{sampler:?} {solver_order}: {slope}");
        }
    }
}
