//! One guided U-Net step (batch 2), one VAE decode and one prompt's text, on every core: of the default model, and of
//! the Stable Diffusion 1.x folder that the environment variable `BENCH_MODEL` names (`tools/make_model.py` writes one).

#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use diffusion::backend::cpu::Cpu;
use diffusion::backend::{Backend, Shape};
use diffusion::models::autoencoder_kl::{AutoencoderKL, AutoencoderKLConfig};
use diffusion::models::clip::{ClipTextConfig, ClipTextModel};
use diffusion::models::unet_2d_condition::{UNet2DConditionConfig, UNet2DConditionModel};
use diffusion::util::error::Result;
use diffusion::weights::json::read_json;
use diffusion::weights::{Checkpoint, Scope};
use serde::de::DeserializeOwned;

/// A component's config and weights.
fn load<C: DeserializeOwned, M>(
    dir: &Path,
    stem: &str,
    build: impl FnOnce(&Scope<'_>, &C) -> Result<M>,
) -> Result<(C, M)> {
    let config: C = read_json(&dir.join("config.json"))?;
    let checkpoint = Checkpoint::open(dir, stem, None)?;
    let model = build(&checkpoint.root(), &config)?;
    Ok((config, model))
}

fn noise(shape: Shape) -> Vec<f32> {
    (0..shape.len()).map(|i| ((i * 7919) % 1013) as f32 / 253.0 - 2.0).collect()
}

fn bench_folder(c: &mut Criterion, name: &str, folder: &Path) -> Result<()> {
    let cpu = Cpu::new(0, None)?;
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));

    let (config, text): (ClipTextConfig, _) =
        load(&folder.join("text_encoder"), "model", |scope, config| {
            ClipTextModel::load(scope, config, &cpu)
        })?;
    let tokens = config.max_position_embeddings;
    let ids: Vec<u32> = (0..tokens as u32).collect();
    group.bench_function("text encoder", |b| b.iter(|| text.forward(&cpu, &ids, 1).map(black_box).is_ok()));
    drop(text);

    let stem = "diffusion_pytorch_model";
    let (unet_config, unet): (UNet2DConditionConfig, _) =
        load(&folder.join("unet"), stem, |scope, config| UNet2DConditionModel::load(scope, config, &cpu))?;
    let (height, width) = unet_config.sample_size.map_or((64, 64), |size| size.sides());
    let shape = Shape::image(2, height as usize, width as usize, unet_config.in_channels);
    let sample = cpu.upload(shape, &noise(shape))?;
    let context = Shape::tokens(2, tokens, config.hidden_size);
    let context = cpu.upload(context, &noise(context))?;
    group.bench_function("guided U-Net step", |b| {
        b.iter(|| unet.forward(&cpu, &sample, 501.0, &context, None, None).map(black_box).is_ok());
    });
    drop(unet);

    let (_, vae): (AutoencoderKLConfig, _) =
        load(&folder.join("vae"), stem, |scope, config| AutoencoderKL::load(scope, config, &cpu))?;
    let shape = Shape { n: 1, ..shape };
    let latents = cpu.upload(shape, &noise(shape))?;
    group.bench_function("VAE decode", |b| b.iter(|| vae.decode(&cpu, &latents).map(black_box).is_ok()));
    group.finish();
    Ok(())
}

fn models(c: &mut Criterion) {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/emoji");
    bench_folder(c, "emoji", &default).expect("the default model runs");
    if let Some(folder) = std::env::var_os("BENCH_MODEL") {
        bench_folder(c, "BENCH_MODEL", Path::new(&folder)).expect("the model named by BENCH_MODEL runs");
    }
}

criterion_group!(benches, models);
criterion_main!(benches);
