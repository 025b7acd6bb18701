use super::*;
use crate::sampling::SigmaSchedule;
use crate::util::error::Status;

fn parse(class: &str, keys: &str) -> Result<SchedulerConfig> {
    SchedulerConfig::parse(&format!("{{\"_class_name\": \"{class}\"{keys}}}"))
}

#[test]
fn reads_the_default_models_config() {
    let path = crate::testing::root().join("models/emoji-64/scheduler/scheduler_config.json");
    let expected = SchedulerConfig {
        class_name: "DDIMScheduler".into(),
        sampler: Sampler::Ddim,
        substituted: false,
        num_train_timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: BetaSchedule::ScaledLinear,
        rescale_betas_zero_snr: true,
        prediction_type: PredictionType::VPrediction,
        timestep_spacing: Some(TimestepSpacing::Trailing),
        steps_offset: 1,
        set_alpha_to_one: false,
        clip: Clip::None,
        variance_type: VarianceType::FixedSmall,
        final_sigmas_type: FinalSigmasType::Zero,
        sigma_schedule: None,
        ..SchedulerConfig::new()
    };
    assert_eq!(SchedulerConfig::load(&path).unwrap(), expected);
    assert!(!expected.is_substituted());
}

/// The defaults of the constructors in diffusers 0.42.
#[test]
fn absent_keys_take_the_defaults_of_their_class() {
    let ddim = parse("DDIMScheduler", "").unwrap();
    assert_eq!(ddim, SchedulerConfig::new());
    assert_eq!((ddim.beta_start, ddim.beta_end, ddim.num_train_timesteps), (0.0001, 0.02, 1000));
    assert_eq!((ddim.beta_schedule, ddim.prediction_type), (BetaSchedule::Linear, PredictionType::Epsilon));
    assert_eq!((ddim.clip, ddim.set_alpha_to_one, ddim.timestep_spacing), (Clip::Range(1.0), true, None));
    assert_eq!(parse("DDPMScheduler", "").unwrap().clip, Clip::Range(1.0));
    assert_eq!(parse("EulerDiscreteScheduler", "").unwrap().clip, Clip::None);
    let pndm = parse("PNDMScheduler", r#", "skip_prk_steps": true, "trained_betas": null"#).unwrap();
    assert_eq!((pndm.clip, pndm.set_alpha_to_one), (Clip::None, false));
    let lcm = parse("LCMScheduler", "").unwrap();
    assert_eq!((lcm.beta_start, lcm.beta_schedule), (0.00085, BetaSchedule::ScaledLinear));
    assert_eq!(parse("HeunDiscreteScheduler", "").unwrap().beta_end, 0.012);
}

#[test]
fn classes_choose_the_sampler() {
    use Sampler::*;
    for (class, keys, sampler, exact) in [
        ("DDIMScheduler", "", Ddim, true),
        ("DDPMScheduler", "", Ddpm, true),
        ("EulerDiscreteScheduler", "", Euler, true),
        ("EulerAncestralDiscreteScheduler", "", EulerAncestral, true),
        ("PNDMScheduler", "", Pndm, true),
        // Stable Diffusion 1.5's.
        (
            "PNDMScheduler",
            r#", "skip_prk_steps": true, "steps_offset": 1, "set_alpha_to_one": false"#,
            Plms,
            true,
        ),
        ("LMSDiscreteScheduler", "", Lms, true),
        ("HeunDiscreteScheduler", "", Heun, true),
        ("KDPM2DiscreteScheduler", "", Dpm2, true),
        ("KDPM2AncestralDiscreteScheduler", "", Dpm2Ancestral, true),
        ("DPMSolverMultistepScheduler", r#", "lambda_min_clipped": -Infinity"#, Dpmpp2m, true),
        ("DPMSolverMultistepScheduler", r#", "algorithm_type": "dpmsolver""#, Dpmpp2m, true),
        ("DPMSolverMultistepScheduler", r#", "algorithm_type": "sde-dpmsolver++""#, Dpmpp2mSde, true),
        (
            "DPMSolverMultistepScheduler",
            r#", "algorithm_type": "sde-dpmsolver++", "solver_type": "heun""#,
            Dpmpp2mSdeHeun,
            true,
        ),
        ("DPMSolverMultistepScheduler", r#", "algorithm_type": "sde-dpmsolver""#, Dpmpp2mSde, false),
        ("DPMSolverSinglestepScheduler", "", DpmSolverSinglestep, true),
        (
            "DPMSolverSinglestepScheduler",
            r#", "algorithm_type": "sde-dpmsolver++""#,
            DpmSolverSinglestep,
            false,
        ),
        ("DPMSolverSDEScheduler", "", DpmppSde, true),
        ("UniPCMultistepScheduler", "", UniPcBh2, true),
        ("UniPCMultistepScheduler", r#", "solver_type": "bh1""#, UniPcBh1, true),
        ("UniPCMultistepScheduler", r#", "predict_x0": false"#, UniPcBh2, false),
        ("DEISMultistepScheduler", r#", "algorithm_type": "deis", "solver_type": "logrho""#, Deis, true),
        ("SASolverScheduler", r#", "algorithm_type": "data_prediction""#, SaSolver, true),
        ("IPNDMScheduler", "", Ipndm, false),
        ("LCMScheduler", "", Lcm, true),
        ("TCDScheduler", "", Tcd, true),
        ("FlowMatchEulerDiscreteScheduler", "", Euler, true),
        ("FlowMatchHeunDiscreteScheduler", "", Heun, true),
        ("EDMEulerScheduler", r#", "prediction_type": "v_prediction""#, Euler, true),
        ("EDMDPMSolverMultistepScheduler", r#", "prediction_type": "v_prediction""#, Dpmpp2m, true),
    ] {
        let config = parse(class, keys).unwrap_or_else(|e| panic!("{e}: {class} {keys}"));
        assert_eq!((config.sampler, config.is_substituted()), (sampler, !exact), "{class} {keys}");
    }
}

#[test]
fn keys_choose_the_levels_and_what_the_model_predicts() {
    for (key, schedule) in [
        ("use_karras_sigmas", SigmaSchedule::Karras),
        ("use_exponential_sigmas", SigmaSchedule::Exponential),
        ("use_beta_sigmas", SigmaSchedule::Beta),
    ] {
        let keys = format!(r#", "{key}": true"#);
        for class in
            ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"]
        {
            assert_eq!(parse(class, &keys).unwrap().sigma_schedule, Some(schedule), "{class}");
        }
        // Classes of diffusers without that key do not look at it.
        for class in ["DDIMScheduler", "EulerAncestralDiscreteScheduler"] {
            assert_eq!(parse(class, &keys).unwrap().sigma_schedule, None, "{class}");
        }
    }
    let flow = parse("FlowMatchEulerDiscreteScheduler", r#", "shift": 3.0"#).unwrap();
    assert_eq!((flow.prediction_type, flow.shift), (PredictionType::Flow, 3.0));
    let keys = r#", "use_flow_sigmas": true, "flow_shift": 5.0, "prediction_type": "flow_prediction""#;
    let flow = parse("UniPCMultistepScheduler", keys).unwrap();
    assert_eq!((flow.prediction_type, flow.shift), (PredictionType::Flow, 5.0));
    // CosXL's.
    let keys = r#", "timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002,
                   "sigma_max": 120.0, "use_karras_sigmas": true"#;
    let edm = parse("EulerDiscreteScheduler", keys).unwrap();
    assert_eq!((edm.prediction_type, edm.sigma_max, edm.sigma_data), (PredictionType::EdmV, 120.0, 1.0));
    assert_eq!((edm.sigma_schedule, edm.timestep_spacing), (Some(SigmaSchedule::Karras), None));
    let keys = r#", "prediction_type": "v_prediction", "sigma_schedule": "exponential""#;
    let edm = parse("EDMEulerScheduler", keys).unwrap();
    assert_eq!((edm.sigma_schedule, edm.sigma_data), (Some(SigmaSchedule::Exponential), 0.5));
    let keys = r#", "thresholding": true, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5"#;
    let clip = parse("DDPMScheduler", keys).unwrap().clip;
    assert_eq!(clip, Clip::Dynamic { ratio: 0.9, max: 1.5 });
    for (name, variance_type) in
        [("learned", VarianceType::Learned), ("learned_range", VarianceType::LearnedRange)]
    {
        let keys = format!(r#", "variance_type": "{name}""#);
        assert_eq!(parse("DDPMScheduler", &keys).unwrap().variance_type, variance_type);
    }
    assert!(!parse("DPMSolverSinglestepScheduler", "").unwrap().lower_order_final);
}

/// At √(σ² + 1), which the other classes take for one spacing only.
#[test]
fn edm_classes_start_as_diffusers() {
    let config = parse("EDMEulerScheduler", r#", "prediction_type": "v_prediction""#).unwrap();
    let plan = crate::sampling::Plan::new(&config, &crate::sampling::Options::new(4)).unwrap();
    assert!((f64::from(plan.init_noise_sigma()) - 80.0_f64.hypot(1.0)).abs() < 1e-4);
}

#[track_caller]
fn fails(keys: &str, status: Status, words: &[&str]) {
    let error = parse("DDIMScheduler", keys).unwrap_err();
    assert_eq!(error.status(), status, "{keys}: {error}");
    for word in words {
        assert!(error.message().contains(word), "{error} lacks {word:?}");
    }
    assert!(!error.message().contains('\n'), "{error}");
}

#[test]
fn unknown_settings_are_unsupported() {
    for (key, value) in [
        ("beta_schedule", "laplace"),
        ("prediction_type", "score"),
        ("timestep_spacing", "random"),
        ("variance_type", "fixed_large_log"),
        ("final_sigmas_type", "one"),
        ("interpolation_type", "cubic"),
        ("timestep_type", "sometimes"),
        ("algorithm_type", "magic"),
        ("solver_type", "magic"),
    ] {
        fails(&format!(r#", "{key}": "{value}""#), Status::Unsupported, &[key, value]);
    }
    let nonsense = parse("Nonsense", "").unwrap_err();
    assert_eq!(nonsense.status(), Status::Unsupported);
    assert!(nonsense.message().contains("Nonsense"), "{nonsense}");
    for (class, keys, word) in [
        ("DPMSolverMultistepScheduler", r#", "use_lu_lambdas": true"#, "use_lu_lambdas"),
        ("DPMSolverMultistepScheduler", r#", "use_flow_sigmas": true"#, "use_flow_sigmas"),
        ("DPMSolverMultistepScheduler", r#", "lambda_min_clipped": 0.5"#, "lambda_min_clipped"),
        ("FlowMatchEulerDiscreteScheduler", r#", "use_dynamic_shifting": true"#, "use_dynamic_shifting"),
        ("FlowMatchEulerDiscreteScheduler", r#", "shift_terminal": 0.1"#, "shift_terminal"),
        ("FlowMatchEulerDiscreteScheduler", r#", "invert_sigmas": true"#, "invert_sigmas"),
        ("FlowMatchEulerDiscreteScheduler", r#", "stochastic_sampling": true"#, "stochastic_sampling"),
        ("EDMEulerScheduler", "", "epsilon"),
        ("EDMEulerScheduler", r#", "prediction_type": "v_prediction", "rho": 5"#, "rho"),
        (
            "UniPCMultistepScheduler",
            r#", "use_flow_sigmas": true, "use_karras_sigmas": true, "prediction_type": "flow_prediction""#,
            "use_flow_sigmas",
        ),
        ("EulerDiscreteScheduler", r#", "use_karras_sigmas": true, "sigma_max": 10"#, "sigma_max"),
        (
            "EulerDiscreteScheduler",
            r#", "timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": true"#,
            "sigma_min",
        ),
        (
            "EulerDiscreteScheduler",
            r#", "timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 1, "sigma_max": 9"#,
            "use_karras_sigmas",
        ),
    ] {
        let error = parse(class, keys).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported, "{class} {keys}: {error}");
        assert!(error.message().contains(word), "{error} lacks {word}");
    }
    // Where it does not bind it changes nothing.
    assert!(parse("DPMSolverMultistepScheduler", r#", "lambda_min_clipped": -5.1"#).is_ok());
}

/// diffusers writes them, though JSON does not have them; inside of strings they are text.
#[test]
fn infinities_are_read_as_absent() {
    let keys = r#", "a": "-Infinity \" Infinity", "lambda_min_clipped": -Infinity, "b": Infinity"#;
    assert!(parse("DPMSolverMultistepScheduler", keys).is_ok());
    let text = r#"{"a\\": Infinity, "b": "x\\\"Infinity", "c": [-Infinity]}"#;
    let expected = r#"{"a\\": null, "b": "x\\\"Infinity", "c": [null]}"#;
    assert_eq!(without_infinities(text), expected);
}

#[test]
fn nonsense_is_a_format_error() {
    for (key, value) in [
        ("num_train_timesteps", "0"),
        ("num_train_timesteps", "-1"),
        ("num_train_timesteps", "1e9"),
        ("num_train_timesteps", "2000000000"),
        ("beta_start", "0"),
        ("beta_start", "-0.1"),
        ("beta_end", "1.0"),
        ("beta_end", "\"a\""),
        ("trained_betas", "[0.1, 0.2, 2.0]"),
        ("trained_betas", "[0.1, null]"),
        ("trained_betas", "[]"),
        ("steps_offset", "1000"),
        ("clip_sample", "1"),
        ("clip_sample_range", "0"),
        ("set_alpha_to_one", "\"no\""),
        ("beta_schedule", "3"),
    ] {
        let word = if value == "[]" { "num_train_timesteps" } else { key };
        fails(&format!(r#", "{key}": {value}"#), Status::Format, &[word]);
    }
    fails(r#", "trained_betas": [0.1], "num_train_timesteps": 2"#, Status::Format, &["trained_betas", "2"]);
    for json in ["", "{", "[]", "{}", "{\"_class_name\": 3}"] {
        assert_eq!(SchedulerConfig::parse(json).unwrap_err().status(), Status::Format, "{json}");
    }
}

#[test]
fn errors_name_the_file() {
    let error = SchedulerConfig::load(&std::env::temp_dir().join("no-such-scheduler.json")).unwrap_err();
    assert_eq!(error.status(), Status::NotFound);
    assert!(error.message().contains("no-such-scheduler.json"), "{error}");
}

/// Betas that pass one by one but leave a table no sampler could divide by.
#[test]
fn degenerate_tables_are_a_format_error() {
    for keys in [
        r#", "trained_betas": [1e-9, 1e-9]"#,
        r#", "beta_start": 0.99, "beta_end": 0.99"#,
        r#", "num_train_timesteps": 1, "rescale_betas_zero_snr": true"#,
    ] {
        let config = parse("DDIMScheduler", keys).unwrap();
        assert_eq!(super::super::Schedule::new(&config).unwrap_err().status(), Status::Format, "{keys}");
    }
}
