//! Guided runs of whole pipelines: against diffusers, and what may combine predictions in guidance's place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde_json::Value;

use super::Pipeline;
use super::denoiser::Denoiser;
use super::layout::LatentSize;
use super::request::{
    GuidanceMethod, GuidanceOptions, Observer, Perturbation, Predictions, Request, Sampler, Stage,
};
use crate::backend::cpu::Cpu;
use crate::sampling::Evaluation;
use crate::sampling::guidance::Guidance;
use crate::sampling::guidance::tests::options;
use crate::testing::{Golden, golden_json, golden_path, relative_l2, root};
use crate::util::error::{Result, Status, bail};
use crate::util::log::Log;

/// Combines by `guide`, if there is one; writes down what each step was given.
struct Host<F> {
    guide: F,
    given: Vec<Given>,
}

#[derive(Debug, PartialEq)]
struct Given {
    step: usize,
    timestep: f32,
    unconditional: usize,
    perturbed: usize,
}

impl<F: FnMut(&Predictions<'_>, &mut [f32]) -> Result<bool>> Observer for Host<F> {
    fn progress(&mut self, _: Stage, _: u32, _: u32) -> Result<()> {
        Ok(())
    }

    fn guide(&mut self, predictions: &Predictions<'_>, out: &mut [f32]) -> Result<bool> {
        let Predictions { step, timestep, conditional, unconditional, image, perturbed, .. } = *predictions;
        assert!(conditional.len() == out.len() && image.is_empty());
        let (unconditional, perturbed) = (unconditional.len(), perturbed.len());
        self.given.push(Given { step, timestep, unconditional, perturbed });
        (self.guide)(predictions, out)
    }
}

fn host<F: FnMut(&Predictions<'_>, &mut [f32]) -> Result<bool>>(guide: F) -> Host<F> {
    Host { guide, given: Vec::new() }
}

fn watch() -> Host<impl FnMut(&Predictions<'_>, &mut [f32]) -> Result<bool>> {
    host(|_, _| Ok(false))
}

fn load(folder: &Path, backend: &Cpu) -> Pipeline<Cpu> {
    Pipeline::load(folder, None, backend, &Log::off()).unwrap()
}

fn small_model(backend: &Cpu) -> Pipeline<Cpu> {
    load(&root().join("models/emoji-64"), backend)
}

