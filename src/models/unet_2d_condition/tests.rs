//! The U-Net and its blocks against diffusers, and configs that must be refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::reference::Reference;
use crate::models::golden::{self, Golden, MODELS};
use crate::testing::golden_json;
use crate::util::error::Status;
use crate::weights::Checkpoint;
use crate::weights::json::read_json;

fn load<B: Backend>(b: &B, name: &str) -> UNet2DConditionModel<B> {
    golden::load(&golden::component(name, "unet"), "diffusion_pytorch_model", |scope, config| {
        UNet2DConditionModel::load(scope, config, b)
    })
}

fn added<B: Backend>(b: &B, golden: &Golden) -> Option<AddedConditions<B>> {
    golden.contains("unet.time_ids").then(|| AddedConditions {
        text_embeds: golden.tensor(b, "unet.text_embeds"),
        time_ids: golden.values("unet.time_ids").to_vec(),
    })
}

fn check_model<B: Backend>(b: &B, name: &str) {
    let (golden, unet) = (Golden::read(name), load(b, name));
    let timestep = golden.values("unet.timestep")[0];
    let context = golden.tensor(b, "unet.encoder_hidden_states");
    let added = added(b, &golden);
    for call in ["unet", "unet_odd"] {
        if !golden.contains(&format!("{call}.sample")) {
            continue;
        }
        let sample = golden.tensor(b, &format!("{call}.sample"));
        let out = unet.forward(b, &sample, timestep, &context, added.as_ref(), None);
        golden.check(b, &format!("{call}.out"), out);
    }
}

/// Runs every block whose input and output the fixture has; a path that leads nowhere fails.
fn check_blocks<B: Backend>(b: &B, name: &str) {
    let (golden, unet) = (Golden::read(name), load(b, name));
    for key in golden.keys() {
        let Some(path) = key.strip_suffix(".in").filter(|key| key.starts_with("unet")) else { continue };
        let block = path.split_once('.').unwrap().1;
        let x = golden.tensor(b, key);
        let out = format!("{path}.out");
        // The blocks with faint input were given the same conditions as those with the usual input.
        let time = || {
            let time = golden.tensor(b, &format!("unet.{block}.temb"));
            b.activation(&time, Activation::Silu).unwrap()
        };
        let context = || golden.tensor(b, &format!("unet.{block}.context"));
        let parts: Vec<&str> = block.split('.').collect();
        let index = |i: usize| parts[i].parse::<usize>().unwrap();
        let resnets = || match parts[0] {
            "down_blocks" => &unet.down_blocks[index(1)].resnets,
            _ => &unet.up_blocks[index(1)].resnets,
        };
        let attention = || match parts[0] {
            "down_blocks" => &unet.down_blocks[index(1)].attentions[index(3)],
            "up_blocks" => &unet.up_blocks[index(1)].attentions[index(3)],
            _ => &unet.mid_block.as_ref().unwrap().attentions[index(2)],
        };
        let result = match parts[..] {
            ["time_proj"] => {
                golden.check_values(&out, &unet.time_proj.embed(golden.values(key)));
                continue;
            }
            ["time_embedding"] => unet.time_embedding.forward(b, &x),
            ["add_embedding"] => {
                let addition = unet.addition.as_ref().unwrap();
                golden.check(b, &out, addition.forward(b, &added(b, &golden).unwrap()));
                addition.add_embedding.forward(b, &x)
            }
            ["conv_in"] => b.conv2d(&x, &unet.conv_in, Epilogue::default()),
            ["conv_norm_out"] => unet.conv_norm_out.forward(b, &x),
            ["mid_block"] => {
                let mid_block = unet.mid_block.as_ref().unwrap();
                let bias = |resnet: &ResnetBlock2D<B>| resnet.time_bias(b, &time()).unwrap();
                let time_biases: Vec<_> = mid_block.resnets.iter().map(bias).collect();
                let keys_values =
                    |attention: &Transformer2DModel<B>| attention.keys_values(b, &context()).unwrap();
                let context: Vec<_> = mid_block.attentions.iter().map(keys_values).collect();
                let conditions = Conditions { time_biases: &time_biases, context: &context, perturbed: None };
                mid_block.forward(b, &x, &conditions)
            }
            [_, _, "resnets", _] => {
                let resnet = &resnets()[index(3)];
                resnet.forward(b, x, None, Some(&resnet.time_bias(b, &time()).unwrap()))
            }
            [_, _, "downsamplers", "0"] => {
                unet.down_blocks[index(1)].downsampler.as_ref().unwrap().forward(b, &x)
            }
            [_, _, "upsamplers", "0"] => {
                let Shape { h, w, .. } = golden.shape(&out);
                unet.up_blocks[index(1)].upsampler.as_ref().unwrap().forward(b, &x, h, w)
            }
            ["mid_block", "attentions", _] | [_, _, "attentions", _] => {
                let context = attention().keys_values(b, &context()).unwrap();
                attention().forward(b, &x, &context, None)
            }
            [_, _, "attentions", _, "transformer_blocks", _] => {
                let context = attention().keys_values(b, &context()).unwrap();
                attention().transformer_blocks[index(5)].forward(b, x, &context[index(5)], None)
            }
            _ => panic!("{name}: no block {block}"),
        };
        golden.check(b, &out, result);
    }
}

