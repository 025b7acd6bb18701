#!/usr/bin/env python3
"""Encodes the pictures that the U-Net learns from: a pool of latents with what each shows, in files that resume.

    encode.py STATE [--pictures N] [--minutes N]

Every picture is drawn anew, with its own scale and shift: a U-Net that sees each drawing at one place only learns fixed
drawings. Files of 8,192 latents, in float16 and the U-Net's units, with what each shows: style, concept,
colour, background.
"""
import argparse
from pathlib import Path

import torch

import model
from art import Art
from train_vae import load_vae

SHARD = 8192


def load_pool(state, device):
    """All latents [n, 4, h, w] in float16 and their rows [n, 4]."""
    paths = sorted(state.glob("pool-*.pt"))
    if not paths:
        raise model.Refused(f"{state} has no pool-*.pt; encode.py makes them")
    shards = [model.load(path) for path in paths]
    return torch.cat([s["latents"] for s in shards]).to(device), torch.cat([s["things"] for s in shards]).long()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("--pictures", type=int, default=400_000)
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no further file after so long")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    args = parser.parse_args()
    device, say = model.begin(args, "encode.py")
    art = Art(args.state / "data.npz", device)
    vae, _ = load_vae(args.state, device)
    shards = -(-args.pictures // SHARD)
    todo = [k for k in range(shards) if not (args.state / f"pool-{k:04}.pt").exists()]
    clock, made, pictures = model.Clock(args.minutes, 0, SHARD), 0, 0
    for k in todo:
        if clock.over():
            break
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + 500_000 + k)
        count = min(SHARD, args.pictures - k * SHARD)
        things, geometry = art.draw(generator, count), art.geometry(generator, count)
        latents = []
        for rows, where in zip(things.split(args.batch), geometry.split(args.batch)):
            mean = vae.encode(art.show(rows, where)).latent_dist.mean
            latents.append((mean * vae.config.scaling_factor).half().cpu())
        model.save(args.state / f"pool-{k:04}.pt", dict(latents=torch.cat(latents), things=things.to(torch.int16)))
        made, pictures = made + 1, pictures + count
        say(f"file {k + 1}/{shards} {clock.seconds():.0f} s {pictures / clock.seconds():.1f} pictures/s, "
            f"standard deviation {torch.cat(latents).float().std():.3f}")
    say(f"{'done' if made == len(todo) else 'saved'}: {shards - len(todo) + made} of {shards} files")


if __name__ == "__main__":
    model.run("encode.py", main)
