"""An analytic denoiser, the same in Python and Rust, and the fixtures of what samplers make of it.

The data are a mixture of three Gaussians, value by value; so the mean of x₀ given x = alpha·x₀ + sigma·ε is known, and
with it the answer of a perfect model of any prediction type.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-1.2, 0.4, 1.5], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.2, 0.4], dtype=torch.float64)

IMAGES, VALUES = 2, 8
STEPS = [5, 10, 20, 50]


def denoised(x, alpha, sigma):
    """E[x₀ | x] for x = alpha·x₀ + sigma·ε; float64, any shape."""
    x = torch.as_tensor(x, dtype=torch.float64)
    alpha, sigma = torch.as_tensor(alpha, dtype=torch.float64), torch.as_tensor(sigma, dtype=torch.float64)
    off = x[..., None] - alpha * MEANS
    variance = alpha**2 * STDS**2 + sigma**2
    log = torch.log(WEIGHTS) - 0.5 * off**2 / variance - 0.5 * torch.log(variance)
    means = MEANS + alpha * STDS**2 * off / variance
    return (torch.softmax(log, -1) * means).sum(-1)


def prediction(prediction_type, x, alpha, sigma, sigma_data=1.0):
    """What a perfect model of that type answers to its own input x = alpha·x₀ + sigma·ε."""
    x = torch.as_tensor(x, dtype=torch.float64)
    x0 = denoised(x, alpha, sigma)
    epsilon = (x - alpha * x0) / sigma
    if prediction_type == "epsilon":
        return epsilon
    if prediction_type == "v_prediction":
        return alpha * epsilon - sigma * x0
    if prediction_type == "sample":
        return x0
    if prediction_type == "flow_prediction":
        return epsilon - x0
    raise ValueError(prediction_type)


def noise(seed, draws):
    """`draws` batches of standard normal noise, float32 values in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(draws, IMAGES, VALUES, generator=generator).double()


class Fixture:
    """tests/golden/solvers-NAME.json and .safetensors."""

    def __init__(self, name):
        self.name, self.cases, self.arrays = name, [], {}

    def _array(self, what, values):
        key = f"{what}.{len(self.cases)}"
        self.arrays[key] = np.ascontiguousarray(np.asarray(values), dtype=np.float32)
        return key

    def add(self, sampler, options, prediction_types, start, latents, draws=None, timesteps=None, sigmas=None, **keys):
        """One trajectory.

        options: a dict of the names of `Options` in src/sampling/plan.rs ("steps" is needed).
        prediction_types: every type whose perfect model must give these latents.
        start: [IMAGES, VALUES] latents before the first step, in the sampler's coordinates (not unit noise).
        draws: the noise the sampler got, in the order it asked for it, [draws, IMAGES, VALUES].
        timesteps: what the model was told at each evaluation; sigmas: the noise-to-signal ratio there.
        keys: anything else the test must know: config={…} of scheduler_config.json; unconditional=0.3, by how much the
            data lie further up without the prompt.
        """
        case = {"sampler": sampler, "options": options, "prediction_types": prediction_types, **keys}
        case["start"] = self._array("start", start)
        case["latents"] = self._array("latents", latents)
        for what, values in (("draws", draws), ("timesteps", timesteps), ("sigmas", sigmas)):
            if values is not None:
                case[what] = self._array(what, values)
        assert np.isfinite(self.arrays[case["latents"]]).all(), case
        self.cases.append(case)

    def save(self, out_dir):
        out = Path(out_dir)
        lines = ",\n".join(json.dumps(case) for case in self.cases)
        (out / f"solvers-{self.name}.json").write_text("[\n" + lines + "\n]\n")
        save_file(self.arrays, out / f"solvers-{self.name}.safetensors")
