//! The samplers, one family a file. Each writes its steps down for [`Run`](super::Run) to carry out.

mod consistency;
mod ddim;
mod ddpm;
mod deis;
mod dpm2;
mod dpm_solver;
mod dpmpp;
mod dpmpp_sde;
mod er_sde;
mod euler;
mod gradient_estimation;
mod heun;
mod ipndm;
mod lms;
mod pndm;
mod res_multistep;
mod restart;
mod sa_solver;
mod unipc;

use super::grid::{Grid, Node};
use super::plan::Settings;
use super::program::{Builder, Evaluated, Value};
use super::{Clip, Sampler};

/// Writes the steps of a request from its first `latents` to its last.
pub(super) fn write(b: &mut Builder, latents: Value, settings: &Settings<'_>) {
    match settings.sampler {
        Sampler::Ddpm => ddpm::write(b, latents, settings),
        Sampler::Ddim => ddim::write(b, latents, settings),
        Sampler::Euler | Sampler::EulerAncestral | Sampler::EulerCfgPp => euler::write(b, latents, settings),
        Sampler::Heun => heun::write(b, latents, settings),
        Sampler::Dpm2 | Sampler::Dpm2Ancestral => dpm2::write(b, latents, settings),
        Sampler::Lms => lms::write(b, latents, settings),
        Sampler::Pndm | Sampler::Plms => pndm::write(b, latents, settings),
        Sampler::Dpmpp2sAncestral | Sampler::Dpmpp2m => dpmpp::write(b, latents, settings),
        Sampler::Dpmpp2mSde | Sampler::Dpmpp2mSdeHeun | Sampler::DpmppSde | Sampler::Dpmpp3mSde => {
            dpmpp_sde::write(b, latents, settings)
        }
        Sampler::DpmSolverSinglestep => dpm_solver::write(b, latents, settings),
        Sampler::UniPcBh1 | Sampler::UniPcBh2 => unipc::write(b, latents, settings),
        Sampler::Deis => deis::write(b, latents, settings),
        Sampler::Ipndm => ipndm::write(b, latents, settings),
        Sampler::Lcm | Sampler::Tcd => consistency::write(b, latents, settings),
        Sampler::SaSolver => sa_solver::write(b, latents, settings),
        Sampler::Restart => restart::write(b, latents, settings),
        Sampler::ErSde => er_sde::write(b, latents, settings),
        Sampler::ResMultistep => res_multistep::write(b, latents, settings),
        Sampler::GradientEstimation => gradient_estimation::write(b, latents, settings),
    }
}

/// Where diffusers' DDIM and PNDM go from a node: one stride down, which need not be the next node where strides are
/// uneven.
fn one_stride_below(grid: &Grid, from: Node, next: Node) -> Node {
    match grid.stride {
        Some(stride) => match (from.timestep as usize).checked_sub(stride) {
            Some(timestep) => grid.at_timestep(timestep),
            None => grid.nodes[grid.len()],
        },
        None => next,
    }
}

/// λ, kept finite where no signal is left, for solvers that fit polynomials through it: a flow at σ = 1 counts as at
/// 1 − 10⁻⁶, as in diffusers' `use_flow_sigmas`.
fn finite_lambda(node: Node) -> f64 {
    libm::log(node.alpha().max(1e-6) / node.sigma())
}

