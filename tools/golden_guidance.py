"""Guidance: what diffusers' guiders make of given predictions, in float64; calls of a U-Net with perturbed blocks; whole
trajectories of a tiny model."""
import json

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPAGPipeline, UNet2DConditionModel
from diffusers.guiders import (AdaptiveProjectedGuidance, ClassifierFreeGuidance, ClassifierFreeZeroStarGuidance,
                               PerturbedAttentionGuidance)
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0
from safetensors.torch import save_file

from golden_reference import NEGATIVE, PROMPT

IMAGES, VALUES, STEPS = 2, 24, 5
SIZE = (8, 12)
SEED = 11


# Options by the names of `GuidanceOptions`, and the guider that means the same.
def cfg(guidance_scale=7.5, guidance_rescale=0.0, guidance_start=0.0, guidance_stop=1.0):
    return ClassifierFreeGuidance(guidance_scale, guidance_rescale, start=guidance_start, stop=guidance_stop)


def zero_star(guidance_scale=7.5, guidance_rescale=0.0, guidance_start=0.0, guidance_stop=1.0, zero_init_steps=1):
    # Its rescaling of a prediction of zeros is NaN.
    return ClassifierFreeZeroStarGuidance(guidance_scale, zero_init_steps, guidance_rescale, start=guidance_start,
                                          stop=guidance_stop)


def apg(guidance_scale=7.5, guidance_rescale=0.0, guidance_start=0.0, guidance_stop=1.0, apg_eta=1.0,
        apg_norm_threshold=15.0, apg_momentum=0.0):
    # The paper's formula, from the conditional prediction on; its scale is what comes on top of that.
    guider = AdaptiveProjectedGuidance(guidance_scale - 1, apg_momentum or None, apg_norm_threshold, eta=apg_eta,
                                       guidance_rescale=guidance_rescale, use_original_formulation=True,
                                       start=guidance_start, stop=guidance_stop)
    guider.momentum_buffer = MomentumBuffer(apg_momentum) if apg_momentum else None
    return guider


def pag(guidance_scale=7.5, guidance_rescale=0.0, pag_scale=0.0):
    # Its own steps start behind the first one unless the fraction is below 0.
    return PerturbedAttentionGuidance(guidance_scale, pag_scale, -1.0, 1.0, [0], guidance_rescale=guidance_rescale)


GUIDED = [
    ("cfg", cfg, {}),
    ("cfg", cfg, dict(guidance_scale=5.0, guidance_rescale=0.7)),
    ("cfg", cfg, dict(guidance_rescale=1.0)),
    ("cfg", cfg, dict(guidance_start=0.25, guidance_stop=0.85)),
    ("cfg", cfg, dict(guidance_start=0.4, guidance_stop=0.4)),
    ("cfg", cfg, dict(guidance_scale=1.0)),
    ("cfg_zero_star", zero_star, {}),
    ("cfg_zero_star", zero_star, dict(zero_init_steps=0, guidance_scale=4.0, guidance_rescale=0.5)),
    ("cfg_zero_star", zero_star, dict(zero_init_steps=2, guidance_start=0.5)),
    ("apg", apg, {}),
    ("apg", apg, dict(apg_eta=0.0, apg_norm_threshold=3.0)),
    ("apg", apg, dict(apg_eta=0.3, apg_norm_threshold=0.0, apg_momentum=-0.5)),
    ("apg", apg, dict(apg_eta=-0.5, apg_norm_threshold=5.0, apg_momentum=0.6, guidance_start=0.2, guidance_stop=0.8,
                      guidance_rescale=0.3)),
    ("cfg", pag, dict(pag_scale=3.0)),
    ("cfg", pag, dict(guidance_scale=4.0, pag_scale=1.5, guidance_rescale=0.6)),
]


def predictions(generator):
    """Step by step: unconditional, conditional, image-only and perturbed, as much alike as a model's are."""
    randn = lambda: torch.randn(STEPS, IMAGES, VALUES, generator=generator, dtype=torch.float64)
    common = randn() + 0.3
    return {name: (common + 0.4 * randn()).float() for name in ("unconditional", "conditional", "image", "perturbed")}


