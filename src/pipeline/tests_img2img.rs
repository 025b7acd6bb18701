//! Image-to-image, inpainting and seeds: against diffusers' pipelines on the tiny models, and on the default one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use serde_json::Value;

use super::Pipeline;
use super::layout::LatentSize;
use super::request::{GuidanceOptions, Noise, Picture, Profile, Request, Sampler, Stage};
use super::start::{Streams, slerp};
use super::tests::{Silent, cpu, load, psnr, root, small, small_model};
use crate::backend::cpu::Cpu;
use crate::sampling::{NoiseStream, Options, Plan, SAMPLERS, SchedulerConfig};
use crate::testing::{Golden, golden_json, relative_l2};
use crate::util::error::{Result, Status};

/// The picture of `height`×`width`×3 bytes, or ×1 for a mask.
fn picture(golden: &Golden, name: &str) -> Picture {
    let shape = golden.shape(name);
    let bytes = golden.bytes::<1>(name).into_iter().map(|[byte]| f32::from(byte) / 255.0);
    let rgb = match shape.len() {
        2 => bytes.flat_map(|gray| [gray; 3]).collect(),
        _ => bytes.collect(),
    };
    Picture { width: shape[1] as u32, height: shape[0] as u32, rgb: Arc::new(rgb) }
}

fn sampler(name: &str) -> Sampler {
    SAMPLERS.iter().find(|info| info.name == name).unwrap().sampler
}

fn request(case: &Value, golden: &Golden) -> Request {
    let model = case["model"].as_str().unwrap();
    Request {
        prompt: case["prompt"].as_str().unwrap().to_owned(),
        negative_prompt: case["negative_prompt"].as_str().map(str::to_owned),
        steps: case["steps"].as_u64().unwrap() as u32,
        guidance: GuidanceOptions::at_scale(case["guidance_scale"].as_f64().unwrap()),
        seed: case["seed"].as_u64().unwrap(),
        batch_size: case["batch_size"].as_u64().unwrap() as u32,
        sampler: Some(sampler(case["sampler"].as_str().unwrap())),
        noise: Some(Noise::Mt19937),
        image: Some(picture(golden, &format!("{model}.image"))),
        mask: case["inpaint"].as_bool().unwrap().then(|| picture(golden, &format!("{model}.mask"))),
        strength: case["strength"].as_f64().unwrap(),
        ..Request::default()
    }
}

fn matches_diffusers(model: &str) {
    let backend = cpu(2);
    let pipeline = load(&root().join("tests/golden/models").join(model), &backend);
    let (golden, json) = (Golden::open("img2img"), golden_json("img2img"));
    let mut count = 0;
    for case in json["cases"].as_array().unwrap().iter().filter(|case| case["model"] == model) {
        count += 1;
        let name = case["name"].as_str().unwrap();
        let output = pipeline.generate(&backend, &request(case, &golden), &mut Silent).unwrap();
        assert_eq!(u64::from(output.steps), case["taken"].as_u64().unwrap(), "{name}");
        let error = relative_l2(&output.latents.concat(), &golden.values(&format!("{name}.latents")));
        assert!(error <= 1e-4, "{name}: relative L2 {error:.2e}");
        if case["images"].as_bool().unwrap() {
            let psnr = psnr(&output.images.concat(), &golden.values(&format!("{name}.images")));
            assert!(psnr >= 60.0, "{name}: image PSNR {psnr:.1} dB");
        }
    }
    // sd1 has more samplers.
    assert_eq!(count, if model == "sd1" { 25 } else { 18 });
}

#[test]
fn sd1_image_to_image_and_inpainting_match_diffusers() {
    matches_diffusers("sd1");
}

#[test]
fn sd2_image_to_image_and_inpainting_match_diffusers() {
    matches_diffusers("sd2");
}

#[test]
fn sdxl_image_to_image_and_inpainting_match_diffusers() {
    matches_diffusers("sdxl");
}

fn size(batch: usize) -> LatentSize {
    LatentSize { batch, channels: 4, height: 8, width: 12 }
}

