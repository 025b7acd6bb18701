//! Euler: the probability-flow ODE in straight steps of σ, plain, ancestral and CFG++.

use super::super::Profile;
use super::super::Sampler;
use super::super::grid::{Grid, Node};
use super::super::levels::Levels;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};

pub(super) fn write(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    match settings.sampler {
        Sampler::EulerAncestral => ancestral(b, x, settings),
        Sampler::EulerCfgPp => cfg_pp(b, x, settings),
        _ => plain(b, x, settings),
    }
}

/// Karras et al. 2022 (arXiv:2206.00364), algorithm 2 without its second-order correction. Same numbers as
/// k-diffusion's `sample_euler` and, at its default `s_churn=0`, as diffusers' `EulerDiscreteScheduler.step`, which
/// adds churn only after it has asked the model.
fn plain(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    for (from, to) in settings.grid.steps() {
        let (churned, from) = churn(b, x, from, settings);
        let model = b.evaluate(churned, from);
        // x + (σ' − σ)·dx/dσ with dx/dσ = ε, from the other end: nothing cancels where σ is in the thousands.
        x = b.combine(&[(to.alpha(), model.original), (to.sigma(), model.epsilon)]);
        b.end_step(x);
    }
}

/// k-diffusion's `sample_euler_ancestral`, diffusers' `EulerAncestralDiscreteScheduler.step`; for flow models
/// diffusers' `LTXEulerAncestralRFScheduler.step`.
fn ancestral(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let eta = settings.eta(1.0);
    for (from, to) in settings.grid.steps() {
        let step = AncestralStep::new(settings.grid, from, to, eta);
        let model = b.evaluate(x, from);
        let down = [(step.down.alpha(), model.original), (step.down.sigma(), model.epsilon)];
        x = step.up(b, &down, settings);
        b.end_step(x);
    }
}

/// Chung et al. 2024 (arXiv:2406.08070), algorithm 2: the guided x₀, noised again along the ε of no prompt. Same
/// numbers as ComfyUI's `euler_cfg_pp`.
fn cfg_pp(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    for (from, to) in settings.grid.steps() {
        let model = b.evaluate(x, from);
        // ε = (x − α·x₀)/σ
        let ratio = to.sigma() / from.sigma();
        x = b.combine(&[
            (to.alpha(), model.original),
            (ratio, x),
            (-ratio * from.alpha(), model.unconditional),
        ]);
        b.end_step(x);
    }
}

/// Karras et al. 2022, algorithm 2, lines 4 to 6: fresh noise before a step takes x up to 1 + γ times the
/// noise-to-signal ratio of `node`. Gives x and where it is.
pub(super) fn churn(b: &mut Builder, x: Value, node: Node, settings: &Settings<'_>) -> (Value, Node) {
    let (grid, options) = (settings.grid, settings.options);
    if options.s_churn == 0.0 {
        return (x, node);
    }
    // Image-to-image: k-diffusion knows only the steps that are left.
    let steps = match options.profile {
        Profile::Diffusers => grid.total_steps,
        Profile::A1111 | Profile::ComfyUi => grid.len(),
    };
    let ratio = node.level.ratio();
    let gamma = (options.s_churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0);
    if (options.s_tmin..=options.s_tmax).contains(&ratio) && ratio.is_finite() {
        let up = grid.at_ratio(ratio * (1.0 + gamma));
        return (raise(b, x, [node, up], settings), up);
    }
    // The k-diffusion of A1111 draws at every step.
    if options.profile == Profile::A1111 {
        b.noise(ratio, ratio);
    }
    (x, node)
}

/// x taken up to a noisier place by fresh noise.
pub(super) fn raise(b: &mut Builder, x: Value, [from, to]: [Node; 2], settings: &Settings<'_>) -> Value {
    let scale = to.alpha() / from.alpha();
    let added = (to.sigma().powi(2) - (scale * from.sigma()).powi(2)).max(0.0).sqrt();
    let noise = b.noise(from.level.ratio(), to.level.ratio());
    b.combine(&[(scale, x), (added * settings.options.s_noise, noise)])
}

/// A step that goes down further than `to` and comes back up by fresh noise.
pub(super) struct AncestralStep {
    pub(super) down: Node,
    /// x at `to` = `scale`·(x at `down`) + `noise`·noise
    scale: f64,
    noise: f64,
    ratios: [f64; 2],
}

impl AncestralStep {
    /// k-diffusion's `get_ancestral_step`: at η = 1 as much noise as DDPM's posterior has. Its sums hold where the
    /// signal keeps its size; on a flow's path x must shrink as well (ComfyUI's `sample_euler_ancestral_RF`).
    pub(super) fn new(grid: &Grid, from: Node, to: Node, eta: f64) -> Self {
        let (sigma, next) = (from.sigma(), to.sigma());
        let down = match grid.levels {
            Levels::Flow { .. } => next * (1.0 + (next / sigma - 1.0) * eta),
            _ => {
                let up = (eta * next * (1.0 - (next / sigma).powi(2)).sqrt()).min(next);
                (next * next - up * up).sqrt()
            }
        };
        let down = if down < next { grid.at_sigma(down) } else { to };
        let scale = to.alpha() / down.alpha();
        let noise = (next * next - (scale * down.sigma()).powi(2)).max(0.0).sqrt();
        Self { down, scale, noise, ratios: [from.level.ratio(), to.level.ratio()] }
    }

