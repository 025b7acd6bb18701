#!/usr/bin/env python3
"""Writes a full-size Stable Diffusion model with random weights, for benchmarks and memory tests.

    make_model.py sd15|sdxl OUT [--dtype f16|f32] [--tokenizer DIR]

OUT becomes a diffusers folder with the tensors of Stable Diffusion 1.5 (1.07 G parameters) or SDXL base (3.47 G).
The weights are scaled so that activations stay of order 1; the pictures mean nothing. Needs numpy only; tensors are
drawn and written piece by piece, which takes some ten seconds a gigabyte and little memory. The CLIP vocabulary is made
from the file that the package open_clip_torch carries, or copied from --tokenizer, a folder with vocab.json and
merges.txt.
"""
import argparse
import gzip
import importlib.util
import json
import math
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

SD15 = dict(
    index=dict(_class_name="StableDiffusionPipeline", requires_safety_checker=False,
               safety_checker=[None, None], feature_extractor=[None, None]),
    unet=dict(
        sample_size=64, block_out_channels=[320, 640, 1280, 1280], layers_per_block=2, cross_attention_dim=768,
        attention_head_dim=8, down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3),
    vae=dict(sample_size=512, scaling_factor=0.18215),
    texts=dict(text_encoder=dict(
        architectures=["CLIPTextModel"], hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768)),
    scheduler=dict(
        _class_name="PNDMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None,
        clip_sample=False))

