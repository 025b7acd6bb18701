"""Trajectories of the DPM solvers, the SDE ones, ER-SDE and RES on the analytic mixture.

From k-diffusion over x = x₀ + σ·ε, from diffusers in the model's own coordinates on its own schedules, and, where
neither has the sampler, from the published formulas. A flow's path is another scale of the same: x/α moves over the
noise-to-signal ratio ρ = σ/α as k-diffusion's x does over σ.
"""

import math

import diffusers
import torch

from k_diffusion_sampling import k_sampling as k
from mixture import STEPS, Fixture, denoised, noise, prediction

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_SIGMAS = (0.0291675, 14.614642)
VE_TYPES = ["epsilon", "v_prediction", "sample", "edm_v_prediction"]
VP_TYPES = ["epsilon", "v_prediction", "sample"]
FLOW_TYPES = ["flow_prediction"]


def grids(steps):
    """Prediction types, their sigmas and the mix of x at each noise-to-signal ratio."""
    karras = k.get_sigmas_karras(steps, *SD_SIGMAS).double()
    # A schedule that does not reach 0 must keep its order to the last step.
    yield VE_TYPES, karras[:-1] if steps == 10 else karras, lambda ratio: (1.0, ratio)
    flow = torch.linspace(0.98, 0, steps + 1).double()
    yield FLOW_TYPES, flow, lambda ratio: (1 / (1 + ratio), ratio / (1 + ratio))


class Draws:
    """Takes the place of a noise sampler and writes down what it gave."""

    def __init__(self):
        self.pool, self.given = iter(noise(2, 128)), []

    def __call__(self, *_, **__):
        self.given.append(next(self.pool))
        return self.given[-1]


def k_diffusion(fixture, sampler, sample, **options):
    """Cases of a sampler of k-diffusion: `sample(model, x, sigmas, draws)`."""
    for steps in STEPS:
        for types, sigmas, mix in grids(steps):
            flow = types == FLOW_TYPES
            ratios = sigmas / (1 - sigmas) if flow else sigmas
            start = noise(1, 1)[0] * sigmas[0]
            asked, draws = [], Draws()

            def model(x, ratio, **_):
                asked.append(float(ratio[0]))
                alpha, sigma = mix(ratio[0])
                return denoised(x * alpha, alpha, sigma)

            latents = sample(model, start / mix(ratios[0])[0], ratios, draws) * mix(ratios[-1])[0]
            fixture.add(
                sampler,
                {"steps": len(sigmas) - 1, "sigmas": sigmas.tolist(), "profile": "comfyui", **options},
                types,
                start,
                latents,
                draws=torch.stack(draws.given) if draws.given else None,
                sigmas=asked,
            )


def run_diffusers(scheduler, steps, draws, strength=None):
    """The scheduler's own loop: start, latents, what it asked (timesteps and sigmas)."""
    scheduler.set_timesteps(steps)
    begin = 0 if strength is None else steps - int(steps * strength)
    scheduler.set_begin_index(begin)
    flow = scheduler.config.use_flow_sigmas
    kind = "flow_prediction" if flow else "epsilon"
    x = start = noise(1, 1)[0]
    timesteps, sigmas = [], []
    for i, timestep in enumerate(scheduler.timesteps[begin:], begin):
        sigma = scheduler.sigmas[i].double()
        alpha = 1 - sigma if flow else 1 / torch.sqrt(1 + sigma**2)
        timesteps.append(float(timestep))
        sigmas.append(float(sigma / alpha if flow else sigma))
        level = (alpha, sigma if flow else sigma * alpha)
        extra = {"variance_noise": draws()} if draws and scheduler.sigmas[i + 1] > 0 else {}
        x = scheduler.step(prediction(kind, x, *level), timestep, x, return_dict=False, **extra)[0]
    return start, x, timesteps, sigmas


def native(fixture, sampler, cls, steps, spacing="linspace", strength=None, zero_snr=False, **config):
    """A case of a diffusers class on its own schedule."""
    keys = dict(config, prediction_type="flow_prediction" if config.get("use_flow_sigmas") else "epsilon")
    if cls is diffusers.DPMSolverMultistepScheduler:
        keys.update(timestep_spacing=spacing, rescale_betas_zero_snr=zero_snr)
    scheduler = cls(**SD, **keys)
    draws = Draws() if config.get("algorithm_type", "").startswith("sde") else None
    start, latents, timesteps, sigmas = run_diffusers(scheduler, steps, draws, strength)
    options = {"steps": steps, "spacing": spacing}
    types, ours = VP_TYPES, {key: value for key, value in config.items() if key != "use_flow_sigmas"}
    if cls is diffusers.DPMSolverSinglestepScheduler:
        # The class does not know this key, which its spacing must not follow.
        del options["spacing"]
        ours["timestep_spacing"] = "leading"
    if config.get("use_flow_sigmas"):
        types, timesteps = FLOW_TYPES, None
        options = {"steps": steps, "sigmas": scheduler.sigmas.tolist()}
    if strength is not None:
        options["strength"] = strength
    fixture.add(
        sampler,
        options,
        types,
        start,
        latents,
        draws=torch.stack(draws.given) if draws else None,
        timesteps=timesteps,
        sigmas=sigmas,
        config={**ours, **({"rescale_betas_zero_snr": True} if zero_snr else {})},
    )


