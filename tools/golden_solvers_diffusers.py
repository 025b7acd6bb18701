"""Trajectories of the samplers that diffusers defines, from its schedulers' own step(), on the analytic mixture.

The schedulers keep their tables in float32; here they are widened, so that what follows from them is float64. Where a
class lacks a prediction type, its numbers for epsilon stand for it: a perfect model of any type gives the same latents.
Where a class cannot walk a schedule (flows, EDM's levels), it is given a table of that schedule's levels, or a few
lines below say the paper's formula in float64.
"""

import itertools
import math

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    PNDMScheduler,
    SASolverScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_lcm, scheduling_sasolver, scheduling_tcd

from mixture import STEPS, Fixture, denoised, noise, prediction

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SPACINGS = ["leading", "linspace", "trailing"]
VP_TYPES = ["epsilon", "v_prediction", "sample"]
SHAPE = (2, 2, 2, 2)  # thresholding wants images with channels
THRESHOLDS = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.35}


class Injected:
    """Stands in for diffusers' randn_tensor; remembers what it gave."""

    def __init__(self, seed):
        self.stream, self.draws = iter(noise(seed, 64)), []

    def __call__(self, shape, **_):
        self.draws.append(next(self.stream))
        return self.draws[-1].reshape(shape)


def inject(seed):
    injected = Injected(seed)
    for module in (scheduling_ddim, scheduling_ddpm, scheduling_lcm, scheduling_sasolver, scheduling_tcd):
        module.randn_tensor = injected
    return injected


def widen(s):
    """The scheduler's tables in float64."""
    for name in ("alphas_cumprod", "final_alpha_cumprod", "sigmas", "one"):
        if hasattr(s, name):
            setattr(s, name, getattr(s, name).double())
    return s


def scheduler(cls, config, steps, **changes):
    s = cls.from_config({**SD, **config, **changes})
    s.set_timesteps(steps)
    return widen(s)


def variance(x):
    """What the test's model of learned variance says behind its prediction, of x of unit variance."""
    return 0.5 + 0.4 * torch.sin(3 * x)


def walk(s, prediction_type, x, first=0, by_sigma=False, learned=False, **extra):
    """Every step of a scheduler from the `first`; the latents and the noise-to-signal ratios of the evaluations."""
    ratios = []
    if first and hasattr(s, "set_begin_index"):
        s.set_begin_index(first)
    for i, t in enumerate(s.timesteps[first:], first):
        if by_sigma:
            alpha, sigma = s._sigma_to_alpha_sigma_t(s.sigmas[i])
        else:
            alpha, sigma = s.alphas_cumprod[t].sqrt(), (1 - s.alphas_cumprod[t]).sqrt()
        ratios.append(float(sigma / alpha))
        answer = prediction(prediction_type, x, alpha, sigma)
        if learned:
            answer = torch.cat([answer, variance(x)], dim=1)
        x = s.step(answer, t, x, **extra).prev_sample
    return x, ratios


def flat(x):
    return x.reshape(2, -1)


def spaced(fixture, name, cls, steps, spacing, config={}, types=VP_TYPES, options={}, prepare=None, first=0, **how):
    """One trajectory of the class's own schedule, the same for all `types`."""
    injected, results = None, []
    changes = {"timestep_spacing": spacing} if spacing else {}
    for prediction_type in types:
        # See the head of this file.
        known = "epsilon" if cls is PNDMScheduler and prediction_type == "sample" else prediction_type
        s = scheduler(cls, config, steps, prediction_type=known, **changes)
        if prepare:
            prepare(s)
        injected = inject(steps)
        start = noise(steps + 100, 1)[0].reshape(SHAPE)
        results.append(walk(s, known, start, first, **how))
    for latents, _ in results[1:]:
        assert torch.linalg.norm(latents - results[0][0]) < 1e-9 * torch.linalg.norm(latents), (name, config, spacing)
    latents, ratios = results[0]
    fixture.add(
        name,
        {"steps": steps, **({"spacing": spacing} if spacing else {}), **options},
        types,
        flat(start),
        flat(latents),
        draws=torch.stack(injected.draws) if injected.draws else None,
        timesteps=s.timesteps[first:].double(),
        sigmas=ratios if all(map(math.isfinite, ratios)) else None,
        config={**SD, **config},
    )


