"""The models that come along: prompts, what diffusers draws for them, and the colours a right picture has."""
import colorsys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from golden_reference import write

MODELS = Path(__file__).resolve().parent.parent / "models"

# What the colour words mean, as the model's training pictures were painted (sRGB): things, and plain backgrounds.
COLOURS = {"red": (230, 40, 50), "orange": (250, 140, 30), "yellow": (250, 210, 50), "green": (50, 180, 70),
           "teal": (20, 170, 170), "blue": (45, 110, 235), "purple": (140, 70, 210), "pink": (250, 110, 180)}
BACKGROUNDS = {"white": (255, 255, 255), "black": (20, 20, 24), "blue": (160, 210, 250), "green": (180, 240, 210),
               "pink": (255, 190, 215), "yellow": (255, 225, 110)}

PICTURES = [("blue", "cat", "yellow"), ("red", "apple", "black"), ("green", "tulip", "white"), ("yellow", "star", "blue"),
            ("teal", "whale", "white"), ("red", "heart", "yellow"), ("purple", "umbrella", "pink"),
            ("green", "tree", "blue"), ("orange", "pumpkin", "green"), ("blue", "balloon", "pink"),
            ("purple", "star", "green"), ("blue", "heart", "white")]
STEPS, GUIDANCE = 20, 2.5
# How many of the pictures each model draws: fewer where they are larger.
COUNTS = {"emoji": 6, "emoji-64": 12}

# How colours are judged: see tests/golden/README.md.
BACKGROUND_TOLERANCE, OBJECT_DISTANCE, MIN_SATURATION = 24, 60, 0.3


def hue(rgb):
    return colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] * 360


def hue_range(colour):
    """Degrees: from halfway to the colour word below to halfway to the one above; past 360 where it wraps."""
    hues = sorted(hue(rgb) for rgb in COLOURS.values())
    i = hues.index(hue(COLOURS[colour]))
    below = hues[i - 1] - (360 if i == 0 else 0)
    above = hues[(i + 1) % len(hues)] + (360 if i + 1 == len(hues) else 0)
    low, high = (below + hues[i]) / 2, (hues[i] + above) / 2
    return [round(low % 360, 1), round(low % 360 + high - low, 1)]


def judge(image, case):
    """Fails when diffusers' own picture has not the colours its prompt asks for."""
    background = np.array(case["background_rgb"])
    border = np.concatenate([image[:3].reshape(-1, 3), image[-3:].reshape(-1, 3), image[:, :3].reshape(-1, 3),
                             image[:, -3:].reshape(-1, 3)])
    error = np.abs(np.median(border, axis=0) - background).max()
    pixels = image.reshape(-1, 3)
    pixels = pixels[np.abs(pixels.astype(int) - background).max(1) > OBJECT_DISTANCE]
    hsv = np.array([colorsys.rgb_to_hsv(*(p / 255)) for p in pixels])
    hues = hsv[hsv[:, 1] >= MIN_SATURATION, 0] * 360
    low, high = case["object_hue"]
    share = np.mean((hues - low) % 360 <= high - low)
    print(f"  {case['prompt']}: background off by {error:.0f}, {share:.0%} of {len(hues)} pixels of the right hue")
    if error > BACKGROUND_TOLERANCE or share < 0.5 or len(hues) < 300:
        raise ValueError(f"the picture for {case['prompt']!r} has not its colours; take another")


@torch.no_grad()
def make_model(out_dir, name, count):
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / name, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    latent = pipe.unet.config.sample_size
    side = latent * pipe.vae_scale_factor
    noises, latents, images, cases = [], [], [], []
    for seed, (colour, thing, background) in enumerate(PICTURES[:count]):
        article = "an" if colour[0] in "aeiou" else "a"
        case = dict(prompt=f"{article} {colour} {thing} on a {background} background", seed=seed,
                    object_rgb=COLOURS[colour], object_hue=hue_range(colour), background_rgb=BACKGROUNDS[background])
        noise = torch.randn((1, 4, latent, latent), generator=torch.Generator("cpu").manual_seed(seed))
        final = pipe(case["prompt"], latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=side,
                     width=side, output_type="latent").images
        decoded = pipe.vae.decode(final / pipe.vae.config.scaling_factor).sample
        image = pipe.image_processor.postprocess(decoded, output_type="np")[0]
        image = (image * 255).round().astype(np.uint8)
        judge(image, case)
        noises.append(noise)
        latents.append(final)
        images.append(torch.from_numpy(image))
        cases.append(case)
    tensors = {"noise": torch.cat(noises), "latents": torch.cat(latents), "image": torch.stack(images)}
    settings = dict(model=f"../../models/{name}", sampler="ddim", eta=0.0, steps=STEPS, guidance_scale=GUIDANCE,
                    width=side, height=side, background_tolerance=BACKGROUND_TOLERANCE, object_distance=OBJECT_DISTANCE,
                    min_saturation=MIN_SATURATION, timesteps=pipe.scheduler.timesteps.tolist(), cases=cases)
    write(out_dir, name, tensors, settings)


def make(out_dir):
    torch.set_num_threads(1)
    for name, count in COUNTS.items():
        make_model(out_dir, name, count)