def native_sde(fixture, steps, spacing):
    """A case of diffusers' class of dpmpp_sde, which works over x = x₀ + σ·ε and asks the model twice a step."""
    scheduler = diffusers.DPMSolverSDEScheduler(**SD, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    scheduler.noise_sampler = draws = Draws()
    x = start = noise(1, 1)[0] * scheduler.init_noise_sigma
    sigmas = []
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, timestep)
        first = scheduler.state_in_first_order
        sigma = (scheduler.sigmas[scheduler.step_index] if first else scheduler.mid_point_sigma).double()
        alpha = 1 / torch.sqrt(1 + sigma**2)
        sigmas.append(float(sigma))
        epsilon = prediction("epsilon", scaled, alpha, sigma * alpha)
        x = scheduler.step(epsilon, timestep, x, return_dict=False)[0]
    fixture.add(
        "dpmpp_sde",
        {"steps": steps, "spacing": spacing},
        VP_TYPES,
        start,
        x,
        draws=torch.stack(draws.given),
        timesteps=[float(timestep) for timestep in scheduler.timesteps],
        sigmas=sigmas,
        config={"steps_offset": 1},
    )


def make_dpmpp(out_dir):
    fixture = Fixture("dpmpp")
    k_diffusion(fixture, "dpmpp_2m", lambda model, x, sigmas, _: k.sample_dpmpp_2m(model, x, sigmas, disable=True))
    for eta in (1.0, 0.5):
        k_diffusion(
            fixture,
            "dpmpp_2s_ancestral",
            lambda model, x, sigmas, draws: k.sample_dpmpp_2s_ancestral(
                model, x, sigmas, eta=eta, s_noise=0.9, noise_sampler=draws, disable=True
            ),
            eta=eta,
            s_noise=0.9,
        )
    multistep = diffusers.DPMSolverMultistepScheduler
    for steps in STEPS:
        for spacing in ("linspace", "leading", "trailing"):
            native(fixture, "dpmpp_2m", multistep, steps, spacing, steps_offset=1)
        for order in (1, 2, 3):
            for solver in ("midpoint", "heun"):
                native(fixture, "dpmpp_2m", multistep, steps, solver_order=order, solver_type=solver)
                native(
                    fixture,
                    "dpmpp_2m",
                    multistep,
                    steps,
                    solver_order=order,
                    solver_type=solver,
                    algorithm_type="dpmsolver",
                    final_sigmas_type="sigma_min",
                )
            native(fixture, "dpmpp_2m", multistep, steps, solver_order=order, use_flow_sigmas=True)
        for keys in ({"lower_order_final": False}, {"euler_at_final": True}):
            native(fixture, "dpmpp_2m", multistep, steps, solver_order=3, final_sigmas_type="sigma_min", **keys)
        native(fixture, "dpmpp_2m", multistep, steps, "trailing", zero_snr=True)
    native(fixture, "dpmpp_2m", multistep, 20, strength=0.56, solver_order=3)
    native(fixture, "dpmpp_2m", multistep, 12, strength=0.5, solver_order=3)
    fixture.save(out_dir)


def make_dpmpp_sde(out_dir):
    fixture = Fixture("dpmpp-sde")
    for sampler, function, keys in (
        ("dpmpp_sde", k.sample_dpmpp_sde, {}),
        ("dpmpp_2m_sde", k.sample_dpmpp_2m_sde, {"solver_type": "midpoint"}),
        ("dpmpp_2m_sde_heun", k.sample_dpmpp_2m_sde, {"solver_type": "heun"}),
        ("dpmpp_3m_sde", k.sample_dpmpp_3m_sde, {}),
    ):
        for eta, s_noise in ((1.0, 1.0), (0.4, 1.1)):
            k_diffusion(
                fixture,
                sampler,
                lambda model, x, sigmas, draws: function(
                    model, x, sigmas, eta=eta, s_noise=s_noise, noise_sampler=draws, disable=True, **keys
                ),
                eta=eta,
                s_noise=s_noise,
            )
    multistep = diffusers.DPMSolverMultistepScheduler
    for steps in STEPS:
        for spacing in ("linspace", "leading", "trailing"):
            native_sde(fixture, steps, spacing)
        for sampler, solver in (("dpmpp_2m_sde", "midpoint"), ("dpmpp_2m_sde_heun", "heun")):
            keys = {"algorithm_type": "sde-dpmsolver++", "solver_type": solver}
            native(fixture, sampler, multistep, steps, **keys)
            native(fixture, sampler, multistep, steps, "trailing", final_sigmas_type="sigma_min", **keys)
            native(fixture, sampler, multistep, steps, use_flow_sigmas=True, **keys)
        native(fixture, "dpmpp_2m_sde", multistep, steps, "leading", algorithm_type="sde-dpmsolver++", solver_order=1)
    fixture.save(out_dir)