def image_to_image(fixture, name, cls, config={}, spacing="leading", **how):
    """The end of a schedule: a solver's memory starts where the schedule is cut."""
    spaced(fixture, name, cls, 10, spacing, config, options={"strength": 0.65}, first=4, **how)


def given_timesteps(fixture, name, cls, config={}, **how):
    timesteps = [990, 700, 259, 50]
    spaced(
        fixture, name, cls, len(timesteps), None, config, options={"timesteps": timesteps},
        prepare=lambda s: s.set_timesteps(timesteps=timesteps), **how,
    )


def every_type(fixture, name, run, config={}):
    """The same levels of x0 + sigma·noise for every type that is not a flow's."""
    sigmas = edm_sigmas(10, first=12.0)
    on_levels(fixture, name, "edm", sigmas, run, {"profile": "comfyui"}, config, VP_TYPES + ["edm_v_prediction"])


# Levels that no table has: of a flow (its sigma), and of an EDM model (noise to signal). In float32, which JSON keeps.
def flow_sigmas(steps, first=0.98, last=0.0):
    sigmas = torch.linspace(first, 0.01, steps)
    return torch.cat([(1.8 * sigmas / (1 + 0.8 * sigmas)), torch.tensor([last])]).double()


def edm_sigmas(steps, first=60.0, last=0.0):
    ramp = torch.linspace(first ** (1 / 7), 0.01 ** (1 / 7), steps) ** 7
    return torch.cat([ramp, torch.tensor([last])]).double()


def levels(kind, sigmas):
    """alpha and sigma where x = alpha·x0 + sigma·noise."""
    return ((1 - sigmas) if kind == "flow" else torch.ones_like(sigmas)), sigmas


KINDS = {"flow": (flow_sigmas, ["flow_prediction"]), "edm": (edm_sigmas, ["edm_v_prediction"])}


def on_levels(fixture, name, kind, sigmas, run, options={}, config={}, types=None):
    """One trajectory on explicit levels. `run(alphas, sigmas, x)` takes x there to its latents and the ratios asked."""
    alphas, sigmas = levels(kind, sigmas)
    steps = len(sigmas) - 1
    injected = inject(steps)
    start = (alphas[0] * 0.2 + sigmas[0] * noise(steps + 200, 1)[0]).reshape(SHAPE)
    latents, ratios = run(alphas, sigmas, start)
    fixture.add(
        name,
        {"steps": steps, "sigmas": sigmas.tolist(), **options},
        types or KINDS[kind][1],
        flat(start),
        flat(latents),
        draws=torch.stack(injected.draws) if injected.draws else None,
        sigmas=ratios,
        config={**SD, **config},
    )


def by_sigma(cls, config={}, tau=None, tiny=None):
    """Runs a multistep class on the given levels, in variance-preserving coordinates unless they are a flow's.

    tiny: stands for a last sigma of 0, where the class has 0·∞.
    """

    def run(alphas, sigmas, x):
        flow = bool(alphas[0] != 1)
        known = "flow_prediction" if flow else "epsilon"
        s = scheduler(cls, config, len(sigmas) - 1, use_flow_sigmas=flow, prediction_type=known)
        if tau:
            s.tau_func = lambda t: tau(float(sigmas[int(t)]))
        s.sigmas = sigmas.clone()
        if tiny and sigmas[-1] == 0:
            s.sigmas[-1] = tiny
        # For the class a timestep is but a name, and an int.
        s.timesteps = torch.arange(len(sigmas) - 1)
        norm = torch.ones_like(sigmas) if flow else torch.hypot(torch.ones_like(sigmas), sigmas)
        x, ratios = walk(s, known, x / norm[0], by_sigma=True)
        return x * norm[-1], ratios

    return run


