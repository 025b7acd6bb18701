#!/usr/bin/env python3
"""Measures an exported model with diffusers, prints a table and writes STATE/evaluation.json.

    evaluate.py STATE FOLDER [--limit N]

Every drawing has one true picture, so a sample can be looked up among those of all concepts: it is right when the true
one is nearest, by squared error at 32 x 32 pixels, in the style, colour and background that were asked for. Hue is
compared with the true picture's, measured the same way. --limit asks for at most so many prompts of each kind, spread
evenly. STATE/sheets/evaluation.png shows 64 random prompts; the first seed is --seed, the next prompt takes the next.
What went wrong is kept too, by name, and some of it on STATE/sheets/failures.png, each beside its true picture: export.py
puts all of it into the model's card.
"""
import argparse
import json
from functools import cache
from pathlib import Path

import model           # first: it sets what the libraries read when they are imported
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from art import Art, psnr, save_sheet
from captions import (BACKGROUND_NAMES, COLOUR_NAMES, STYLES, background_held_out, colour_held_out, prompt,
                      style_held_out)
from export import fingerprint
from recolour import main_hue, to_linear
from tokenizer import write_json

LOOK = 32            # pixels at which pictures are compared
FAILURES = 16        # of what went wrong, as pictures


def prompts_of(art):
    """Kind -> rows of style, concept, colour, background."""
    kinds = dict(plain=[], colour=[], background=[], style=[])
    for i, concept in enumerate(art.concepts):
        label = concept["label"]
        kinds["plain"].append((0, i, 0, 0))
        for k, colour in enumerate(COLOUR_NAMES):
            if art.item[0, i, k] >= 0 and colour_held_out(label, colour):
                kinds["colour"].append((0, i, k, 0))
        for k, background in enumerate(BACKGROUND_NAMES):
            if background_held_out(label, background):
                kinds["background"].append((0, i, 0, k))
        for k, style in enumerate(STYLES):
            if art.item[k, i, 0] >= 0 and style_held_out(label, style):
                kinds["style"].append((k, i, 0, 0))
    return {kind: torch.tensor(rows).reshape(-1, 4) for kind, rows in kinds.items()}


