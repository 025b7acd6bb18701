"""Trajectories of the samplers over sigma on the analytic mixture: from k-diffusion and from diffusers' step(), and in
naive float64 where neither has the method.
"""

import contextlib
import importlib

import diffusers
import torch

from k_diffusion_sampling import k_sampling as k
from mixture import STEPS, Fixture, denoised, noise, prediction

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_SIGMAS = (0.0291675, 14.614642)
VE_TYPES = ["epsilon", "v_prediction", "sample", "edm_v_prediction"]
VP_TYPES = VE_TYPES[:3]
FLOW_TYPES = ["flow_prediction"]
CHURN = {"s_churn": 6.0, "s_tmin": 0.05, "s_tmax": 8.0, "s_noise": 1.007}
# How far the data lie apart without the prompt.
SHIFT = 0.3


def karras(steps):
    return k.get_sigmas_karras(steps, *SD_SIGMAS).double()


def karras_from_4096(steps):
    """From where rescale_betas_zero_snr makes diffusers begin. An epsilon model's answer says nothing of x0 there."""
    return k.get_sigmas_karras(steps, SD_SIGMAS[0], 4096.0).double()


def linear(steps):
    """A flow's levels, but for the very first, where no signal is left."""
    return torch.linspace(0.98, 0, steps + 1).double()


GRIDS = ((VE_TYPES, karras), (FLOW_TYPES, linear))
MUCH_NOISE = ((["v_prediction", "sample", "edm_v_prediction"], karras_from_4096),)


class Model:
    """The mixture's denoiser as k-diffusion calls it. Writes down the noise-to-signal ratios it is asked at."""

    def __init__(self, flow):
        self.flow, self.asked = flow, []

    def alpha(self, sigma):
        return 1 - sigma if self.flow else torch.ones_like(sigma)

    def __call__(self, x, sigma, shift=0.0):
        sigma = torch.as_tensor(sigma, dtype=torch.float64).flatten()[0]
        alpha = self.alpha(sigma)
        self.asked.append(float(sigma / alpha))
        return denoised(x - alpha * shift, alpha, sigma) + shift


class Noise:
    """Hands out draws, and keeps those it has handed out."""

    def __init__(self, seed=2):
        self.left, self.used = list(noise(seed, 120)), []

    def __call__(self, *_, **__):
        self.used.append(self.left.pop(0))
        return self.used[-1]

    def draws(self):
        return torch.stack(self.used) if self.used else None


@contextlib.contextmanager
def patched(module, name, value):
    """A module's name means something else for a while. Nothing happens to a module that does not know it."""
    before = getattr(module, name, None)
    if before is not None:
        setattr(module, name, value)
    yield
    if before is not None:
        setattr(module, name, before)


def start_at(sigma):
    return noise(1, 1)[0] * sigma


def k_diffusion(fixture, sampler, function, options={}, grids=GRIDS, **keywords):
    """k-diffusion's own function over the caller's sigmas."""
    for steps in STEPS:
        for types, grid in grids:
            sigmas, model, draws = grid(steps), Model(types is FLOW_TYPES), Noise()
            start = start_at(sigmas[0])
            with patched(torch, "randn_like", draws):
                latents = function(model, start, sigmas, disable=True, **keywords)
            used = draws.draws()
            if keywords.get("s_churn"):
                # It draws at every step, needed or not. So does A1111; others do not.
                if options.get("profile") != "a1111":
                    needed = [keywords["s_tmin"] <= sigma <= keywords["s_tmax"] for sigma in sigmas[:-1]]
                    used = used[torch.tensor(needed)]
            elif function in (k.sample_euler, k.sample_heun, k.sample_dpm_2):
                used = None
            options_ = {"steps": steps, "sigmas": sigmas.tolist(), **options}
            fixture.add(sampler, options_, types, start, latents, draws=used, sigmas=model.asked)