def by_table(cls, config={}, learned=False, **extra):
    """Runs a class on a table that has a row for each of the levels, in variance-preserving coordinates."""

    def run(alphas, sigmas, x):
        steps = len(sigmas) - 1
        norm = torch.hypot(alphas, sigmas)
        s = cls.from_config({"trained_betas": [0.1] * steps, "num_train_timesteps": steps, "clip_sample": False, **config})
        s.set_timesteps(steps)
        assert s.timesteps.tolist() == list(range(steps))[::-1]
        # The last level is where the class ends, alpha 1.
        assert sigmas[-1] == 0
        s.alphas_cumprod = ((alphas / norm) ** 2)[:-1].flip(0)
        x, ratios = walk(widen(s), "epsilon", x / norm[0], learned=learned, **extra)
        return x, ratios

    return run


def epsilon_at(x, alpha, sigma, ratios):
    ratios.append(float(sigma / alpha))
    return (x - alpha * denoised(x, alpha, sigma)) / sigma


def naive_pndm(warm_up):
    """Liu et al. 2022: f is the direction of the prediction, phi goes along it. In epsilon, or a flow's velocity."""

    def run(alphas, sigmas, x):
        flow, ratios, past = bool(alphas[0] != 1), [], []

        def f(x, sigma):
            alpha = 1 - sigma if flow else torch.ones_like(sigma)
            e = epsilon_at(x, alpha, sigma, ratios)
            return e - denoised(x, alpha, sigma) if flow else e

        def phi(x, direction, sigma, to):
            # d(x)/d(sigma) = epsilon for x = x0 + sigma·noise; = noise - x0 for a flow
            return x + (to - sigma) * direction

        for i in range(len(sigmas) - 1):
            s, to = sigmas[i], sigmas[i + 1]
            e = f(x, s)
            past.append(e)
            if i < min(3, len(sigmas) - 2) and warm_up == "runge-kutta":
                half = (s + to) / 2 if flow else (s * to).sqrt()
                e2 = f(phi(x, e, s, half), half)
                e3 = f(phi(x, e2, s, half), half)
                e4 = f(phi(x, e3, s, to), to)
                e = (e + 2 * e2 + 2 * e3 + e4) / 6
            elif i == 0 and len(sigmas) > 2:
                e = (e + f(phi(x, e, s, to), to)) / 2
            elif len(past) == 2:
                e = (3 * past[-1] - past[-2]) / 2
            elif len(past) == 3:
                e = (23 * past[-1] - 16 * past[-2] + 5 * past[-3]) / 12
            elif len(past) > 3:
                e = (55 * past[-1] - 59 * past[-2] + 37 * past[-3] - 9 * past[-4]) / 24
            x = phi(x, e, s, to)
        return x, ratios

    return run


def naive_lcm(alphas, sigmas, x):
    """x0, and noise again: LCM without boundary conditions (FlowMatchLCMScheduler's, k-diffusion's sample_lcm)."""
    ratios = []
    for i in range(len(sigmas) - 1):
        e = epsilon_at(x, alphas[i], sigmas[i], ratios)
        x = (x - sigmas[i] * e) / alphas[i]
        if i + 2 < len(sigmas):
            x = alphas[i + 1] * x + sigmas[i + 1] * scheduling_lcm.randn_tensor(x.shape)
    return x, ratios


def naive_tcd(gamma):
    """Zheng et al. 2024, algorithm 4, with s = (1 - gamma)·t counted in sigma."""

    def run(alphas, sigmas, x):
        flow, ratios = bool(alphas[0] != 1), []
        for i in range(len(sigmas) - 1):
            e = epsilon_at(x, alphas[i], sigmas[i], ratios)
            x0 = (x - sigmas[i] * e) / alphas[i]
            s = (1 - gamma) * sigmas[i + 1]
            alpha_s = 1 - s if flow else 1.0
            x = alpha_s * x0 + s * e
            if i + 2 < len(sigmas) and gamma > 0:
                ratio = alphas[i + 1] / alpha_s
                fresh = (sigmas[i + 1] ** 2 - (ratio * s) ** 2).sqrt()
                x = ratio * x + fresh * scheduling_tcd.randn_tensor(x.shape)
        return x, ratios

    return run


