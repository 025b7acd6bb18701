//! Whole pipelines against diffusers', on the tiny models and on the default one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde_json::Value;

use super::Pipeline;
use super::request::{GuidanceOptions, Noise, Observer, Output, Request, Sampler, Stage, TimestepSpacing};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::sampling::Clip;
pub(super) use crate::testing::root;
use crate::testing::{Golden, golden_json, relative_l2};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, Status};
use crate::util::log::Log;

pub(super) struct Silent;

impl Observer for Silent {
    fn progress(&mut self, _: Stage, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

pub(super) fn cpu(threads: usize) -> Cpu {
    Cpu::new(threads, None).unwrap()
}

pub(super) fn load(folder: &Path, backend: &Cpu) -> Pipeline<Cpu> {
    Pipeline::load(folder, None, backend, &Log::off()).unwrap()
}

/// The smaller one of those that come along: quick, and all that matters here is alike.
pub(super) fn small_model(backend: &Cpu) -> Pipeline<Cpu> {
    load(&root().join("models/emoji-64"), backend)
}

/// What one of the cases in a golden json asks for.
fn request(case: &Value, golden: &Golden) -> Request {
    let sampler = match case["sampler"].as_str() {
        Some("ddim") => Sampler::Ddim,
        Some("euler") => Sampler::Euler,
        Some("ddpm") => Sampler::Ddpm,
        other => panic!("unknown sampler {other:?}"),
    };
    // DDPM goes on drawing from the stream that gave the start noise; the others are given theirs.
    let latents = (sampler != Sampler::Ddpm).then(|| golden.values(case["noise"].as_str().unwrap()));
    Request {
        prompt: case["prompt"].as_str().unwrap().to_owned(),
        negative_prompt: case["negative_prompt"].as_str().map(str::to_owned),
        width: case["width"].as_u64().unwrap() as u32,
        height: case["height"].as_u64().unwrap() as u32,
        steps: case["steps"].as_u64().unwrap() as u32,
        guidance: GuidanceOptions::at_scale(case["guidance_scale"].as_f64().unwrap()),
        seed: case["seed"].as_u64().unwrap(),
        sampler: Some(sampler),
        noise: Some(Noise::Mt19937),
        latents,
        ..Request::default()
    }
}

pub(super) fn psnr(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mse = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64;
    -10.0 * mse.log10()
}

fn matches_diffusers(model: &str) {
    let backend = cpu(2);
    let pipeline = load(&root().join("tests/golden/models").join(model), &backend);
    let golden = Golden::open(model);
    let cases = golden_json(model);
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let output = pipeline.generate(&backend, &request(case, &golden), &mut Silent).unwrap();
        let expected = golden.values(case["latents"].as_str().unwrap());
        let error = relative_l2(&output.latents[0], &expected);
        assert!(error <= 1e-4, "{model} {name}: relative L2 {error:.2e}");
        if let Some(image) = case["image"].as_str() {
            let psnr = psnr(&output.images[0], &golden.values(image));
            assert!(psnr >= 60.0, "{model} {name}: image PSNR {psnr:.1} dB");
        }
    }
}

#[test]
fn sd1_matches_diffusers() {
    matches_diffusers("sd1");
}

#[test]
fn sd2_matches_diffusers() {
    matches_diffusers("sd2");
}

#[test]
fn sdxl_matches_diffusers() {
    matches_diffusers("sdxl");
}

/// Hue in degrees and saturation of a colour, HSV.
fn hue_saturation([r, g, b]: [f64; 3]) -> (f64, f64) {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = max - min;
    if chroma == 0.0 {
        return (0.0, 0.0);
    }
    let sixth = if max == r {
        (g - b) / chroma
    } else if max == g {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    ((60.0 * sixth).rem_euclid(360.0), chroma / max)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Whether a square RGB8 picture has the colours its prompt names; the rules are in tests/golden/README.md.
fn check_colours(picture: &[f64], case: &Value, rules: &Value) {
    let prompt = &case["prompt"];
    let background = numbers(&case["background_rgb"]);
    let pixels: Vec<[f64; 3]> = picture.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    let side = usize::try_from(rules["width"].as_u64().unwrap()).unwrap();
    assert_eq!(pixels.len(), side * side);
    let border = |i: &usize| [i / side, i % side].iter().any(|x| *x < 3 || *x >= side - 3);
    for channel in 0..3 {
        let mut values: Vec<f64> = (0..side * side).filter(border).map(|i| pixels[i][channel]).collect();
        values.sort_by(f64::total_cmp);
        let off = (values[values.len() / 2] - background[channel]).abs();
        assert!(off <= rules["background_tolerance"].as_f64().unwrap(), "{prompt}: background off by {off}");
    }
    let far = rules["object_distance"].as_f64().unwrap();
    let colours: Vec<(f64, f64)> = pixels
        .iter()
        .filter(|p| p.iter().zip(&background).any(|(a, b)| (a - b).abs() > far))
        .map(|p| hue_saturation(*p))
        .filter(|(_, saturation)| *saturation >= rules["min_saturation"].as_f64().unwrap())
        .collect();
    let range = numbers(&case["object_hue"]);
    let right =
        colours.iter().filter(|(hue, _)| (hue - range[0]).rem_euclid(360.0) <= range[1] - range[0]).count();
    assert!(2 * right > colours.len(), "{prompt}: {right} of {} object pixels have the hue", colours.len());
}

#[test]
fn pictures_of_the_models_that_come_along_are_diffusers_and_have_their_colours() {
    let backend = cpu(2);
    for (name, count) in [("emoji", 6), ("emoji-64", 12)] {
        let pipeline = load(&root().join("models").join(name), &backend);
        let (golden, rules) = (Golden::open(name), golden_json(name));
        let pixels: Vec<f32> = golden.bytes::<1>("image").into_iter().map(|[b]| f32::from(b)).collect();
        let latents = golden.values("latents");
        let (cases, side) = (rules["cases"].as_array().unwrap(), rules["width"].as_u64().unwrap() as usize);
        assert_eq!(cases.len(), count);
        for (i, case) in cases.iter().enumerate() {
            let request = Request {
                prompt: case["prompt"].as_str().unwrap().to_owned(),
                seed: case["seed"].as_u64().unwrap(),
                steps: rules["steps"].as_u64().unwrap() as u32,
                guidance: GuidanceOptions::at_scale(rules["guidance_scale"].as_f64().unwrap()),
                noise: Some(Noise::Mt19937),
                ..Request::default()
            };
            let output = pipeline.generate(&backend, &request, &mut Silent).unwrap();
            let size = (output.width as usize, output.height as usize);
            assert_eq!((size, output.sampler), ((side, side), Sampler::Ddim));
            let part = latents.len() / count;
            let error = relative_l2(&output.latents[0], &latents[i * part..][..part]);
            assert!(error <= 1e-4, "{name}, {}: latents {error:.2e}", request.prompt);
            // diffusers' picture is rounded to bytes: half a step of 1/255 either way, and no more.
            let theirs = &pixels[i * side * side * 3..][..side * side * 3];
            let worst =
                output.images[0].iter().zip(theirs).map(|(a, b)| (a * 255.0 - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 0.51, "{name}, {}: a pixel is off by {worst}/255", request.prompt);
            let ours = Vec::from_iter(output.images[0].iter().map(|x| f64::from(x * 255.0)));
            check_colours(&ours, case, &rules);
        }
    }
}

#[test]
fn a_given_spacing_replaces_the_configs() {
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let run = |timestep_spacing| {
        let request = Request { steps: 2, timestep_spacing, decode: false, ..small() };
        pipeline.generate(&backend, &request, &mut Silent).unwrap().latents
    };
    assert_eq!(run(None), run(Some(TimestepSpacing::Trailing)));
    assert_ne!(run(None), run(Some(TimestepSpacing::Linspace)));
}

pub(super) fn small() -> Request {
    Request {
        prompt: "a blue cat on a yellow background".to_owned(),
        steps: 3,
        guidance: GuidanceOptions::at_scale(2.5),
        seed: 40,
        ..Request::default()
    }
}

fn bits(output: &Output) -> Vec<Vec<u32>> {
    output.images.iter().chain(&output.latents).map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn threads_and_batch_never_change_a_bit() {
    let (one, two) = (cpu(1), cpu(2));
    let pipeline = small_model(&one);
    for sampler in [Sampler::Ddim, Sampler::Euler, Sampler::Ddpm] {
        let batch = Request { batch_size: 3, sampler: Some(sampler), ..small() };
        let together = pipeline.generate(&two, &batch, &mut Silent).unwrap();
        assert_eq!(bits(&together), bits(&pipeline.generate(&one, &batch, &mut Silent).unwrap()));
        for (i, image) in together.images.iter().enumerate() {
            let single = Request { batch_size: 1, seed: 40 + i as u64, ..batch.clone() };
            let alone = pipeline.generate(&two, &single, &mut Silent).unwrap();
            assert!(alone.images[0] == *image && alone.latents[0] == together.latents[i], "image {i}");
        }
    }
}

#[test]
fn returned_latents_decode_to_the_same_image() {
    let backend = cpu(2);
    let pipeline = small_model(&backend);
    let whole = pipeline.generate(&backend, &small(), &mut Silent).unwrap();
    let undecoded = Request { decode: false, ..small() };
    let latents = pipeline.generate(&backend, &undecoded, &mut Silent).unwrap();
    assert!(latents.images.is_empty());
    let decode = Request { steps: 0, latents: Some(latents.latents[0].clone()), ..Request::default() };
    assert_eq!(pipeline.generate(&backend, &decode, &mut Silent).unwrap().images, whole.images);
}

#[test]
fn progress_goes_through_every_stage_and_can_stop_the_request() {
    struct Record(Vec<(Stage, u32)>, Option<u32>, Cancel);
    impl Observer for Record {
        fn progress(&mut self, stage: Stage, step: u32, steps: u32) -> Result<()> {
            assert_eq!(steps, 3);
            self.0.push((stage, step));
            if self.1 == Some(step) {
                self.2.cancel();
            }
            self.2.check()
        }
    }
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let mut all = Record(Vec::new(), None, Cancel::default());
    pipeline.generate(&backend, &small(), &mut all).unwrap();
    use Stage::{Decode, Denoise, Text};
    let steps = [(Text, 0), (Denoise, 0), (Denoise, 1), (Denoise, 2), (Denoise, 3), (Decode, 3)];
    assert_eq!(all.0, steps);
    let mut stopped = Record(Vec::new(), Some(1), Cancel::default());
    let error = pipeline.generate(&backend, &small(), &mut stopped).unwrap_err();
    assert_eq!((error.status(), stopped.0.last()), (Status::Cancelled, Some(&(Denoise, 1))));
    let cancelled = Cancel::default();
    cancelled.cancel();
    let error = pipeline.generate(&backend.with_cancel(&cancelled), &small(), &mut Silent).unwrap_err();
    assert_eq!(error.status(), Status::Cancelled);
}

#[test]
fn bad_requests_name_the_option_and_its_value() {
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let cases = [
        (Request { width: 66, ..small() }, "width is 66"),
        (Request { height: 1 << 20, ..small() }, "height is 1048576"),
        (Request { batch_size: 0, ..small() }, "batch_size is 0"),
        (Request { steps: 5000, ..small() }, "steps is 5000"),
        (Request { steps: 0, ..small() }, "latents is not set"),
        (Request { latents: Some(vec![0.0; 7]), ..small() }, "latents has 7 values"),
        (Request { latents: Some(vec![f32::NAN; 1024]), ..small() }, "latents[0] is NaN"),
    ];
    for (request, message) in cases {
        let error = pipeline.check(&request).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{message}");
        assert!(error.message().contains(message), "{error} should say {message:?}");
    }
}

/// Copies a folder and what is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn components_that_contradict_each_other_do_not_load() {
    let folder = std::env::temp_dir().join(format!("libdiffusion-contradiction-{}", std::process::id()));
    let cases = [
        (
            "tokenizer_2/tokenizer_config.json",
            r#""model_max_length": 77"#,
            r#""model_max_length": 32"#,
            "tokenizer_2 32",
        ),
        (
            "unet/config.json",
            r#""addition_embed_type": "text_time""#,
            r#""addition_embed_type": null"#,
            "unet",
        ),
        ("unet/config.json", r#""sample_size": 8"#, r#""sample_size": 536870920"#, "sample_size = 536870920"),
        ("unet/config.json", r#""sample_size": 8"#, r#""sample_size": 0"#, "sample_size = 0"),
        ("text_encoder_2/config.json", r#""vocab_size": 4096"#, r#""vocab_size": 4000"#, "token_embedding"),
    ];
    for (file, from, to, culprit) in cases {
        copy(&root().join("tests/golden/models/sdxl"), &folder);
        let config = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(config.contains(from), "{file}");
        std::fs::write(folder.join(file), config.replace(from, to)).unwrap();
        let error = Pipeline::load(&folder, None, &cpu(1), &Log::off()).err().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(error.status(), Status::Format, "{file}: {error}");
        assert!(error.message().contains(culprit), "{file}: {error}");
    }
}

#[test]
fn stable_diffusion_has_an_offset_and_no_clipping_whatever_its_file_says() {
    let folder = std::env::temp_dir().join(format!("libdiffusion-scheduler-{}", std::process::id()));
    let config = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}"#;
    for (model, offset, clip) in [("sd1", 1, Clip::None), ("sdxl", 0, Clip::Range(1.0))] {
        copy(&root().join("tests/golden/models").join(model), &folder);
        std::fs::write(folder.join("scheduler/scheduler_config.json"), config).unwrap();
        let pipeline = load(&folder, &cpu(1));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((pipeline.scheduler.steps_offset, pipeline.scheduler.clip), (offset, clip), "{model}");
    }
}

#[test]
fn dropped_tokens_are_counted() {
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let request = Request { prompt: "cat ".repeat(50), steps: 1, decode: false, ..small() };
    let output = pipeline.generate(&backend, &request, &mut Silent).unwrap();
    assert_eq!((output.prompt.tokens, output.prompt.dropped), (50, 20));
    assert_eq!(pipeline.info().max_tokens, 30);
    assert_eq!((output.negative_prompt.tokens, output.negative_prompt.dropped), (0, 0));
}
