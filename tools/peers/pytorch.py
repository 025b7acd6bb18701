"""The worker of bench_peers.py for PyTorch: diffusers' and transformers' modules in f32, the images channels-last.

    pytorch.py MODEL THREADS SIZE STAGES
"""
import logging
import sys
import time
from pathlib import Path

from worker import read_ahead, serve


def modules(model, stages):
    """stage -> (module, its example inputs as functions of the image's size), in f32."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    logging.disable(logging.WARNING)
    options = dict(torch_dtype=torch.float32, local_files_only=True)
    noise = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=noise)
    out = {}
    if "text" in stages:
        text = CLIPTextModel.from_pretrained(model, subfolder="text_encoder", dtype=torch.float32).eval()
        # Two prompts, of 77 tokens as every prompt is.
        out["text"] = (text, lambda size: (torch.randint(0, 49000, (2, 77), generator=noise),))
    if "step" in stages:
        unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", **options).eval()
        width = unet.config.cross_attention_dim

        def step(size):
            inputs = normal(2, 4, size // 8, size // 8), torch.tensor(501.0), normal(2, 77, width)
            if unet.config.addition_embed_type == "text_time":
                inputs += normal(2, 1280), torch.tensor([[float(size), size, 0, 0, size, size]] * 2)
            return inputs

        out["step"] = (unet, step)
    if "decode" in stages:
        vae = AutoencoderKL.from_pretrained(model, subfolder="vae", **options).eval()
        del vae.encoder
        out["decode"] = (vae, lambda size: (normal(1, 4, size // 8, size // 8),))
    return out


def call(stage, module):
    """The stage as a function of its inputs alone."""
    if stage == "text":
        return lambda ids: module(ids, return_dict=False)[0]
    if stage == "decode":
        return lambda latents: module.decode(latents, return_dict=False)[0]

    def step(sample, timestep, context, text_embeds=None, time_ids=None):
        more = {} if time_ids is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        return module(sample, timestep, context, added_cond_kwargs=more, return_dict=False)[0]

    return step


def main():
    model, threads, size, stages = sys.argv[1:]
    import torch
    # Imported before the clock starts: loading is the models' alone.
    import diffusers, transformers  # noqa: F401
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    torch.set_num_threads(int(threads))
    stages = stages.split(",")
    for part, folder in (("text", "text_encoder"), ("step", "unet"), ("decode", "vae")):
        if part in stages:
            read_ahead(Path(model) / folder)

    def load():
        loaded = modules(model, stages)
        functions = {}
        for stage, (module, inputs) in loaded.items():
            if stage != "text":
                module.to(memory_format=torch.channels_last)
            functions[stage] = call(stage, module), inputs

        def one_round(_):
            seconds = {}
            for stage, (function, inputs) in functions.items():
                values = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
                          for x in inputs(int(size))]
                with torch.inference_mode():
                    start = time.perf_counter()
                    function(*values)
                    seconds[stage] = time.perf_counter() - start
            return seconds

        about = f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
        return {"about": about}, one_round

    serve(load)


if __name__ == "__main__":
    main()