def ddim(fixture):
    clip_off = {"clip_sample": False, "set_alpha_to_one": False}
    for steps, spacing in itertools.product(STEPS, SPACINGS):
        spaced(fixture, "ddim", DDIMScheduler, steps, spacing, clip_off)
    for eta in (0.0, 0.7):
        config = {**clip_off, **THRESHOLDS}
        spaced(fixture, "ddim", DDIMScheduler, 10, "trailing", config, options={"eta": eta}, eta=eta)
    zero = {**clip_off, "rescale_betas_zero_snr": True}
    for steps in (1, 10):
        spaced(fixture, "ddim", DDIMScheduler, steps, "trailing", zero, types=["v_prediction"])
    image_to_image(fixture, "ddim", DDIMScheduler, clip_off)
    every_type(fixture, "ddim", by_table(DDIMScheduler), {"clip_sample": False})
    for steps, kind in itertools.product(STEPS, KINDS):
        eta = 0.4 if steps == 10 else 0.0
        on_levels(
            fixture, "ddim", kind, KINDS[kind][0](steps), by_table(DDIMScheduler, eta=eta), {"eta": eta}, {"clip_sample": False}
        )


def ddpm(fixture):
    clip_off = {"clip_sample": False}
    for steps, spacing in itertools.product(STEPS, SPACINGS):
        spaced(fixture, "ddpm", DDPMScheduler, steps, spacing, clip_off)
    for variance_type in ("fixed_large", "learned", "learned_range"):
        config = {**clip_off, "variance_type": variance_type}
        learned = variance_type != "fixed_large"
        for spacing in SPACINGS:
            spaced(fixture, "ddpm", DDPMScheduler, 10, spacing, config, learned=learned)
        for kind in KINDS:
            run = by_table(DDPMScheduler, {"variance_type": variance_type}, learned)
            on_levels(fixture, "ddpm", kind, KINDS[kind][0](10), run, config=config)
    # The noise of the step to timestep 0 and none after it: one step and no variance to use.
    spaced(fixture, "ddpm", DDPMScheduler, 1, "leading", {**clip_off, "steps_offset": 0, "variance_type": "learned"}, learned=True)
    spaced(fixture, "ddpm", DDPMScheduler, 10, "leading", THRESHOLDS)
    zero = {**clip_off, "rescale_betas_zero_snr": True}
    spaced(fixture, "ddpm", DDPMScheduler, 10, "trailing", zero, types=["v_prediction"])
    image_to_image(fixture, "ddpm", DDPMScheduler, clip_off)
    given_timesteps(fixture, "ddpm", DDPMScheduler, {**clip_off, "variance_type": "fixed_large"})
    every_type(fixture, "ddpm", by_table(DDPMScheduler), clip_off)
    for steps, kind in itertools.product(STEPS, KINDS):
        on_levels(fixture, "ddpm", kind, KINDS[kind][0](steps), by_table(DDPMScheduler), config=clip_off)


def pndm(fixture):
    for name, skip in (("pndm", False), ("plms", True)):
        config = {"skip_prk_steps": skip, "set_alpha_to_one": False}
        for steps, spacing in itertools.product(STEPS, SPACINGS):
            # diffusers sums v and makes epsilon of the sum: other numbers than with the sum of epsilon.
            for types in (["epsilon", "sample"], ["v_prediction"]):
                spaced(fixture, name, PNDMScheduler, steps, spacing, config, types=types)
        for steps in (1,) if skip else ():
            spaced(fixture, name, PNDMScheduler, steps, "leading", config)
        for steps, (kind, (sigmas, types)) in itertools.product([1, 2, 3, 4] + STEPS, KINDS.items()):
            run = naive_pndm("plms" if skip else "runge-kutta")
            on_levels(fixture, name, kind, sigmas(steps), run)
        every_type(fixture, name, naive_pndm("plms" if skip else "runge-kutta"))

    # diffusers cuts the list with the doubled timestep, so that PLMS goes on as if it had begun; here it begins anew.
    def cut(s):
        s.timesteps = torch.cat([s.timesteps[:1], s.timesteps[2:]])
        s.timesteps = torch.cat([s.timesteps[:6], s.timesteps[5:]])

    image_to_image(fixture, "plms", PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}, types=["epsilon"], prepare=cut)


