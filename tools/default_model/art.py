"""The pictures of data.npz as tensors: draws what to show, and composes it on a background.

All randomness comes from generators that are handed in. Pictures are float in [-1, 1], shape [n, 3, px, px].
"""
import json
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from captions import (BACKGROUND_NAMES, BACKGROUNDS, COLOUR_NAMES, COLOURS, DARK, STYLES, background_held_out, caption,
                      colour_held_out, style_held_out)
from concepts import FAVOURED, colourless

STYLE_SHARES = torch.tensor([0.60, 0.25, 0.15])
ORIGINAL, WHITE = 0.50, 0.45           # shares of the thing's own colour and of the white background
SCALE, SHIFT = (0.88, 1.0), 0.025      # of the frame; the art leaves a margin of its own
INK = (30, 30, 32)


def units(rgb):
    return torch.tensor(rgb, dtype=torch.float32) / 127.5 - 1


class Art:
    def __init__(self, path, device="cpu"):
        data = np.load(path)
        facts = json.loads(str(data["facts"]))
        self.size, self.px, self.concepts, self.device = facts["size"], facts["px"], facts["concepts"], device
        self.rgba = torch.from_numpy(data["rgba"]).permute(0, 3, 1, 2).contiguous().to(device)
        style, concept, colour = (data[k].astype(np.int64) for k in ("style", "concept", "colour"))
        self.is_line = torch.from_numpy(style == STYLES.index("line"))
        self.extra = torch.from_numpy(np.flatnonzero((concept < 0) & ~data["held"]))
        self.held = torch.from_numpy(np.flatnonzero((concept < 0) & data["held"]))
        # item[style, concept, colour] -> row of rgba, or -1 where there is none.
        self.item = torch.full((len(STYLES), len(self.concepts), len(COLOUR_NAMES)), -1)
        own = concept >= 0
        self.item[style[own], concept[own], colour[own]] = torch.from_numpy(np.flatnonzero(own))
        line, can = STYLES.index("line"), [all(map(colourless, c["names"])) for c in self.concepts]
        self.item[line] = torch.where(torch.tensor(can)[:, None], self.item[line, :, :1], self.item[line])
        self.backgrounds = units(list(BACKGROUNDS.values()))
        self.inks = units([INK, *COLOURS.values()])
        self.dark = torch.tensor([name in DARK for name in BACKGROUND_NAMES])
        self.seen = self._seen()
        weights = [2.0 if c["group"] in FAVOURED else 1.0 for c in self.concepts]
        self.weights = torch.tensor(weights)

    def _seen(self):
        """seen[style, concept, colour, background]: there is such a picture, and it is not held out."""
        labels = [c["label"] for c in self.concepts]
        table = lambda held, names: torch.tensor([[not held(label, name) for name in names] for label in labels])
        style, colour, background = (table(style_held_out, STYLES), table(colour_held_out, COLOUR_NAMES),
                                     table(background_held_out, BACKGROUND_NAMES))
        there = (self.item >= 0) & style.T[:, :, None] & colour[None]
        return there[..., None] & background[None, :, None, :]

    def draw(self, generator, n):
        """n things to show, none held out: int64 [n, 4] of style, concept, colour, background, by the shares above."""
        pick = lambda weights: torch.multinomial(weights, n, True, generator=generator)
        chance = lambda: torch.rand(n, generator=generator)
        concept, style = pick(self.weights), pick(STYLE_SHARES)
        colour = torch.randint(1, len(COLOUR_NAMES), (n,), generator=generator)
        background = torch.randint(1, len(BACKGROUND_NAMES), (n,), generator=generator)
        colour[chance() < ORIGINAL] = 0
        background[chance() < WHITE] = 0
        for field in (colour, background, style):     # what is not to be seen becomes plainer until it is
            field[~self.seen[style, concept, colour, background]] = 0
        return torch.stack([style, concept, colour, background], 1)

    def geometry(self, generator, n):
        """Scale and shift (of the frame), float [n, 3]."""
        r = torch.rand(n, 3, generator=generator)
        return torch.cat([SCALE[0] + (SCALE[1] - SCALE[0]) * r[:, :1], SHIFT * (2 * r[:, 1:] - 1)], 1)

    def still(self, n):
        """The middle of what geometry() gives."""
        return torch.tensor([[sum(SCALE) / 2, 0.0, 0.0]]).expand(n, 3)

    def compose(self, items, background, geometry, ink=None):
        """Rows `items` of rgba on background colours [n, 3]; `ink` [n, 3] is what line drawings are drawn with."""
        scale, x, y = geometry.to(self.device).unbind(1)
        zero = torch.zeros_like(scale)
        theta = torch.stack([1 / scale, zero, -2 * x / scale, zero, 1 / scale, -2 * y / scale], 1).view(-1, 2, 3)
        rgba = self.rgba[items.to(self.device)].float() / 255
        colour, alpha = rgba[:, :3] * 2 - 1, rgba[:, 3:]
        if ink is not None:
            line = self.is_line[items].to(self.device)[:, None, None, None]
            colour = torch.where(line, ink.to(self.device)[:, :, None, None], colour)
        grid = F.affine_grid(theta, [len(items), 4, self.px, self.px], align_corners=False)
        moved = F.grid_sample(torch.cat([colour * alpha, alpha], 1), grid, align_corners=False)
        return moved[:, :3] + background.to(self.device)[:, :, None, None] * (1 - moved[:, 3:])

    def show(self, things, geometry):
        """The pictures of the rows that draw() gives."""
        style, concept, colour, background = things.unbind(1)
        ink = torch.where((self.dark[background] & (colour == 0))[:, None], torch.ones(1, 3), self.inks[colour])
        return self.compose(self.item[style, concept, colour], self.backgrounds[background], geometry, ink)

    def captions(self, seed, things):
        """A caption for each row, some of them empty."""
        rng, texts = random.Random(seed), []
        for style, concept, colour, background in things.tolist():
            c = self.concepts[concept]
            texts.append(caption(rng, c["names"], c["keywords"], STYLES[style], COLOUR_NAMES[colour],
                                 BACKGROUND_NAMES[background]))
        return texts

    def everything(self, generator, n, extra=0.25):
        """n pictures for the autoencoder: concepts, other art, and some backgrounds of any colour."""
        pictures = self.show(self.draw(generator, n), self.geometry(generator, n))
        others = int((torch.rand(n, generator=generator) < extra).sum())
        if others and len(self.extra):
            items = self.extra[torch.randint(len(self.extra), (others,), generator=generator)]
            background, geometry = self.any_background(generator, others), self.geometry(generator, others)
            pictures[:others] = self.compose(items, background, geometry)
        return pictures

    def any_background(self, generator, n):
        named = self.backgrounds[torch.randint(len(self.backgrounds), (n,), generator=generator)]
        free = torch.rand(n, 3, generator=generator) * 2 - 1
        return torch.where(torch.rand(n, 1, generator=generator) < 0.4, free, named)

    def held_out_art(self, seed=1, limit=256):
        """Art that no training sees, on random backgrounds."""
        generator = torch.Generator().manual_seed(seed)
        items = self.held[:limit]
        return self.compose(items, self.any_background(generator, len(items)), self.still(len(items)))


def psnr(a, b):
    """Mean over pictures in [-1, 1], in dB."""
    return (-10 * torch.log10(((a.clamp(-1, 1) - b) / 2).pow(2).mean((1, 2, 3)).clamp(min=1e-10))).mean().item()


def save_sheet(path, pictures, columns=8):
    """Pictures in rows on one PNG."""
    pictures = ((pictures.float().clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    blank = np.full_like(pictures[:1], 255)
    pictures = np.concatenate([pictures] + [blank] * (-len(pictures) % columns))
    rows = [np.concatenate(list(pictures[i:i + columns]), 1) for i in range(0, len(pictures), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