fn check_all<B: Backend>(b: &B) {
    for name in MODELS {
        check_blocks(b, name);
        check_model(b, name);
    }
    // Rare shapes.
    check_model(b, "variants/unet_asymmetric");
    check_model(b, "variants/unet_plain_middle");
}

#[test]
fn matches_diffusers_on_the_reference() {
    check_all(&Reference::default());
}

#[test]
fn matches_diffusers_on_the_cpu() {
    check_all(&Cpu::new(2, None).unwrap());
}

#[test]
fn matches_diffusers_on_cuda() {
    golden::on_cuda(check_all);
}

#[test]
fn matches_diffusers_without_fast_convolutions() {
    check_all(&Cpu::new(2, None).unwrap().with_strict(true));
}

/// Unconditional, conditional and perturbed rows in one batch, against diffusers' attention processors for
/// perturbed-attention guidance and its hook that skips transformer blocks.
fn check_perturbed<B: Backend>(b: &B) {
    let (golden, unet) = (Golden::read("guidance"), load(b, "sd1"));
    let sample = golden.tensor(b, "unet.sample");
    let context = golden.tensor(b, "unet.encoder_hidden_states");
    let timestep = golden.values("unet.timestep")[0];
    let cases = golden_json("guidance");
    let cases = cases["unet"].as_array().unwrap();
    assert!(cases.len() >= 4);
    for case in cases {
        let names = case["blocks"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        let blocks: Vec<Block> = names.map(|name| unet.attention_block(name).unwrap()).collect();
        let perturbation = match case["perturbation"].as_str() {
            Some("identity") => Perturbation::IdentityAttention,
            _ => Perturbation::SkipLayer,
        };
        let run = |from| {
            let perturbed = PerturbedBlocks { blocks: &blocks, perturbed: Perturbed { perturbation, from } };
            unet.forward(b, &sample, timestep, &context, None, Some(perturbed))
        };
        golden.check(b, case["out"].as_str().unwrap(), run(2));
        let plain = unet.forward(b, &sample, timestep, &context, None, None).unwrap();
        let (mut none, mut two) = (vec![0.0; plain.shape().len()], vec![0.0; plain.shape().len()]);
        b.download(&plain, &mut none).unwrap();
        b.download(&run(2).unwrap(), &mut two).unwrap();
        let rows = none.len() / 3 * 2;
        assert!(none[..rows] == two[..rows], "the rows that are not perturbed: {case}");
        b.download(&run(3).unwrap(), &mut two).unwrap();
        assert!(none == two, "no perturbed row: {case}");
        assert!(run(4).is_err(), "{case}");
    }
}

#[test]
fn perturbed_rows_match_diffusers() {
    check_perturbed(&Reference::default());
    check_perturbed(&Cpu::new(2, None).unwrap());
}

/// To the bit: what comes before the prompts is computed once, and the rest sees it over and over.
#[test]
fn one_sample_for_several_prompts_is_that_sample_over_and_over() {
    let b = &Cpu::new(2, None).unwrap();
    for name in MODELS {
        let (golden, unet) = (Golden::read(name), load(b, name));
        let context = golden.tensor(b, "unet.encoder_hidden_states");
        let (n, added) = (context.shape().n, added(b, &golden));
        assert!(n > 1 && context.shape().c > 0);
        let biases = unet.time_biases(b, &[501.0], n, added.as_ref()).unwrap();
        let context = unet.prepare_context(b, &context).unwrap();
        let sample = golden.tensor(b, "unet.sample");
        let one = b.view(&sample, 0, Shape { n: 1, ..sample.shape() }).unwrap();
        let all = repeat(b, &one, Shape { n, ..one.shape() }).unwrap();
        let blocks = unet.attention_block("down_blocks.0").map_or(vec![Block::Mid], |first| vec![first]);
        let perturb = |perturbation| {
            Some(PerturbedBlocks { blocks: &blocks, perturbed: Perturbed { perturbation, from: n - 1 } })
        };
        for perturbed in [None, perturb(Perturbation::IdentityAttention), perturb(Perturbation::SkipLayer)] {
            let run = |sample| {
                let out = unet.forward_prepared(b, sample, &biases, &context, perturbed).unwrap();
                let mut values = vec![0.0; out.shape().len()];
                b.download(&out, &mut values).unwrap();
                (out.shape(), values)
            };
            assert!(run(&one) == run(&all), "{name} {perturbed:?}");
        }
    }
}

#[test]
fn blocks_with_attention_are_found_by_name() {
    let unet = load(&Reference::default(), "sd1");
    let found = ["mid", "mid_block", "down_blocks.0", "up_blocks.1"].map(|name| unet.attention_block(name));
    assert_eq!(found, [Some(Block::Mid), Some(Block::Mid), Some(Block::Down(0)), Some(Block::Up(1))]);
    for name in
        ["down_blocks.1", "up_blocks.0", "up_blocks.2", "down_blocks.", "down_blocks.-1", "", "middle"]
    {
        assert_eq!(unet.attention_block(name), None, "{name}");
    }
}

#[test]
fn added_conditions_must_be_there_and_fit() {
    let b = &Reference::default();
    let (golden, sdxl, sd1) = (Golden::read("sdxl"), load(b, "sdxl"), load(b, "sd1"));
    let mut added = added(b, &golden).unwrap();
    assert!(sdxl.embed_times(b, &[1.0], 2, Some(&added)).is_ok());
    let absent = sdxl.embed_times(b, &[1.0], 2, None).unwrap_err();
    let unwanted = sd1.embed_times(b, &[1.0], 2, Some(&added)).unwrap_err();
    added.time_ids.truncate(10);
    let short = sdxl.embed_times(b, &[1.0], 2, Some(&added)).unwrap_err();
    assert!(short.message().contains("projection_class_embeddings_input_dim"), "{short}");
    for error in [absent, unwanted, short] {
        assert_eq!(error.status(), Status::Format, "{error}");
    }
}

/// sd1's config with some keys changed.
fn config(changes: Value) -> UNet2DConditionConfig {
    let Value::Object(changes) = changes else { panic!("not an object") };
    let path = golden::component("sd1", "unet").join("config.json");
    let mut config: Map<String, Value> = read_json(&path).unwrap();
    config.extend(changes);
    serde_json::from_value(Value::Object(config)).unwrap()
}

fn plan(changes: Value) -> Result<config::Plan> {
    config(changes).plan()
}

#[test]
fn a_config_that_contradicts_its_tensors_is_refused_by_name() {
    let cases = [
        (json!({ "in_channels": 9 }), "conv_in.weight has shape"),
        (json!({ "cross_attention_dim": 24 }), "attn2.to_k.weight has shape"),
        (json!({ "block_out_channels": [16, 24] }), "has shape"),
        (json!({ "layers_per_block": 3 }), "down_blocks.0.resnets.2.norm1.weight [16] is missing"),
        (json!({ "layers_per_block": 1 }), "up_blocks.0.resnets.1.norm1.weight has shape [40]"),
        (json!({ "transformer_layers_per_block": 2 }), "transformer_blocks.1."),
        (json!({ "mid_block_type": null }), "mid_block."),
        (json!({ "down_block_types": ["DownBlock2D", "DownBlock2D"] }), "down_blocks.0.attentions.0"),
        (json!({ "attention_head_dim": 3 }), "3 heads do not divide"),
        (json!({ "norm_num_groups": 3 }), "3 norm groups do not divide"),
        (json!({ "norm_num_groups": 0 }), "0 norm groups"),
    ];
    let checkpoint = |changes: &Value| {
        let folder = golden::component("sd1", "unet");
        let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", None)?;
        let config = config(changes.clone());
        UNet2DConditionModel::load(&checkpoint.root(), &config, &Reference::default())?;
        checkpoint.finish()
    };
    for (changes, named) in cases {
        let error = checkpoint(&changes).unwrap_err();
        assert_eq!(error.status(), Status::Format, "{changes}: {error}");
        assert!(error.message().contains(named), "{changes}: {error}");
        let folder = Path::new("sd1").join("unet");
        assert!(error.message().contains(&folder.display().to_string()), "{changes}: {error}");
    }
}

#[test]
fn what_is_not_built_in_is_refused_by_name() {
    let cases = [
        ("act_fn", json!("gelu")),
        ("addition_embed_type", json!("text_image")),
        ("attention_type", json!("gated")),
        ("center_input_sample", json!(true)),
        ("class_embed_type", json!("timestep")),
        ("class_embeddings_concat", json!(true)),
        ("conv_in_kernel", json!(4)),
        ("cross_attention_norm", json!("layer_norm")),
        ("down_block_types", json!(["AttnDownBlock2D", "DownBlock2D"])),
        ("downsample_padding", json!(0)),
        ("dual_cross_attention", json!(true)),
        ("encoder_hid_dim", json!(64)),
        ("encoder_hid_dim_type", json!("text_proj")),
        ("mid_block_scale_factor", json!(1.5)),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("num_class_embeds", json!(10)),
        ("only_cross_attention", json!([false, true])),
        ("resnet_out_scale_factor", json!(0.5)),
        ("resnet_skip_time_act", json!(true)),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("time_cond_proj_dim", json!(256)),
        ("time_embedding_act_fn", json!("silu")),
        ("time_embedding_type", json!("fourier")),
        ("timestep_post_act", json!("silu")),
        ("up_block_types", json!(["UpBlock2D", "SimpleCrossAttnUpBlock2D"])),
    ];
    for (key, value) in cases {
        let error = plan(json!({ key: value })).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported, "{error}");
        assert!(error.message().contains(key), "{error}");
    }
}

