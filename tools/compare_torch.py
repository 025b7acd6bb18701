#!/usr/bin/env python3
"""Times libdiffusion against PyTorch, in turn, in one run on one machine.

    compare_torch.py MODEL [--library target/release/libdiffusion.so] [--threads 2] [--rounds 3] [--size 512]

MODEL is a Stable Diffusion 1.x folder in the diffusers layout (tools/make_model.py writes a full-size one with random
weights). Each round times one guided U-Net step (batch 2) and one VAE decode in each library, alternating; the table
gives medians and the median of the round-by-round ratios. PyTorch runs in fp32, the U-Net channels_last (its faster
layout), with weights widened from the file. Needs torch and diffusers (tools/requirements.txt) in a venv.
"""
import argparse
import ctypes
import os
import statistics
import time


CPU = 1


class EngineDesc(ctypes.Structure):
    """diffusion_engine_desc of include/diffusion.h."""

    _fields_ = [("struct_size", ctypes.c_uint32), ("device", ctypes.c_int32), ("threads", ctypes.c_uint32),
                ("log_level", ctypes.c_int32), ("memory_limit_host", ctypes.c_uint64),
                ("log", ctypes.c_void_p), ("log_user_data", ctypes.c_void_p), ("device_index", ctypes.c_uint32),
                ("precision", ctypes.c_int32), ("memory_limit_device", ctypes.c_uint64),
                ("cuda_library_directory", ctypes.c_char_p), ("strict", ctypes.c_uint32),
                ("reserved", ctypes.c_uint32)]


class Result(ctypes.Structure):
    """diffusion_result of include/diffusion.h."""

    _fields_ = [(name, ctypes.c_uint32) for name in (
        "struct_size", "image_count", "width", "height", "prompt_tokens", "prompt_tokens_dropped",
        "negative_tokens", "negative_tokens_dropped")] + [
        ("sampler", ctypes.c_int32), ("steps", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64) for name in ("seed", "text_ns", "denoise_ns", "decode_ns", "total_ns")]


class Libdiffusion:
    """One session of the C API: text, one step, decode."""

    def __init__(self, library, model, threads, size):
        self.lib = lib = ctypes.CDLL(library)
        lib.diffusion_error_message.restype = ctypes.c_char_p
        engine, loaded, self.session, self.request = (ctypes.c_void_p() for _ in range(4))
        desc = EngineDesc(struct_size=ctypes.sizeof(EngineDesc), device=CPU, threads=threads)
        self.call(lib.diffusion_engine_new, ctypes.byref(desc), ctypes.byref(engine))
        start = time.perf_counter()
        self.call(lib.diffusion_model_load, engine, model.encode(), None, ctypes.byref(loaded))
        self.load_seconds = time.perf_counter() - start
        self.call(lib.diffusion_session_new, loaded, None, ctypes.byref(self.session))
        self.call(lib.diffusion_request_new, loaded, ctypes.byref(self.request))
        self.set_string(b"prompt", b"a photograph of an astronaut riding a horse")
        for option, value in ((b"width", size), (b"height", size), (b"steps", 1)):
            lib.diffusion_request_set_int(self.request, lib.diffusion_option_find(option), ctypes.c_int64(value))

    def set_string(self, option, value):
        self.lib.diffusion_request_set_string(self.request, self.lib.diffusion_option_find(option), value)

    def call(self, function, *args):
        error = ctypes.c_void_p()
        if function(*args, ctypes.byref(error)) != 0:
            raise SystemExit(self.lib.diffusion_error_message(error).decode())

    def times(self):
        """Seconds of one guided step and of one decode."""
        job, result = ctypes.c_void_p(), Result(ctypes.sizeof(Result))
        self.call(self.lib.diffusion_submit, self.session, self.request, ctypes.byref(job))
        self.lib.diffusion_job_wait(job, ctypes.c_int64(-1))
        self.call(self.lib.diffusion_job_get_result, job, ctypes.byref(result))
        self.lib.diffusion_job_free(job)
        return result.denoise_ns / 1e9, result.decode_ns / 1e9


class Torch:
    """The same step and decode in PyTorch."""

    def __init__(self, model, threads, size):
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel

        torch.set_num_threads(threads)
        self.torch = torch
        options = dict(torch_dtype=torch.float32, local_files_only=True)
        self.unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", **options).eval()
        self.unet.to(memory_format=torch.channels_last)
        self.vae = AutoencoderKL.from_pretrained(model, subfolder="vae", **options).eval()
        latent = size // 2 ** (len(self.vae.config.block_out_channels) - 1)
        torch.manual_seed(0)
        self.sample = torch.randn(2, 4, latent, latent).contiguous(memory_format=torch.channels_last)
        self.context = torch.randn(2, 77, self.unet.config.cross_attention_dim)

    def times(self):
        with self.torch.inference_mode():
            start = time.perf_counter()
            self.unet(self.sample, 501, self.context, return_dict=False)
            step = time.perf_counter() - start
            start = time.perf_counter()
            self.vae.decode(self.sample[:1], return_dict=False)
            return step, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--library", default="target/release/libdiffusion.so")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="image side in pixels")
    args = parser.parse_args()

    ours = Libdiffusion(os.path.abspath(args.library), args.model, args.threads, args.size)
    theirs = Torch(args.model, args.threads, args.size)
    ours.times(), theirs.times()  # warm up
    rounds = [(ours.times(), theirs.times()) for _ in range(args.rounds)]
    print(f"{args.size}x{args.size}, {args.threads} threads, {args.rounds} rounds, PyTorch {theirs.torch.__version__}; "
          f"libdiffusion loads in {ours.load_seconds:.1f} s")
    print("| stage | libdiffusion s | PyTorch s | ratio (min-max) |\n|---|---|---|---|")
    for index, stage in enumerate(("guided U-Net step", "VAE decode")):
        a, b = ([r[side][index] for r in rounds] for side in (0, 1))
        ratios = [x / y for x, y in zip(a, b)]
        print(f"| {stage} | {statistics.median(a):.3f} | {statistics.median(b):.3f} | "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
