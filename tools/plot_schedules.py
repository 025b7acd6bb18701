#!/usr/bin/env python3
"""Draws docs/images/sigma-schedules.svg and docs/images/forward-process.svg from tests/golden/schedules.*.

Needs matplotlib besides tools/requirements.txt.
"""
import json
import re
from pathlib import Path

import matplotlib
from safetensors.numpy import load_file

matplotlib.use("svg")
# The same bytes every time.
matplotlib.rcParams.update({"svg.hashsalt": "libdiffusion", "svg.fonttype": "none", "font.size": 9, "path.simplify": True})
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
IMAGES = ROOT / "docs" / "images"
# In the order of SIGMA_SCHEDULES, with the steps of each in the picture.
SCHEDULES = {
    "discrete": 20, "simple": 20, "sgm_uniform": 20, "karras": 20, "exponential": 20, "polyexponential": 20, "beta": 20,
    "kl_optimal": 20, "align_your_steps": 20, "align_your_steps_xl": 20, "ddim_uniform": 20, "linear_quadratic": 20,
    "lcm": 8, "turbo": 4,
}  # fmt: skip
INK, FAINT, ACCENT = "#333333", "#bbbbbb", "#c0392b"


def save(figure, name):
    figure.savefig(IMAGES / name, metadata={"Date": None, "Creator": None})
    # Two digits are enough for the eye.
    text = (IMAGES / name).read_text()
    (IMAGES / name).write_text(re.sub(r"(\d+\.\d{2})\d+", r"\1", text))
    plt.close(figure)


def levels(cases, arrays, schedule, steps):
    """ComfyUI's levels of Stable Diffusion."""
    wanted = {"profile": "comfyui", "sigma_schedule": schedule, "steps": steps}
    for case in cases["grids"]:
        options = case["options"]
        if (
            all(options.get(key) == value for key, value in wanted.items())
            and options.get("strength", 1.0) == 1.0
            and options["sampler"] in ("euler", "lcm")
            and set(case["config"]) == {"beta_start", "beta_end", "beta_schedule"}
        ):
            return arrays[case["sigmas"]]
    raise LookupError(schedule)


def sigma_schedules(cases, arrays):
    figure, axes = plt.subplots(4, 4, figsize=(10, 8), sharey=True, layout="constrained")
    reference = levels(cases, arrays, "discrete", 20)[:-1]
    for axis, (schedule, steps) in zip(axes.flat, SCHEDULES.items()):
        sigmas = levels(cases, arrays, schedule, steps)[:-1]
        axis.plot([i / 20 for i in range(20)], reference, color=FAINT, linewidth=1)
        axis.plot([i / steps for i in range(len(sigmas))], sigmas, color=ACCENT, linewidth=1, marker=".", markersize=4)
        axis.set_yscale("log")
        axis.minorticks_off()
        axis.set_title(schedule if steps == 20 else f"{schedule}, {steps} steps", color=INK, fontsize=9)
        axis.set_xticks([0, 1], ["start", "end"])
    for axis in axes.flat[len(SCHEDULES) :]:
        axis.axis("off")
    figure.supylabel("σ at the start of each step", color=INK)
    save(figure, "sigma-schedules.svg")


def forward_process(cases, arrays):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for case in cases["forward"]:
        alphas_cumprod = arrays[case["alphas_cumprod"]]
        if len(alphas_cumprod) != 1000:
            continue
        # Every tenth is enough for the eye.
        timesteps = list(range(0, 1000, 10)) + [999]
        name = {"defaults": "linear", "stable-diffusion": "scaled_linear", "cosine": "squaredcos_cap_v2"}.get(
            case["name"], case["name"]
        )
        name = {"zero-snr": "scaled_linear, zero terminal SNR"}.get(name, name)
        left.plot(timesteps, alphas_cumprod[timesteps] ** 0.5, linewidth=1.2, label=name)
        right.plot(timesteps[:-1], arrays[case["snr"]][timesteps[:-1]], linewidth=1.2)
    left.set(title="signal √ᾱ", xlabel="timestep")
    right.set(title="signal-to-noise ratio", xlabel="timestep", yscale="log")
    right.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    save(figure, "forward-process.svg")


def main():
    cases, arrays = json.loads((GOLDEN / "schedules.json").read_text()), load_file(GOLDEN / "schedules.safetensors")
    sigma_schedules(cases, arrays)
    forward_process(cases, arrays)


if __name__ == "__main__":
    main()
