"""The default model's picture by diffusers, a whole process: what build/bin/02_txt2img does for bench_peers.py's last table.

    diffusers_picture.py MODEL THREADS OUTPUT
"""
import sys

import torch
from diffusers import StableDiffusionPipeline

model, threads, output = sys.argv[1:]
torch.set_num_threads(int(threads))
pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, local_files_only=True)
pipeline("a blue cat on a yellow background", guidance_scale=2.5, num_inference_steps=20,
         generator=torch.Generator().manual_seed(1)).images[0].save(output)
