"""The tiny models: random weights, the architecture and file layout of Stable Diffusion 1.x, 2.x and XL.

Each model exercises other layouts found in published files; `golden_reference.py` computes what they must give.
"""
import json
import shutil
from pathlib import Path

import torch
from diffusers import (AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline,
                       StableDiffusionXLPipeline, UNet2DConditionModel)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import golden_reference

TOKENIZER = Path(__file__).resolve().parent.parent / "models" / "emoji-64" / "tokenizer"

UNET = dict(in_channels=4, out_channels=4)
VAE = dict(in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=4)
CLIP = dict(vocab_size=4096, max_position_embeddings=77, layer_norm_eps=1e-5, bos_token_id=0, eos_token_id=2,
            pad_token_id=1)

# The scheduler_config.json of the published models, key for key.
SD1_SCHEDULER = dict(
    _class_name="PNDMScheduler", _diffusers_version="0.6.0", beta_end=0.012, beta_schedule="scaled_linear",
    beta_start=0.00085, num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1,
    trained_betas=None, clip_sample=False)
SD2_SCHEDULER = dict(
    _class_name="DDIMScheduler", _diffusers_version="0.8.0", beta_end=0.012, beta_schedule="scaled_linear",
    beta_start=0.00085, clip_sample=False, num_train_timesteps=1000, prediction_type="v_prediction",
    set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None)
SDXL_SCHEDULER = dict(
    _class_name="EulerDiscreteScheduler", _diffusers_version="0.19.0.dev0", beta_end=0.012,
    beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False, interpolation_type="linear",
    num_train_timesteps=1000, prediction_type="epsilon", sample_max_value=1.0, set_alpha_to_one=False,
    skip_prk_steps=True, steps_offset=1, timestep_spacing="leading", trained_betas=None, use_karras_sigmas=False)

# Layers that end a residual branch: smaller, so that depth does not drown the input.
BRANCH_ENDS = ("conv2", "to_out.0", "proj_out", "ff.net.2", "out_proj", "fc2")
# Layers whose input went through SiLU or GEGLU, which shrink it.
AFTER_ACTIVATION = ("conv1", "conv2", "time_emb_proj", "linear_2", "conv_out", "ff.net.2", "fc2")