#[test]
fn variations_and_batches_start_from_the_noise_of_other_programs() {
    let (golden, json) = (Golden::open("img2img"), golden_json("img2img"));
    let cases = json["noises"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let expected = golden.values(name);
        let profile = if case["profile"] == "comfyui" { Profile::ComfyUi } else { Profile::A1111 };
        let request = Request {
            seed: case["seed"].as_u64().unwrap(),
            batch_size: golden.shape(name)[0] as u32,
            noise: (profile == Profile::A1111).then_some(Noise::Mt19937),
            profile,
            variation_seed: case["variation_seed"].as_u64().unwrap(),
            variation_strength: case["variation_strength"].as_f64().unwrap(),
            ..Request::default()
        };
        let noise = Streams::new(&request, size(request.batch_size as usize)).first_noise().unwrap();
        let error = relative_l2(&noise, &expected);
        assert!(error <= 1e-6, "{name}: relative L2 {error:.2e}");
    }
}

#[test]
fn nearly_parallel_noises_are_mixed_as_a1111_does() {
    let golden = Golden::open("img2img");
    let size = size(1);
    let mut low = vec![0.0; size.len()];
    NoiseStream::new(Noise::Mt19937, 7).normal(&mut low);
    let start = low.clone();
    slerp(0.2, &mut low, &golden.values("parallel.high"), size);
    assert!(relative_l2(&low, &golden.values("parallel")) <= 1e-6);
    assert!(low != start);
}

#[test]
fn a_variation_of_one_row_or_of_zeros_is_finite() {
    let flat = LatentSize { height: 1, ..size(1) };
    let (mut low, mut high) = (vec![0.0; flat.len()], vec![0.0; flat.len()]);
    NoiseStream::new(Noise::Philox, 1).normal(&mut low);
    NoiseStream::new(Noise::Philox, 2).normal(&mut high);
    for (low, high) in [(low.clone(), high.clone()), (vec![0.0; flat.len()], high), (low.clone(), low)] {
        let mut mixed = low;
        slerp(0.5, &mut mixed, &high, flat);
        assert!(mixed.iter().all(|x| x.is_finite()));
    }
}

/// Which noise the second step of a stochastic sampler adds, for each image.
fn fresh_noise(request: &Request) -> Vec<Vec<f32>> {
    let size = size(request.batch_size as usize);
    let config: SchedulerConfig = small_model(&cpu(1)).scheduler.clone();
    let plan = Plan::new(&config, &Options::new(2)).unwrap();
    let mut streams = Streams::new(request, size);
    streams.first_noise().unwrap();
    let mut values = vec![0.0; size.len()];
    streams.into_source(&plan).unwrap().draw(1.0, 0.5, size.batch, &mut values);
    values.chunks_exact(size.image()).map(<[f32]>::to_vec).collect()
}

/// Draw `n` of a seed's stream.
fn draw(noise: Noise, seed: u64, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; size(1).image()];
    let mut stream = NoiseStream::new(noise, seed);
    (0..=n).for_each(|_| stream.normal(&mut values));
    values
}

#[test]
fn fresh_noise_comes_from_the_seeds_that_the_profile_says() {
    let batch = Request { seed: 7, batch_size: 2, ..Request::default() };
    // It goes on where the first noise ended.
    let noises = fresh_noise(&batch);
    assert!(noises == [draw(Noise::Philox, 7, 1), draw(Noise::Philox, 8, 1)]);
    // Streams of its own.
    let noises = fresh_noise(&Request { eta_noise_seed_delta: 31337, ..batch.clone() });
    assert!(noises == [draw(Noise::Philox, 7 + 31337, 0), draw(Noise::Philox, 8 + 31337, 0)]);
    // A variation's images all go on from seed.
    let noises = fresh_noise(&Request { variation_strength: 0.1, ..batch.clone() });
    assert!(noises == [draw(Noise::Philox, 7, 1), draw(Noise::Philox, 7, 1)]);
    // The seed after, never the first noise again.
    let noises = fresh_noise(&Request { profile: Profile::ComfyUi, ..batch });
    assert!(noises == [draw(Noise::Mt19937, 8, 0), draw(Noise::Mt19937, 9, 0)]);
}