#[test]
fn values_that_mean_nothing_else_are_accepted() {
    let plain = plan(json!({})).unwrap();
    for change in [
        json!({ "act_fn": "swish" }),
        json!({ "only_cross_attention": [false, false] }),
        json!({ "mid_block_scale_factor": 1.0, "upcast_attention": true, "some_new_key": 3 }),
        json!({ "attention_head_dim": 7, "num_attention_heads": [2, 2] }),
        json!({ "layers_per_block": [2, 2], "transformer_layers_per_block": [1, 1] }),
    ] {
        assert_eq!(plan(change.clone()).unwrap(), plain, "{change}");
    }
}

#[test]
fn absurd_values_are_refused_by_name() {
    let cases = [
        ("attention_head_dim", json!([2, 2, 2])),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([16, 0])),
        ("block_out_channels", json!([16, u64::MAX])),
        ("down_block_types", json!(["DownBlock2D"])),
        ("in_channels", json!(1_u64 << 40)),
        ("cross_attention_dim", json!(0)),
        ("freq_shift", json!(8)),
        ("layers_per_block", json!(1_000_000_000)),
        ("layers_per_block", json!(0)),
        ("reverse_transformer_layers_per_block", json!([1])),
        ("time_embedding_dim", json!(1_u64 << 60)),
        ("transformer_layers_per_block", json!(1_u64 << 50)),
        ("transformer_layers_per_block", json!([[1, 1, 1], 1])),
        ("up_block_types", json!([])),
    ];
    for (key, value) in cases {
        let error = plan(json!({ key: value })).unwrap_err();
        assert_eq!(error.status(), Status::Format, "{error}");
        assert!(error.message().contains(key), "{error}");
    }
}
