"""Rarer shapes of the U-Net and the autoencoder, which no tiny model of golden_models.py has, computed in float64.

Each is a folder `variants/<name>` (config and f16 weights) and a file `variants/<name>.safetensors` of what goes in and
comes out, named as in the other fixtures.
"""
import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from golden_models import enliven

WEIGHTS = "diffusion_pytorch_model.safetensors"

UNETS = {
    # No middle (as SSD-1B), depths per layer, other kernels, other sinusoids, lists where others have one number.
    "unet_asymmetric": dict(
        block_out_channels=(8, 12), layers_per_block=(2, 1), norm_num_groups=4, cross_attention_dim=(10, 10),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=(2, 3),
        transformer_layers_per_block=((2, 1), 1), reverse_transformer_layers_per_block=((1, 2), (1, 0, 2)),
        conv_in_kernel=5, conv_out_kernel=1, flip_sin_to_cos=False, freq_shift=1, time_embedding_dim=20,
        in_channels=9, norm_eps=1e-3),
    # One resolution, a middle without attention, an odd number of sinusoids.
    "unet_plain_middle": dict(
        block_out_channels=(9,), layers_per_block=1, norm_num_groups=3, cross_attention_dim=6, attention_head_dim=3,
        down_block_types=("CrossAttnDownBlock2D",), mid_block_type="UNetMidBlock2D", up_block_types=("UpBlock2D",)),
}
VAES = {
    # No convolutions around the latents, no attention, one resolution, a scale for each channel.
    "vae_bare": dict(
        block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        layers_per_block=2, latent_channels=3, norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False, scaling_factor=0.5, latents_mean=(-0.5, 0.25, 1.0), latents_std=(0.5, 2.0, 3.0)),
    # The old attention keys, stored as 1×1 convolutions.
    "vae_conv_attention": dict(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.3),
}


def randn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def unet(model, generator):
    sample, timestep = randn(generator, 2, model.config.in_channels, 7, 6), torch.tensor([333.0])
    context = randn(generator, 2, 5, model.down_blocks[0].attentions[0].config.cross_attention_dim)
    out = model(sample, timestep, context).sample
    return {"unet.sample": sample, "unet.timestep": timestep, "unet.encoder_hidden_states": context, "unet.out": out}


def vae(model, generator):
    config, side = model.config, 2 ** (len(model.config.block_out_channels) - 1)
    image = randn(generator, 2, 3, 4 * side, 3 * side)
    latents = randn(generator, 2, config.latent_channels, 4, 3)
    channels = lambda values: torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
    z = latents / config.scaling_factor
    if config.latents_mean is not None:  # as StableDiffusionXLPipeline
        z = latents * channels(config.latents_std) / config.scaling_factor + channels(config.latents_mean)
    return {"vae.image": image, "vae.moments": model.encode(image).latent_dist.parameters, "vae.latents_in": latents,
            "vae.decoded": model.decode(z).sample}


def conv_attention(tensors):
    """The attention's names before diffusers 0.15, and its matrices as 1×1 convolutions."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    out = {}
    for key, value in tensors.items():
        for new, old in names.items():
            if f".attentions.0.{new}." in key:
                key = key.replace(new, old)
                value = value[..., None, None] if value.ndim == 2 else value
        out[key] = value.contiguous()
    return out


@torch.no_grad()
def make(out_dir):
    torch.set_num_threads(1)
    out_dir = out_dir / "variants"
    shutil.rmtree(out_dir, ignore_errors=True)
    generator = torch.Generator().manual_seed(301)
    for kind, configs, run in ((UNet2DConditionModel, UNETS, unet), (AutoencoderKL, VAES, vae)):
        for name, config in configs.items():
            model = enliven(kind(**config), generator).half()
            model.save_pretrained(out_dir / name)
            if name == "vae_conv_attention":
                path = out_dir / name / WEIGHTS
                save_file(conv_attention(load_file(path)), path, metadata={"format": "pt"})
            tensors = {k: v.float().contiguous() for k, v in run(model.double(), generator).items()}
            save_file(tensors, out_dir / f"{name}.safetensors")
    for path in out_dir.rglob("*.safetensors"):
        path.chmod(0o644)
