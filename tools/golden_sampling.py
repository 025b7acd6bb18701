"""Noise schedules, sampler trajectories and random numbers from diffusers' schedulers, torch and numpy.

Writes, under `out_dir`:
  sampling.json           the cases: configs, step counts, seeds; names of arrays in the other file
  sampling.safetensors    the arrays
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}

# What scheduler_config.json says, without the class; keys that are absent test the defaults.
CONFIGS = {
    "defaults": {},
    "stable-diffusion": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    },
    "zero-snr": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": False,
        "clip_sample": False,
    },
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True, "clip_sample_range": 1.5},
    "trained": {
        "num_train_timesteps": 37,
        "trained_betas": [round(0.002 + 0.3 * (i / 36) ** 2, 6) for i in range(37)],
        "clip_sample": False,
    },
    "linear-zero-snr": {"num_train_timesteps": 100, "beta_end": 0.2, "rescale_betas_zero_snr": True},
}
SPACINGS = ["leading", "trailing", "linspace"]


def scheduler(sampler, config, **changes):
    """A scheduler of diffusers' class, from those keys that the class has."""
    return CLASSES[sampler].from_config({**config, **changes})


def schedules(arrays):
    """Each config's tables."""
    for name, config in CONFIGS.items():
        tables = scheduler("ddim", config)
        arrays[f"betas.{name}"] = tables.betas.numpy()
        arrays[f"alphas_cumprod.{name}"] = tables.alphas_cumprod.numpy()
        # The forward process on a ramp of samples, at some timesteps.
        samples = torch.linspace(-2, 2, 16)
        noise = torch.linspace(1, -3, 16)
        last = len(tables.betas) - 1
        for timestep in [0, last // 2, last]:
            noisy = tables.add_noise(samples[None], noise[None], torch.tensor([timestep]))
            arrays[f"add_noise.{name}.{timestep}"] = noisy[0].numpy()
        yield {"name": name, "config": config, "timesteps": [0, last // 2, last]}


def plans(arrays):
    """Timesteps, and Euler's sigmas, of configs, spacings and step counts."""
    for (name, config), spacing in itertools.product(CONFIGS.items(), SPACINGS):
        train_steps = config.get("num_train_timesteps", 1000)
        for steps in sorted({1, 5, 20, 50, train_steps - 1, train_steps} & set(range(train_steps + 1))):
            # Both of the others fail in diffusers' tables when an offset runs past their end.
            if spacing == "leading" and (steps - 1) * (train_steps // steps) + config.get("steps_offset", 0) >= train_steps:
                continue
            key = f"{name}.{spacing}.{steps}"
            ddim, ddpm, euler = (scheduler(s, config, timestep_spacing=spacing) for s in ["ddim", "ddpm", "euler"])
            for each in [ddim, ddpm, euler]:
                each.set_timesteps(steps)
                assert len(each.timesteps) == steps
            assert torch.equal(ddim.timesteps, ddpm.timesteps)
            arrays[f"timesteps.{key}"] = ddim.timesteps.numpy().astype(np.int32)
            if spacing == "linspace":
                arrays[f"euler_timesteps.{key}"] = euler.timesteps.numpy()
            else:
                assert torch.equal(euler.timesteps.long(), ddim.timesteps)
            arrays[f"sigmas.{key}"] = euler.sigmas.numpy()
            yield {"config": name, "spacing": spacing, "steps": steps, "init_noise_sigma": float(euler.init_noise_sigma)}


def every_step_count(arrays):
    """Σ (i + 1)·tᵢ of the timesteps for every step count of the default schedule."""
    for spacing in SPACINGS:
        sums = []
        for steps in range(1, 1001):
            ddim = scheduler("ddim", {}, timestep_spacing=spacing)
            ddim.set_timesteps(steps)
            # Rounding gives some trailing counts one timestep too many, −1, for which no model was trained.
            timesteps = ddim.timesteps.numpy()
            assert len(timesteps) == steps or (len(timesteps) == steps + 1 and timesteps[-1] == -1)
            timesteps = timesteps[:steps]
            sums.append(int((np.arange(1, steps + 1) * timesteps).sum()))
        arrays[f"timestep_sums.{spacing}"] = np.array(sums, dtype=np.int64)


def denoise(x, timestep):
    """A made-up model that other languages can compute as well: bounded, smooth, different at every timestep."""
    return torch.tanh(x * 0.8) * 0.9 + 0.3 * torch.sin(x + float(timestep) * 0.01)


def euler_float64(sampling, latents):
    """Euler steps over diffusers' sigmas in float64, which EulerDiscreteScheduler.step can't do."""
    x = latents.double()
    for timestep, sigma, following in zip(sampling.timesteps, sampling.sigmas.double(), sampling.sigmas[1:].double()):
        scale = (sigma**2 + 1) ** 0.5
        prediction = denoise(x / scale, timestep)
        denoised = {
            "epsilon": x - sigma * prediction,
            "v_prediction": x / scale**2 - prediction * sigma / scale,
            "sample": prediction,
        }[sampling.config.prediction_type]
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


SHAPE = (4, 4, 4)
SEEDS = [7, 4294967295]


def trajectories(arrays):
    """Latents of a batch of two images, from the first noise to the last step, with one torch generator an image."""
    cases = []

    def add(sampler, config, steps, spacing=None, eta=0.0, **changes):
        cases.append((sampler, config, steps, spacing, eta, changes))

    predictions = ["epsilon", "v_prediction", "sample"]
    for sampler, prediction in itertools.product(CLASSES, predictions):
        add(sampler, "stable-diffusion", 20, prediction_type=prediction)
        add(sampler, "stable-diffusion", 20, spacing="linspace", prediction_type=prediction)
        add(sampler, "stable-diffusion", 7, spacing="trailing", prediction_type=prediction)
        add(sampler, "defaults", 20, prediction_type=prediction)
        add(sampler, "cosine", 20, prediction_type=prediction)
        add(sampler, "trained", 10, prediction_type=prediction)
        if prediction != "epsilon" or sampler == "euler":
            add(sampler, "zero-snr", 20, spacing="trailing", prediction_type=prediction)
            add(sampler, "zero-snr", 1, spacing="trailing", prediction_type=prediction)
            add(sampler, "linear-zero-snr", 12, spacing="linspace", prediction_type=prediction)
    for prediction, eta in itertools.product(predictions, [0.5, 1.0]):
        add("ddim", "stable-diffusion", 20, eta=eta, prediction_type=prediction)
        add("ddim", "cosine", 20, eta=eta, prediction_type=prediction)
    add("ddim", "zero-snr", 20, eta=0.5, spacing="trailing", prediction_type="v_prediction")
    add("ddim", "stable-diffusion", 50, prediction_type="v_prediction", set_alpha_to_one=True)
    for variance in ["fixed_small_log", "fixed_large"]:
        add("ddpm", "stable-diffusion", 20, prediction_type="v_prediction", variance_type=variance)
    add("ddpm", "defaults", 200, prediction_type="epsilon")
    add("euler", "stable-diffusion", 20, prediction_type="epsilon", final_sigmas_type="sigma_min")
    add("euler", "stable-diffusion", 50, prediction_type="v_prediction")

    for i, (sampler, name, steps, spacing, eta, changes) in enumerate(cases):
        sampling = scheduler(sampler, CONFIGS[name], **changes, **({"timestep_spacing": spacing} if spacing else {}))
        sampling.set_timesteps(steps)
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        latents = torch.stack([torch.randn(SHAPE, generator=g) for g in generators]) * sampling.init_noise_sigma
        extra = {"eta": eta} if sampler == "ddim" else {}
        if sampler != "euler":
            extra["generator"] = generators
        if sampler == "euler":
            arrays[f"exact_latents.{i}"] = euler_float64(sampling, latents).flatten(1).numpy().astype(np.float32)
        for timestep in sampling.timesteps:
            prediction = denoise(sampling.scale_model_input(latents, timestep), timestep)
            latents = sampling.step(prediction, timestep, latents, **extra).prev_sample
        assert torch.isfinite(latents).all(), (sampler, name, changes)
        arrays[f"latents.{i}"] = latents.flatten(1).numpy()
        yield {
            "sampler": sampler,
            "class": CLASSES[sampler].__name__,
            "config": {**CONFIGS[name], **changes},
            "steps": steps,
            "spacing": spacing,
            "eta": eta,
            "latents": f"latents.{i}",
        }


# Lengths drawn one after the other from one stream: both of torch's ways, with tails, and cached second values.
DRAWS = [16, 3, 5, 64, 100, 1, 1, 17, 0, 15, 31, 2, 1000]
NOISE_SEEDS = [0, 1, 42, 4294967295, 4294967296 + 9, 2**63 + 12345, 2**64 - 1]


def philox(seed, draws):
    """torch's CUDA randn: Philox 4x32-10 with the counter [draw, 0, index, 0], then cuRAND's Box-Muller."""
    mask = np.uint64(0xFFFFFFFF)
    for draw, count in enumerate(draws):
        counter = np.zeros((4, count), dtype=np.uint64)
        counter[0] = draw
        counter[2] = np.arange(count)
        key = [seed & 0xFFFFFFFF, seed >> 32]
        for _ in range(10):
            first, second = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
            counter = np.stack([
                (second >> np.uint64(32)) ^ counter[1] ^ np.uint64(key[0]),
                second & mask,
                (first >> np.uint64(32)) ^ counter[3] ^ np.uint64(key[1]),
                first & mask,
            ])
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        u, v = ((words + 0.5) * 2.0**-32 for words in counter[:2].astype(np.float64))
        yield (np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v)).astype(np.float32)


def noise(arrays):
    # torch's other kernels differ in the last bits.
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    for seed in NOISE_SEEDS:
        generator = torch.Generator().manual_seed(seed)
        torch_values = [torch.randn(count, generator=generator).numpy() for count in DRAWS]
        arrays[f"noise.torch.{seed}"] = np.concatenate(torch_values)
        arrays[f"noise.philox.{seed}"] = np.concatenate(list(philox(seed, DRAWS)))
    return {"seeds": [str(seed) for seed in NOISE_SEEDS], "draws": DRAWS}


def make(out_dir):
    out, arrays = Path(out_dir), {}
    out.mkdir(parents=True, exist_ok=True)
    cases = {
        "schedules": list(schedules(arrays)),
        "plans": list(plans(arrays)),
        "trajectories": list(trajectories(arrays)),
        "trajectory_seeds": SEEDS,
        "noise": noise(arrays),
    }
    every_step_count(arrays)
    text = ",\n".join(
        f"{json.dumps(key)}: "
        + ("[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value))
        for key, value in cases.items()
    )
    (out / "sampling.json").write_text("{\n" + text + "\n}\n")
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, out / "sampling.safetensors")


if __name__ == "__main__":
    make(ROOT / "tests/golden")