def guided(given):
    """Each case's output at every step."""
    given = {name: values.double() for name, values in given.items()}
    u, c, i, p = (given[name] for name in ("unconditional", "conditional", "image", "perturbed"))
    cases, tensors = [], {}

    def add(method, options, unconditional, out):
        key = f"guided.{len(cases)}"
        assert torch.stack(out).isfinite().all()
        tensors[key] = torch.stack(out)
        cases.append(dict(method=method, options=options, unconditional=unconditional, out=key))

    for method, make_guider, options in GUIDED:
        guider, out, unconditional = make_guider(**options), [], []
        for step in range(STEPS):
            guider.set_state(step, STEPS, torch.tensor(999 - step))
            skip = dict(pred_cond_skip=p[step]) if make_guider is pag else {}
            out.append(guider.forward(c[step], u[step], **skip).pred)
            unconditional.append(guider.num_conditions > 1)
        if method == "cfg_zero_star":
            # Nothing guides where the prediction is zero.
            unconditional[:options.get("zero_init_steps", 1)] = [False] * options.get("zero_init_steps", 1)
        add(method, options, unconditional, out)

    # What no guider does, from its formula.
    mean = lambda x: x.mean(-1, keepdim=True)
    deviation = lambda x: mean((x - mean(x)) ** 2).sqrt()
    text, image = 6.0, 1.6
    out = [u[s] + image * (i[s] - u[s]) + text * (c[s] - i[s]) for s in range(STEPS)]
    add("cfg", dict(guidance_scale=text, image_guidance_scale=image), [True] * STEPS, out)
    out = [0.25 * x + 0.75 * x * deviation(c[s]) / deviation(x) for s, x in enumerate(out)]
    add("cfg", dict(guidance_scale=text, image_guidance_scale=image, guidance_rescale=0.75), [True] * STEPS, out)
    scales = [7.0, 1.0, 3.5, 0.0, 2.0]
    out = [u[s] + w * (c[s] - u[s]) if w > 1 else c[s] for s, w in enumerate(scales)]
    add("cfg", dict(guidance_schedule=scales), [w > 1 for w in scales], out)
    out = [c[s] + 2.5 * (c[s] - p[s]) for s in range(STEPS)]
    add("cfg", dict(guidance_scale=1.0, pag_scale=2.5), [False] * STEPS, out)
    out = [c[s] if s in (0, 4) else u[s] + 7.5 * (c[s] - u[s]) + 2.0 * (c[s] - p[s]) for s in range(STEPS)]
    add("cfg", dict(pag_scale=2.0, guidance_start=0.2, guidance_stop=0.8), [s not in (0, 4) for s in range(STEPS)], out)
    return cases, tensors


def identity(unet, blocks):
    for block in blocks:
        for name, module in unet.get_submodule(block).named_modules():
            if name.endswith("attn1"):
                module.processor = PAGCFGIdentitySelfAttnProcessor2_0()


def perturbed_calls(folder, generator):
    """Calls of the U-Net on unconditional, conditional and perturbed rows, of which the last lose something."""
    randn = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).float().double()
    # A third row of its own, so that no mistake hides behind equal rows.
    sample, context = randn(3, 4, 6, 5), randn(3, 7, 16)
    timestep = torch.tensor([401.0])
    tensors = {"unet.sample": sample, "unet.encoder_hidden_states": context, "unet.timestep": timestep}
    cases = []
    for kind, blocks in (("identity", ["mid_block"]), ("identity", ["down_blocks.0", "up_blocks.1"]),
                         ("skip", ["mid_block"]), ("skip", ["up_blocks.1", "mid_block"])):
        unet = UNet2DConditionModel.from_pretrained(folder, local_files_only=True).double().eval()
        key = f"unet.{kind}.{'+'.join(blocks)}"
        if kind == "identity":
            identity(unet, blocks)
            out = unet(sample, timestep, context).sample
        else:
            kept = unet(sample[:2], timestep, context[:2]).sample
            for block in blocks:
                for i in range(len(unet.get_submodule(block).attentions)):
                    fqn = f"{block}.attentions.{i}.transformer_blocks"
                    apply_layer_skip(unet, LayerSkipConfig([0], fqn=fqn))
            out = torch.cat([kept, unet(sample[2:], timestep, context[2:]).sample])
        tensors[key] = out
        cases.append(dict(perturbation=kind, blocks=blocks, out=key))
    return cases, tensors