/// A picture that the small model made, and the request that starts from it.
fn from_picture(pipeline: &Pipeline<Cpu>, backend: &Cpu) -> Request {
    let made = pipeline.generate(backend, &Request { steps: 8, ..small() }, &mut Silent).unwrap();
    let rgb = Arc::new(made.images[0].clone());
    Request { image: Some(Picture { width: 64, height: 64, rgb }), steps: 5, seed: 3, ..small() }
}

/// White in the right half, black in the left.
fn half_mask() -> Picture {
    let rgb = (0..64 * 64).flat_map(|i| [if i % 64 < 32 { 0.0 } else { 1.0 }; 3]).collect();
    Picture { width: 64, height: 64, rgb: Arc::new(rgb) }
}

#[test]
fn a_small_strength_stays_close_to_the_picture() {
    let backend = cpu(2);
    let pipeline = small_model(&backend);
    let request = Request { steps: 20, ..from_picture(&pipeline, &backend) };
    let picture = request.image.clone().unwrap();
    let distance = |strength: f64| {
        let request = Request { strength, ..request.clone() };
        psnr(&pipeline.generate(&backend, &request, &mut Silent).unwrap().images[0], &picture.rgb)
    };
    let (near, middle, far) = (distance(0.05), distance(0.5), distance(1.0));
    assert!(near > middle && middle > far && near > 20.0, "{near:.1} {middle:.1} {far:.1} dB");
}

#[test]
fn what_a_mask_protects_keeps_its_bits_and_the_rest_is_painted() {
    let backend = cpu(2);
    let pipeline = small_model(&backend);
    let request = Request { mask: Some(half_mask()), batch_size: 2, ..from_picture(&pipeline, &backend) };
    let picture = request.image.clone().unwrap();
    for (strength, sampler) in [(1.0, Sampler::Ddim), (0.5, Sampler::Euler), (1.0, Sampler::Ddpm)] {
        for profile in [Profile::Diffusers, Profile::A1111] {
            let request = Request { strength, sampler: Some(sampler), profile, ..request.clone() };
            let output = pipeline.generate(&backend, &request, &mut Silent).unwrap();
            assert!(output.images[0] != output.images[1]);
            for (i, (pixel, original)) in
                output.images[0].chunks_exact(3).zip(picture.rgb.chunks_exact(3)).enumerate()
            {
                let kept = i % 64 < 32;
                assert!(!kept || pixel == original, "{sampler:?}: pixel {i}");
            }
            let painted = output.images[0].iter().zip(picture.rgb.iter()).filter(|(a, b)| a != b).count();
            assert!(painted > 64 * 32, "{sampler:?}: {painted} values painted");
        }
    }
}

/// In the middle of their schedule and from its start. (A1111 takes one timestep fewer than its strength says.)
#[test]
fn every_sampler_and_profile_starts_from_pictures() {
    let backend = cpu(2);
    let pipeline = small_model(&backend);
    let request = Request { mask: Some(half_mask()), decode: false, ..from_picture(&pipeline, &backend) };
    for info in SAMPLERS {
        for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
            for (steps, strength) in [(4, 0.5), (4, 1.0)] {
                let sampler = Some(info.sampler);
                let request = Request { sampler, profile, steps, strength, ..request.clone() };
                let output = pipeline.generate(&backend, &request, &mut Silent);
                // Latents that are not finite would be an error.
                let output = output.unwrap_or_else(|error| panic!("{} {profile:?}: {error}", info.name));
                assert!((1..=4).contains(&output.steps), "{}: {} steps", info.name, output.steps);
            }
        }
    }
}

