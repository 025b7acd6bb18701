"""What each tiny model must give: every part and block in float64, whole pipelines in float32, stored as float32."""
import json

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from safetensors.torch import save_file

PROMPT = "a blue cat on a yellow background"
NEGATIVE = "blurry, dark"
SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "ddpm": DDPMScheduler}
GUIDANCE = 5.0
SEED = 7
TIMESTEP = 501.0
TEXT_PARTS = (("text", ""), ("text_2", "_2"))
# Where the padding token is "!", transformers takes each "!" of a prompt for it, too.
TOKEN_PROMPTS = [PROMPT, "", "hi! a cat!!", "Ünïcödé  CAFÉ\n日本 🐱", "a cat, " * 50]

# Modules whose input and output are kept, below `unet` and `vae`.
UNET_BLOCKS = {
    "sd1": ["time_proj", "time_embedding", "conv_in", "down_blocks.0.resnets.0", "down_blocks.1.resnets.0",
            "down_blocks.0.attentions.0", "down_blocks.0.attentions.0.transformer_blocks.0",
            "down_blocks.0.downsamplers.0", "mid_block", "mid_block.attentions.0", "up_blocks.0.resnets.0",
            "up_blocks.0.upsamplers.0", "up_blocks.1.attentions.2", "conv_norm_out"],
    "sd2": ["time_embedding", "down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "down_blocks.1.attentions.0",
            "down_blocks.0.downsamplers.0", "mid_block", "up_blocks.1.upsamplers.0", "up_blocks.2.attentions.1",
            "conv_norm_out"],
    "sdxl": ["time_embedding", "add_embedding", "down_blocks.0.resnets.0", "down_blocks.1.resnets.0",
             "down_blocks.1.attentions.0", "down_blocks.0.downsamplers.0", "mid_block", "up_blocks.0.upsamplers.0",
             "up_blocks.0.attentions.2", "conv_norm_out"],
}
ODD_BLOCKS = ["up_blocks.0.upsamplers.0"]
# Blocks run once more on an input this much smaller (sd1 only), where the epsilon of their norm decides the result.
FAINT = 1e-3
FAINT_UNET = ["down_blocks.0.resnets.0", "down_blocks.0.attentions.0",
              "down_blocks.0.attentions.0.transformer_blocks.0", "conv_norm_out"]
FAINT_VAE = ["decoder.mid_block.attentions.0", "decoder.up_blocks.0.resnets.0"]
VAE_BLOCKS = ["encoder.down_blocks.0.downsamplers.0", "decoder.mid_block.attentions.0", "decoder.up_blocks.0.resnets.0",
              "decoder.up_blocks.0.upsamplers.0"]


def capture(model, prefix, blocks, call):
    """Runs `call`; returns its result and, by name, what went into and came out of each block."""
    kept = {}

    def keep(path):
        def hook(_module, args, kwargs, out):
            kept[f"{path}.in"] = args[0]
            kept[f"{path}.out"] = out[0] if isinstance(out, tuple) else out
            if "resnets" in path.split(".")[-2:] or path.endswith("mid_block"):
                temb = args[1] if len(args) > 1 else kwargs.get("temb")
                if temb is not None:
                    kept[f"{path}.temb"] = temb
            if kwargs.get("encoder_hidden_states") is not None:
                kept[f"{path}.context"] = kwargs["encoder_hidden_states"]
        return hook

    hooks = [model.get_submodule(block).register_forward_hook(keep(f"{prefix}.{block}"), with_kwargs=True)
             for block in blocks]
    result = call()
    for hook in hooks:
        hook.remove()
    return result, kept


def faint(model, prefix, blocks, kept):
    """The blocks on a thousandth of the input that `capture` kept of them."""
    out = {}
    for block in blocks:
        path = f"{prefix}.{block}"
        args = [kept[f"{path}.in"] * FAINT]
        if "resnets" in block:
            args.append(kept.get(f"{path}.temb"))
        context = {"encoder_hidden_states": kept[f"{path}.context"]} if f"{path}.context" in kept else {}
        result = model.get_submodule(block)(*args, **context)
        out[f"{prefix}_faint.{block}.in"] = args[0]
        out[f"{prefix}_faint.{block}.out"] = getattr(result, "sample", result)
    return out


def text_tensors(pipe):
    """Token ids and hidden states of an ordinary and of an empty prompt."""
    out = {}
    for name, suffix in TEXT_PARTS:
        tokenizer, encoder = getattr(pipe, f"tokenizer{suffix}", None), getattr(pipe, f"text_encoder{suffix}", None)
        if encoder is None:
            continue
        encoder.double()
        ids = tokenizer([PROMPT, ""], padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
                        return_tensors="pt").input_ids
        result = encoder(ids, output_hidden_states=True)
        out |= {f"{name}.ids": ids, f"{name}.hidden": result.last_hidden_state,
                f"{name}.penultimate": result.hidden_states[-2]}
        out[f"{name}.pooled"] = result.text_embeds if name == "text_2" else result.pooler_output
        encoder.float()
    return out


def token_ids(pipe):
    """What each tokenizer makes of the prompts: cut to its length, not padded."""
    found = {name: getattr(pipe, f"tokenizer{suffix}", None) for name, suffix in TEXT_PARTS}
    return {name: [dict(prompt=prompt, ids=tokenizer(prompt, truncation=True).input_ids) for prompt in TOKEN_PROMPTS]
            for name, tokenizer in found.items() if tokenizer}