def make_dpm_solver(out_dir):
    fixture = Fixture("dpm-solver")
    singlestep = diffusers.DPMSolverSinglestepScheduler
    for steps in STEPS:
        for order in (1, 2, 3):
            for solver in ("midpoint", "heun"):
                keys = {"solver_order": order, "solver_type": solver}
                native(fixture, "dpm_solver_singlestep", singlestep, steps, lower_order_final=True, **keys)
                noise_form = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
                native(
                    fixture, "dpm_solver_singlestep", singlestep, steps, lower_order_final=True, **noise_form, **keys
                )
            keys = {"solver_order": order, "lower_order_final": True}
            native(fixture, "dpm_solver_singlestep", singlestep, steps, use_flow_sigmas=True, **keys)
    for steps, order in ((6, 3), (12, 3), (10, 2), (7, 3), (1, 2), (2, 3)):
        keys = {"solver_order": order, "lower_order_final": False}
        native(fixture, "dpm_solver_singlestep", singlestep, steps, final_sigmas_type="sigma_min", **keys)
    for steps, strength in ((20, 0.56), (20, 0.6), (21, 0.5)):
        native(
            fixture,
            "dpm_solver_singlestep",
            singlestep,
            steps,
            strength=strength,
            solver_order=3,
            lower_order_final=True,
        )
    fixture.save(out_dir)


def er_sde(model, x, ratios, draws):
    """Cui et al. 2023 (arXiv:2309.06169), VP ER-SDE-Solver-3, over y = x/α; ComfyUI's noise scaler and its sums."""

    def phi(rho):
        return rho * (math.exp(rho**0.3) + 10)

    y, models, slopes, rhos = x, [], {}, [float(ratio) for ratio in ratios]
    for i in range(len(rhos) - 1):
        models.append(model(y, ratios[i : i + 1]))
        if rhos[i + 1] == 0:
            return models[i]
        s, t = rhos[i], rhos[i + 1]
        r = phi(t) / phi(s)
        y = r * y + (1 - r) * models[i]
        points = [t + j * (s - t) / 200 for j in range(200)]
        if i >= 1:
            slopes[i] = (models[i] - models[i - 1]) / (s - rhos[i - 1])
            y = y + (t - s + phi(t) * sum(1 / phi(p) for p in points) * (s - t) / 200) * slopes[i]
        if i >= 2:
            curve = (slopes[i] - slopes[i - 1]) / ((s - rhos[i - 2]) / 2)
            moment = sum((p - s) / phi(p) for p in points) * (s - t) / 200
            y = y + ((t - s) ** 2 / 2 + phi(t) * moment) * curve
        y = y + draws() * math.sqrt(t**2 - s**2 * r**2)
    return y


def make_er_sde(out_dir):
    fixture = Fixture("er-sde")
    k_diffusion(fixture, "er_sde", er_sde)
    fixture.save(out_dir)


def res_multistep(model, x, ratios, _):
    """Zhang et al. 2023 (arXiv:2308.02157), multistep of order 2, over y = x/α and λ = -ln ρ."""

    def phi_1(z):
        return math.expm1(z) / z

    def phi_2(z):
        return (math.expm1(z) - z) / z**2

    y, old = x, None
    for i in range(len(ratios) - 1):
        new = model(y, ratios[i : i + 1])
        if ratios[i + 1] == 0:
            return new
        h = math.log(ratios[i] / ratios[i + 1])
        if old is None:
            y = math.exp(-h) * y + h * phi_1(-h) * new
        else:
            c2 = math.log(ratios[i] / ratios[i - 1]) / h
            b2 = phi_2(-h) / c2
            y = math.exp(-h) * y + h * ((phi_1(-h) - b2) * new + b2 * old)
        old = new
    return y


def make_res_multistep(out_dir):
    fixture = Fixture("res-multistep")
    k_diffusion(fixture, "res_multistep", res_multistep)
    fixture.save(out_dir)


def make(out_dir):
    make_dpmpp(out_dir)
    make_dpmpp_sde(out_dir)
    make_dpm_solver(out_dir)
    make_er_sde(out_dir)
    make_res_multistep(out_dir)