fn small() -> Request {
    Request {
        prompt: "a blue cat on a yellow background".to_owned(),
        steps: 4,
        sampler: Some(Sampler::Ddim),
        seed: 40,
        decode: false,
        ..Request::default()
    }
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn guided_trajectories_match_diffusers() {
    let backend = Cpu::new(2, None).unwrap();
    let pipeline = load(&golden_path("models/sd1"), &backend);
    let (golden, json) = (Golden::open("guidance"), golden_json("guidance"));
    let cases = json["trajectories"].as_array().unwrap();
    assert!(cases.len() >= 7);
    let noise = golden.shape("trajectory.noise");
    for case in cases {
        let request = Request {
            negative_prompt: Some("blurry, dark".to_owned()),
            steps: case["steps"].as_u64().unwrap() as u32,
            height: noise[2] as u32 * pipeline.info().size_multiple,
            width: noise[3] as u32 * pipeline.info().size_multiple,
            guidance: options(case),
            pag_applied_layers: names(&case["layers"]),
            latents: Some(golden.values("trajectory.noise")),
            ..small()
        };
        let output = pipeline.generate(&backend, &request, &mut watch()).unwrap();
        let error = relative_l2(&output.latents[0], &golden.values(case["latents"].as_str().unwrap()));
        assert!(error <= 1e-4, "relative L2 {error:.2e}: {case}");
    }
}

#[test]
fn only_what_a_step_needs_is_evaluated() {
    let backend = Cpu::new(1, None).unwrap();
    let pipeline = small_model(&backend);
    let sizes = |guidance: GuidanceOptions| -> Vec<(usize, usize)> {
        let mut watch = watch();
        let request = Request { guidance, batch_size: 2, ..small() };
        pipeline.generate(&backend, &request, &mut watch).unwrap();
        watch.given.iter().map(|given| (given.unconditional / 1024, given.perturbed / 1024)).collect()
    };
    let plain = GuidanceOptions::default;
    assert_eq!(sizes(plain()), [(2, 0); 4]);
    assert_eq!(sizes(GuidanceOptions::at_scale(1.0)), [(0, 0); 4]);
    let interval = GuidanceOptions { guidance_start: 0.25, guidance_stop: 0.75, pag_scale: 1.0, ..plain() };
    assert_eq!(sizes(interval), [(0, 0), (2, 2), (2, 2), (0, 0)]);
    let schedule = GuidanceOptions { guidance_schedule: Some(vec![0.0, 3.0, 1.0, 2.0]), ..plain() };
    assert_eq!(sizes(schedule), [(0, 0), (2, 0), (0, 0), (2, 0)]);
    let pag_alone = GuidanceOptions { pag_scale: 1.0, ..GuidanceOptions::at_scale(1.0) };
    assert_eq!(sizes(pag_alone), [(0, 2); 4]);
}

#[test]
fn a_batch_never_changes_a_guided_picture() {
    let (one, two) = (Cpu::new(1, None).unwrap(), Cpu::new(2, None).unwrap());
    let pipeline = small_model(&one);
    for (method, perturbation) in [
        (GuidanceMethod::Cfg, Perturbation::SkipLayer),
        (GuidanceMethod::CfgZeroStar, Perturbation::IdentityAttention),
        (GuidanceMethod::Apg, Perturbation::IdentityAttention),
    ] {
        let guidance = GuidanceOptions {
            method,
            guidance_rescale: 0.5,
            guidance_stop: 0.75,
            apg_momentum: -0.5,
            pag_scale: 2.0,
            ..GuidanceOptions::at_scale(3.0)
        };
        let batch = Request { guidance, perturbation, batch_size: 3, ..small() };
        let together = pipeline.generate(&two, &batch, &mut watch()).unwrap();
        for (i, latents) in together.latents.iter().enumerate() {
            let single = Request { batch_size: 1, seed: 40 + i as u64, ..batch.clone() };
            let alone = pipeline.generate(&one, &single, &mut watch()).unwrap();
            assert!(alone.latents[0] == *latents, "{method:?} image {i}");
        }
    }
}

#[test]
fn each_perturbation_and_block_makes_another_picture() {
    let backend = Cpu::new(2, None).unwrap();
    let pipeline = small_model(&backend);
    let run = |pag_scale, perturbation, layers: &[&str]| {
        let guidance = GuidanceOptions { pag_scale, ..GuidanceOptions::at_scale(2.5) };
        let pag_applied_layers = layers.iter().map(|name| (*name).to_owned()).collect();
        let request = Request { guidance, perturbation, pag_applied_layers, ..small() };
        pipeline.generate(&backend, &request, &mut watch()).unwrap().latents
    };
    let identity = run(3.0, Perturbation::IdentityAttention, &["mid_block"]);
    assert_eq!(identity, run(3.0, Perturbation::IdentityAttention, &[]));
    let others = [
        run(0.0, Perturbation::IdentityAttention, &[]),
        run(3.0, Perturbation::SkipLayer, &[]),
        run(3.0, Perturbation::IdentityAttention, &["up_blocks.1"]),
    ];
    for other in others {
        assert_ne!(identity, other);
    }
}

/// The CFG++ samplers step by the raw unconditional prediction, whatever guides the other one.
#[test]
fn a_sampler_that_asks_for_it_gets_the_raw_unconditional_prediction() {
    let backend = Cpu::new(1, None).unwrap();
    let pipeline = small_model(&backend);
    let size = LatentSize { batch: 2, channels: 4, height: 16, width: 16 };
    let prompts = pipeline.text.encode(&backend, &["a blue cat", "a red house"]).unwrap();
    let input: Vec<f32> = (0..size.len()).map(|i| (i as f32 * 0.37).sin()).collect();
    let evaluate = |guidance_scale, guidance_stop, step, unconditional: &mut [f32]| {
        let options = GuidanceOptions { guidance_stop, ..GuidanceOptions::at_scale(guidance_scale) };
        let always = !unconditional.is_empty();
        let guidance = Guidance::new(&options, 4, size.batch, size.image(), always).unwrap();
        let [c, u] = prompts.as_slice() else { panic!("two prompts") };
        let mut denoiser =
            Denoiser::new(&pipeline, &backend, &small(), guidance, size, Vec::new(), c, Some(u)).unwrap();
        let evaluation = Evaluation {
            step,
            input: &input,
            timestep: 700.0,
            alpha: 0.5,
            sigma: 0.8,
            original: [2.0, -1.6],
        };
        let mut out = vec![f32::NAN; size.len()];
        denoiser.evaluate(evaluation, &mut out, unconditional, &mut watch()).unwrap();
        out
    };
    let conditional = evaluate(1.0, 1.0, 0, &mut []);
    let mut unconditional = vec![f32::NAN; size.len()];
    // At a scale of 0, guidance gives the unconditional prediction itself.
    let guided = evaluate(0.0, 1.0, 3, &mut unconditional);
    assert!(guided == unconditional && guided != conditional);
    let mut again = vec![f32::NAN; size.len()];
    assert!(evaluate(0.6, 0.5, 3, &mut again) == conditional && again == unconditional);
    let halfway = evaluate(0.5, 1.0, 0, &mut again);
    let expected: Vec<f32> = unconditional.iter().zip(&conditional).map(|(u, c)| 0.5 * u + 0.5 * c).collect();
    assert!(relative_l2(&halfway, &expected) < 1e-6 && again == unconditional);
}

#[test]
fn a_host_may_combine_the_predictions_itself() {
    let backend = Cpu::new(1, None).unwrap();
    let pipeline = small_model(&backend);
    let request = Request { guidance: GuidanceOptions::at_scale(3.0), ..small() };
    let expected = pipeline.generate(&backend, &request, &mut watch()).unwrap();
    let mut mine = host(|predictions, out| {
        let pairs = predictions.unconditional.iter().zip(predictions.conditional);
        for (out, (u, c)) in out.iter_mut().zip(pairs) {
            *out = u + 3.0 * (c - u);
        }
        Ok(true)
    });
    // The request's own scale only decides what is evaluated.
    let other = Request { guidance: GuidanceOptions::at_scale(7.5), ..request.clone() };
    assert_eq!(pipeline.generate(&backend, &other, &mut mine).unwrap().latents, expected.latents);
    let steps: Vec<usize> = mine.given.iter().map(|given| given.step).collect();
    assert_eq!(steps, [0, 1, 2, 3]);
    assert!(mine.given.windows(2).all(|pair| pair[0].timestep > pair[1].timestep));

    let mut poisoned = host(|predictions, out| {
        out.fill(if predictions.step == 2 { f32::NAN } else { 0.0 });
        Ok(true)
    });
    let error = pipeline.generate(&backend, &request, &mut poisoned).unwrap_err();
    assert_eq!(error.status(), Status::Numeric);
    assert!(error.message().contains("step 2"), "{error}");

    let mut failing = host(|_, _| bail!(InvalidState, "the host gave up"));
    let error = pipeline.generate(&backend, &request, &mut failing).unwrap_err();
    assert_eq!((error.status(), error.message()), (Status::InvalidState, "the host gave up"));
    assert_eq!(failing.given.len(), 1);
}

#[test]
fn guidance_that_the_model_cannot_give_is_refused_by_name() {
    let backend = Cpu::new(1, None).unwrap();
    let pipeline = small_model(&backend);
    let plain = GuidanceOptions::default;
    let pag = |layers: &[&str]| Request {
        guidance: GuidanceOptions { pag_scale: 1.0, ..plain() },
        pag_applied_layers: layers.iter().map(|name| (*name).to_owned()).collect(),
        ..small()
    };
    let cases = [
        (
            Request { guidance: GuidanceOptions { image_guidance_scale: Some(1.5), ..plain() }, ..small() },
            Status::Unsupported,
            "image_guidance_scale",
        ),
        (
            Request { guidance: GuidanceOptions { guidance_rescale: 2.0, ..plain() }, ..small() },
            Status::InvalidArgument,
            "guidance_rescale is 2",
        ),
        (
            pag(&["mid_block", "down_blocks.9"]),
            Status::InvalidArgument,
            "no block down_blocks.9 with attention",
        ),
    ];
    for (request, status, message) in cases {
        let error = pipeline.check(&request).unwrap_err();
        assert_eq!(error.status(), status, "{message}");
        assert!(error.message().contains(message), "{error} should say {message:?}");
    }
    assert!(pipeline.check(&pag(&["mid"])).is_ok());
    let schedule = GuidanceOptions { guidance_schedule: Some(vec![2.0; 3]), ..plain() };
    let error = pipeline.generate(&backend, &Request { guidance: schedule, ..small() }, &mut watch());
    assert!(error.unwrap_err().message().contains("3 scales for 4 steps"));
}
