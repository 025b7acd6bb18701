//! What is computed once for an image, and that it changes none of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::Pipeline;
use super::denoiser::Denoiser;
use super::layout::LatentSize;
use super::request::{GuidanceOptions, Perturbation, Request, Sampler};
use super::tests::{Silent, cpu, small_model};
use crate::backend::Shape;
use crate::backend::spy::{Call, Spy};
use crate::models::golden::MODELS;
use crate::sampling::Plan;
use crate::sampling::guidance::Guidance;
use crate::testing::{golden_path, relative_l2};
use crate::util::log::Log;

fn request(sampler: Sampler, guidance: GuidanceOptions) -> Request {
    Request {
        prompt: "a blue cat".to_owned(),
        width: 16,
        height: 16,
        steps: 4,
        sampler: Some(sampler),
        seed: 3,
        decode: false,
        guidance,
        ..Request::default()
    }
}

/// A tiny model's run on the spy, whose `repeat` fails if a step does not do what the one before did, and the same on
/// the CPU.
fn watch(model: &str, request: &Request) -> (Pipeline<Spy>, Vec<Call>) {
    let (spy, cpu, folder) = (Spy::default(), cpu(2), golden_path(&format!("models/{model}")));
    let pipeline = Pipeline::load(&folder, None, &spy, &Log::off()).unwrap();
    let latents = pipeline.generate(&spy, request, &mut Silent).unwrap().latents;
    let same = Pipeline::load(&folder, None, &cpu, &Log::off()).unwrap();
    let expected = same.generate(&cpu, request, &mut Silent).unwrap().latents;
    assert!(relative_l2(&latents.concat(), &expected.concat()) < 1e-4, "{model}");
    (pipeline, spy.take_calls())
}

/// What is done with a context of `n` images, from its upload on, and its shape.
fn with_context<'a>(pipeline: &Pipeline<Spy>, calls: &'a [Call], n: usize) -> (&'a [Call], Shape) {
    let shape = Shape::tokens(n, pipeline.text.max_tokens(), pipeline.text.context_dim());
    let from = calls.iter().position(|call| *call == ("upload", shape)).unwrap();
    (&calls[from..], shape)
}

/// Products with the whole context of `n` images: keys and values.
fn context_products(pipeline: &Pipeline<Spy>, calls: &[Call], n: usize) -> usize {
    let (calls, shape) = with_context(pipeline, calls, n);
    calls.iter().filter(|call| **call == ("linear", shape)).count()
}

/// How many rows of sinusoids were embedded at a time.
fn embedded_rows(pipeline: &Pipeline<Spy>, calls: &[Call]) -> Vec<usize> {
    let first = pipeline.unet.config().block_out_channels[0];
    let rows = calls.iter().filter(|(name, s)| *name == "linear" && *s == Shape::vector(s.n, first));
    rows.map(|(_, shape)| shape.n).collect()
}

/// Cross-attentions, as the checkpoint counts them.
fn cross_attentions(model: &str) -> usize {
    let files = std::fs::read_dir(golden_path(&format!("models/{model}/unet"))).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let shards = files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let bytes: Vec<u8> = shards.flat_map(|shard| std::fs::read(shard).unwrap()).collect();
    let name = b"attn2.to_k.weight";
    bytes.windows(name.len()).filter(|window| window == name).count()
}

#[test]
fn keys_values_and_times_are_computed_once_an_image() {
    for (model, sampler) in [
        ("sd1", Sampler::Euler),
        ("sd1", Sampler::Heun),
        ("sd1", Sampler::Dpmpp2sAncestral),
        ("sdxl", Sampler::Heun),
    ] {
        let request = request(sampler, GuidanceOptions::at_scale(3.0));
        let (pipeline, calls) = watch(model, &request);
        let attentions = cross_attentions(model);
        assert!(attentions > 0);
        assert_eq!(context_products(&pipeline, &calls, 2), 2 * attentions, "{model} {sampler:?}");
        let plan = Plan::new(&pipeline.scheduler, &request.sampling().unwrap()).unwrap();
        let mut timesteps: Vec<f32> = plan.evaluation_timesteps().map(|(_, t)| t).collect();
        assert_eq!(timesteps.len(), plan.evaluations());
        timesteps.sort_by(f32::total_cmp);
        timesteps.dedup();
        assert_eq!(embedded_rows(&pipeline, &calls), [2 * timesteps.len()], "{model} {sampler:?}");
    }
}