def schedulers_step(
    fixture, sampler, name, options={}, spacings=("linspace", "leading", "trailing"), churn=None, config={}
):
    """diffusers' own class over its own timesteps; every prediction type that it knows gives the same."""
    cls = getattr(diffusers, name)
    module = importlib.import_module(cls.__module__)
    for steps in STEPS:
        spacing = spacings[STEPS.index(steps) % len(spacings)]
        results = []
        for prediction_type in ("epsilon",) if churn else ("epsilon", "v_prediction"):
            scheduler = cls(**SD, timestep_spacing=spacing, steps_offset=1, prediction_type=prediction_type, **config)
            scheduler.set_timesteps(steps)
            draws, timesteps, sigmas = Noise(), [], []
            x = start = start_at(float(scheduler.sigmas[0]))
            with patched(module, "randn_tensor", draws):
                for timestep in scheduler.timesteps:
                    scaled = scheduler.scale_model_input(x, timestep)
                    first_order = getattr(scheduler, "state_in_first_order", True)
                    table = scheduler.sigmas if first_order or "KDPM2" not in name else scheduler.sigmas_interpol
                    index = scheduler.step_index
                    if name == "KDPM2AncestralDiscreteScheduler" and not first_order:
                        index -= 1
                    sigma, timestep_asked, given = float(table[index]), float(timestep), {}
                    if churn:
                        # step() adds churn to x, but the model must have been asked about what it makes.
                        gamma = min(churn["s_churn"] / steps, 2**0.5 - 1)
                        if churn["s_tmin"] <= sigma <= churn["s_tmax"]:
                            eps = draws.left[0] * churn["s_noise"]
                            raised = sigma * (1 + gamma)
                            scaled = x + eps * (raised**2 - sigma**2) ** 0.5
                            scaled, sigma = scaled / (raised**2 + 1) ** 0.5, raised
                            log_sigmas = 0.5 * (1 / scheduler.alphas_cumprod - 1).log().numpy()
                            timestep_asked = float(scheduler._sigma_to_t(torch.tensor(sigma).numpy(), log_sigmas))
                        given = churn
                    alpha = (1 + sigma**2) ** -0.5
                    timesteps.append(timestep_asked)
                    sigmas.append(sigma)
                    output = prediction(prediction_type, scaled, alpha, sigma * alpha)
                    x = scheduler.step(output, timestep, x, **given).prev_sample
            results.append(x)
        for other in results[1:]:
            torch.testing.assert_close(results[0], other, rtol=1e-4, atol=1e-5)
        used = draws.draws()
        if name == "EulerAncestralDiscreteScheduler":
            # The last step's has no weight.
            used = used[:-1]
        if name == "KDPM2AncestralDiscreteScheduler":
            assert len(used) == steps - 1
        options_ = {"steps": steps, "spacing": spacing, **options}
        fixture.add(
            sampler, options_, VP_TYPES, start, results[0], draws=used, timesteps=timesteps, sigmas=sigmas,
            config={"steps_offset": 1, **config},
        )


def naive(fixture, sampler, method, options={}, grids=GRIDS, **keys):
    """A method of this file: method(x, sigmas, model, noise, options) -> latents."""
    for steps in STEPS:
        for types, grid in grids:
            sigmas, model, draws = grid(steps), Model(types is FLOW_TYPES), Noise()
            start = start_at(sigmas[0])
            latents = method(start, sigmas, model, draws, options)
            options_ = {"steps": steps, "sigmas": sigmas.tolist(), **options}
            fixture.add(
                sampler, options_, types, start, latents, draws=draws.draws(), sigmas=model.asked, **keys
            )


def direction(x, sigma, original):
    """dx/dsigma, of a flow, too."""
    return (x - original) / sigma


def churned_heun(x, sigmas, model, draw, options):
    """Algorithm 2 of Karras et al. (2022) for a flow: churn in x/alpha, whose noise-to-signal ratio is their sigma."""
    for sigma, following in zip(sigmas, sigmas[1:]):
        ratio = sigma / model.alpha(sigma)
        if options["s_tmin"] <= ratio <= options["s_tmax"]:
            raised = ratio * (1 + min(options["s_churn"] / (len(sigmas) - 1), 2**0.5 - 1))
            y = x / model.alpha(sigma) + options["s_noise"] * (raised**2 - ratio**2) ** 0.5 * draw()
            sigma = raised / (1 + raised)
            x = y * model.alpha(sigma)
        x = heun_step(x, sigma, following, model)
    return x


def heun_step(x, sigma, following, model):
    d = direction(x, sigma, model(x, sigma))
    euler = x + (following - sigma) * d
    if following == 0:
        return euler
    return x + (following - sigma) * (d + direction(euler, following, model(euler, following))) / 2


def dpm2_ancestral_flow(x, sigmas, model, draw, options):
    """A midpoint step down to sigma_down, then x shrinks to its signal at the step's end and the rest is noise."""
    for sigma, following in zip(sigmas, sigmas[1:]):
        down = following * (1 + (following / sigma - 1) * options.get("eta", 1.0))
        d = direction(x, sigma, model(x, sigma))
        if down == 0:
            x = x + (down - sigma) * d
            continue
        middle = (sigma * down) ** 0.5
        half = x + (middle - sigma) * d
        x = x + (down - sigma) * direction(half, middle, model(half, middle))
        shrink = (1 - following) / (1 - down)
        x = shrink * x + (following**2 - (shrink * down) ** 2) ** 0.5 * draw()
    return x


