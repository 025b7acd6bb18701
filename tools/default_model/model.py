"""The sizes of the default model, as diffusers and transformers classes, and what all training scripts share."""
import argparse
import math
import os
import sys
import time
from pathlib import Path

# Before the libraries are imported: nothing is looked for on the network, and progress lines are the scripts' own.
os.environ |= dict(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1",
                   DIFFUSERS_VERBOSITY="error", TRANSFORMERS_VERBOSITY="error")

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import dataset
from fetch import Refused
from tokenizer import LENGTH, SIZE

# Pixels come from dataset.SIZES; the latent's side is a quarter of the picture's. All share one autoencoder. emoji-half is
# emoji without its outermost level, which grow.py adds: most of what there is to learn it learns at twice the speed.
WIDTHS = dict(vae=(24, 48, 64), tiny=(32, 32, 32))
SIZES = {"emoji": dict(WIDTHS, unet=(64, 64, 96, 128)),
         "emoji-half": dict(WIDTHS, unet=(64, 96, 128)),
         "emoji-64": dict(WIDTHS, unet=(64, 96, 128))}
VAE_GROUPS, UNET_GROUPS = 8, 16
TEXT_WIDTH = 128
SCHEDULE = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction", rescale_betas_zero_snr=True,
    timestep_spacing="trailing")


def pixels(size):
    return dataset.SIZES[size][0]


def make_vae(size):
    widths = SIZES[size]["vae"]
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths), up_block_types=["UpDecoderBlock2D"] * len(widths),
        norm_num_groups=VAE_GROUPS, sample_size=pixels(size), scaling_factor=1.0)
    # Nearly noise-free at first: with latent noise of unit variance learning stalls, colourless, at the mean picture.
    torch.nn.init.constant_(vae.quant_conv.bias[4:], -5.0)
    return vae


def make_tiny(size):
    """A TAESD-like autoencoder that speaks the U-Net's latents (https://github.com/madebyollin/taesd)."""
    widths = SIZES[size]["tiny"]
    return AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1), latent_channels=4, scaling_factor=1.0)


def make_unet(size):
    widths = SIZES[size]["unet"]
    inner, outer = 2, len(widths) - 2
    return UNet2DConditionModel(
        sample_size=pixels(size) // 4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=widths,
        down_block_types=["DownBlock2D"] * outer + ["CrossAttnDownBlock2D"] * inner,
        up_block_types=["CrossAttnUpBlock2D"] * inner + ["UpBlock2D"] * outer,
        attention_head_dim=tuple(w // 32 for w in widths),     # diffusers reads this as the NUMBER of heads
        cross_attention_dim=TEXT_WIDTH, norm_num_groups=UNET_GROUPS)


def make_text_encoder():
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=SIZE, hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=TEXT_WIDTH, hidden_act="quick_gelu",
        bos_token_id=SIZE - 2, eos_token_id=SIZE - 1, pad_token_id=SIZE - 1))


@torch.no_grad()
def sample(unet, text_encoder, ids, steps=20, guidance=2.5, seed=1):
    """Latents (in the U-Net's units) for rows of token ids; the last row is the empty prompt. DDIM with guidance."""
    device, count = ids.device, len(ids) - 1
    context = text_encoder(torch.cat([ids[:-1], ids[-1:].expand(count, -1)]))[0]
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    side = unet.config.sample_size
    x = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    for t in scheduler.timesteps:
        with_prompt, without = unet(torch.cat([x, x]), t.to(device), context).sample.float().chunk(2)
        x = scheduler.step(without + guidance * (with_prompt - without), t, x).prev_sample
    return x


def device_of(args):
    if args.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(args.device)


def training_arguments(description, **defaults):
    """The options that all training scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("state", type=Path, help="folder that keeps everything between runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="stop, with the state saved, after so long")
    parser.add_argument("--steps", type=int, default=defaults["steps"], help="length of the whole training")
    parser.add_argument("--batch", type=int, default=defaults["batch"])
    parser.add_argument("--lr", type=float, default=defaults["lr"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--log-every", type=int, default=50, help="steps from progress line to progress line")
    return parser


def step_generator(seed, step, device="cpu"):
    """The random numbers of one step: the same whether or not training was interrupted before it."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def autocast(device):
    """bfloat16 where it is the faster one: on GPUs, and on CPUs that multiply it (AVX512-BF16, AMX)."""
    return torch.autocast(device.type, torch.bfloat16,
                          enabled=device.type == "cuda" or torch.cpu._is_avx512_bf16_supported())


def adamw(parameters, lr, device, weight_decay=0.0):
    """On a CPU the fused form spares thousands of small operations a step."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay,
                             fused=device.type == "cpu")


def save(path, state):
    """Replaces `path` at once, so that a run cut off while saving loses nothing."""
    temporary = path.with_name(path.name + ".new")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:      # torch says RuntimeError of a full disk
        temporary.unlink(missing_ok=True)
        raise Refused(f"{path}: cannot be saved; is the disk full? ({str(error).splitlines()[0]})") from None


def load(path):
    """To the CPU: load_state_dict moves weights to where they belong, and AdamW wants its step counts to stay there."""
    return torch.load(path, map_location="cpu", weights_only=True)


def cosine(step, steps, warm_up):
    """What the learning rate is multiplied with when the length is known: a ramp, and a cosine down to 2 %."""
    return min(1.0, (step + 1) / warm_up) * (0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.02)


def level(step, steps, warm_up, decay):
    """The same when it is not: a ramp, a level part, and a line down to 2 % in the last `decay` steps. Before those
    begin nothing depends on `steps`: a training that is to go on longer, or end sooner, equals one planned so."""
    return min(1.0, (step + 1) / warm_up) * (0.98 * min(1.0, (steps - step) / max(decay, 1)) + 0.02)


def begin(args, script):
    """Checks what every script needs; gives the device and a function that prints a line and keeps it in log.txt."""
    if not (args.state / "data.npz").exists():
        sys.exit(f"{script}: {args.state / 'data.npz'} is missing; dataset.py makes it")
    device = device_of(args)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def say(line):
        print(line, flush=True)
        with open(args.state / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"{script}: {line}\n")
    say(" ".join(f"{k}={v}" for k, v in vars(args).items() if k != "state") + f" on {device}")
    return device, say


def check_folder(folder):
    """diffusers takes a path that does not exist for a name on a server."""
    if not (folder / "model_index.json").exists():
        raise Refused(f"{folder} is no model folder; export.py makes one")


def run(script, main):
    """main(), with what can be expected to go wrong said in one line."""
    try:
        main()
    except (Refused, FileNotFoundError) as error:
        sys.exit(f"{script}: {error}")
    except OSError as error:
        sys.exit(f"{script}: {error.filename or 'files'}: {error.strerror or error}")
    except torch.OutOfMemoryError:
        sys.exit(f"{script}: the device has too little memory; try a smaller --batch")


class Clock:
    """When a run has to stop, and how fast it goes."""

    def __init__(self, minutes, first_step, batch):
        self.begin, self.minutes, self.first, self.batch = time.monotonic(), minutes, first_step, batch

    def seconds(self):
        return time.monotonic() - self.begin

    def over(self):
        return self.seconds() > 60 * self.minutes

    def line(self, step, steps):
        rate = (step - self.first) * self.batch / max(self.seconds(), 1e-9)
        return f"step {step}/{steps} {self.seconds():.0f} s {rate:.1f} samples/s"
