//! The autoencoder and its blocks against diffusers, and configs that must be refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::coder::scale;
use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::reference::Reference;
use crate::backend::spy::Spy;
use crate::backend::{Shape, Tensor};
use crate::models::golden::{self, Golden, MODELS};
use crate::testing::relative_l2;
use crate::util::error::Status;

fn load<B: Backend>(b: &B, name: &str) -> AutoencoderKL<B> {
    golden::load(&golden::component(name, "vae"), "diffusion_pytorch_model", |scope, config| {
        AutoencoderKL::load(scope, config, b)
    })
}

fn check_model<B: Backend>(b: &B, name: &str) {
    let (golden, vae) = (Golden::read(name), load(b, name));
    golden.check(b, "vae.decoded", vae.decode(b, &golden.tensor(b, "vae.latents_in")));
    golden.check(b, "vae.moments", vae.encode(b, &golden.tensor(b, "vae.image")));
    let ratio = golden.shape("vae.decoded").h / golden.shape("vae.latents_in").h;
    assert_eq!(vae.config().scale_factor(), ratio);
}

/// Runs every block whose input and output the fixture has; a path that leads nowhere fails.
fn check_blocks<B: Backend>(b: &B, name: &str) {
    let (golden, vae) = (Golden::read(name), load(b, name));
    for key in golden.keys() {
        let Some(path) = key.strip_suffix(".in").filter(|key| key.starts_with("vae")) else { continue };
        // Between the first and the last layer all is so much smaller.
        let x = golden.tensor_times(b, key, scale(b));
        let out = format!("{path}.out");
        let parts: Vec<&str> = path.split('.').skip(1).collect();
        let index = |i: usize| parts[i].parse::<usize>().unwrap();
        let result = match parts[..] {
            ["encoder", "down_blocks", _, "downsamplers", "0"] => {
                vae.encoder.down_blocks[index(2)].downsampler.as_ref().unwrap().forward(b, &x)
            }
            ["decoder", "mid_block", "attentions", "0"] => {
                vae.decoder.mid_block.attention.as_ref().unwrap().forward(b, &x)
            }
            ["decoder", "up_blocks", _, "resnets", _] => {
                vae.decoder.up_blocks[index(2)].resnets[index(4)].forward(b, x, None, None)
            }
            ["decoder", "up_blocks", _, "upsamplers", "0"] => {
                let Shape { h, w, .. } = x.shape();
                let upsampler = vae.decoder.up_blocks[index(2)].upsampler.as_ref().unwrap();
                upsampler.forward(b, &x, 2 * h, 2 * w)
            }
            _ => panic!("{name}: no block {path}"),
        };
        golden.check_times(b, &out, result, scale(b));
    }
}

fn check_all<B: Backend>(b: &B) {
    for name in MODELS {
        check_blocks(b, name);
    }
    check_models(b);
}

fn check_models<B: Backend>(b: &B) {
    // The last two have rare shapes.
    for name in MODELS.into_iter().chain(["variants/vae_bare", "variants/vae_conv_attention"]) {
        check_model(b, name);
    }
}

#[test]
fn matches_diffusers_on_the_reference() {
    check_all(&Reference::default());
}

#[test]
fn matches_diffusers_on_the_cpu() {
    check_all(&Cpu::new(2, None).unwrap());
}

/// What is done for f16 changes nothing but the size of what lies in between.
#[test]
fn smaller_activations_give_the_same_images() {
    check_models(&Spy { says: Some(65504.0), ..Spy::default() });
}

/// A first convolution of 2¹⁷ times the weights makes activations that f16 cannot hold, unless they are kept smaller.
#[test]
fn large_activations_fit_f16_when_scaled() {
    let golden = Golden::read("sd1");
    let decode = |says: Option<f32>, half: bool| {
        let b = Spy { says, half, enlarge: Some((4, 131_072.0)), ..Spy::default() };
        let vae = load(&b, "sd1");
        let latents = golden.tensor(&b, "vae.latents_in");
        vae.decode(&b, &latents).unwrap().values
    };
    let expected = decode(None, false);
    assert!(relative_l2(&decode(Some(65504.0), true), &expected) < 0.02);
    assert!(decode(None, true).iter().any(|x| !x.is_finite()));
}

#[test]
fn matches_diffusers_on_cuda() {
    golden::on_cuda(check_all);
}

#[test]
fn matches_diffusers_without_fast_convolutions() {
    check_all(&Cpu::new(2, None).unwrap().with_strict(true));
}

fn config(changes: Value) -> AutoencoderKLConfig {
    let Value::Object(changes) = changes else { panic!("not an object") };
    let path = golden::component("sd1", "vae").join("config.json");
    let mut config: serde_json::Map<String, Value> = crate::weights::json::read_json(&path).unwrap();
    config.extend(changes);
    serde_json::from_value(Value::Object(config)).unwrap()
}

#[test]
fn latents_are_unscaled_as_the_pipelines_do() {
    // StableDiffusion3Pipeline: latents / scaling_factor + shift_factor.
    let shifted = config(json!({ "scaling_factor": 0.5, "shift_factor": 0.25 }));
    assert_eq!(shifted.unscale(), vec![(2.0, 0.25); 4]);
    // StableDiffusionXLPipeline: latents * latents_std / scaling_factor + latents_mean.
    let each = config(json!({
        "scaling_factor": 0.5, "latents_mean": [-1.0, 0.0, 1.0, 2.0], "latents_std": [1.0, 2.0, 3.0, 4.0]
    }));
    assert_eq!(each.unscale(), [(2.0, -1.0), (4.0, 0.0), (6.0, 1.0), (8.0, 2.0)]);
    let b = Reference::default();
    let x = b.upload(Shape::vector(1, 4), &[1.0; 4]).unwrap();
    let y = b.linear(&x, &diagonal(&b, &each.unscale()).unwrap(), Epilogue::default()).unwrap();
    assert_eq!(y.values, [1.0, 4.0, 7.0, 10.0]);
}

#[test]
fn bad_configs_are_refused_by_name() {
    use Status::{Format, Unsupported};
    let cases = [
        ("act_fn", json!("relu"), Unsupported),
        ("block_out_channels", json!([]), Format),
        ("block_out_channels", json!([0, 16]), Format),
        ("block_out_channels", json!(vec![1; 40]), Format),
        ("down_block_types", json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]), Unsupported),
        ("latent_channels", json!(1_u64 << 33), Format),
        ("latents_mean", json!([0.0]), Format),
        ("latents_std", json!([1.0, 1.0, 1.0, 1.0]), Format),
        ("layers_per_block", json!(1_u64 << 33), Format),
        ("scaling_factor", json!(0.0), Format),
        ("up_block_types", json!(["UpDecoderBlock2D"]), Format),
    ];
    for (key, value, status) in cases {
        let error = config(json!({ key: value })).check().unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.message().contains(key), "{error}");
    }
}
