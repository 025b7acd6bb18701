#!/usr/bin/env python3
"""Trains a tiny encoder and decoder for the same latents (TAESD-like, under 1 MB), in runs that resume.

    train_tiny.py STATE [--minutes N] [--steps N]

The encoder learns the big encoder's mean in the U-Net's units; the decoder learns pictures from those latents, with a
little noise on them, as they are in previews.
"""
import torch
import torch.nn.functional as F

import model
from art import Art, psnr, save_sheet
from train_vae import load_vae, moments, reconstruction_loss

WARM_UP, NOISE = 50, 0.05


def load_tiny(state, device):
    saved = model.load(state / "tiny.pt")
    tiny = model.make_tiny(saved["size"]).to(device)
    tiny.load_state_dict(saved["weights"])
    return tiny.eval(), saved


@torch.no_grad()
def judge(tiny, vae, art, path=None):
    """On held-out art: PSNR of the tiny decoder on the big encoder's latents, and of the tiny pair alone, in dB."""
    x = art.held_out_art()
    decoded, alone = [], []
    for part in x.split(64):
        decoded.append(tiny.decode(moments(vae, part)[0] * vae.config.scaling_factor).sample)
        alone.append(tiny.decode(tiny.encode(part).latents).sample)
    if path:
        save_sheet(path, torch.cat([x[:16], torch.cat(decoded)[:16], torch.cat(alone)[:16]]), min(16, len(x)))
    return psnr(torch.cat(decoded), x), psnr(torch.cat(alone), x)


def main():
    args = model.training_arguments(__doc__.split("\n")[0], steps=4000, batch=128, lr=1e-3).parse_args()
    device, say = model.begin(args, "train_tiny.py")
    art, (vae, _) = Art(args.state / "data.npz", device), load_vae(args.state, device)
    torch.manual_seed(args.seed)
    tiny = model.make_tiny(art.size).to(device, memory_format=torch.channels_last).train()
    optimizer = model.adamw(tiny.parameters(), args.lr, device)
    path, step = args.state / "tiny.pt", 0
    if path.exists():
        saved = model.load(path)
        tiny.load_state_dict(saved["weights"])
        if saved["optimizer"]:                  # grow.py has none
            optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        say(f"resumed at step {step}")
    clock, losses = model.Clock(args.minutes, step, args.batch), []
    while step < args.steps and not clock.over():
        generator = model.step_generator(args.seed, 900_000 + step)
        x = art.everything(generator, args.batch).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(len(x), 4, art.px // 4, art.px // 4, generator=generator).to(device)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * model.cosine(step, args.steps, WARM_UP)
        with model.autocast(device):
            with torch.no_grad():
                latents = moments(vae, x)[0] * vae.config.scaling_factor
            encoded = tiny.encode(x).latents.float()
            decoded = tiny.decode(latents + NOISE * noise).sample.float()
        picture_loss, _ = reconstruction_loss(decoded, x)
        latent_loss = F.mse_loss(encoded, latents)
        optimizer.zero_grad(set_to_none=True)
        (picture_loss + latent_loss).backward()
        torch.nn.utils.clip_grad_norm_(tiny.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(torch.stack([picture_loss.detach(), latent_loss.detach()]))
        if step % args.log_every == 0:
            of_pictures, of_latents = torch.stack(losses).mean(0).tolist()
            losses = []
            say(f"{clock.line(step, args.steps)} pictures {of_pictures:.4f} latents {of_latents:.4f}")
    model.save(path, dict(weights=tiny.state_dict(), optimizer=optimizer.state_dict(), step=step, size=art.size,
                          samples=step * args.batch))
    decoder, alone = judge(tiny.eval(), vae, art, args.state / "sheets" / f"tiny-{step:06}.png")
    say(f"{'done' if step >= args.steps else 'saved'}: step {step}/{args.steps}, PSNR on held-out art: "
        f"decoder {decoder:.2f} dB, encoder and decoder {alone:.2f} dB")


if __name__ == "__main__":
    model.run("train_tiny.py", main)
