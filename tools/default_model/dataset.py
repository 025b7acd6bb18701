#!/usr/bin/env python3
"""Makes STATE/data.npz, all pictures of a model at its size, and STATE/tokenizer from the fetched packages.

    dataset.py PACKAGES STATE --size emoji|emoji-half|emoji-64 [--tokenizer FOLDER] [--limit N]

3D pictures are pictures already; flat and line drawings are SVG, rasterised at four times the size and reduced. Things
whose dominant hue can be turned get the nine colours, in 3D and flat; a line drawing is an alpha mask whose ink is
chosen when it is composed (art.py). Other allowed emoji, which are no concept, go along for the autoencoder, a tenth of
them held out to judge it. --tokenizer takes one that exists (models/emoji-64/tokenizer) instead of cutting CLIP's anew:
what was made with it stays right. --limit takes so many concepts only, for trying things out.
"""
import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import concepts
import tokenizer
from captions import COLOUR_NAMES, STYLES, art_held_out
from fetch import ARCHIVES, Refused
from recolour import recolour, recolourable

SIZES = {"emoji": (128, "large"), "emoji-half": (64, "large"), "emoji-64": (64, "small")}


def reduce(image, px):
    """Square, px on a side, uint8 RGBA. PIL multiplies colours by alpha before it mixes them."""
    side = max(image.size)
    square = ImageOps.pad(image.convert("RGBA"), (side, side), color=(0, 0, 0, 0))
    return np.asarray(square.resize((px, px), Image.LANCZOS))


class Drawings:
    """One of the SVG collections: code points -> picture."""

    def __init__(self, packages, package, px):
        self.px = px
        self.icons = concepts.read_json(packages, package, "icons.json")
        chars = concepts.read_json(packages, package, "chars.json")
        self.names = {concepts.norm(code): name for code, name in chars.items()}

    def get(self, hexcode):
        name = self.names.get(hexcode)
        name = self.icons.get("aliases", {}).get(name, {}).get("parent", name)
        icon = self.icons["icons"].get(name)
        if icon is None:
            return None
        import resvg_py
        box = [icon.get(k, self.icons.get(k, d)) for k, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
        svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
               f'viewBox="{" ".join(map(str, box))}" width="{4 * self.px}" height="{4 * self.px}" color="#000">'
               f'{icon["body"]}</svg>')
        return reduce(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))), self.px)


def load_pictures(packages, emoji, px):
    """(emoji, style) -> picture, for the emoji given; each has its 3D picture, and mostly the drawings."""
    drawings = {"flat": Drawings(packages, "@iconify-json/fluent-emoji-flat", px),
                "line": Drawings(packages, "@iconify-json/fluent-emoji-high-contrast", px)}
    wanted, pictures = {e["member"]: e for e in emoji}, {}
    with tarfile.open(packages / ARCHIVES["@lobehub/fluent-emoji-3d"]) as archive:
        for member in archive:
            if member.name in wanted:
                image = Image.open(io.BytesIO(archive.extractfile(member).read()))
                pictures[wanted[member.name]["hex"], "3d"] = reduce(image, px)
    for e in emoji:
        for style, collection in drawings.items():
            picture = collection.get(e["hex"])
            if picture is not None:
                pictures[e["hex"], style] = picture
    return pictures


def build(packages, size, limit):
    """The arrays of data.npz."""
    px, which = SIZES[size]
    emoji = concepts.everything(packages)
    chosen = concepts.choose(emoji, which, limit)
    codes = {e["hex"] for e in chosen}
    others = [e for e in emoji if e["hex"] not in codes]
    if limit:
        others = others[::max(1, len(others) // (2 * limit))]
    pictures = load_pictures(packages, chosen + others, px)
    rgba, rows = [], []

    def add(picture, style, concept, colour, held):
        rgba.append(picture)
        rows.append((STYLES.index(style), concept, colour, held))

    coloured = 0
    for i, e in enumerate(chosen):
        turn = (all(concepts.colourless(name) for name in e["names"])
                and recolourable(pictures[e["hex"], "3d"] / 255.0))
        coloured += turn
        for style in STYLES:
            picture = pictures.get((e["hex"], style))
            if picture is None:
                continue
            add(picture, style, i, 0, False)
            for k, colour in enumerate(COLOUR_NAMES):
                if turn and k and style != "line":
                    add((recolour(picture / 255.0, colour) * 255 + 0.5).astype(np.uint8), style, i, k, False)
    for e in others:
        for style in ("3d", "flat"):
            if (e["hex"], style) in pictures:
                add(pictures[e["hex"], style], style, -1, 0, art_held_out(e["hex"]))
    style, concept, colour, held = np.array(rows, np.int16).T
    if not held.any():
        raise Refused("no picture is held out to judge by; take a larger --limit")
    kept = ("hex", "label", "group", "names", "keywords")
    facts = dict(size=size, px=px, concepts=[{k: e[k] for k in kept} for e in chosen])
    print(f"{len(chosen)} concepts, {coloured} of them recolourable; {(concept >= 0).sum()} pictures of them; "
          f"{(concept < 0).sum()} others, {held.sum()} of those held out", flush=True)
    return dict(rgba=np.stack(rgba), style=style, concept=concept, colour=colour, held=held.astype(bool),
                facts=np.array(json.dumps(facts)))


def contact_sheet(data, path, columns=24):
    """All concepts in 3D on white, then some in other styles and colours, to be looked at before hours are spent."""
    rng = np.random.default_rng(0)
    plain = np.flatnonzero((data["concept"] >= 0) & (data["style"] == 0) & (data["colour"] == 0))
    rest = np.flatnonzero((data["concept"] >= 0) & ((data["style"] > 0) | (data["colour"] > 0)))
    rest = rng.permutation(rest)[:len(plain)]
    tiles = []
    for i in [*plain, *rest]:
        tile = data["rgba"][i].astype(np.float32)
        alpha = tile[..., 3:] / 255
        tiles.append((tile[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i:i + columns], 1) for i in range(0, len(tiles), columns)]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder that fetch.py filled")
    parser.add_argument("state", type=Path, help="folder that keeps everything between runs")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--tokenizer", type=Path, help="take this tokenizer as it is")
    parser.add_argument("--limit", type=int, help="so many concepts only")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit is at least 1")
    begin, new = time.monotonic(), args.state / "data.new.npz"
    try:
        args.state.mkdir(parents=True, exist_ok=True)
        made = sorted(args.state.glob("*.pt"))
        if made:                        # a pool names things by their places in data.npz
            raise Refused(f"{made[0]} was made from other pictures; take another folder, or delete it and its like")
        if args.tokenizer:
            tokenizer.check(args.tokenizer)
            shutil.copytree(args.tokenizer, args.state / "tokenizer", dirs_exist_ok=True)
        else:
            tokenizer.write(args.packages, args.state / "tokenizer")
        data = build(args.packages, args.size, args.limit)
        np.savez(new, **data)
        os.replace(new, args.state / "data.npz")
        contact_sheet(data, args.state / "sheets" / "data.png")
    except ModuleNotFoundError as error:
        sys.exit(f"dataset.py: the Python package {error.name} is missing; see requirements.txt")
    except (Refused, OSError) as error:
        new.unlink(missing_ok=True)
        where = "" if isinstance(error, Refused) else f"{error.filename or args.state}: "
        sys.exit(f"dataset.py: {where}{getattr(error, 'strerror', None) or error}")
    path = args.state / "data.npz"
    print(f"{path}: {path.stat().st_size:,} bytes, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
