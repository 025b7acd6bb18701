//! Guidance against diffusers' guiders and naive formulas, on predictions that `tools/golden_guidance.py` made up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;

use super::*;
use crate::testing::{Golden, golden_json, relative_l2};
use crate::util::error::Status;

const STEPS: usize = 5;
const IMAGES: usize = 2;

/// Sets the options that a fixture names.
pub(crate) fn options(case: &Value) -> GuidanceOptions {
    let method = GuidanceMethod::ALL.into_iter().find(|m| m.name() == case["method"].as_str().unwrap());
    let mut options = GuidanceOptions { method: method.unwrap(), ..GuidanceOptions::default() };
    for (name, value) in case["options"].as_object().unwrap() {
        let number = || value.as_f64().unwrap();
        match name.as_str() {
            "guidance_scale" => options.guidance_scale = number(),
            "guidance_schedule" => {
                let scales = value.as_array().unwrap().iter().map(|scale| scale.as_f64().unwrap());
                options.guidance_schedule = Some(scales.collect());
            }
            "guidance_rescale" => options.guidance_rescale = number(),
            "guidance_start" => options.guidance_start = number(),
            "guidance_stop" => options.guidance_stop = number(),
            "zero_init_steps" => options.zero_init_steps = value.as_u64().unwrap() as usize,
            "apg_eta" => options.apg_eta = number(),
            "apg_norm_threshold" => options.apg_norm_threshold = number(),
            "apg_momentum" => options.apg_momentum = number(),
            "pag_scale" => options.pag_scale = number(),
            "image_guidance_scale" => options.image_guidance_scale = Some(number()),
            other => panic!("unknown option {other}"),
        }
    }
    options
}

/// The given predictions of each kind: `[STEPS, IMAGES, values]`.
struct Given([Vec<f32>; 4]);

impl Given {
    fn read(golden: &Golden) -> Self {
        let names = ["unconditional", "conditional", "image", "perturbed"];
        Self(names.map(|name| golden.values(&format!("given.{name}"))))
    }

    fn values(&self) -> usize {
        self.0[0].len() / (STEPS * IMAGES)
    }

    /// One step's predictions for some of the images, only those needed.
    fn at(&self, step: usize, images: std::ops::Range<usize>, needs: Needs) -> Predictions<'_> {
        let values = self.values();
        let part = |kind: usize, needed: bool| -> &[f32] {
            let start = step * IMAGES * values;
            let range = start + images.start * values..start + images.end * values;
            if needed { &self.0[kind][range] } else { &[] }
        };
        Predictions {
            step,
            timestep: 999.0,
            input: &[],
            original: [0.0, 1.0],
            unconditional: part(0, needs.unconditional),
            conditional: part(1, true),
            image: part(2, needs.image),
            perturbed: part(3, needs.perturbed),
        }
    }
}

/// Every step's output for some of the images.
fn guided(given: &Given, options: &GuidanceOptions, images: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    let values = given.values();
    let mut guidance = Guidance::new(options, STEPS, images.len(), values, false).unwrap();
    let step = |step| {
        let mut out = vec![f32::NAN; images.len() * values];
        let needs = guidance.needs(step);
        guidance.combine(&given.at(step, images.clone(), needs), &mut out).unwrap();
        out
    };
    (0..STEPS).map(step).collect()
}

#[test]
fn every_method_equals_diffusers_and_takes_no_more_than_it_needs() {
    let (golden, json) = (Golden::open("guidance"), golden_json("guidance"));
    let given = Given::read(&golden);
    let cases = json["guided"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let options = options(case);
        let out = guided(&given, &options, 0..IMAGES);
        let expected = golden.values(case["out"].as_str().unwrap());
        let guidance = Guidance::new(&options, STEPS, IMAGES, given.values(), false).unwrap();
        for (step, (out, expected)) in out.iter().zip(expected.chunks(IMAGES * given.values())).enumerate() {
            let error = relative_l2(out, expected);
            assert!(error <= 1e-6, "step {step}: {error:.2e}: {case}");
            let needed = guidance.needs(step).unconditional;
            assert_eq!(Some(needed), case["unconditional"][step].as_bool(), "step {step}: {case}");
        }
    }
}

