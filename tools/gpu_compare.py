#!/usr/bin/env python3
"""Holds libdiffusion on a GPU against diffusers on the same GPU: numbers, then times.

    gpu_compare.py MODEL [--library build/lib/libdiffusion.so] [--precision f16] [--steps 20] [--size 512] [--rounds 3]

MODEL is a Stable Diffusion or SDXL folder in the diffusers layout (tools/make_model.py writes full-size ones with random
weights). Both start from the same latents with the same prompt, DDIM and guidance 7.5. The numbers are against diffusers
in f32: latents after one step and after all of them (relative L2), and the picture (PSNR). The times are of diffusers in
the same precision, eager, the two libraries in turn; medians of the rounds. Needs torch and diffusers.
`--torch-device cpu` runs diffusers on the CPU, to try this script without a GPU; `--device cpu` libdiffusion too.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from libdiffusion import EngineDesc, Result  # noqa: E402

PROMPT = "a photograph of an astronaut riding a horse"
DEVICES = {"cpu": 1, "cuda": 2}
PRECISIONS = {"f16": 1, "bf16": 2, "f32": 3}
RGB_F32 = ctypes.c_int32(4)


class Libdiffusion:
    """The C API: one session, requests that begin with given latents."""

    def __init__(self, library, model, args):
        self.lib = ctypes.CDLL(os.path.abspath(library))
        self.lib.diffusion_error_message.restype = ctypes.c_char_p
        self.lib.diffusion_error_message.argtypes = [ctypes.c_void_p]
        engine, self.model, self.session = (ctypes.c_void_p() for _ in range(3))
        precision = PRECISIONS[args.precision] if args.device == "cuda" else 0
        desc = EngineDesc(struct_size=ctypes.sizeof(EngineDesc), device=DEVICES[args.device], precision=precision)
        self.call("diffusion_engine_new", ctypes.byref(desc), ctypes.byref(engine))
        start = time.perf_counter()
        self.call("diffusion_model_load", engine, model.encode(), None, ctypes.byref(self.model))
        self.load_seconds = time.perf_counter() - start
        self.call("diffusion_session_new", self.model, None, ctypes.byref(self.session))

    def call(self, name, *arguments):
        error = ctypes.c_void_p()
        if getattr(self.lib, name)(*arguments, ctypes.byref(error)) != 0:
            raise SystemExit(f"{name}: {self.lib.diffusion_error_message(error).decode()}")

    def run(self, latents, steps, size):
        """(latents, RGB picture, diffusion_result)"""
        request, job, result = ctypes.c_void_p(), ctypes.c_void_p(), Result()
        result.struct_size = ctypes.sizeof(Result)
        self.call("diffusion_request_new", self.model, ctypes.byref(request))
        option = lambda name: self.lib.diffusion_option_find(name.encode())
        for name, value in (("width", size), ("height", size), ("steps", steps)):
            self.lib.diffusion_request_set_int(request, option(name), ctypes.c_int64(value))
        self.lib.diffusion_request_set_float(request, option("guidance_scale"), ctypes.c_double(7.5))
        for name, value in (("prompt", PROMPT), ("sampler", "ddim")):
            self.lib.diffusion_request_set_string(request, option(name), value.encode())
        pointer = latents.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self.lib.diffusion_request_set_floats(request, option("latents"), pointer, ctypes.c_size_t(latents.size))
        self.call("diffusion_submit", self.session, request, ctypes.byref(job))
        self.lib.diffusion_job_wait(job, ctypes.c_int64(-1))
        self.call("diffusion_job_get_result", job, ctypes.byref(result))
        out = np.empty_like(latents)
        self.call("diffusion_job_copy_latents", job, 0, out.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                  ctypes.c_size_t(out.size))
        image = ctypes.c_void_p()
        self.call("diffusion_job_take_image", job, 0, ctypes.byref(image))
        picture = np.empty((size, size, 3), np.float32)
        self.call("diffusion_image_copy", image, picture.ctypes.data_as(ctypes.c_void_p),
                  ctypes.c_size_t(picture.nbytes), ctypes.c_size_t(12 * size), RGB_F32, ctypes.c_uint32(0))
        self.lib.diffusion_image_free(image)
        self.lib.diffusion_job_free(job)
        self.lib.diffusion_request_free(request)
        return out, picture, result


class Diffusers:
    """The pipeline of the same folder."""

    def __init__(self, model, args, dtype):
        import torch
        from diffusers import DDIMScheduler, DiffusionPipeline

        self.torch, self.device = torch, args.torch_device
        self.pipe = DiffusionPipeline.from_pretrained(model, torch_dtype=dtype, local_files_only=True)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(args.torch_device)
        self.dtype = dtype

    def latents(self, latents, steps, size):
        start = self.torch.from_numpy(latents).to(self.device, self.dtype)
        return self.pipe(PROMPT, latents=start, num_inference_steps=steps, guidance_scale=7.5, height=size, width=size,
                         output_type="latent").images

    def decode(self, latents):
        vae = self.pipe.vae
        with self.torch.inference_mode():
            return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]

    def synchronize(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def seconds(self, latents, steps, size):
        """Text and denoising, then decoding."""
        self.synchronize()
        start = time.perf_counter()
        done = self.latents(latents, steps, size)
        self.synchronize()
        middle = time.perf_counter()
        self.decode(done)
        self.synchronize()
        return middle - start, time.perf_counter() - middle


def relative_l2(a, b):
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--library", default="build/lib/libdiffusion.so")
    parser.add_argument("--device", choices=DEVICES, default="cuda")
    parser.add_argument("--torch-device", choices=DEVICES, help="default: as --device")
    parser.add_argument("--precision", choices=PRECISIONS, default="f16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=512, help="image side in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.torch_device = args.torch_device or args.device
    import torch

    config = json.loads(Path(args.model, "vae", "config.json").read_text())
    side = args.size // 2 ** (len(config["block_out_channels"]) - 1)
    latents = np.random.default_rng(0).standard_normal((1, config["latent_channels"], side, side), np.float32)

    ours = Libdiffusion(args.library, args.model, args)
    one, _, _ = ours.run(latents, 1, args.size)
    many, picture, _ = ours.run(latents, args.steps, args.size)
    # f32 is to mean f32 here, not TF32.
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    exact = Diffusers(args.model, args, torch.float32)
    one_exact = exact.latents(latents, 1, args.size).float().cpu().numpy()
    device_latents = exact.latents(latents, args.steps, args.size)
    many_exact = device_latents.float().cpu().numpy()

    def psnr(latents):
        exact_picture = exact.decode(latents).float().cpu().numpy()[0].transpose(1, 2, 0) / 2 + 0.5
        return -10 * np.log10(np.mean((picture - exact_picture.clip(0, 1)) ** 2))

    whole, decoder = psnr(device_latents), psnr(torch.from_numpy(many).to(args.torch_device))
    del exact, psnr
    torch.backends.cudnn.allow_tf32 = tf32
    print(f"{Path(args.model).name}, {args.size}x{args.size}, {args.precision} on {args.device}, against diffusers in f32:")
    print(f"  latents after 1 step: relative L2 {relative_l2(one, one_exact):.2e}")
    print(f"  latents after {args.steps} steps: relative L2 {relative_l2(many, many_exact):.2e}")
    print(f"  picture: PSNR {whole:.1f} dB; decoder alone, from the same latents, {decoder:.1f} dB")

    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[args.precision]
    theirs = Diffusers(args.model, args, dtype)
    theirs.seconds(latents, args.steps, args.size)
    rounds = []
    for _ in range(args.rounds):
        _, _, result = ours.run(latents, args.steps, args.size)
        rounds.append((((result.text_ns + result.denoise_ns) / 1e9, result.decode_ns / 1e9),
                       theirs.seconds(latents, args.steps, args.size)))
    print(f"times, {args.rounds} rounds in turn, PyTorch {torch.__version__} eager on {args.torch_device}; "
          f"libdiffusion loads in {ours.load_seconds:.1f} s")
    print("| stage | libdiffusion ms | diffusers ms | ratio (min-max) |\n|---|---|---|---|")
    for index, stage in enumerate((f"text and {args.steps} steps", "VAE decode")):
        a, b = ([r[who][index] * 1e3 for r in rounds] for who in (0, 1))
        ratios = [x / y for x, y in zip(a, b)]
        print(f"| {stage} | {statistics.median(a):.1f} | {statistics.median(b):.1f} | "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
