"""The forward process and the noise levels of every sigma schedule, from diffusers, k-diffusion and scipy.

What A1111 and ComfyUI lay out is written here from its definition in float64.

Writes, under `out_dir`:
  schedules.json           the cases, and names of arrays in the other file
  schedules.safetensors    the arrays
"""

import importlib
import json
import math
from pathlib import Path

import diffusers
import numpy as np
import scipy.stats
import torch
from diffusers.training_utils import compute_snr
from safetensors.numpy import save_file

from k_diffusion_sampling import k_sampling

# Is found once `k_diffusion_sampling` has been imported.
k_external = importlib.import_module("k_diffusion.external")

STEPS = [1, 2, 5, 10, 20, 50]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
FLOW = {"prediction_type": "flow_prediction", "shift": 3.0}
EDM = {"prediction_type": "edm_v_prediction", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


def diffusers_class(name, config):
    accepted = {key: value for key, value in config.items() if key not in ("sampler",)}
    return getattr(diffusers, name).from_config(accepted)


class Arrays(dict):
    """Named arrays; one that is there already is not written again."""

    def __init__(self):
        self.names = {}

    def name(self, values):
        values = np.ascontiguousarray(np.asarray(values), dtype=np.float32)
        key = values.tobytes()
        if key not in self.names:
            self.names[key] = f"{len(self.names)}"
            self[self.names[key]] = values
        return self.names[key]


# The forward process


def forward(arrays):
    """Tables, add_noise and get_velocity of a batch with a timestep an image."""
    configs = {
        "defaults": {},
        "stable-diffusion": SD,
        "zero-snr": {**SD, "rescale_betas_zero_snr": True},
        "cosine": COSINE,
        "sigmoid": {"beta_schedule": "sigmoid", "beta_start": 0.0001, "beta_end": 0.02},
        "trained": {"num_train_timesteps": 12, "trained_betas": [0.01 * (i + 1) for i in range(12)]},
    }
    for name, config in configs.items():
        scheduler = diffusers.DDPMScheduler.from_config(config)
        last = len(scheduler.betas) - 1
        timesteps = [0, last // 3, last // 2, last]
        generator = torch.Generator().manual_seed(3)
        samples, noise = torch.randn(2, len(timesteps), 6, generator=generator)
        at = torch.tensor(timesteps)
        yield {
            "name": name,
            "config": config,
            "betas": arrays.name(scheduler.betas),
            "alphas_cumprod": arrays.name(scheduler.alphas_cumprod),
            "snr": arrays.name(compute_snr(scheduler, torch.arange(last + 1))),
            "timesteps": timesteps,
            "samples": arrays.name(samples),
            "noise": arrays.name(noise),
            "noisy": arrays.name(scheduler.add_noise(samples, noise, at)),
            "velocity": arrays.name(scheduler.get_velocity(samples, noise, at)),
        }


# Noise levels


def falling(sigmas, timesteps):
    """Without the steps that go nowhere."""
    sigmas, timesteps = [float(s) for s in sigmas], [float(t) for t in timesteps]
    kept = [i for i, sigma in enumerate(sigmas) if i == 0 or sigma < min(sigmas[:i]) * (1 - 1e-6)]
    return [sigmas[i] for i in kept], [timesteps[i] for i in kept[:-1]]


def case(arrays, sigmas, timesteps, config, **options):
    sigmas, timesteps = falling(sigmas, timesteps)
    return {
        "config": config,
        "options": options,
        "sigmas": arrays.name(sigmas),
        "timesteps": arrays.name(timesteps),
    }


# Sampler, diffusers' class, and where the two have the levels that steps start at.
CLASSES = [
    ("euler", "EulerDiscreteScheduler", slice(None), slice(None)),
    ("lms", "LMSDiscreteScheduler", slice(None), slice(None)),
    ("heun", "HeunDiscreteScheduler", None, None),
    ("dpm2", "KDPM2DiscreteScheduler", None, slice(None, None, 2)),
    ("dpmpp_sde", "DPMSolverSDEScheduler", None, slice(None, None, 2)),
    ("dpmpp_2m", "DPMSolverMultistepScheduler", slice(None), slice(None)),
    ("dpm_solver_singlestep", "DPMSolverSinglestepScheduler", slice(None), slice(None)),
    ("unipc_bh2", "UniPCMultistepScheduler", slice(None), slice(None)),
    ("deis", "DEISMultistepScheduler", slice(None), slice(None)),
    ("sa_solver", "SASolverScheduler", slice(None), slice(None)),
]
SCHEDULES = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas", "beta": "use_beta_sigmas"}


def first_of_pairs(values):
    """a, b, b, c, c, … → a, b, c, …"""
    return torch.cat([values[:1], values[1::2]])


def from_diffusers(arrays):
    configs = {"SD": SD, "zero-snr": ZERO_SNR, "cosine": COSINE}
    for sampler, name, sigma_slice, timestep_slice in CLASSES:
        for config_name, config in configs.items():
            for schedule in [None, *SCHEDULES]:
                if config_name != "SD" and sampler not in ("euler", "dpmpp_2m", "unipc_bh2"):
                    continue
                # np.interp makes timesteps of the zero signal's σ before it is limited: not a number.
                if config_name == "zero-snr" and sampler != "euler" and schedule is None:
                    continue
                steps_here = [*STEPS, 1000] if sampler in ("euler", "deis") and config_name == "SD" else STEPS
                for steps in steps_here:
                    if steps == 1000 and sampler == "deis" and schedule is None:
                        continue
                    # They would go from the most noise to the most noise.
                    if steps == 1 and sampler in ("deis", "sa_solver") and schedule:
                        continue
                    extra = {SCHEDULES[schedule]: True} if schedule else {}
                    scheduler = diffusers_class(name, {**config, **extra})
                    scheduler.set_timesteps(steps)
                    sigmas, timesteps = scheduler.sigmas, scheduler.timesteps
                    if sampler == "dpm2":
                        sigmas = first_of_pairs(sigmas)[: steps + 1]
                    elif sigma_slice is None:
                        sigmas = torch.cat([first_of_pairs(sigmas[:-1]), sigmas[-1:]])
                    timesteps = timesteps[timestep_slice] if timestep_slice else first_of_pairs(timesteps)
                    asked = {"sigma_schedule": schedule} if schedule else {}
                    init = scheduler.init_noise_sigma if steps > 1 else None
                    yield {
                        **case(arrays, sigmas, timesteps, config, sampler=sampler, steps=steps, **asked),
                        **({"init_noise_sigma": float(init)} if init is not None else {}),
                    }
    for spacing in ["leading", "trailing"]:
        for steps in STEPS:
            config = {**SD, "timestep_spacing": spacing, "steps_offset": 1}
            scheduler = diffusers_class("EulerDiscreteScheduler", {**config, "use_karras_sigmas": True})
            scheduler.set_timesteps(steps)
            made = case(
                arrays, scheduler.sigmas, scheduler.timesteps, config, sampler="euler", steps=steps, sigma_schedule="karras"
            )
            yield {**made, "init_noise_sigma": float(scheduler.init_noise_sigma)}
    scheduler = diffusers_class("EulerDiscreteScheduler", {**SD, "timestep_spacing": "trailing"})
    for steps in [1, 2, 4]:
        scheduler.set_timesteps(steps)
        made = case(arrays, scheduler.sigmas, scheduler.timesteps, SD, sampler="euler", steps=steps, sigma_schedule="turbo")
        yield {**made, "init_noise_sigma": float(scheduler.init_noise_sigma)}
    for schedule in [None, "karras"]:
        for steps in STEPS:
            config = {**SD, "interpolation_type": "log_linear"}
            scheduler = diffusers_class("EulerDiscreteScheduler", {**config, "use_karras_sigmas": schedule is not None})
            scheduler.set_timesteps(steps)
            # One σ more than its steps reach.
            sigmas = scheduler.sigmas[: steps + 1] if schedule is None else scheduler.sigmas
            asked = {"sigma_schedule": schedule} if schedule else {}
            yield case(arrays, sigmas, scheduler.timesteps, config, sampler="euler", steps=steps, **asked)
    # Optimised levels, as its pipelines are given them.
    table = diffusers.schedulers.AysSchedules
    for schedule, key in [("align_your_steps", "StableDiffusionSigmas"), ("align_your_steps_xl", "StableDiffusionXLSigmas")]:
        scheduler = diffusers_class("EulerDiscreteScheduler", SD)
        scheduler.set_timesteps(sigmas=table[key])
        yield case(arrays, scheduler.sigmas, scheduler.timesteps, SD, sampler="euler", steps=10, sigma_schedule=schedule)
    lcm = diffusers_class("LCMScheduler", SD)
    for steps in [1, 2, 4, 8, 50]:
        lcm.set_timesteps(steps)
        sigmas = ((1 - lcm.alphas_cumprod) / lcm.alphas_cumprod) ** 0.5
        sigmas = [*sigmas[lcm.timesteps], 0]
        for sampler in ["lcm", "euler"]:
            yield case(arrays, sigmas, lcm.timesteps, SD, sampler=sampler, steps=steps, sigma_schedule="lcm")


def flows_from_diffusers(arrays):
    for steps in STEPS:
        for schedule in [None, *SCHEDULES]:
            extra = {SCHEDULES[schedule]: True} if schedule else {}
            asked = {"sigma_schedule": schedule} if schedule else {}
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **extra)
            scheduler.set_timesteps(steps)
            yield case(arrays, scheduler.sigmas, scheduler.timesteps, FLOW, sampler="euler", steps=steps, **asked)
        scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(steps)
        sigmas = torch.cat([first_of_pairs(scheduler.sigmas[:-1]), scheduler.sigmas[-1:]])
        yield case(arrays, sigmas, first_of_pairs(scheduler.timesteps), FLOW, sampler="heun", steps=steps)
        for sampler, name in [("dpmpp_2m", "DPMSolverMultistepScheduler"), ("unipc_bh2", "UniPCMultistepScheduler")]:
            scheduler = getattr(diffusers, name)(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
            scheduler.set_timesteps(steps)
            yield case(arrays, scheduler.sigmas, scheduler.timesteps, FLOW, sampler=sampler, steps=steps)


def edm_from_diffusers(arrays):
    for sampler, name in [("euler", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")]:
        for schedule in ["karras", "exponential"]:
            for steps in STEPS[1:]:
                scheduler = getattr(diffusers, name)(sigma_schedule=schedule)
                scheduler.set_timesteps(steps)
                sigmas = scheduler.sigmas
                if schedule == "karras":
                    # In float32 the seventh power loses a digit.
                    ramp64 = torch.linspace(0, 1, steps, dtype=torch.float64)
                    sigmas = [*scheduler._compute_karras_sigmas(ramp64), 0]
                yield case(
                    arrays, sigmas, scheduler.timesteps, EDM, sampler=sampler, steps=steps, sigma_schedule=schedule
                )


class Table:
    """A model's noise levels, and what A1111 or ComfyUI calls them."""

    def __init__(self, profile, kind):
        self.profile, self.kind = profile, kind
        if kind in ("SD", "zero-snr"):
            config = {key: value for key, value in (SD if kind == "SD" else ZERO_SNR).items()}
            if kind == "zero-snr":
                alphas_cumprod = diffusers.DDPMScheduler.from_config(config).alphas_cumprod.double().numpy()
                alphas_cumprod[-1] = 4.8973451890853435e-08
            else:
                # Both compute in float64; A1111 then stores ᾱ in float32.
                betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
                alphas_cumprod = np.cumprod(1 - betas)
                if profile == "a1111":
                    alphas_cumprod = alphas_cumprod.astype(np.float32).astype(np.float64)
            self.alphas_cumprod = alphas_cumprod
            self.sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
            self.config = config
        elif kind == "flow":
            self.sigmas = np.array([self.shifted((i + 1) / 1000) for i in range(1000)])
            self.config = FLOW
        elif kind == "edm":
            self.sigmas = np.exp(np.linspace(math.log(0.002), math.log(80.0), 1000))
            self.config = EDM
        self.min, self.max = float(self.sigmas[0]), float(self.sigmas[-1])

    @staticmethod
    def shifted(t):
        return 3.0 * t / (1 + 2.0 * t)

    def timestep(self, sigma):
        if self.kind == "flow":
            return sigma * 1000
        if self.kind == "edm":
            return math.log(sigma) / 4
        between = float(np.interp(math.log(sigma), np.log(self.sigmas), np.arange(1000)))
        # The first of two equally near rows.
        nearest = math.ceil(between - 0.5 - 1e-6)
        return nearest if self.profile == "comfyui" else between

    def sigma(self, timestep):
        if self.kind == "flow":
            return self.shifted(timestep / 1000)
        if self.kind == "edm":
            return math.exp(4 * timestep)
        return math.exp(np.interp(timestep, np.arange(1000), np.log(self.sigmas)))


AYS = {
    ("a1111", "align_your_steps"): [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    ("a1111", "align_your_steps_xl"): [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    ("comfyui", "align_your_steps"): [
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
        0.3977456272, 0.1515232662, 0.0291671582,
    ],
    ("comfyui", "align_your_steps_xl"): [
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708,
        0.2332364134, 0.1114188177, 0.0291671582,
    ],
}  # fmt: skip


def ramp(start, end, n):
    """n values from start to end; one alone is the start."""
    return [start + (end - start) * i / max(n - 1, 1) for i in range(n)]


def levels(table, schedule, n):
    """σ of n steps, the end included, as the program's own definition has them."""
    lo, hi, comfy = table.min, table.max, table.profile == "comfyui"
    first, last = table.timestep(hi), table.timestep(lo)
    if schedule == "discrete":
        return [table.sigma(t) for t in ramp(first, last, n)] + [0.0]
    if schedule == "sgm_uniform":
        return [table.sigma(t) for t in ramp(first, last, n + 1)[:-1]] + [0.0]
    if schedule == "simple":
        return [table.sigmas[-(1 + int(i * (1000 / n)))] for i in range(n)] + [0.0]
    if schedule == "ddim_uniform":
        return list(table.sigmas[1 :: max(1000 // n, 1)][::-1]) + [0.0]
    if schedule == "karras":
        return [x**7 for x in ramp(hi ** (1 / 7), lo ** (1 / 7), n)] + [0.0]
    if schedule in ("exponential", "polyexponential"):
        return [math.exp(x) for x in ramp(math.log(hi), math.log(lo), n)] + [0.0]
    if schedule == "beta" and comfy:
        shares = scipy.stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6)
        return [table.sigmas[int(row)] for row in np.rint(shares * 999)] + [0.0]
    if schedule == "beta":
        shares = scipy.stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6)
        return [lo + share * (hi - lo) for share in shares] + [0.0]
    if schedule == "kl_optimal" and comfy:
        return [math.tan(x) for x in ramp(math.atan(hi), math.atan(lo), n)] + [0.0]
    if schedule == "kl_optimal":
        return [math.tan(x) for x in ramp(math.atan(hi), math.atan(lo), n + 1)]
    if schedule.startswith("align_your_steps"):
        known = AYS[table.profile, schedule]
        points = n + 1 if comfy else n
        at = np.array(ramp(0, 10, points))
        found = list(np.exp(np.interp(at, np.arange(11), np.log(known))))
        return (found[:-1] if comfy else found) + [0.0]
    if schedule == "linear_quadratic":
        if n == 1:
            return [hi, 0.0]
        half = n // 2
        gone = [0.025 * i / half for i in range(half)]
        # The parabola through (half, 0.025) and (n, 1) with the line's slope at the first.
        slope, width = 0.025 / half, n - half
        bend = (1 - 0.025 - slope * width) / width**2
        gone += [0.025 + slope * x + bend * x**2 for x in range(width)] + [1.0]
        return [(1 - x) * hi for x in gone]
    raise ValueError(schedule)


ALL = [
    "discrete", "simple", "sgm_uniform", "karras", "exponential", "polyexponential", "beta", "kl_optimal",
    "align_your_steps", "align_your_steps_xl", "ddim_uniform", "linear_quadratic",
]  # fmt: skip


def from_definitions(arrays):
    for profile in ["a1111", "comfyui"]:
        for kind in ["SD", "zero-snr", "flow", "edm"]:
            if profile == "a1111" and kind in ("flow", "edm"):
                continue
            table = Table(profile, kind)
            for schedule in ALL:
                if kind in ("flow", "edm") and schedule.startswith("align"):
                    continue
                for steps in [*STEPS, 1000] if kind == "SD" else [1, 2, 10, 20]:
                    sigmas = levels(table, schedule, steps)
                    yield case(
                        arrays, sigmas, [table.timestep(s) for s in sigmas if s > 0][: len(sigmas) - 1], table.config,
                        sampler="euler", steps=steps, sigma_schedule=schedule, profile=profile,
                    )  # fmt: skip
        table = Table(profile, "SD")
        # The level before the last is left out of a schedule of one step more.
        for sampler in {"a1111": ["dpm2", "dpmpp_3m_sde"], "comfyui": ["dpm2", "unipc_bh2"]}[profile]:
            for schedule in ["karras", "exponential", "discrete", "kl_optimal"]:
                for steps in [1, 2, 10]:
                    sigmas = levels(table, schedule, steps + 1)
                    del sigmas[-2]
                    yield case(
                        arrays, sigmas, [table.timestep(s) for s in sigmas[:-1]], SD,
                        sampler=sampler, steps=steps, sigma_schedule=schedule, profile=profile,
                    )  # fmt: skip
        # What runs when nobody names a schedule.
        defaults = {
            "a1111": {"euler": "discrete", "heun": "discrete", "dpmpp_2m": "karras", "dpmpp_2m_sde": "exponential"},
            "comfyui": {"euler": "discrete", "dpmpp_2m": "discrete"},
        }
        for sampler, schedule in defaults[profile].items():
            sigmas = levels(table, schedule, 20)
            yield case(
                arrays, sigmas, [table.timestep(s) for s in sigmas[:-1]], SD, sampler=sampler, steps=20, profile=profile
            )
        # Image-to-image.
        for schedule, steps, strength in [
            ("karras", 20, 0.5), ("discrete", 20, 0.75), ("discrete", 7, 0.33), ("ddim_uniform", 30, 0.6),
            ("karras", 20, 1.0), ("kl_optimal", 10, 0.4),
        ]:  # fmt: skip
            if profile == "a1111":
                taken = int(min(strength, 0.999) * steps)
                sigmas = levels(table, schedule, steps)[steps - taken - 1 :]
            else:
                planned = int(steps / strength) if strength <= 0.9999 else steps
                sigmas = levels(table, schedule, planned)
                sigmas = sigmas[-(steps + 1) :] if strength <= 0.9999 else sigmas
            yield case(
                arrays, sigmas, [table.timestep(s) for s in sigmas[:-1]], SD,
                sampler="euler", steps=steps, sigma_schedule=schedule, strength=strength, profile=profile,
            )  # fmt: skip
        # Distilled models know every twentieth level only.
        known = table.sigmas[19::20]
        for steps in [1, 4, 8]:
            at = ramp(49, 0, steps)
            sigmas = [math.exp(np.interp(x, np.arange(50), np.log(known))) for x in at] + [0.0]
            told = [int(np.abs(math.log(s) - np.log(known)).argmin()) * 20 + 19 for s in sigmas[:-1]]
            yield case(
                arrays, sigmas, told, SD, sampler="lcm", steps=steps, sigma_schedule="lcm", profile=profile
            )
    comfy = Table("comfyui", "SD")
    for steps, strength in [(1, 1.0), (4, 1.0), (2, 0.5)]:
        skipped = 10 - int(10 * strength)
        timesteps = [999 - 100 * i for i in range(skipped, 10)][:steps]
        yield case(
            arrays, [comfy.sigmas[t] for t in timesteps] + [0.0], timesteps, SD,
            sampler="euler", steps=steps, sigma_schedule="turbo", strength=strength, profile="comfyui",
        )  # fmt: skip


def a1111_timesteps(arrays):
    """The samplers of A1111 that work in timesteps."""
    table = Table("a1111", "SD")
    log_alpha = 0.5 * np.log(table.alphas_cumprod)

    def sigma_at(t):
        alpha = np.exp(np.interp(t, np.arange(1000), log_alpha))
        return (1 - alpha**2) ** 0.5 / alpha

    for steps in [2, 7, 20, 30]:
        rising = np.clip(np.arange(0, 1000, 1000 // steps) + 1, 0, 999)
        down = rising[::-1]
        for sampler in ["ddim", "plms"]:
            yield case(arrays, table.sigmas[down], down[:-1], SD, sampler=sampler, steps=steps, profile="a1111")
        even = np.linspace(999, 0, len(rising) + 1)
        yield case(arrays, sigma_at(even), even[:-1], SD, sampler="unipc_bh1", steps=steps, profile="a1111")
    for steps, strength in [(20, 0.5), (30, 0.75)]:
        taken = int(strength * steps)
        rising = np.clip(np.arange(0, 1000, 1000 // steps) + 1, 0, 999)
        # The noise is that of the timestep before the first one.
        start = {"start_sigma": float(table.sigmas[rising[taken]])}
        down = rising[:taken][::-1]
        options = {"steps": steps, "strength": strength, "profile": "a1111"}
        yield {**case(arrays, table.sigmas[down], down[:-1], SD, sampler="ddim", **options), **start}
        even = np.linspace(down[0], 0, taken + 1)
        yield {**case(arrays, sigma_at(even), even[:-1], SD, sampler="unipc_bh1", **options), **start}


def from_k_diffusion(arrays):
    """A1111's range and k-diffusion's own functions."""
    table = Table("a1111", "SD")
    alphas_cumprod = torch.tensor(table.alphas_cumprod)
    model = k_external.DiscreteEpsDDPMDenoiser(None, alphas_cumprod, quantize=False)
    lo, hi = table.min, table.max
    functions = {
        "karras": k_sampling.get_sigmas_karras,
        "exponential": k_sampling.get_sigmas_exponential,
        "polyexponential": k_sampling.get_sigmas_polyexponential,
        "discrete": lambda n, *_: model.get_sigmas(n),
    }
    torch.set_default_dtype(torch.float64)
    for schedule, function in functions.items():
        for steps in STEPS:
            sigmas = function(steps, lo, hi)
            timesteps = model.sigma_to_t(sigmas[:-1])
            yield case(
                arrays, sigmas, timesteps, SD, sampler="euler", steps=steps, sigma_schedule=schedule, profile="a1111"
            )
    torch.set_default_dtype(torch.float32)


def beta_quantiles():
    shares = [1e-9, 1e-4, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.95, 0.999, 1 - 1e-6]
    for a, b in [(0.6, 0.6), (0.5, 0.5), (1.0, 1.0), (2.0, 5.0), (5.0, 0.7), (0.3, 4.0)]:
        for p in shares:
            yield [p, a, b, float(scipy.stats.beta.ppf(p, a, b))]


def make(out_dir):
    out, arrays = Path(out_dir), Arrays()
    grids = [
        each
        for source in (
            from_diffusers, flows_from_diffusers, edm_from_diffusers, from_k_diffusion, from_definitions, a1111_timesteps,
        )
        for each in source(arrays)
    ]  # fmt: skip
    parts = {"forward": list(forward(arrays)), "grids": grids, "beta_quantiles": list(beta_quantiles())}
    text = ",\n".join(
        f"{json.dumps(key)}: [\n" + ",\n".join(map(json.dumps, value)) + "\n]" for key, value in parts.items()
    )
    (out / "schedules.json").write_text("{\n" + text + "\n}\n")
    save_file(dict(arrays), out / "schedules.safetensors")