/// Whatever a model predicts, APG guides the x₀ that it means.
#[test]
fn adaptive_projected_guidance_is_of_x0() {
    let golden = Golden::open("guidance");
    let given = Given::read(&golden);
    let options = GuidanceOptions {
        method: GuidanceMethod::Apg,
        apg_eta: 0.2,
        apg_norm_threshold: 3.0,
        apg_momentum: -0.5,
        ..GuidanceOptions::default()
    };
    // As of ε, v and x₀.
    for original in [[1.7, -1.4], [0.6, -0.8], [0.0, 1.0]] {
        let new = || Guidance::new(&options, STEPS, IMAGES, given.values(), false).unwrap();
        let (mut plain, mut implied) = (new(), new());
        for step in 0..STEPS {
            let of_x0 = given.at(step, 0..IMAGES, plain.needs(step));
            let input = given.at(step, 0..IMAGES, Needs { image: true, ..Needs::default() }).image;
            let prediction = |x0: &[f32]| -> Vec<f32> {
                let one = |(x0, x): (&f32, &f32)| {
                    ((f64::from(*x0) - original[0] * f64::from(*x)) / original[1]) as f32
                };
                x0.iter().zip(input).map(one).collect()
            };
            let (conditional, unconditional) =
                (prediction(of_x0.conditional), prediction(of_x0.unconditional));
            let predictions = Predictions {
                input,
                original,
                conditional: &conditional,
                unconditional: &unconditional,
                ..of_x0
            };
            let (mut expected, mut actual) = (vec![0.0; input.len()], vec![0.0; input.len()]);
            plain.combine(&of_x0, &mut expected).unwrap();
            implied.combine(&predictions, &mut actual).unwrap();
            let error = relative_l2(&actual, &prediction(&expected));
            assert!(error < 1e-5, "{original:?} step {step}: {error:.2e}");
        }
    }
}

#[test]
fn a_batch_never_changes_an_image() {
    let (golden, json) = (Golden::open("guidance"), golden_json("guidance"));
    let given = Given::read(&golden);
    for case in json["guided"].as_array().unwrap() {
        let options = options(case);
        let batch = guided(&given, &options, 0..IMAGES);
        for image in 0..IMAGES {
            let alone = guided(&given, &options, image..image + 1);
            for (batch, alone) in batch.iter().zip(alone) {
                assert_eq!(batch[image * given.values()..][..given.values()], alone, "{case}");
            }
        }
    }
}

#[test]
fn a_sampler_that_asks_for_the_unconditional_prediction_gets_it_and_any_scale() {
    let given = Given::read(&Golden::open("guidance"));
    let options = GuidanceOptions { guidance_stop: 0.6, ..GuidanceOptions::at_scale(0.6) };
    let mut guidance = Guidance::new(&options, STEPS, IMAGES, given.values(), true).unwrap();
    for step in 0..STEPS {
        let needs = guidance.needs(step);
        assert_eq!(needs, Needs { unconditional: true, image: false, perturbed: false });
        let predictions = given.at(step, 0..IMAGES, needs);
        let mut out = vec![f32::NAN; predictions.conditional.len()];
        guidance.combine(&predictions, &mut out).unwrap();
        let pairs = predictions.unconditional.iter().zip(predictions.conditional);
        let expected: Vec<f32> = match step {
            0..3 => pairs.map(|(u, c)| (0.4 * f64::from(*u) + 0.6 * f64::from(*c)) as f32).collect(),
            _ => predictions.conditional.to_vec(),
        };
        assert!(relative_l2(&out, &expected) <= 1e-6, "step {step}");
    }
}