/// The ε that goes with the predicted x₀, for solvers that clip x₀ but work in ε.
fn clipped_epsilon(b: &mut Builder, x: Value, node: Node, model: Evaluated, clip: Clip) -> Value {
    match clip {
        Clip::None => model.epsilon,
        _ => b.combine(&[(1.0 / node.sigma(), x), (-node.alpha() / node.sigma(), model.original)]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::super::mixture::perfect;
    use super::super::*;
    use crate::testing::relative_l2;
    use crate::util::error::Status;

    const SAMPLERS: [Sampler; 10] = [
        Sampler::Ddpm,
        Sampler::Ddim,
        Sampler::Pndm,
        Sampler::Plms,
        Sampler::UniPcBh1,
        Sampler::UniPcBh2,
        Sampler::Deis,
        Sampler::SaSolver,
        Sampler::Lcm,
        Sampler::Tcd,
    ];

    fn config(prediction_type: &str, keys: &str) -> SchedulerConfig {
        SchedulerConfig::parse(&format!(
            r#"{{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule":
            "scaled_linear", "clip_sample": false, "prediction_type": "{prediction_type}"{keys}}}"#
        ))
        .unwrap()
    }

    /// Latents of a run from noise with the variance that x has there if x₀ has 1, all finite.
    #[track_caller]
    fn run(config: &SchedulerConfig, options: &Options) -> Vec<f32> {
        let what = format!("{:?} {config:?}", options);
        let plan = Plan::new(config, options).unwrap_or_else(|e| panic!("{e}: {what}"));
        let mut streams: Vec<NoiseStream> = [1, 2].map(|seed| NoiseStream::new(Noise::Mt19937, seed)).into();
        let mut latents = vec![0.0; 32];
        NoiseSource::draw(&mut streams, 0.0, 0.0, 2, &mut latents);
        let level = plan.level(0);
        latents.iter_mut().for_each(|x| *x *= level.alpha.hypot(level.sigma) as f32);
        let mut asked = Vec::new();
        let mut denoise = perfect(config, &mut asked);
        let mut run = Run::new(Arc::new(plan), latents, 2, Box::new(streams)).unwrap();
        while !run.is_done() {
            run.step(&mut denoise).unwrap_or_else(|e| panic!("{e}: {what}"));
            assert!(run.latents().iter().all(|x| x.is_finite()), "{what}");
        }
        run.into_latents()
    }

    /// Few steps, levels that start without signal or end with noise, and every order at once.
    #[test]
    fn no_schedule_makes_a_nan() {
        let orders =
            r#", "solver_order": 3, "predictor_order": 4, "corrector_order": 4, "lower_order_final": false"#;
        let last_steps = r#", "original_inference_steps": 1000"#;
        for sampler in SAMPLERS {
            for (prediction_type, most) in [
                ("epsilon", 14.0),
                ("v_prediction", 3000.0),
                ("sample", 14.0),
                ("flow_prediction", 1.0),
                ("edm_v_prediction", 80.0),
            ] {
                for (steps, end) in [(1, 0.0), (1, 0.1), (2, 0.0), (3, 0.1), (4, 0.0), (6, 0.1), (16, 0.0)] {
                    let step = |i: usize| most + (end - most) * i as f64 / steps as f64;
                    for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
                        let sigmas = Some((0..=steps).map(step).collect());
                        let sampler = Some(sampler);
                        let options = Options { sampler, profile, sigmas, ..Options::new(steps) };
                        run(&config(prediction_type, ""), &options);
                        run(&config(prediction_type, orders), &options);
                    }
                }
            }
            for steps in [1, 2, 3, 5, 999, 1000] {
                for spacing in
                    [TimestepSpacing::Leading, TimestepSpacing::Linspace, TimestepSpacing::Trailing]
                {
                    // diffusers' schedule of one step more needs a timestep for it.
                    if steps == 1000 && sampler.spread() == timesteps::Spread::OneMore {
                        continue;
                    }
                    let options =
                        Options { sampler: Some(sampler), spacing: Some(spacing), ..Options::new(steps) };
                    run(&config("sample", last_steps), &options);
                    run(&config("sample", r#", "rescale_betas_zero_snr": true"#), &options);
                    run(&config("v_prediction", r#", "rescale_betas_zero_snr": true"#), &options);
                }
            }
        }
    }

    /// The same latents whether x is a model's own or x₀ + σ·ε, but for LCM, whose boundary conditions know only one.
    #[test]
    fn coordinates_do_not_matter() {
        let sigmas = vec![12.0, 7.0, 4.0, 2.5, 1.2, 0.6, 0.2, 0.0];
        for sampler in SAMPLERS.into_iter().filter(|sampler| *sampler != Sampler::Lcm) {
            for prediction_type in ["epsilon", "sample"] {
                let latents = [Profile::Diffusers, Profile::ComfyUi].map(|profile| {
                    let (sampler, sigmas) = (Some(sampler), Some(sigmas.clone()));
                    let options = Options { sampler, profile, sigmas, ..Options::new(7) };
                    run(&config(prediction_type, ""), &options)
                });
                let error = relative_l2(&latents[0], &latents[1]);
                assert!(error < 1e-5, "{sampler:?} {prediction_type}: {error:.2e}");
            }
        }
    }

    #[test]
    fn distilled_models_have_so_many_steps() {
        for sampler in [Sampler::Lcm, Sampler::Tcd] {
            let options = Options { sampler: Some(sampler), ..Options::new(31) };
            let keys = r#", "original_inference_steps": 30"#;
            let error = Plan::new(&config("epsilon", keys), &options).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            assert!(error.message().contains("steps 31"), "{error}");
            assert!(error.message().contains("30, the model's original_inference_steps"), "{error}");
            assert!(Plan::new(&config("epsilon", keys), &Options { steps: 30, ..options }).is_ok());
        }
    }

    /// A model of learned variance answers twice the values, whatever the sampler makes of them.
    #[test]
    fn a_learned_variance_is_part_of_every_answer() {
        for sampler in SAMPLERS {
            let config = config("epsilon", r#", "variance_type": "learned_range""#);
            let options = Options { sampler: Some(sampler), ..Options::new(4) };
            assert_eq!(Plan::new(&config, &options).unwrap().prediction_values(), 2);
            run(&config, &options);
        }
    }

    /// A step for each level, however often the model is asked.
    #[test]
    fn steps_are_those_asked_for() {
        for (sampler, evaluations) in
            [(Sampler::Pndm, 7 + 3 * 3), (Sampler::Plms, 7 + 1), (Sampler::UniPcBh2, 7)]
        {
            let options = Options { sampler: Some(sampler), ..Options::new(7) };
            let plan = Plan::new(&config("epsilon", ""), &options).unwrap();
            assert_eq!((plan.len(), plan.evaluations()), (7, evaluations), "{sampler:?}");
        }
    }
}