def multistep(fixture, name, cls, config={}, orders=(1, 3), tiny=None, types=VP_TYPES):
    """Spacings, orders, thresholding, flows and EDM of a multistep class."""
    for steps, spacing in itertools.product(STEPS, SPACINGS):
        spaced(fixture, name, cls, steps, spacing, config, types=types, by_sigma=True)
    for steps, order in itertools.product((1, 2, 3, 10, 20), orders):
        spaced(fixture, name, cls, steps, "trailing", {**config, "solver_order": order}, types=types, by_sigma=True)
    spaced(fixture, name, cls, 10, "leading", {**config, **THRESHOLDS}, types=types, by_sigma=True)
    image_to_image(fixture, name, cls, {**config, "solver_order": 3}, types=types, by_sigma=True)
    every_type(fixture, name, by_sigma(cls, config, tiny=tiny), config)
    for steps, (kind, (sigmas, _)) in itertools.product(STEPS, KINDS.items()):
        on_levels(fixture, name, kind, sigmas(steps), by_sigma(cls, config, tiny=tiny), config=config)
    # A flow from pure noise, which diffusers starts at 1 - 1e-6.
    pure, almost = flow_sigmas(10, first=1.0), flow_sigmas(10, first=1.0)
    pure[0], almost[0] = 1.0, 1 - 1e-6
    on_levels(
        fixture, name, "flow", pure, lambda a, _, x: (by_sigma(cls, config, tiny=tiny)(1 - almost, almost, x)[0], None), config=config
    )


def standing_end(fixture, name, cls, configs):
    """Schedules that end above 0, where these classes take their last step from the last level to itself."""
    for config, steps, schedule in itertools.product(configs, STEPS, ("karras", "exponential")):
        spaced(fixture, name, cls, steps, None, {f"use_{schedule}_sigmas": True, **config}, by_sigma=True)