def spread(rows, limit):
    if not limit or len(rows) <= limit:
        return rows
    return rows[torch.arange(limit) * len(rows) // limit]


def text_of(art, row):
    style, concept, colour, background = row.tolist()
    return prompt(art.concepts[concept]["names"][0], STYLES[style], COLOUR_NAMES[colour], BACKGROUND_NAMES[background])


def draw(pipeline, art, rows, args):
    """A picture for each row, [n, 3, px, px] in [-1, 1] on the CPU."""
    pictures = []
    for first in range(0, len(rows), args.batch):
        part = rows[first:first + args.batch]
        seeds = [torch.Generator().manual_seed(args.seed + first + i) for i in range(len(part))]
        images = pipeline([text_of(art, row) for row in part], num_inference_steps=args.steps, height=art.px,
                          width=art.px, guidance_scale=args.guidance, generator=seeds, output_type="pt").images
        pictures.append(images.float().cpu() * 2 - 1)
    return torch.cat(pictures)


def ranks(art, rows, pictures):
    """At which place among all concepts the true one is, 0 for the nearest, and which concept is nearest."""
    places, nearest = [], []
    everyone = torch.arange(len(art.concepts))

    @cache
    def everything(style, colour, background):
        """The rows of all concepts there are in these, and their pictures."""
        there = art.item[style, :, colour] >= 0
        things = torch.stack([torch.full_like(everyone, style), everyone, torch.where(there, colour, 0),
                              torch.full_like(everyone, background)], 1)
        things = things[art.item[style, :, 0] >= 0]
        return things, F.interpolate(art.show(things, art.still(len(things))).cpu(), (LOOK, LOOK), mode="area")

    for row, picture in zip(rows, pictures):
        style, concept, colour, background = row.tolist()
        things, true = everything(style, colour, background)
        seen = F.interpolate(picture[None], (LOOK, LOOK), mode="area")
        error = (true - seen).pow(2).mean((1, 2, 3))
        mine = error[things[:, 1] == concept]
        places.append(int((error < mine).sum()) if mine.isfinite().all() else len(error))
        nearest.append(int(things[error.nan_to_num(nan=torch.inf).argmin(), 1]))
    return np.array(places), np.array(nearest)


def hue_errors(art, rows, pictures):
    """Degrees between the main hue of each picture and that of the true one. The thing is what differs from white."""
    def hue(picture):
        rgb = ((picture.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).double().numpy()
        thing = np.abs(rgb - 1).max(-1, keepdims=True) > 0.12
        return main_hue(np.concatenate([rgb, thing], -1))[0]
    true = art.show(rows, art.still(len(rows))).cpu()
    turn = [hue(a) - hue(b) for a, b in zip(pictures, true)]
    return np.degrees(np.abs(np.angle(np.exp(1j * np.array(turn)))))


def lab(rgb):
    """CIE L*a*b* (D65) of sRGB in [0, 1]."""
    xyz = to_linear(rgb) @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    xyz = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def background_errors(art, rows, pictures):
    """Delta E (CIE 1976) between the mean colour of the outermost two pixels and the background asked for."""
    edge = torch.ones(art.px, art.px, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    seen = pictures.clamp(-1, 1)[:, :, edge].mean(2)
    colours = lambda units: lab(((units + 1) / 2).double().numpy())
    return np.linalg.norm(colours(seen) - colours(art.backgrounds[rows[:, 3]]), axis=1)


@torch.no_grad()
def reconstruction(vae, art, device):
    x = art.held_out_art(limit=None).cpu()
    y = torch.cat([vae.decode(vae.encode(part.to(device)).latent_dist.mean).sample.cpu() for part in x.split(32)])
    return psnr(y, x), len(x)


def look_up(art, things, pictures):
    """ranks(), and what was asked for and what is nearest where that is another thing."""
    place, nearest = ranks(art, things, pictures)
    name = lambda concept: art.concepts[concept]["names"][0]
    return place, [dict(prompt=text_of(art, row), nearest=name(near), index=i)
                   for i, (row, rank, near) in enumerate(zip(things, place, nearest)) if rank]


def measure(pipeline, art, args, device):
    """The table's rows, kind -> what went wrong, and the rows and pictures of what went wrong."""
    rows, wrong, missed = [], {}, []

    def note(what, n, value, unit, least):
        met = bool(value >= least)
        rows.append(dict(what=what, n=n, value=float(value), unit=unit, wanted=f">= {least} {unit}", met=met))
        print(f"{what:66} n {n:4}  {value:5.1f} {unit:2}  wanted >= {least}  {'met' if met else 'NOT met'}", flush=True)
    percent = lambda right: 100 * np.mean(right)
    value, n = reconstruction(pipeline.vae, art, device)
    note("autoencoder on held-out art, PSNR", n, value, "dB", 30)
    for kind, things in prompts_of(art).items():
        things = spread(things, args.limit)
        if not len(things):
            continue
        pictures = draw(pipeline, art, things, args)
        (place, wrong[kind]), n = look_up(art, things, pictures), len(things)
        missed.append((things[place > 0], pictures[place > 0]))
        if kind == "plain":
            note("plain prompts, right thing nearest", n, percent(place == 0), "%", 85)
            note("plain prompts, right thing among the nearest five", n, percent(place < 5), "%", 95)
        elif kind == "colour":
            note("held-out thing and colour, hue within 25 degrees", n,
                 percent(hue_errors(art, things, pictures) < 25), "%", 80)
            note("held-out thing and colour, right thing nearest", n, percent(place == 0), "%", 80)
        elif kind == "background":
            note("held-out thing and background, background within Delta E 10", n,
                 percent(background_errors(art, things, pictures) < 10), "%", 95)
        else:
            note("held-out thing and style, true drawing nearest", n, percent(place == 0), "%", 70)
    return rows, wrong, [torch.cat(parts) for parts in zip(*missed)]


def show_failures(art, things, pictures, path):
    """A sheet of pictures that went wrong, each with the true one to its right. Returns their prompts."""
    chosen = spread(torch.arange(len(things)), FAILURES)
    if len(chosen):
        true = art.show(things[chosen], art.still(len(chosen))).cpu()
        save_sheet(path, torch.stack([pictures[chosen], true], 1).flatten(0, 1))
    return [text_of(art, row) for row in things[chosen]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path, help="what export.py wrote")
    parser.add_argument("--limit", type=int, default=0, help="prompts of each kind at the most; 0 = all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=900)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    args = parser.parse_args()
    device = model.device_of(args)
    model.check_folder(args.folder)
    art = Art(args.state / "data.npz", device)
    pipeline = StableDiffusionPipeline.from_pretrained(args.folder, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    rows, wrong, missed = measure(pipeline, art, args, device)
    things = art.draw(torch.Generator().manual_seed(args.seed), 64 if not args.limit else min(64, args.limit))
    pictures = draw(pipeline, art, things, args)
    sheet = args.state / "sheets" / "evaluation.png"
    save_sheet(sheet, pictures)
    wrong["sheet"] = look_up(art, things, pictures)[1]
    failures = show_failures(art, *missed, args.state / "sheets" / "failures.png")
    write_json(args.state / "evaluation.json", dict(
        weights=fingerprint(args.folder), steps=args.steps, guidance=args.guidance, seed=args.seed, limit=args.limit,
        rows=rows, wrong=wrong, sheet=[text_of(art, row) for row in things], failures=failures))
    print(f"{args.state / 'evaluation.json'} written; {sheet} of {len(things)} random prompts is to be looked at")


if __name__ == "__main__":
    model.run("evaluate.py", main)
