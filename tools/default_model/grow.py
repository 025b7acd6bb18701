#!/usr/bin/env python3
"""Begins a training with the weights of a smaller model: makes STATE/vae.pt, STATE/unet.pt at step 0, and the sentence
about it for the model's card, STATE/beginning.md.

    grow.py STATE FOLDER

FOLDER is what export.py wrote. Both autoencoders are taken as they are (the tiny one, STATE/tiny.pt, where there is one),
and of the U-Net the levels from the innermost on. Where the new model has one more, outermost, the network begins by
drawing what the old one drew, coarsely, at twice the size: it is given every second pixel, noise and all, and its result
is enlarged. What is left to learn are the details.
"""
import argparse
import re
from pathlib import Path

import model           # first: it sets what the libraries read when they are imported
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from art import Art
from train_unet import make_networks


def pass_through(state, prefix):
    """Makes a residual block of the new level give what it is given (of two tensors side by side the first)."""
    for part in ("weight", "bias"):
        state[f"{prefix}.conv2.{part}"].zero_()
    if f"{prefix}.conv_shortcut.weight" in state:
        state[f"{prefix}.conv_shortcut.bias"].zero_()
        torch.nn.init.dirac_(state[f"{prefix}.conv_shortcut.weight"])


@torch.no_grad()
def grown(old, new):
    """The state of the U-Net `new`, which has the levels of `old` or one more."""
    state, weights = new.state_dict(), old.state_dict()
    before, after = list(old.config.block_out_channels), list(new.config.block_out_channels)
    levels = len(after) - len(before)
    if levels not in (0, 1) or after[levels:] != before or levels and after[0] != before[0]:
        raise model.Refused(f"a network of {before} channels does not grow to {after}")
    for name, value in weights.items():
        name = re.sub(r"^down_blocks\.(\d+)", lambda m: f"down_blocks.{int(m[1]) + levels}", name)
        if levels and name.startswith("conv_in."):
            continue
        if name not in state or state[name].shape != value.shape:
            raise model.Refused(f"{name} does not fit the new model")
        state[name].copy_(value)
    if levels:
        # The first channels carry the latents to the convolution of stride 2, which does what the first one did.
        latents = weights["conv_in.weight"].shape[1]
        torch.nn.init.dirac_(state["conv_in.weight"][:latents])
        state["conv_in.bias"][:latents] = 0
        down, up = "down_blocks.0.downsamplers.0.conv", f"up_blocks.{len(before) - 1}.upsamplers.0.conv"
        state[f"{down}.weight"].zero_()[:, :latents] = weights["conv_in.weight"]
        state[f"{down}.bias"].copy_(weights["conv_in.bias"])
        torch.nn.init.dirac_(state[f"{up}.weight"])
        state[f"{up}.bias"].zero_()
        for prefix in ("down_blocks.0.resnets.0", *(f"up_blocks.{len(before)}.resnets.{i}" for i in (0, 1))):
            pass_through(state, prefix)
    return state


def fitted(network, weights, what):
    """Gives the network these weights."""
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise model.Refused(f"the folder's {what} does not fit the new model") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path, help="a model folder")
    args = parser.parse_args()
    for file in ("vae.pt", "unet.pt", "tiny.pt"):
        if (args.state / file).exists():
            raise model.Refused(f"{args.state / file} exists already")
    model.check_folder(args.folder)
    size = Art(args.state / "data.npz").size
    old = {part: kind.from_pretrained(args.folder / part, dtype=torch.float32) for part, kind in (
        ("vae", AutoencoderKL), ("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel))}
    torch.manual_seed(0)
    vae, (unet, text_encoder) = model.make_vae(size), make_networks(size, "cpu")
    fitted(vae, old["vae"].state_dict(), "autoencoder")
    fitted(unet, grown(old["unet"], unet), "U-Net")
    fitted(text_encoder, old["text_encoder"].state_dict(), "text encoder")
    if (args.folder / "tiny").exists():
        tiny = model.make_tiny(size)
        fitted(tiny, AutoencoderTiny.from_pretrained(args.folder / "tiny", dtype=torch.float32).state_dict(),
               "tiny autoencoder")
        model.save(args.state / "tiny.pt", dict(weights=tiny.state_dict(), step=0, samples=0, optimizer=None, size=size))
    weights = [network.state_dict() for network in (unet, text_encoder)]
    model.save(args.state / "vae.pt", dict(weights=vae.state_dict(), size=size, samples={},
                                           scaling_factor=old["vae"].config.scaling_factor))
    model.save(args.state / "unet.pt", dict(weights=[*weights, *weights], step=0, samples=0, optimizer=None, size=size))
    (args.state / "beginning.md").write_text(
        f"It began with the weights of `{args.folder.resolve().name}`; what that one saw is not counted.\n",
        encoding="utf-8")
    print(f"{args.state}: the autoencoders, and a U-Net and text encoder at step 0")


if __name__ == "__main__":
    model.run("grow.py", main)