#[test]
fn what_the_prompts_do_not_change_is_computed_once() {
    // The added conditions of an SDXL are for every prompt others.
    for (model, attentions, convolutions) in [("sd1", 1, 3), ("sdxl", 0, 1)] {
        let request = request(Sampler::Euler, GuidanceOptions::at_scale(3.0));
        let (pipeline, calls) = watch(model, &request);
        let (calls, _) = with_context(&pipeline, &calls, 2);
        let of = |operation: &str, n| calls.iter().filter(|(name, s)| *name == operation && s.n == n).count();
        let steps = request.steps as usize;
        assert_eq!(of("attention", 1), attentions * steps, "{model}");
        assert_eq!(of("conv2d", 1), convolutions * steps, "{model}");
        assert!(of("attention", 2) > attentions * steps, "{model}");
    }
}

#[test]
fn a_change_of_what_is_evaluated_starts_the_step_anew() {
    let plain = GuidanceOptions::default;
    let interval = GuidanceOptions { guidance_start: 0.25, guidance_stop: 0.75, pag_scale: 1.0, ..plain() };
    for model in ["sd1", "sdxl"] {
        for perturbation in [Perturbation::IdentityAttention, Perturbation::SkipLayer] {
            let request = Request { perturbation, ..request(Sampler::Euler, interval.clone()) };
            let (pipeline, calls) = watch(model, &request);
            // Steps 1 and 2 have three parts, 0 and 3 one each.
            assert_eq!(context_products(&pipeline, &calls, 3), 2 * cross_attentions(model));
            assert_eq!(embedded_rows(&pipeline, &calls), [1, 6, 1]);
        }
    }
}

/// To the bit, on the CPU.
#[test]
fn prompts_encoded_together_are_those_encoded_alone() {
    let backend = cpu(2);
    for model in MODELS {
        let pipeline =
            Pipeline::load(&golden_path(&format!("models/{model}")), None, &backend, &Log::off()).unwrap();
        let prompts = ["a blue cat", "", "a red house on a hill"];
        let together = pipeline.text.encode(&backend, &prompts).unwrap();
        assert!(together.len() == 3 && together[0].context != together[2].context, "{model}");
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = &pipeline.text.encode(&backend, &[prompt]).unwrap()[0];
            assert!(together.context == alone.context && together.pooled == alone.pooled, "{model} {prompt}");
            assert_eq!(together.tokens, alone.tokens, "{model} {prompt}");
        }
    }
}

/// To the bit, on the CPU.
#[test]
fn neither_chunks_nor_foresight_change_a_picture() {
    let backend = cpu(2);
    let pipeline = small_model(&backend);
    let size = LatentSize { batch: 2, channels: 4, height: 16, width: 16 };
    let prompts = pipeline.text.encode(&backend, &["a blue cat", "a red house"]).unwrap();
    let request = request(Sampler::Heun, GuidanceOptions::at_scale(3.0));
    let plan = Plan::new(&pipeline.scheduler, &request.sampling().unwrap()).unwrap();
    let foreseen: Vec<_> = plan.evaluation_timesteps().collect();
    let input: Vec<f32> = (0..size.len()).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = |foreseen: &[(usize, f32)], rows_ahead: usize| {
        let guidance = Guidance::new(&request.guidance, 4, size.batch, size.image(), false).unwrap();
        let [c, u] = prompts.as_slice() else { panic!("two prompts") };
        let mut denoiser =
            Denoiser::new(&pipeline, &backend, &request, guidance, size, foreseen.to_vec(), c, Some(u))
                .unwrap();
        denoiser.rows_ahead = rows_ahead;
        let mut all = Vec::new();
        for (step, timestep) in plan.evaluation_timesteps() {
            let evaluation = crate::sampling::Evaluation {
                step,
                input: &input,
                timestep,
                alpha: 0.5,
                sigma: 0.8,
                original: [2.0, -1.6],
            };
            let mut out = vec![f32::NAN; size.len()];
            denoiser.evaluate(evaluation, &mut out, &mut [], &mut Silent).unwrap();
            all.push(out);
        }
        all
    };
    let expected = run(&foreseen, 256);
    assert!(expected.windows(2).any(|pair| pair[0] != pair[1]));
    // Two, one and one timesteps at a time; none foreseen; others foreseen.
    for (foreseen, rows_ahead) in
        [(&foreseen[..], 8), (&foreseen, 4), (&foreseen, 1), (&[], 256), (&foreseen[1..], 256)]
    {
        assert!(run(foreseen, rows_ahead) == expected, "{rows_ahead} rows ahead");
    }
}
