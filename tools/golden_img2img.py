"""Image-to-image and inpainting by diffusers' pipelines on the tiny models, and the noise of variations and batches."""
import numpy as np
import torch
from diffusers import (DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler,
                       StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline,
                       StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline,
                       UniPCMultistepScheduler)

from golden_reference import GUIDANCE, NEGATIVE, PROMPT, SCHEDULERS, SEED, write

PIPELINES = {
    "sd1": (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline),
    "sd2": (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline),
    "sdxl": (StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline),
}
LATENT_HEIGHT, LATENT_WIDTH = 8, 12
STEPS = 10
STRENGTHS = (0.3, 0.75, 1.0)
# A stochastic sampler shows in which order random numbers are drawn.
SAMPLERS = ("ddim", "euler", "ddpm")
# Samplers that remember steps, take several evaluations or add noise, which start in the middle of their schedule: for sd1.
# Not LMS: in the middle, diffusers' takes the weights of an order whose derivatives it does not have yet.
OTHERS = {"euler_ancestral": EulerAncestralDiscreteScheduler, "heun": HeunDiscreteScheduler,
          "dpmpp_2m": DPMSolverMultistepScheduler, "unipc_bh2": UniPCMultistepScheduler}


def pictures(factor, generator):
    """A picture in bytes and a mask with an edge that cuts through latent pixels, and greys at the threshold."""
    height, width = LATENT_HEIGHT * factor, LATENT_WIDTH * factor
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 3 + c) * np.cos(y / (4 + c)) for c in range(3)], -1) * 90 + 128
    noise = torch.randint(-20, 21, waves.shape, generator=generator).numpy()
    image = np.clip(waves + noise, 0, 255).astype(np.uint8)
    mask = np.where((x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (height * 0.45) ** 2, 255, 0).astype(np.uint8)
    mask[-3:, :5] = 127
    mask[-3:, 5:9] = 128
    return image, mask


def run(pipe, steps, strength, image, mask, seeds):
    """One run with a generator an image: latents, and the pictures with what the mask protects put back."""
    batch = len(seeds)
    arguments = dict(prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, num_inference_steps=steps,
                     strength=strength, guidance_scale=GUIDANCE)
    height, width = image.shape[:2]
    picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    arguments["image"] = picture.repeat(batch, 1, 1, 1)
    if mask is not None:
        arguments["mask_image"] = torch.from_numpy(mask)[None, None].float().repeat(batch, 1, 1, 1) / 255
        arguments |= dict(height=height, width=width)
    generators = lambda: [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    latents = pipe(**arguments, generator=generators(), output_type="latent").images
    images = pipe(**arguments, generator=generators(), output_type="np").images
    if mask is not None:
        images = np.where((mask >= 128)[None, :, :, None], images, image[None].astype(np.float32) / 255)
    return latents, torch.from_numpy(np.ascontiguousarray(images))


def model(out_dir, name, tensors, cases):
    options = dict(variant="fp16") if name == "sdxl" else {}
    for kind, pipeline in zip(("img2img", "inpaint"), PIPELINES[name]):
        pipe = pipeline.from_pretrained(out_dir / "models" / name, dtype=torch.float32, local_files_only=True, **options)
        pipe.set_progress_bar_config(disable=True)
        config = pipe.scheduler.config
        image, mask = pictures(pipe.vae_scale_factor, torch.Generator().manual_seed(301))
        tensors |= {f"{name}.image": torch.from_numpy(image), f"{name}.mask": torch.from_numpy(mask)}
        others = tuple(s for s in OTHERS if name == "sd1" and (kind, s) != ("inpaint", "heun"))
        for sampler in SAMPLERS + others:
            pipe.scheduler = (SCHEDULERS | OTHERS)[sampler].from_config(config)
            for strength in STRENGTHS if sampler in SAMPLERS else (0.75,):
                seeds = [SEED, SEED + 1] if strength == 0.75 else [SEED]
                key = f"{name}.{kind}.{sampler}.{strength}"
                latents, images = run(pipe, STEPS, strength, image, mask if kind == "inpaint" else None, seeds)
                tensors[f"{key}.latents"] = latents
                if sampler == "ddim":
                    tensors[f"{key}.images"] = images
                cases.append(dict(name=key, model=name, inpaint=kind == "inpaint", sampler=sampler, strength=strength,
                                  steps=STEPS, taken=int(STEPS * strength), seed=SEED, batch_size=len(seeds),
                                  prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=GUIDANCE,
                                  images=sampler == "ddim"))


def slerp(strength, low, high):
    """A1111's: for [channels, height, width] it takes norms along the height, and swaps the ends of the straight mix."""
    unit = lambda x: x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    cosine = (unit(low) * unit(high)).sum(axis=1)
    if cosine.mean() > 0.9995:
        return strength * low + (1 - strength) * high
    omega = np.arccos(cosine)[:, None, :]
    return (np.sin((1 - strength) * omega) * low + np.sin(strength * omega) * high) / np.sin(omega)


def variations(tensors, cases):
    """First noises: of two images of a variation, and of a batch that ComfyUI draws at once."""
    shape = (4, LATENT_HEIGHT, LATENT_WIDTH)
    draw = lambda seed, *batch: torch.randn((*batch, *shape), generator=torch.Generator("cpu").manual_seed(seed)).numpy()
    for strength in (0.2, 0.75, 1.0):
        key = f"variation.{strength}"
        low = draw(SEED).astype(np.float64)
        images = [slerp(strength, low, draw(40 + i).astype(np.float64)) for i in range(2)]
        tensors[key] = torch.from_numpy(np.stack(images))
        cases.append(dict(name=key, profile="a1111", seed=SEED, variation_seed=40, variation_strength=strength))
    tensors["batch"] = torch.from_numpy(draw(SEED, 3))
    cases.append(dict(name="batch", profile="comfyui", seed=SEED, variation_seed=0, variation_strength=0.0))
    low = draw(SEED).astype(np.float64)
    high = low + 1e-3 * draw(SEED + 1)
    tensors |= {"parallel.high": torch.from_numpy(high), "parallel": torch.from_numpy(slerp(0.2, low, high))}


@torch.no_grad()
def make(out_dir):
    torch.set_num_threads(1)
    tensors, cases, noises = {}, [], []
    for name in PIPELINES:
        model(out_dir, name, tensors, cases)
    variations(tensors, noises)
    write(out_dir, "img2img", tensors, dict(latent_height=LATENT_HEIGHT, latent_width=LATENT_WIDTH, cases=cases,
                                            noises=noises))
