"""Gives a picture another colour: its dominant family of hues is turned in OKLCh, other hues stay.

OKLab: https://bottosson.github.io/posts/oklab/. Pictures are float RGBA in [0, 1], shape [height, width, 4].
"""
import numpy as np

from captions import COLOURS

RGB_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005]])
LMS_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660]])
# Hues within acos(0.77) = 40 degrees of the mean are its family.
FAMILY = 0.77
# A picture can be recoloured when the family holds so much of its chroma and covers so much of its area.
DOMINANCE, COVERAGE = 0.6, 0.35


def to_linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def from_linear(rgb):
    rgb = np.clip(rgb, 0, 1)
    return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055)


def to_oklab(rgb):
    return np.cbrt(to_linear(rgb) @ RGB_TO_LMS.T) @ LMS_TO_LAB.T


def from_oklab(lab):
    return from_linear((lab @ np.linalg.inv(LMS_TO_LAB).T) ** 3 @ np.linalg.inv(RGB_TO_LMS).T)


def polar(lab):
    """Lightness, chroma and hue (radians)."""
    return lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), np.arctan2(lab[..., 2], lab[..., 1])


def main_hue(rgba):
    """The mean hue by chroma (radians), and the share of chroma and of area that its family has."""
    _, chroma, hue = polar(to_oklab(rgba[..., :3]))
    weight = chroma * rgba[..., 3] * (chroma > 0.05)
    mean = np.arctan2((weight * np.sin(hue)).sum(), (weight * np.cos(hue)).sum())
    near = np.cos(hue - mean) > FAMILY
    dominance = (weight * near).sum() / max(weight.sum(), 1e-6)
    coverage = ((weight > 0) & near).sum() / max((rgba[..., 3] > 0.5).sum(), 1)
    return mean, dominance, coverage


def recolourable(rgba):
    _, dominance, coverage = main_hue(rgba)
    return dominance > DOMINANCE and coverage > COVERAGE


def recolour(rgba, colour):
    """The picture with its dominant family of hues turned to `colour` (a name), with the chroma and lightness that go
    with it."""
    lab = to_oklab(rgba[..., :3])
    light, chroma, hue = polar(lab)
    mean, _, _ = main_hue(rgba)
    weight = chroma * rgba[..., 3] * (chroma > 0.05) * (np.cos(hue - mean) > 0.5)
    total = max(weight.sum(), 1e-6)
    mean_light, mean_chroma = (weight * light).sum() / total, max((weight * chroma).sum() / total, 1e-6)
    to_light, to_chroma, to_hue = polar(to_oklab(np.array(COLOURS[colour]) / 255))
    # Soft edges, so that no seam shows between what turns and what stays.
    turns = np.clip((np.cos(hue - mean) - 0.3) / 0.4, 0, 1) * np.clip((chroma - 0.03) / 0.05, 0, 1)
    hue = hue + to_hue - mean
    chroma = chroma * np.clip(to_chroma / mean_chroma, 0.6, 1.6)
    light = np.clip(light + 0.75 * (to_light - mean_light), 0, 1)
    turned = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], -1)
    lab = lab + turns[..., None] * (turned - lab)
    return np.concatenate([from_oklab(lab), rgba[..., 3:]], -1)
