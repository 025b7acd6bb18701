//! Against `tests/golden/schedules.*`, which tools/golden_schedules.py makes.

use serde_json::{Value, json};

use super::*;
use crate::sampling::{NoiseStream, Plan, Run, SAMPLERS, mixture};
use crate::testing::{Golden, golden_json};
use crate::util::error::Status;

/// Stable Diffusion's schedule.
fn config(prediction_type: &str) -> SchedulerConfig {
    mixture::config(&json!({}), prediction_type)
}

/// The schedule's own σ of a node, in any coordinates.
fn sigma(grid: &Grid, node: Node) -> f64 {
    match grid.levels {
        Levels::Flow { .. } => node.sigma(),
        _ => node.level.ratio(),
    }
}

fn case_options(case: &Value) -> Options {
    let mut case = json!({ "options": case["options"] });
    case["sampler"] = case["options"].as_object_mut().unwrap().remove("sampler").unwrap();
    mixture::options(&case)
}

#[test]
fn levels_and_timesteps_equal_the_programs() {
    let (cases, golden) = (golden_json("schedules"), Golden::open("schedules"));
    let array = |name: &Value| golden.values(name.as_str().unwrap());
    let mut failures = Vec::new();
    for case in cases["grids"].as_array().unwrap() {
        let prediction_type = case["config"]["prediction_type"].as_str().unwrap_or("epsilon");
        let (config, options) = (mixture::config(case, prediction_type), case_options(case));
        let grid = match Grid::new(&config, &options, options.sampler.unwrap()) {
            Ok(grid) => grid,
            Err(e) => {
                failures.push(format!("{e}: {case}"));
                continue;
            }
        };
        let (sigmas, timesteps) = (array(&case["sigmas"]), array(&case["timesteps"]));
        let mut actual: Vec<f64> = grid.nodes.iter().map(|node| sigma(&grid, *node)).collect();
        if stands_at_the_end(&options)
            && options.sigma_schedule.is_some()
            && sigmas.last().is_some_and(|end| *end > 0.0)
        {
            // The fixture has no steps that go nowhere.
            let (end, before) = (actual.pop(), actual.last().copied());
            assert_eq!(end, before, "{case}");
        }
        let close = |a: f64, e: f32, relative: f64, absolute: f64| {
            (a - f64::from(e)).abs() <= relative * f64::from(e).abs() + absolute
        };
        // diffusers' own rescaled table moves by 4e-6 from one kind of CPU to another.
        let tolerance = if config.rescale_betas_zero_snr { 1e-5 } else { 1e-6 };
        let worst = actual.iter().zip(&sigmas).find(|(a, e)| !close(**a, **e, tolerance, 0.0));
        if actual.len() != sigmas.len() || worst.is_some() {
            failures.push(format!("sigmas {} {} {worst:?} {case}", actual.len(), sigmas.len()));
        }
        let told = grid.nodes.iter().map(|node| node.timestep);
        let wrong = told.zip(&timesteps).find(|(a, e)| !close(*a, **e, 1e-6, 1e-3));
        if let Some(wrong) = wrong {
            failures.push(format!("timesteps {wrong:?} {case}"));
        }
        let starts = [case["start_sigma"].as_f64(), grid.start.map(NoiseLevel::ratio)];
        if let [Some(expected), Some(start)] = starts {
            if (start - expected).abs() > 1e-6 * expected {
                failures.push(format!("start {start} not {expected} {case}"));
            }
        } else if starts != [None, None] {
            failures.push(format!("start {starts:?} {case}"));
        }
        if let Some(expected) = case["init_noise_sigma"].as_f64() {
            let init = grid.init_noise_sigma;
            if (init - expected).abs() > 1e-6 * expected {
                failures.push(format!("init_noise_sigma {init} not {expected} {case}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of them:\n{}", failures.len(), failures.join("\n"));
}

/// Whether the last level comes twice where it is not 0.
fn stands_at_the_end(options: &Options) -> bool {
    let sampler = matches!(options.sampler, Some(Sampler::Deis | Sampler::SaSolver));
    sampler && options.profile == Profile::Diffusers
}

/// Every sampler, profile and kind of model, whatever the numbers are.
#[test]
fn every_schedule_falls_and_is_finite() {
    for prediction_type in ["epsilon", "v_prediction", "flow_prediction", "edm_v_prediction"] {
        let mut zero_snr = config(prediction_type);
        zero_snr.rescale_betas_zero_snr = true;
        for config in [config(prediction_type), zero_snr] {
            for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
                for schedule in SigmaSchedule::ALL.map(Some).into_iter().chain([None]) {
                    for info in SAMPLERS {
                        for (steps, strength) in [(1, None), (2, None), (30, None), (7, Some(0.4))] {
                            let options = Options {
                                sigma_schedule: schedule,
                                profile,
                                strength,
                                ..Options::new(steps)
                            };
                            falls_and_is_finite(&config, &options, info.sampler);
                        }
                    }
                    for sampler in [Sampler::Ddim, Sampler::Euler, Sampler::Dpmpp2m, Sampler::Deis] {
                        let options = Options { sigma_schedule: schedule, profile, ..Options::new(1000) };
                        falls_and_is_finite(&config, &options, sampler);
                    }
                }
            }
        }
    }
}

fn falls_and_is_finite(config: &SchedulerConfig, options: &Options, sampler: Sampler) {
    let what = format!("{:?} {sampler:?} {options:?}", config.prediction_type);
    let grid = match Grid::new(config, options, sampler) {
        Ok(grid) => grid,
        Err(e) => {
            // Only what is not for every count or model.
            let table = !matches!(config.prediction_type, PredictionType::Flow | PredictionType::EdmV);
            match e.status() {
                Status::Unsupported => assert!(!table, "{e}: {what}"),
                Status::InvalidArgument => {
                    let few = matches!(
                        options.sigma_schedule,
                        Some(SigmaSchedule::Lcm | SigmaSchedule::Turbo) | None
                    );
                    assert!(few && options.steps > 2, "{e}: {what}");
                }
                _ => panic!("{e}: {what}"),
            }
            return;
        }
    };
    let sigmas: Vec<f64> = grid.nodes.iter().map(|node| sigma(&grid, *node)).collect();
    assert!(sigmas.len() > 1, "{what}");
    // Without signal the ratio is infinite.
    assert!(sigmas[1..].iter().all(|sigma| sigma.is_finite() && *sigma >= 0.0), "{what}: {sigmas:?}");
    // DDIM's last step may go nowhere, as in diffusers.
    let exact = grid.stride.is_some();
    let falling = |pair: &[f64]| pair[1] < pair[0] * (1.0 - 1e-6) || exact && pair[1] == pair[0];
    let stands = stands_at_the_end(&Options { sampler: Some(sampler), ..options.clone() });
    let end = usize::from(stands && sigmas.ends_with(&[sigmas[sigmas.len() - 2]]));
    assert!(sigmas[..sigmas.len() - end].windows(2).all(falling), "{what}: {sigmas:?}");
    for node in &grid.nodes {
        let numbers = [node.timestep, node.alpha(), node.sigma(), grid.init_noise_sigma];
        assert!(numbers.iter().all(|number| number.is_finite()), "{what}: {node:?}");
    }
}

#[test]
fn steps_out_of_range_are_errors() {
    let config = config("epsilon");
    for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
        for schedule in SigmaSchedule::ALL.map(Some).into_iter().chain([None]) {
            for steps in [0, 1001] {
                let options = Options { sigma_schedule: schedule, profile, ..Options::new(steps) };
                let error = Grid::new(&config, &options, Sampler::Euler).unwrap_err();
                assert_eq!(error.status(), Status::InvalidArgument, "{profile:?} {schedule:?} {steps}");
                assert!(error.message().contains(&steps.to_string()), "{error}");
            }
        }
        let options = Options { strength: Some(1e-12), profile, ..Options::new(10) };
        match Grid::new(&config, &options, Sampler::Euler) {
            Ok(grid) => assert_eq!((profile, grid.len()), (Profile::A1111, 1)),
            Err(error) => assert!(error.message().contains("strength"), "{error}"),
        }
    }
}

#[test]
fn a_schedule_that_a_model_has_no_levels_for_is_unsupported() {
    for prediction_type in ["flow_prediction", "edm_v_prediction"] {
        for schedule in [SigmaSchedule::AlignYourSteps, SigmaSchedule::Lcm, SigmaSchedule::Turbo] {
            for profile in [Profile::Diffusers, Profile::ComfyUi] {
                let options = Options { sigma_schedule: Some(schedule), profile, ..Options::new(4) };
                let error = Grid::new(&config(prediction_type), &options, Sampler::Euler).unwrap_err();
                assert_eq!(error.status(), Status::Unsupported);
                assert!(error.message().contains(schedule.name()), "{error}");
            }
        }
    }
}

/// The ends of Stable Diffusion's table as each program shows them to its users.
#[test]
fn each_program_has_its_own_last_digits() {
    for (profile, max, min, digits) in [
        // ComfyUI, nodes_align_your_steps.py.
        (Profile::ComfyUi, 14.6146412293, 0.0291671582, [1e-9, 1e-10]),
        // ComfyUI's KarrasScheduler, which has A1111's, from ᾱ in 32 bits.
        (Profile::A1111, 14.614642, 0.0291675, [1e-6, 5e-8]),
    ] {
        let options = Options { profile, sigma_schedule: Some(SigmaSchedule::Karras), ..Options::new(2) };
        let grid = Grid::new(&config("epsilon"), &options, Sampler::Euler).unwrap();
        let (first, last) = (grid.nodes[0].sigma(), grid.nodes[1].sigma());
        assert!((first - max).abs() < digits[0], "{profile:?} {first}");
        assert!((last - min).abs() < digits[1], "{profile:?} {last}");
    }
}

/// What image-to-image leaves of a schedule, by each program's arithmetic.
#[test]
fn strength_leaves_the_steps_of_each_program() {
    let left = |profile, sampler, steps, strength, sigmas: Option<Vec<f64>>| {
        let options = Options { profile, sigmas, strength: Some(strength), ..Options::new(steps) };
        Grid::new(&config("epsilon"), &options, sampler).map(|grid| (grid.len(), grid.total_steps)).ok()
    };
    // StableDiffusionImg2ImgPipeline.get_timesteps: int(steps * strength).
    for (steps, strength, expected) in
        [(20, 0.5, 10), (7, 0.33, 2), (50, 0.8, 40), (10, 0.3, 3), (3, 0.99, 2), (4, 1.0, 4)]
    {
        for sampler in [Sampler::Euler, Sampler::Ddim, Sampler::Dpmpp2m] {
            let grid = left(Profile::Diffusers, sampler, steps, strength, None);
            assert_eq!(grid, Some((expected, steps)), "{steps} {strength} {sampler:?}");
        }
    }
    assert_eq!(left(Profile::Diffusers, Sampler::Euler, 10, 0.05, None), None);
    // A1111's setup_img2img_steps: int(min(strength, 0.999) * steps) and one more.
    for (steps, strength, expected) in [(20, 0.5, 11), (20, 1.0, 20), (7, 0.33, 3), (10, 0.05, 1)] {
        let grid = left(Profile::A1111, Sampler::Euler, steps, strength, None);
        assert_eq!(grid, Some((expected, steps)), "{steps} {strength}");
    }
    // ComfyUI's KSampler.set_steps: steps of int(steps / denoise); SplitSigmasDenoise: round(steps * denoise).
    for (steps, strength, total) in [(20, 0.5, 40), (7, 0.33, 21), (20, 1.0, 20), (20, 0.99995, 20)] {
        let grid = left(Profile::ComfyUi, Sampler::Euler, steps, strength, None);
        assert_eq!(grid, Some((steps, total)), "{steps} {strength}");
    }
    let sigmas = Some(vec![9.0, 7.0, 5.0, 3.0, 1.0, 0.0]);
    assert_eq!(left(Profile::ComfyUi, Sampler::Euler, 5, 0.5, sigmas), Some((2, 5)));
}

#[test]
fn first_noise_is_scaled_as_in_each_program() {
    let scale = |prediction_type, profile, schedule, sampler| {
        let options = Options { profile, sigma_schedule: Some(schedule), ..Options::new(20) };
        let grid = Grid::new(&config(prediction_type), &options, sampler).unwrap();
        (grid.init_noise_sigma, grid.nodes[0].sigma())
    };
    let (karras, ddim_uniform) = (SigmaSchedule::Karras, SigmaSchedule::DdimUniform);
    let (init, sigma) = scale("epsilon", Profile::A1111, karras, Sampler::Euler);
    assert_eq!(init, sigma);
    let (init, sigma) = scale("epsilon", Profile::ComfyUi, karras, Sampler::Euler);
    assert!((init - sigma.hypot(1.0)).abs() < 1e-12);
    // Not the model's most noise.
    let (init, sigma) = scale("epsilon", Profile::ComfyUi, ddim_uniform, Sampler::Euler);
    assert_eq!(init, sigma);
    // The model's own coordinates.
    assert_eq!(scale("epsilon", Profile::A1111, karras, Sampler::Ddim).0, 1.0);
    assert_eq!(scale("epsilon", Profile::Diffusers, karras, Sampler::Dpmpp2m).0, 1.0);
    // A flow's noise and its empty picture.
    let (init, sigma) = scale("flow_prediction", Profile::ComfyUi, ddim_uniform, Sampler::Euler);
    assert!(init == sigma && init < 1.0);
    assert_eq!(scale("flow_prediction", Profile::Diffusers, karras, Sampler::Euler).0, 1.0);
}

#[test]
fn levels_of_callers_are_checked() {
    let status = |prediction_type, options: Options| {
        Grid::new(&config(prediction_type), &options, Sampler::Euler)
            .map_or_else(|e| Some(e.status()), |_| None)
    };
    let sigmas = |values: &[f64]| Options {
        sigmas: Some(values.to_vec()),
        ..Options::new(values.len().saturating_sub(1))
    };
    let timesteps =
        |values: &[f64]| Options { timesteps: Some(values.to_vec()), ..Options::new(values.len()) };
    for prediction_type in ["epsilon", "flow_prediction", "edm_v_prediction"] {
        assert_eq!(status(prediction_type, sigmas(&[0.9, 0.5, 0.0])), None);
        for bad in [
            &[0.5, 0.9][..],
            &[0.5, 0.5],
            &[],
            &[f64::INFINITY, 0.5],
            &[0.5, -0.1],
            &[0.5, 1e-9],
            &[1e7, 0.0],
        ] {
            let found = status(prediction_type, sigmas(bad));
            assert_eq!(found, Some(Status::InvalidArgument), "{prediction_type} {bad:?}");
        }
    }
    assert_eq!(status("flow_prediction", sigmas(&[1.5, 0.0])), Some(Status::InvalidArgument));
    assert_eq!(status("epsilon", timesteps(&[999.0, 20.5])), None);
    // They have none.
    assert_eq!(status("edm_v_prediction", timesteps(&[5.0])), Some(Status::InvalidArgument));
    for bad in [&[20.0, 30.0][..], &[], &[f64::NAN], &[1000.0], &[-1.0]] {
        assert_eq!(status("epsilon", timesteps(bad)), Some(Status::InvalidArgument), "{bad:?}");
    }
}

#[test]
fn one_step_is_finite() {
    for prediction_type in ["epsilon", "v_prediction", "sample", "flow_prediction", "edm_v_prediction"] {
        let mut config = config(prediction_type);
        config.rescale_betas_zero_snr = prediction_type == "v_prediction";
        for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
            for schedule in SigmaSchedule::ALL.map(Some).into_iter().chain([None]) {
                for sampler in SAMPLERS.iter().map(|info| info.sampler) {
                    let options = Options {
                        sampler: Some(sampler),
                        sigma_schedule: schedule,
                        profile,
                        ..Options::new(1)
                    };
                    let what = format!("{prediction_type} {profile:?} {schedule:?} {sampler:?}");
                    let plan = match Plan::new(&config, &options) {
                        Ok(plan) => plan,
                        Err(e) if e.status() == Status::Unsupported => continue,
                        Err(e) => panic!("{e}: {what}"),
                    };
                    let noise = vec![NoiseStream::new(crate::sampling::Noise::Philox, 0)];
                    let start = [0.3, -1.2, 0.9, 2.0].map(|x| x * plan.init_noise_sigma()).to_vec();
                    let mut run = Run::new(plan.into(), start, 1, Box::new(noise)).unwrap();
                    let mut asked = Vec::new();
                    let mut model = mixture::guided(&config, &mut asked, 0.0);
                    while !run.is_done() {
                        run.step(&mut model).unwrap_or_else(|e| panic!("{e}: {what}"));
                    }
                    assert!(run.latents().iter().all(|x| x.is_finite()), "{what}");
                }
            }
        }
    }
}