#[test]
fn one_value_and_zeros_never_make_a_nan() {
    for method in GuidanceMethod::ALL {
        let options = GuidanceOptions {
            method,
            guidance_rescale: 1.0,
            zero_init_steps: 0,
            pag_scale: 1.0,
            apg_eta: 0.0,
            apg_norm_threshold: 1e-3,
            ..GuidanceOptions::default()
        };
        for values in [[0.0; 1].as_slice(), &[0.0; 4], &[2.0; 4]] {
            let mut guidance = Guidance::new(&options, 1, 1, values.len(), false).unwrap();
            let predictions = Predictions {
                input: &[],
                original: [0.0, 1.0],
                step: 0,
                timestep: 1.0,
                conditional: values,
                unconditional: values,
                image: &[],
                perturbed: values,
            };
            let mut out = vec![f32::NAN; values.len()];
            guidance.combine(&predictions, &mut out).unwrap();
            assert!(out.iter().all(|x| x.is_finite()), "{method:?} {values:?}: {out:?}");
        }
    }
}

#[test]
fn bad_options_are_refused_by_name_and_value() {
    let plain = GuidanceOptions::default;
    let cases = [
        (GuidanceOptions::at_scale(f64::NAN), "guidance_scale is NaN"),
        (GuidanceOptions { guidance_rescale: 1.5, ..plain() }, "guidance_rescale is 1.5"),
        (GuidanceOptions { guidance_start: -0.1, ..plain() }, "guidance_start is -0.1"),
        (GuidanceOptions { guidance_stop: f64::NAN, ..plain() }, "guidance_stop is NaN"),
        (
            GuidanceOptions { guidance_start: 0.5, guidance_stop: 0.4, ..plain() },
            "guidance_start 0.5 is above guidance_stop 0.4",
        ),
        (GuidanceOptions { apg_eta: f64::INFINITY, ..plain() }, "apg_eta is inf"),
        (GuidanceOptions { apg_norm_threshold: -1.0, ..plain() }, "apg_norm_threshold is -1"),
        (GuidanceOptions { apg_momentum: 1.0, ..plain() }, "apg_momentum is 1"),
        (GuidanceOptions { apg_momentum: f64::NAN, ..plain() }, "apg_momentum is NaN"),
        (GuidanceOptions { pag_scale: -3.0, ..plain() }, "pag_scale is -3"),
        (GuidanceOptions { image_guidance_scale: Some(f64::NAN), ..plain() }, "image_guidance_scale is NaN"),
        (
            GuidanceOptions { image_guidance_scale: Some(1.5), method: GuidanceMethod::Apg, ..plain() },
            "image_guidance_scale takes the method cfg, not apg",
        ),
        (
            GuidanceOptions { guidance_schedule: Some(vec![1.0, f64::NAN]), ..plain() },
            "guidance_schedule[1] is NaN",
        ),
        (GuidanceOptions { guidance_schedule: Some(vec![2.0; 4]), ..plain() }, "has 4 scales for 5 steps"),
        (GuidanceOptions { guidance_schedule: Some(Vec::new()), ..plain() }, "has 0 scales for 5 steps"),
    ];
    for (options, message) in cases {
        let error = Guidance::new(&options, STEPS, 1, 8, false).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{message}");
        assert!(error.message().contains(message), "{error} should say {message:?}");
    }
}

#[test]
fn a_prediction_that_is_missing_or_too_short_is_an_error() {
    let given = Given::read(&Golden::open("guidance"));
    let options = GuidanceOptions { pag_scale: 1.0, image_guidance_scale: Some(1.5), ..Default::default() };
    let mut guidance = Guidance::new(&options, STEPS, IMAGES, given.values(), false).unwrap();
    let whole = given.at(0, 0..IMAGES, guidance.needs(0));
    let mut out = vec![0.0; whole.conditional.len()];
    let cases = [
        ("conditional", Predictions { conditional: &whole.conditional[1..], ..whole }),
        ("unconditional", Predictions { unconditional: &[], ..whole }),
        ("image", Predictions { image: &[], ..whole }),
        ("perturbed", Predictions { perturbed: &[], ..whole }),
    ];
    for (name, predictions) in cases {
        let error = guidance.combine(&predictions, &mut out).unwrap_err();
        assert!(error.message().starts_with(&format!("the {name} prediction")), "{error}");
    }
}