def cfg_pp(x, sigmas, model, draw, options):
    """Algorithm 2 of Chung et al. (2024) in its own terms: sqrt(a') x0 + sqrt(1 - a') eps of no prompt."""
    for sigma, following in zip(sigmas, sigmas[1:]):
        original = model(x, sigma)
        without = model(x, sigma, shift=SHIFT)
        model.asked.pop()
        alpha, alpha_following = model.alpha(sigma), model.alpha(following)
        epsilon = (x - alpha * without) / sigma
        # To the scale in which squares add up to one, and back.
        scale = (alpha_following**2 + following**2) ** 0.5
        a = (alpha_following / scale) ** 2
        x = scale * (a**0.5 * original + (1 - a) ** 0.5 * epsilon)
    return x


ADAMS_BASHFORTH = ([1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])


def ipndm(x, sigmas, model, draw, options):
    ds = []
    for sigma, following in zip(sigmas, sigmas[1:]):
        original = model(x, sigma)
        ds = [direction(x, sigma, original), *ds][:4]
        d = sum(weight * d for weight, d in zip(ADAMS_BASHFORTH[len(ds) - 1], ds))
        x = x + (following - sigma) * d
        if following == 0 and options.get("profile") == "comfyui":
            x = original
    return x


def lms_comfyui(x, sigmas, model, draw, options):
    """k-diffusion's function up to the last step, which is the predicted x0."""
    x = k.sample_lms(model, x, sigmas[:-1], disable=True)
    return model(x, sigmas[-2])


def gradient_estimation(x, sigmas, model, draw, options):
    last = None
    for sigma, following in zip(sigmas, sigmas[1:]):
        original = model(x, sigma)
        d = direction(x, sigma, original)
        lean = d if last is None else 2 * d - last
        x = original if following == 0 else x + (following - sigma) * lean
        last = d
    return x


def restart(x, sigmas, model, draw, options):
    """Algorithm 1 of Xu et al. (2023) with A1111's choices."""
    steps = len(sigmas) - 1
    length, times = (0, 0) if steps < 20 else (9, 1) if steps < 36 else (steps // 4, 2)
    if times:
        way = k.get_sigmas_karras(steps - length * times, float(sigmas[-2]), float(sigmas[0])).double()
    else:
        way = sigmas
    # Between noise-to-signal ratios of 0.1 and 2.
    low, high = (0.1 / 1.1, 2 / 3) if model.flow else (0.1, 2)
    low, high = (int((way - level).abs().argmin()) for level in (low, high))
    for i in range(len(way) - 1):
        x = heun_step(x, way[i], way[i + 1], model)
        if i + 1 == low and times:
            for _ in range(times):
                shrink = model.alpha(way[high]) / model.alpha(way[low])
                x = shrink * x + (way[high] ** 2 - (shrink * way[low]) ** 2) ** 0.5 * draw()
                again = k.get_sigmas_karras(length + 1, float(way[low]), float(way[high])).double()[:-1]
                for sigma, following in zip(again, again[1:]):
                    x = heun_step(x, sigma, following, model)
    return x


def ltx_euler_ancestral(fixture):
    """diffusers' own class for flow models."""
    cls = diffusers.LTXEulerAncestralRFScheduler
    module = importlib.import_module(cls.__module__)
    for steps, eta in zip(STEPS, (1.0, 0.5, 1.0, 0.3)):
        scheduler, draws, model = cls(eta=eta), Noise(), Model(True)
        scheduler.set_timesteps(sigmas=linear(steps))
        x = start = start_at(float(scheduler.sigmas[0]))
        with patched(module, "randn_tensor", draws):
            for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1].double()):
                velocity = direction(x, sigma, model(x, sigma))
                x = scheduler.step(velocity, timestep, x).prev_sample
        options = {"steps": steps, "eta": eta, "sigmas": linear(steps).tolist()}
        timesteps = scheduler.timesteps[:-1]
        fixture.add(
            "euler_ancestral", options, FLOW_TYPES, start, x, draws=draws.draws(), sigmas=model.asked,
            timesteps=timesteps,
        )