    /// The latents at the step's end from those at `down`, a sum.
    pub(super) fn up(&self, b: &mut Builder, down: &[(f64, Value)], settings: &Settings<'_>) -> Value {
        let mut terms: Vec<_> = down.iter().map(|(c, value)| (c * self.scale, *value)).collect();
        if self.noise > 0.0 {
            let [from, to] = self.ratios;
            terms.push((self.noise * settings.options.s_noise, b.noise(from, to)));
        }
        b.combine(&terms)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::super::super::mixture::{config, equals_golden, guided};
    use super::super::super::{Noise, NoiseSource, NoiseStream, Options, Plan, Profile, Run, Sampler};

    #[test]
    fn trajectories_equal_k_diffusion_and_diffusers() {
        equals_golden("euler");
    }

    fn start(plan: Plan) -> Run {
        let mut streams: Vec<NoiseStream> = [1, 2].map(|seed| NoiseStream::new(Noise::Mt19937, seed)).into();
        let mut latents = vec![0.0; 32];
        streams.draw(0.0, 0.0, 2, &mut latents);
        latents.iter_mut().for_each(|x| *x *= plan.init_noise_sigma());
        Run::new(Arc::new(plan), latents, 2, Box::new(streams)).unwrap()
    }

    /// The samplers over σ, at the ends of what there is: one step, all noise, churn everywhere.
    #[test]
    fn no_schedule_makes_a_nan() {
        let samplers = [
            Sampler::Euler,
            Sampler::EulerAncestral,
            Sampler::EulerCfgPp,
            Sampler::Heun,
            Sampler::Dpm2,
            Sampler::Dpm2Ancestral,
            Sampler::Lms,
            Sampler::Ipndm,
            Sampler::Restart,
            Sampler::GradientEstimation,
        ];
        let run = |prediction_type: &str, options: Options| {
            let config = config(&serde_json::json!({}), prediction_type);
            let mut asked = Vec::new();
            let mut denoise = guided(&config, &mut asked, 0.1);
            let plan = Plan::new(&config, &options).unwrap_or_else(|e| panic!("{e}: {options:?}"));
            let mut run = start(plan);
            while !run.is_done() {
                run.step(&mut denoise).unwrap_or_else(|e| panic!("{e}: {prediction_type} {options:?}"));
                assert!(run.latents().iter().all(|x| x.is_finite()), "{prediction_type} {options:?}");
            }
        };
        for sampler in samplers.map(Some) {
            for (prediction_type, most) in [
                ("epsilon", 14.0),
                ("v_prediction", 4096.0),
                ("sample", 14.0),
                ("flow_prediction", 1.0),
                ("edm_v_prediction", 80.0),
            ] {
                for (steps, end) in [(1, 0.0), (1, 0.1), (2, 0.0), (3, 0.1), (20, 0.0), (36, 0.1), (36, 0.0)]
                {
                    let step = |i: usize| most + (end - most) * i as f64 / steps as f64;
                    let sigmas: Option<Vec<f64>> = Some((0..=steps).map(step).collect());
                    for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
                        let options =
                            Options { sampler, profile, sigmas: sigmas.clone(), ..Options::new(steps) };
                        run(prediction_type, Options { s_churn: 40.0, ..options.clone() });
                        run(prediction_type, Options { eta: Some(0.0), ..options });
                    }
                }
                for steps in [1, 2, 999, 1000] {
                    if !matches!(prediction_type, "flow_prediction" | "edm_v_prediction") {
                        run(prediction_type, Options { sampler, ..Options::new(steps) });
                    }
                }
            }
        }
    }

    /// γ = churn/steps, where only diffusers counts the steps that image-to-image leaves out.
    #[test]
    fn churn_counts_the_steps_of_its_profile() {
        for (profile, counted) in [(Profile::Diffusers, 20.0), (Profile::A1111, 11.0)] {
            let options = Options {
                sampler: Some(Sampler::Heun),
                s_churn: 2.0,
                strength: Some(0.5),
                profile,
                ..Options::new(20)
            };
            let plan = Plan::new(&config(&serde_json::json!({}), "epsilon"), &options).unwrap();
            let first = plan.level(0).sigma;
            let mut run = start(plan);
            let asked = run.ask().unwrap().unwrap();
            let raised = asked.sigma / asked.alpha / first;
            assert!((raised - (1.0 + 2.0 / counted)).abs() < 1e-9, "{profile:?}: {raised}");
        }
    }
}