SDXL = dict(
    index=dict(_class_name="StableDiffusionXLPipeline", force_zeros_for_empty_prompt=True),
    unet=dict(
        sample_size=128, block_out_channels=[320, 640, 1280], layers_per_block=2, cross_attention_dim=2048,
        attention_head_dim=[5, 10, 20], use_linear_projection=True, transformer_layers_per_block=[1, 2, 10],
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
    vae=dict(sample_size=1024, scaling_factor=0.13025),
    texts=dict(
        text_encoder=SD15["texts"]["text_encoder"],
        text_encoder_2=dict(
            architectures=["CLIPTextModelWithProjection"], hidden_size=1280, intermediate_size=5120,
            num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu", projection_dim=1280)),
    scheduler=dict(
        _class_name="EulerDiscreteScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        num_train_timesteps=1000, prediction_type="epsilon", interpolation_type="linear", timestep_spacing="leading",
        steps_offset=1, use_karras_sigmas=False, trained_betas=None, clip_sample=False, set_alpha_to_one=False,
        skip_prk_steps=True, sample_max_value=1.0))

UNET = dict(_class_name="UNet2DConditionModel", act_fn="silu", in_channels=4, out_channels=4, center_input_sample=False,
            downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, mid_block_scale_factor=1, norm_eps=1e-5,
            norm_num_groups=32)
VAE = dict(_class_name="AutoencoderKL", act_fn="silu", in_channels=3, out_channels=3, latent_channels=4,
           block_out_channels=[128, 256, 512, 512], layers_per_block=2, norm_num_groups=32,
           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
CLIP = dict(model_type="clip_text_model", vocab_size=49408, max_position_embeddings=77, layer_norm_eps=1e-5,
            attention_dropout=0.0, bos_token_id=0, eos_token_id=2, pad_token_id=1)

# How much of a residual branch is added to the trunk; and what makes good for the shrinking of SiLU, GELU and GEGLU.
BRANCH = 0.3
ACTIVATED = 1.5


class Tensors:
    """The tensors of one weight file: name -> shape, mean and standard deviation."""

    def __init__(self):
        self.specs = {}

    def add(self, name, shape, std, mean=0.0):
        self.specs[name] = (shape, mean, std)

    def layer(self, name, out, *fan_in, gain=1.0, bias=True):
        self.add(f"{name}.weight", (out, *fan_in), gain / math.sqrt(math.prod(fan_in)))
        if bias:
            self.add(f"{name}.bias", (out,), 0.05)

    def norm(self, name, channels):
        self.add(f"{name}.weight", (channels,), 0.1, mean=1.0)
        self.add(f"{name}.bias", (channels,), 0.05)

    def resnet(self, name, c_in, c_out, temb=None):
        self.norm(f"{name}.norm1", c_in)
        self.layer(f"{name}.conv1", c_out, c_in, 3, 3, gain=ACTIVATED)
        if temb:
            self.layer(f"{name}.time_emb_proj", c_out, temb)
        self.norm(f"{name}.norm2", c_out)
        self.layer(f"{name}.conv2", c_out, c_out, 3, 3, gain=BRANCH * ACTIVATED)
        if c_in != c_out:
            self.layer(f"{name}.conv_shortcut", c_out, c_in, 1, 1)

    def transformer(self, name, channels, context, depth, linear):
        kernel = () if linear else (1, 1)
        self.norm(f"{name}.norm", channels)
        self.layer(f"{name}.proj_in", channels, channels, *kernel)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for j, source in ((1, channels), (2, context)):
                self.norm(f"{block}.norm{j}", channels)
                self.layer(f"{block}.attn{j}.to_q", channels, channels, bias=False)
                self.layer(f"{block}.attn{j}.to_k", channels, source, bias=False)
                self.layer(f"{block}.attn{j}.to_v", channels, source, bias=False)
                self.layer(f"{block}.attn{j}.to_out.0", channels, channels, gain=BRANCH)
            self.norm(f"{block}.norm3", channels)
            self.layer(f"{block}.ff.net.0.proj", 8 * channels, channels)
            self.layer(f"{block}.ff.net.2", channels, 4 * channels, gain=BRANCH * ACTIVATED)
        self.layer(f"{name}.proj_out", channels, channels, *kernel, gain=BRANCH)


def unet_tensors(config):
    """The parameters of diffusers' UNet2DConditionModel."""
    t = Tensors()
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    levels = len(widths)
    depths = config.get("transformer_layers_per_block", [1] * levels)
    temb = 4 * widths[0]
    attend = lambda name, width, depth: t.transformer(
        name, width, config["cross_attention_dim"], depth, config.get("use_linear_projection", False))
    t.layer("conv_in", widths[0], config["in_channels"], 3, 3)
    embeddings = [("time_embedding", widths[0])]
    if "addition_embed_type" in config:
        embeddings.append(("add_embedding", config["projection_class_embeddings_input_dim"]))
    for name, width in embeddings:
        t.layer(f"{name}.linear_1", temb, width)
        t.layer(f"{name}.linear_2", temb, temb, gain=ACTIVATED)
    skips = [widths[0]]
    width = widths[0]
    for i, kind in enumerate(config["down_block_types"]):
        for j in range(layers):
            t.resnet(f"down_blocks.{i}.resnets.{j}", width, widths[i], temb)
            width = widths[i]
            if kind.startswith("CrossAttn"):
                attend(f"down_blocks.{i}.attentions.{j}", width, depths[i])
            skips.append(width)
        if i + 1 < levels:
            t.layer(f"down_blocks.{i}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(width)
    t.resnet("mid_block.resnets.0", width, width, temb)
    attend("mid_block.attentions.0", width, depths[-1])
    t.resnet("mid_block.resnets.1", width, width, temb)
    for i, kind in enumerate(config["up_block_types"]):
        level = levels - 1 - i
        for j in range(layers + 1):
            t.resnet(f"up_blocks.{i}.resnets.{j}", width + skips.pop(), widths[level], temb)
            width = widths[level]
            if kind.startswith("CrossAttn"):
                attend(f"up_blocks.{i}.attentions.{j}", width, depths[level])
        if level > 0:
            t.layer(f"up_blocks.{i}.upsamplers.0.conv", width, width, 3, 3)
    t.norm("conv_norm_out", width)
    t.layer("conv_out", config["out_channels"], width, 3, 3, gain=ACTIVATED)
    return t


def vae_tensors(config):
    """The parameters of diffusers' AutoencoderKL."""
    t = Tensors()
    widths, layers, latent = config["block_out_channels"], config["layers_per_block"], config["latent_channels"]
    halves = (("encoder", config["in_channels"], widths, layers, 2 * latent, "down_blocks", "downsamplers"),
              ("decoder", latent, widths[::-1], layers + 1, config["out_channels"], "up_blocks", "upsamplers"))
    for half, c_in, sizes, count, c_out, blocks, samplers in halves:
        def mid(width):
            name = f"{half}.mid_block"
            t.resnet(f"{name}.resnets.0", width, width)
            t.norm(f"{name}.attentions.0.group_norm", width)
            for projection in ("to_q", "to_k", "to_v"):
                t.layer(f"{name}.attentions.0.{projection}", width, width)
            t.layer(f"{name}.attentions.0.to_out.0", width, width, gain=BRANCH)
            t.resnet(f"{name}.resnets.1", width, width)

        width = sizes[0]
        t.layer(f"{half}.conv_in", width, c_in, 3, 3)
        if half == "decoder":
            mid(width)
        for i, size in enumerate(sizes):
            for j in range(count):
                t.resnet(f"{half}.{blocks}.{i}.resnets.{j}", width, size)
                width = size
            if i + 1 < len(sizes):
                t.layer(f"{half}.{blocks}.{i}.{samplers}.0.conv", width, width, 3, 3)
        if half == "encoder":
            mid(width)
        t.norm(f"{half}.conv_norm_out", width)
        t.layer(f"{half}.conv_out", c_out, width, 3, 3, gain=ACTIVATED)
    t.layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    t.layer("post_quant_conv", latent, latent, 1, 1, gain=config["scaling_factor"])
    return t


def text_tensors(config):
    """The parameters of transformers' CLIPTextModel or CLIPTextModelWithProjection, named as in published files."""
    t = Tensors()
    width, inner = config["hidden_size"], config["intermediate_size"]
    t.add("text_model.embeddings.token_embedding.weight", (config["vocab_size"], width), 0.6)
    t.add("text_model.embeddings.position_embedding.weight", (config["max_position_embeddings"], width), 0.3)
    for i in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        t.norm(f"{layer}.layer_norm1", width)
        for projection in ("q_proj", "k_proj", "v_proj"):
            t.layer(f"{layer}.self_attn.{projection}", width, width)
        t.layer(f"{layer}.self_attn.out_proj", width, width, gain=BRANCH)
        t.norm(f"{layer}.layer_norm2", width)
        t.layer(f"{layer}.mlp.fc1", inner, width)
        t.layer(f"{layer}.mlp.fc2", width, inner, gain=BRANCH * ACTIVATED)
    t.norm("text_model.final_layer_norm", width)
    if config["architectures"] == ["CLIPTextModelWithProjection"]:
        t.layer("text_projection", config["projection_dim"], width, bias=False)
    return t


def write_safetensors(path, tensors, dtype, rng, piece=1 << 22):
    """Draws the tensors straight into the file, `piece` elements at a time."""
    size = np.dtype(dtype).itemsize
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, _, _) in tensors.specs.items():
        start, end = end, end + size * math.prod(shape)
        header[name] = dict(dtype=f"F{8 * size}", shape=shape, data_offsets=[start, end])
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for shape, mean, std in tensors.specs.values():
            left = math.prod(shape)
            while left:
                values = rng.standard_normal(min(left, piece), dtype=np.float32)
                values *= np.float32(std)
                values += np.float32(mean)
                file.write(values.astype(dtype).data)
                left -= len(values)
    return end // size


def write_tokenizer(out, source, pad):
    """CLIP's vocabulary: the byte symbols, the same ending a word, the merges, begin and end."""
    out.mkdir(parents=True)
    if source:
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(Path(source) / name, out / name)
    else:
        package = importlib.util.find_spec("open_clip")
        if package is None:
            sys.exit("make_model.py: open_clip_torch, which has the CLIP vocabulary, is not installed; use --tokenizer")
        table = Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
        lines = gzip.decompress(table.read_bytes()).decode("utf-8").split("\n")
        merges = lines[1:49408 - 512 - 2 + 1]
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
        tokens = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges]
        tokens += ["<|startoftext|>", "<|endoftext|>"]
        write_json(out / "vocab.json", {token: i for i, token in enumerate(tokens)})
        (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token=pad, unk_token="<|endoftext|>")
    write_json(out / "special_tokens_map.json", special)
    write_json(out / "tokenizer_config.json", special | dict(
        add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77,
        tokenizer_class="CLIPTokenizer"))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("family", choices=["sd15", "sdxl"])
    parser.add_argument("out", type=Path, help="folder to make; must not exist")
    parser.add_argument("--dtype", choices=["f16", "f32"], default="f16")
    parser.add_argument("--tokenizer", help="folder with CLIP's vocab.json and merges.txt")
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"make_model.py: {args.out} exists already")
    family = SD15 if args.family == "sd15" else SDXL
    rng = np.random.Generator(np.random.SFC64(0))

    index = {"_diffusers_version": "0.42.1", **family["index"], "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", family["scheduler"]["_class_name"]]}
    parts = {"unet": (UNET | family["unet"], unet_tensors), "vae": (VAE | family["vae"], vae_tensors)}
    for name, config in family["texts"].items():
        parts[name] = (CLIP | config, text_tensors)
        index[name] = ["transformers", config["architectures"][0]]
        tokenizer = name.replace("text_encoder", "tokenizer")
        index[tokenizer] = ["transformers", "CLIPTokenizer"]
        write_tokenizer(args.out / tokenizer, args.tokenizer, "!" if name.endswith("_2") else "<|endoftext|>")
    for name, (config, tensors_of) in parts.items():
        folder = args.out / name
        folder.mkdir()
        write_json(folder / "config.json", config)
        file = "diffusion_pytorch_model" if "_class_name" in config else "model"
        dtype = np.float16 if args.dtype == "f16" else np.float32
        count = write_safetensors(folder / f"{file}.safetensors", tensors_of(config), dtype, rng)
        print(f"{name}: {count / 1e6:.1f} M parameters", flush=True)
    (args.out / "scheduler").mkdir()
    write_json(args.out / "scheduler" / "scheduler_config.json", family["scheduler"])
    write_json(args.out / "model_index.json", index)


if __name__ == "__main__":
    main()