def diffusers_ipndm(fixture):
    """diffusers' step() with the levels of Stable Diffusion for its own."""
    for steps in STEPS:
        sigmas, model = karras(steps), Model(False)
        scheduler = diffusers.IPNDMScheduler()
        scheduler.set_timesteps(steps)
        alphas = (1 + sigmas**2) ** -0.5
        scheduler.alphas, scheduler.betas = alphas, sigmas * alphas
        start = start_at(sigmas[0])
        x = start * alphas[0]
        for i, timestep in enumerate(scheduler.timesteps):
            model.asked.append(float(sigmas[i]))
            velocity = prediction("v_prediction", x, scheduler.alphas[i], scheduler.betas[i])
            x = scheduler.step(velocity, timestep, x).prev_sample
        fixture.add("ipndm", {"steps": steps, "sigmas": sigmas.tolist()}, VE_TYPES, start, x, sigmas=model.asked)


def make(out_dir):
    ve, flow = GRIDS[:1], GRIDS[1:]

    fixture = Fixture("euler")
    k_diffusion(fixture, "euler", k.sample_euler, grids=GRIDS + MUCH_NOISE)
    k_diffusion(fixture, "euler", k.sample_euler, CHURN, ve, **CHURN)
    k_diffusion(fixture, "euler", k.sample_euler, {**CHURN, "profile": "a1111"}, ve, **CHURN)
    schedulers_step(fixture, "euler", "EulerDiscreteScheduler")
    schedulers_step(fixture, "euler", "EulerDiscreteScheduler", CHURN, churn=CHURN)
    for eta, s_noise in ((1.0, 1.0), (0.6, 1.01)):
        options = {"eta": eta, "s_noise": s_noise}
        k_diffusion(fixture, "euler_ancestral", k.sample_euler_ancestral, options, ve, **options)
    k_diffusion(fixture, "euler_ancestral", k.sample_euler_ancestral, grids=MUCH_NOISE)
    schedulers_step(fixture, "euler_ancestral", "EulerAncestralDiscreteScheduler")
    ltx_euler_ancestral(fixture)
    naive(fixture, "euler_cfg_pp", cfg_pp, grids=GRIDS + MUCH_NOISE, unconditional=SHIFT)
    fixture.save(out_dir)

    fixture = Fixture("heun")
    k_diffusion(fixture, "heun", k.sample_heun, grids=GRIDS + MUCH_NOISE)
    k_diffusion(fixture, "heun", k.sample_heun, CHURN, ve, **CHURN)
    naive(fixture, "heun", churned_heun, CHURN, flow)
    schedulers_step(fixture, "heun", "HeunDiscreteScheduler")
    schedulers_step(fixture, "heun", "HeunDiscreteScheduler", config={"clip_sample": True, "clip_sample_range": 0.8})
    fixture.save(out_dir)

    fixture = Fixture("dpm2")
    k_diffusion(fixture, "dpm2", k.sample_dpm_2, grids=GRIDS + MUCH_NOISE)
    k_diffusion(fixture, "dpm2", k.sample_dpm_2, CHURN, ve, **CHURN)
    schedulers_step(fixture, "dpm2", "KDPM2DiscreteScheduler")
    for eta in (1.0, 0.6):
        k_diffusion(fixture, "dpm2_ancestral", k.sample_dpm_2_ancestral, {"eta": eta}, ve, eta=eta)
        naive(fixture, "dpm2_ancestral", dpm2_ancestral_flow, {"eta": eta}, flow)
    k_diffusion(fixture, "dpm2_ancestral", k.sample_dpm_2_ancestral, grids=MUCH_NOISE)
    schedulers_step(fixture, "dpm2_ancestral", "KDPM2AncestralDiscreteScheduler")
    fixture.save(out_dir)

    fixture = Fixture("lms")
    k_diffusion(fixture, "lms", k.sample_lms, grids=GRIDS + MUCH_NOISE)
    schedulers_step(fixture, "lms", "LMSDiscreteScheduler")
    naive(fixture, "lms", lms_comfyui, {"profile": "comfyui"}, ve)
    fixture.save(out_dir)

    fixture = Fixture("ipndm")
    diffusers_ipndm(fixture)
    naive(fixture, "ipndm", ipndm, {}, flow)
    naive(fixture, "ipndm", ipndm, {"profile": "comfyui"}, ve + MUCH_NOISE)
    fixture.save(out_dir)

    fixture = Fixture("gradient_estimation")
    naive(fixture, "gradient_estimation", gradient_estimation, grids=GRIDS + MUCH_NOISE)
    fixture.save(out_dir)

    fixture = Fixture("restart")
    naive(fixture, "restart", restart, grids=GRIDS + MUCH_NOISE)
    fixture.save(out_dir)