def enliven(module, generator):
    """Random weights in which nothing hides: no zero bias, no unit norm, every branch and output of order 1."""
    normal = lambda p, std: p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * std)
    for name, layer in module.named_modules():
        if isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            layer.weight.copy_(0.6 + 0.8 * torch.rand(layer.weight.shape, generator=generator, dtype=torch.float64))
            normal(layer.bias, 0.2)
        elif isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
            gain = 0.5 if name.endswith(BRANCH_ENDS) else 1.0
            gain *= 1.5 if name.endswith(AFTER_ACTIVATION) else 1.0
            normal(layer.weight, gain / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                normal(layer.bias, 0.1)
        elif isinstance(layer, torch.nn.Embedding):
            # As small as CLIP's, so that the epsilon of the first layer norm shows.
            normal(layer.weight, 0.01 if name.endswith("position_embedding") else 0.02)
    if isinstance(module, AutoencoderKL) and module.post_quant_conv is not None:
        module.post_quant_conv.weight.mul_(module.config.scaling_factor)
    return module.eval()


def sd1(out):
    g = torch.Generator().manual_seed(101)
    unet = UNet2DConditionModel(
        **UNET, sample_size=8, layers_per_block=2, block_out_channels=(16, 20), cross_attention_dim=16,
        attention_head_dim=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = AutoencoderKL(
        **VAE, sample_size=16, block_out_channels=(8, 16), scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    text = CLIPTextModel(CLIPTextConfig(
        **CLIP, hidden_size=16, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        hidden_act="quick_gelu", projection_dim=16))
    pipe = StableDiffusionPipeline(
        vae=enliven(vae, g), text_encoder=enliven(text, g), tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=enliven(unet, g), scheduler=PNDMScheduler.from_config(SD1_SCHEDULER), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    save(pipe, out, SD1_SCHEDULER)
    rename(out / "text_encoder" / "model.safetensors", prefixed)
    rename(out / "vae" / "diffusion_pytorch_model.safetensors", old_vae_attention)
    tokenizer(out / "tokenizer", 77, "<|endoftext|>", ("vocab.json", "merges.txt"))


def sd2(out):
    g = torch.Generator().manual_seed(102)
    unet = UNet2DConditionModel(
        **UNET, sample_size=8, layers_per_block=1, block_out_channels=(16, 24, 32), cross_attention_dim=32,
        attention_head_dim=(2, 3, 4), use_linear_projection=True, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    vae = AutoencoderKL(
        **VAE, sample_size=16, block_out_channels=(8, 16), scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    text = CLIPTextModel(CLIPTextConfig(
        **CLIP | dict(max_position_embeddings=32), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, hidden_act="gelu", projection_dim=24))
    pipe = StableDiffusionPipeline(
        vae=enliven(vae, g), text_encoder=enliven(text, g), tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=enliven(unet, g), scheduler=DDIMScheduler.from_config(SD2_SCHEDULER), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    save(pipe.to(torch.bfloat16), out, SD2_SCHEDULER, max_shard_size="150KB")
    tokenizer(out / "tokenizer", 32, "!", ("tokenizer.json",))


def sdxl(out):
    g = torch.Generator().manual_seed(103)
    unet = UNet2DConditionModel(
        **UNET, sample_size=8, layers_per_block=2, block_out_channels=(16, 24), cross_attention_dim=16 + 24,
        attention_head_dim=(2, 3), use_linear_projection=True, transformer_layers_per_block=(1, 2), norm_num_groups=8,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 20,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    vae = AutoencoderKL(
        **VAE, sample_size=32, block_out_channels=(8, 8, 16), scaling_factor=0.13025, force_upcast=True,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    text = CLIPTextModel(CLIPTextConfig(
        **CLIP, hidden_size=16, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        hidden_act="quick_gelu", projection_dim=16))
    text_2 = CLIPTextModelWithProjection(CLIPTextConfig(
        **CLIP, hidden_size=24, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, hidden_act="gelu",
        projection_dim=20))
    load = lambda: CLIPTokenizer.from_pretrained(TOKENIZER)
    pipe = StableDiffusionXLPipeline(
        vae=enliven(vae, g), text_encoder=enliven(text, g), text_encoder_2=enliven(text_2, g), tokenizer=load(),
        tokenizer_2=load(), unet=enliven(unet, g), scheduler=EulerDiscreteScheduler.from_config(SDXL_SCHEDULER),
        force_zeros_for_empty_prompt=True, add_watermarker=False)
    save(pipe.to(torch.float16), out, SDXL_SCHEDULER, variant="fp16")
    rename(out / "text_encoder" / "model.fp16.safetensors", prefixed)
    rename(out / "text_encoder_2" / "model.fp16.safetensors", prefixed)
    tokenizer(out / "tokenizer", 77, "<|endoftext|>", ("vocab.json", "merges.txt"))
    tokenizer(out / "tokenizer_2", 77, "!", ("vocab.json", "merges.txt"))


def save(pipe, out, scheduler, **options):
    shutil.rmtree(out, ignore_errors=True)
    pipe.save_pretrained(out, safe_serialization=True, **options)
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)
    write_json(out / "scheduler" / "scheduler_config.json", scheduler)


def rename(path, keys):
    """Rewrites a weight file with other tensor names."""
    save_file(keys(load_file(path)), path, metadata={"format": "pt"})
    path.chmod(0o644)


def prefixed(tensors):
    """`text_model.` before each name (transformers 5.6 and later drop it), and the buffer of position ids."""
    out = {k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v for k, v in tensors.items()}
    out["text_model.embeddings.position_ids"] = torch.arange(CLIP["max_position_embeddings"])[None]
    return out


def old_vae_attention(tensors):
    """The names of diffusers before 0.15."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new_name, old_name in old.items():
        tensors = {k.replace(new_name, old_name): v for k, v in tensors.items()}
    return tensors


def tokenizer(out, max_length, pad, files):
    """The bundled tokenizer with another length and padding, in the files named."""
    shutil.rmtree(out)
    out.mkdir()
    for name in files:
        if name == "tokenizer.json":
            write_json(out / name, json.loads((TOKENIZER / name).read_text()), indent=None)
        else:
            shutil.copyfile(TOKENIZER / name, out / name)
    for name, change in (("tokenizer_config.json", dict(model_max_length=max_length, pad_token=pad)),
                         ("special_tokens_map.json", dict(pad_token=pad))):
        write_json(out / name, json.loads((TOKENIZER / name).read_text()) | change)


def write_json(path, value, indent=2):
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@torch.no_grad()
def make(out_dir):
    torch.set_num_threads(1)
    for build in (sd1, sd2, sdxl):
        name = build.__name__
        build(out_dir / "models" / name)
        golden_reference.make(out_dir, name)