def dpmsolver(fixture):
    """DPM-Solver in epsilon, of the x0 that thresholding has left."""
    for steps, order in itertools.product(STEPS, (1, 2, 3)):
        config = {**THRESHOLDS, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": order}
        spaced(fixture, "dpmpp_2m", DPMSolverMultistepScheduler, steps, "leading", config, by_sigma=True)


def unipc(fixture):
    for name, solver_type in (("unipc_bh1", "bh1"), ("unipc_bh2", "bh2")):
        config, tiny = {"solver_type": solver_type}, None
        if solver_type == "bh1":
            # diffusers' bh1 has -inf·0 where a schedule ends at sigma 0.
            config["final_sigmas_type"], tiny = "sigma_min", 1e-14
        multistep(fixture, name, UniPCMultistepScheduler, config, tiny=tiny)
        full = {**config, "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}
        spaced(fixture, name, UniPCMultistepScheduler, 10, "linspace", full, by_sigma=True)
        own = scheduler(UniPCMultistepScheduler, config, 10, use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero").sigmas
        on_levels(fixture, name, "flow", own, by_sigma(UniPCMultistepScheduler, config, tiny=tiny), config=config)
        zero = {**config, "rescale_betas_zero_snr": True}
        spaced(fixture, name, UniPCMultistepScheduler, 10, "trailing", zero, types=["v_prediction"], by_sigma=True)


def deis(fixture):
    multistep(fixture, "deis", DEISMultistepScheduler, tiny=1e-14)
    # Fifteen steps and more keep their order to the end, sigma 0 here.
    for order in (2, 3):
        config = {"solver_order": order}
        on_levels(fixture, "deis", "edm", edm_sigmas(15), by_sigma(DEISMultistepScheduler, config, tiny=1e-14), config=config)
    standing_end(fixture, "deis", DEISMultistepScheduler, [{"solver_order": order} for order in (2, 3)])


def sa_solver(fixture):
    cls, tau = SASolverScheduler, lambda t: 1 if 200 <= t <= 800 else 0
    for steps, spacing in itertools.product(STEPS, SPACINGS):
        spaced(fixture, "sa_solver", cls, steps, spacing, by_sigma=True)
    for steps in (1, 2, 3):
        spaced(fixture, "sa_solver", cls, steps, "trailing", by_sigma=True)
    for predictor, corrector in ((1, 1), (3, 3), (4, 4), (2, 4), (3, 1)):
        config = {"predictor_order": predictor, "corrector_order": corrector}
        spaced(fixture, "sa_solver", cls, 10, "leading", config, by_sigma=True)
    config = {"predictor_order": 3, "corrector_order": 4, "lower_order_final": False}
    spaced(fixture, "sa_solver", cls, 10, "leading", config, by_sigma=True)
    spaced(fixture, "sa_solver", cls, 10, "leading", THRESHOLDS, by_sigma=True)
    standing_end(fixture, "sa_solver", cls, [{}, {"predictor_order": 3, "corrector_order": 3}])
    image_to_image(fixture, "sa_solver", cls, by_sigma=True)
    for steps, kind in itertools.product(STEPS, KINDS):
        noisy = {"flow": lambda s: tau(int(1000 * s)), "edm": lambda s: 1 if 0.05 <= s <= 1 else 0}[kind]
        on_levels(fixture, "sa_solver", kind, KINDS[kind][0](steps), by_sigma(cls, tau=noisy, tiny=1e-14))
    # eta scales the noise: 0 makes it an ODE solver.
    for eta in (0.0, 0.5):
        noisy = lambda s: eta * tau(int(1000 * s))
        sigmas = flow_sigmas(10)
        sigmas[3] = 0.8005  # timestep 800, where there is noise still
        on_levels(fixture, "sa_solver", "flow", sigmas, by_sigma(cls, tau=noisy, tiny=1e-14), {"eta": eta})


def consistency(fixture):
    for name, cls, extra in (("lcm", LCMScheduler, {}), ("tcd", TCDScheduler, {"eta": 0.3})):
        for steps in STEPS + [1, 2, 4, 7]:
            spaced(fixture, name, cls, steps, None, {"set_alpha_to_one": False}, **extra)
        spaced(fixture, name, cls, 7, None, {"original_inference_steps": 30, "timestep_scaling": 0.01}, **extra)
        zero = {"rescale_betas_zero_snr": True}
        for steps in (1, 4):
            spaced(fixture, name, cls, steps, None, zero, types=["v_prediction"], **extra)
        image_to_image(fixture, name, cls, spacing=None, **extra)
        given_timesteps(fixture, name, cls, **extra)
    every_type(fixture, "lcm", naive_lcm)
    spaced(fixture, "lcm", LCMScheduler, 4, None, THRESHOLDS)
    spaced(fixture, "lcm", LCMScheduler, 4, None, {"clip_sample": True})
    for eta in (0.0, 1.0):
        spaced(fixture, "tcd", TCDScheduler, 4, None, options={"eta": eta}, eta=eta)
    for steps, (kind, (sigmas, _)) in itertools.product([1] + STEPS, KINDS.items()):
        on_levels(fixture, "lcm", kind, sigmas(steps), naive_lcm)
        on_levels(fixture, "tcd", kind, sigmas(steps), naive_tcd(0.3))


def make(out_dir):
    for family in (ddim, ddpm, pndm, dpmsolver, unipc, deis, sa_solver, consistency):
        fixture = Fixture(family.__name__)
        family(fixture)
        fixture.save(out_dir)
