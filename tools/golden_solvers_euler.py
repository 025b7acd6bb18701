"""Euler's trajectories on the analytic mixture from k-diffusion, for every prediction type."""

import torch

from k_diffusion_sampling import k_sampling as k
from mixture import STEPS, Fixture, denoised, noise

SD_SIGMAS = (0.0291675, 14.614642)
VE_TYPES = ["epsilon", "v_prediction", "sample", "edm_v_prediction"]


def make(out_dir):
    fixture = Fixture("euler")
    for steps in STEPS:
        for types, sigmas in (
            (VE_TYPES, k.get_sigmas_karras(steps, *SD_SIGMAS)),
            (["flow_prediction"], torch.linspace(0.98, 0, steps + 1)),
        ):
            sigmas = sigmas.double()
            flow = types == ["flow_prediction"]
            start = noise(1, 1)[0] * sigmas[0]
            asked = []

            def model(x, sigma, **_):
                asked.append(float(sigma[0] / (1 - sigma[0] if flow else 1)))
                return denoised(x, 1 - sigma[0] if flow else 1, sigma[0])

            latents = k.sample_euler(model, start, sigmas, disable=True)
            fixture.add("euler", {"steps": steps, "sigmas": sigmas.tolist()}, types, start, latents, sigmas=asked)
    fixture.save(out_dir)