def trajectories(folder):
    """Whole runs in float32 with DDIM."""
    noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(SEED))
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    factor = pipe.vae_scale_factor
    common = dict(prompt=PROMPT, negative_prompt=NEGATIVE, height=SIZE[0] * factor, width=SIZE[1] * factor,
                  latents=noise, output_type="latent")
    pipe.set_progress_bar_config(disable=True)
    cases, tensors = [], {"trajectory.noise": noise}

    def add(steps, method, options, latents, layers=()):
        key = f"trajectory.{len(cases)}"
        tensors[key] = latents
        cases.append(dict(steps=steps, method=method, options=options, layers=list(layers), latents=key))

    for steps, layers, options in ((6, ["mid_block"], dict(guidance_scale=5.0, pag_scale=3.0)),
                                   (5, ["down_blocks.0", "mid_block"], dict(guidance_scale=1.0, pag_scale=2.0)),
                                   (5, ["mid_block"], dict(guidance_scale=4.0, pag_scale=1.5, guidance_rescale=0.7))):
        perturbing = StableDiffusionPAGPipeline.from_pipe(pipe, pag_applied_layers=layers)
        perturbing.set_progress_bar_config(disable=True)
        add(steps, "cfg", options, perturbing(num_inference_steps=steps, **common, **options).images, layers)
    options = dict(guidance_scale=5.0, guidance_rescale=0.7)
    add(6, "cfg", options, pipe(num_inference_steps=6, **common, **options).images)

    encoded = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    context = torch.cat([encoded[1], encoded[0]])
    for steps, method, make_guider, options in (
            (7, "cfg", cfg, dict(guidance_scale=5.0, guidance_start=0.2, guidance_stop=0.7)),
            (6, "cfg_zero_star", zero_star, dict(guidance_scale=4.0)),
            (6, "apg", apg, dict(apg_eta=0.2, apg_norm_threshold=10.0, apg_momentum=-0.4))):
        pipe.scheduler.set_timesteps(steps)
        guider, latents = make_guider(**options), noise
        for step, timestep in enumerate(pipe.scheduler.timesteps):
            guider.set_state(step, steps, timestep)
            uncond, cond = pipe.unet(torch.cat([latents] * 2), timestep, context).sample.chunk(2)
            if method == "apg":
                # The paper guides x0, which this model's epsilon implies.
                alpha = pipe.scheduler.alphas_cumprod[timestep] ** 0.5
                sigma = (1 - alpha**2) ** 0.5
                uncond, cond = ((latents - sigma * epsilon) / alpha for epsilon in (uncond, cond))
                guided = (latents - alpha * guider.forward(cond, uncond).pred) / sigma
            else:
                guided = guider.forward(cond, uncond).pred
            latents = pipe.scheduler.step(guided, timestep, latents).prev_sample
        add(steps, method, options, latents)
    return cases, tensors


@torch.no_grad()
def make(out_dir):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(301)
    given = predictions(generator)
    folder = out_dir / "models" / "sd1"
    parts = {"guided": guided(given), "unet": perturbed_calls(folder / "unet", generator),
             "trajectories": trajectories(folder)}
    tensors = {f"given.{name}": values for name, values in given.items()}
    for _, more in parts.values():
        tensors |= more
    tensors = {key: value.float().contiguous() for key, value in tensors.items()}
    save_file(tensors, out_dir / "guidance.safetensors")
    (out_dir / "guidance.safetensors").chmod(0o644)
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]"
             for name, (cases, _) in parts.items()]
    (out_dir / "guidance.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