#[test]
fn threads_and_batch_change_no_bit_of_image_to_image() {
    let (one, two) = (cpu(1), cpu(2));
    let pipeline = small_model(&one);
    let batch = Request { mask: Some(half_mask()), batch_size: 2, ..from_picture(&pipeline, &one) };
    for sampler in [Sampler::Ddim, Sampler::Ddpm] {
        let batch = Request { sampler: Some(sampler), ..batch.clone() };
        let together = pipeline.generate(&two, &batch, &mut Silent).unwrap();
        let single = Request { batch_size: 1, seed: batch.seed + 1, ..batch };
        let alone = pipeline.generate(&one, &single, &mut Silent).unwrap();
        assert!(alone.images[0] == together.images[1] && alone.latents[0] == together.latents[1]);
    }
}

#[test]
fn given_sigmas_and_timesteps_bring_their_own_steps() {
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let steps = |request: Request| pipeline.generate(&backend, &request, &mut Silent).unwrap().steps;
    let base = Request { decode: false, sampler: Some(Sampler::Euler), ..small() };
    assert_eq!(steps(Request { sigmas: Some(vec![14.0, 3.0, 0.0]), ..base.clone() }), 2);
    assert_eq!(steps(Request { timesteps: Some(vec![900.0, 500.0, 300.0, 1.0]), ..base }), 4);
}

#[test]
fn the_picture_is_encoded_between_text_and_steps() {
    struct Record(Vec<(Stage, u32, u32)>);
    impl super::request::Observer for Record {
        fn progress(&mut self, stage: Stage, step: u32, steps: u32) -> Result<()> {
            self.0.push((stage, step, steps));
            Ok(())
        }
    }
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let request = Request { strength: 0.4, ..from_picture(&pipeline, &backend) };
    let mut record = Record(Vec::new());
    pipeline.generate(&backend, &request, &mut record).unwrap();
    use Stage::{Decode, Denoise, Encode, Text};
    let expected =
        [(Text, 0, 2), (Encode, 0, 2), (Denoise, 0, 2), (Denoise, 1, 2), (Denoise, 2, 2), (Decode, 2, 2)];
    assert_eq!(record.0, expected);
}

#[test]
fn bad_pictures_and_lists_are_named() {
    let backend = cpu(1);
    let pipeline = small_model(&backend);
    let picture = |width: u32, height: u32| Picture {
        width,
        height,
        rgb: Arc::new(vec![0.5; (width * height * 3) as usize]),
    };
    let with_image = |width, height| Request { image: Some(picture(width, height)), ..small() };
    pipeline.check(&with_image(96, 32)).unwrap();
    let cases = [
        (Request { width: 64, ..with_image(96, 32) }, "image is 96x32, but the images to make are 64x32"),
        (with_image(66, 64), "width is 66"),
        (Request { mask: Some(picture(64, 60)), ..with_image(64, 64) }, "mask is 64x60"),
        (Request { mask: Some(picture(64, 64)), ..small() }, "mask is set"),
        (Request { steps: 0, latents: Some(vec![0.0; 1024]), ..with_image(64, 64) }, "image is set"),
        (Request { strength: 0.0, ..with_image(64, 64) }, "strength 0"),
        (Request { strength: 0.3, ..with_image(64, 64) }, "strength 0.3 of 3 steps"),
        (Request { sigmas: Some(vec![]), ..small() }, "sigmas has 0 values"),
        (Request { sigmas: Some(vec![1.0]), ..small() }, "sigmas has 1 values"),
        (Request { sigmas: Some(vec![1.0, 2.0, 0.0]), ..small() }, "sigmas[1] is 2"),
        (Request { sigmas: Some(vec![1.0; 1002]), ..small() }, "sigmas has 1002 values"),
        (Request { timesteps: Some(vec![]), ..small() }, "timesteps has 0 values"),
        (Request { timesteps: Some(vec![5000.0]), ..small() }, "timesteps[0] is 5000"),
        (
            Request { timesteps: Some(vec![500.0]), sigmas: Some(vec![1.0, 0.0]), ..small() },
            "sigmas and timesteps are both given",
        ),
        (Request { s_tmin: 2.0, s_tmax: 1.0, ..small() }, "s_tmax 1"),
    ];
    for (request, message) in cases {
        let error = pipeline.check(&request).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{message}: {error}");
        assert!(error.message().contains(message), "{error} should say {message:?}");
    }
}