def unet_tensors(unet, name, generator):
    """One call of the U-Net with its blocks, and one on a latent whose sides are odd."""
    unet.double()
    randn = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    context = randn(2, 11, unet.config.cross_attention_dim)
    timestep = torch.tensor([TIMESTEP])
    out = {"unet.timestep": timestep, "unet.encoder_hidden_states": context}
    added = None
    if unet.config.addition_embed_type == "text_time":
        time_ids = torch.tensor([[64.0, 96, 0, 8, 64, 96], [128, 128, 16, 0, 32, 48]], dtype=torch.float64)
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {"text_embeds": randn(2, pooled), "time_ids": time_ids}
        out |= {f"unet.{key}": value for key, value in added.items()}
    for prefix, height, width, blocks in (("unet", 8, 6, UNET_BLOCKS[name]), ("unet_odd", 7, 5, ODD_BLOCKS)):
        sample = randn(2, 4, height, width)
        call = lambda: unet(sample, timestep, context, added_cond_kwargs=added).sample
        result, kept = capture(unet, prefix, blocks, call)
        out |= kept | {f"{prefix}.sample": sample, f"{prefix}.out": result}
    if name == "sd1":
        out |= faint(unet, "unet", FAINT_UNET, out)
    unet.float()
    return out


def vae_tensors(vae, name, generator):
    """Encoding to mean and log-variance, decoding, and one of each kind of block."""
    vae.double()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    image = torch.rand((1, 3, 6 * factor, 8 * factor), generator=generator, dtype=torch.float64) * 2 - 1
    latents = torch.randn((1, 4, 6, 8), generator=generator, dtype=torch.float64)
    moments, encoder = capture(vae, "vae", VAE_BLOCKS[:1], lambda: vae.encode(image).latent_dist.parameters)
    decode = lambda: vae.decode(latents / vae.config.scaling_factor).sample
    decoded, decoder = capture(vae, "vae", VAE_BLOCKS[1:], decode)
    small = faint(vae, "vae", FAINT_VAE, decoder) if name == "sd1" else {}
    vae.float()
    return encoder | decoder | small | {"vae.image": image, "vae.moments": moments, "vae.latents_in": latents,
                                "vae.decoded": decoded}


def run_case(pipe, case, noise, **output):
    """One pipeline run in float32. Without `latents` the pipeline draws the start noise itself, from the generator."""
    if noise is None:
        output["generator"] = torch.Generator("cpu").manual_seed(case["seed"])
    else:
        output["latents"] = noise
    return pipe(case["prompt"], negative_prompt=case["negative_prompt"], num_inference_steps=case["steps"],
                guidance_scale=case["guidance_scale"], height=case["height"], width=case["width"], **output).images


def pipeline_tensors(pipe, name):
    """Whole runs, with the settings that reproduce them."""
    shapes = {"pipeline.noise": (8, 12)}
    runs = [(sampler, steps, "pipeline.noise", NEGATIVE) for sampler in SCHEDULERS for steps in (4, 20)]
    if name == "sdxl":
        shapes["pipeline.noise_wide"] = (6, 10)
        runs.append(("euler", 6, "pipeline.noise_wide", None))
    noises = {key: torch.randn((1, 4, *shape), generator=torch.Generator("cpu").manual_seed(SEED))
              for key, shape in shapes.items()}
    own, out, cases = pipe.scheduler, dict(noises), []
    factor = pipe.vae_scale_factor
    for sampler, steps, noise, negative in runs:
        pipe.scheduler = SCHEDULERS[sampler].from_config(own.config)
        height, width = shapes[noise]
        key = f"pipeline.{sampler}.{steps}" + ("" if negative else ".no_negative")
        case = dict(name=key, sampler=sampler, steps=steps, prompt=PROMPT, negative_prompt=negative,
                    guidance_scale=GUIDANCE, seed=SEED, height=height * factor, width=width * factor, noise=noise,
                    latents=f"{key}.latents", image=None)
        given = None if sampler == "ddpm" else noises[noise]
        out[case["latents"]] = run_case(pipe, case, given, output_type="latent")
        if steps == 20 and sampler == own_sampler(own):
            case["image"] = f"{key}.image"
            out[case["image"]] = torch.from_numpy(run_case(pipe, case, given, output_type="np")[0])
        case["timesteps"] = pipe.scheduler.timesteps.tolist()
        case["scheduler"] = effective_config(pipe.scheduler)
        cases.append(case)
    pipe.scheduler = own
    return out, cases


def own_sampler(scheduler):
    """The model's own sampler; DDIM where that is PNDM."""
    return "euler" if isinstance(scheduler, EulerDiscreteScheduler) else "ddim"


def effective_config(scheduler):
    """What the scheduler really runs with, from_config's carrying over and class defaults included."""
    return {"class": type(scheduler).__name__} | {k: v for k, v in sorted(scheduler.config.items()) if k[0] != "_"}


def make(out_dir, name):
    folder = out_dir / "models" / name
    options = dict(variant="fp16") if name == "sdxl" else {}
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **options)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(201)
    tensors = text_tensors(pipe) | unet_tensors(pipe.unet, name, generator) | vae_tensors(pipe.vae, name, generator)
    images, cases = pipeline_tensors(pipe, name)
    tensors |= images
    write(out_dir, name, tensors, {"model": f"models/{name}", "text_prompts": [PROMPT, ""], "tokens": token_ids(pipe),
                                   "cases": cases})


def write(out_dir, name, tensors, settings):
    """`<name>.safetensors` (float32, integers as they are) and `<name>.json`."""
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name}: {key} is not finite")
    tensors = {k: (v.float() if v.is_floating_point() else v).contiguous().clone() for k, v in tensors.items()}
    path = out_dir / f"{name}.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)
    (out_dir / f"{name}.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
