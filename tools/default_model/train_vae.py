#!/usr/bin/env python3
"""Trains the autoencoder, in runs that resume, and folds the statistics of its latents into it.

    train_vae.py STATE [--minutes N] [--steps N]          the autoencoder; makes STATE/vae.pt when all steps are done
    train_vae.py STATE --decoder [...]                    afterwards: the decoder alone, the latents staying as they are

Loss: L1 at three scales, L1 of the gradients (edges), squared error, and a KL term of 1e-6. Two things without which it
stalls at grey pictures: log-variances begin at -5 (model.py), and in the first part three latent channels are pulled to
the mean colours of 4 x 4 pixels. With --decoder the latents get a little noise, which makes the decoder tolerant of
what the U-Net really gives.
"""
import torch
import torch.nn.functional as F

import model
from art import Art, psnr, save_sheet

KL, HINT_SHARE, WARM_UP, DECODER_NOISE = 1e-6, 0.3, 50, 0.05


def reconstruction_loss(y, x):
    pixels = F.l1_loss(y, x)
    edges = (F.l1_loss(y[..., 1:] - y[..., :-1], x[..., 1:] - x[..., :-1])
             + F.l1_loss(y[..., 1:, :] - y[..., :-1, :], x[..., 1:, :] - x[..., :-1, :]))
    x2, y2 = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    coarse = F.l1_loss(y2, x2) + F.l1_loss(F.avg_pool2d(y2, 2), F.avg_pool2d(x2, 2))
    return pixels + 0.5 * edges + 0.5 * coarse + F.mse_loss(y, x), pixels.detach()


def moments(vae, x):
    mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def full_loss(vae, x, noise, done):
    mean, logvar = moments(vae, x)
    y = vae.decoder(vae.post_quant_conv(mean + torch.exp(0.5 * logvar) * noise)).float()
    loss, pixels = reconstruction_loss(y, x)
    kl = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
    hint = max(0.0, 1 - done / HINT_SHARE) * F.mse_loss(mean[:, :3], F.avg_pool2d(x, 4))
    return loss + KL * kl + hint, pixels


def decoder_loss(vae, x, noise, done):
    with torch.no_grad():
        z = moments(vae, x)[0] + DECODER_NOISE / vae.config.scaling_factor * noise
    return reconstruction_loss(vae.decoder(vae.post_quant_conv(z)).float(), x)


@torch.no_grad()
def fold(vae, art, seed, count=1024):
    """Makes every latent channel zero-mean and equally wide through the 1 x 1 convolutions; the common width that
    remains becomes scaling_factor = 1 / std, as diffusers expects it."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.cat([moments(vae, art.show(art.draw(generator, n), art.geometry(generator, n)))[0]
                         for n in [64] * (count // 64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    common = std.log().mean().exp()
    relative = std / common
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] /= relative[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / relative
    into.bias[4:] -= 2 * relative.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= relative[None, :, None, None]
    vae.register_to_config(scaling_factor=float(1 / common))


@torch.no_grad()
def judge(vae, art, path):
    """PSNR on held-out art, in dB, and a sheet of some of it above its reconstruction."""
    x = art.held_out_art()
    y = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(64)])
    save_sheet(path, torch.cat([x[:16], y[:16]]), min(16, len(x)))
    return psnr(y, x)


def load_vae(state, device):
    """The finished autoencoder, for other scripts."""
    if not (state / "vae.pt").exists():
        raise model.Refused(f"{state / 'vae.pt'} is missing; train_vae.py makes it")
    saved = model.load(state / "vae.pt")
    vae = model.make_vae(saved["size"]).to(device)
    vae.load_state_dict(saved["weights"])
    vae.register_to_config(scaling_factor=saved["scaling_factor"])
    return vae.eval(), saved


def main():
    parser = model.training_arguments(__doc__.split("\n")[0], steps=6000, batch=128, lr=1e-3)
    parser.add_argument("--decoder", action="store_true", help="train the finished autoencoder's decoder alone")
    args = parser.parse_args()
    device, say = model.begin(args, "train_vae.py")
    art = Art(args.state / "data.npz", device)
    if args.decoder:
        vae, finished = load_vae(args.state, device)
        if "decoder" in finished["samples"]:
            say("nothing left to do: the decoder is finished")
            return
        trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
        loss_of, path = decoder_loss, args.state / "decoder-training.pt"
    else:
        torch.manual_seed(args.seed)
        vae = model.make_vae(art.size).to(device)
        trained, loss_of, path = list(vae.parameters()), full_loss, args.state / "vae-training.pt"
        if (args.state / "vae.pt").exists():      # what pool and U-Net were made with
            say("nothing left to do: vae.pt is finished")
            return
    vae = vae.to(memory_format=torch.channels_last).train()
    optimizer = model.adamw(trained, args.lr, device)
    step = 0
    if path.exists():
        saved = model.load(path)
        vae.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        say(f"resumed at step {step}")
    clock, losses = model.Clock(args.minutes, step, args.batch), []
    while step < args.steps and not clock.over():
        generator = model.step_generator(args.seed, step)
        x = art.everything(generator, args.batch).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(len(x), 4, art.px // 4, art.px // 4, generator=generator).to(device)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * model.cosine(step, args.steps, WARM_UP)
        with model.autocast(device):
            loss, pixels = loss_of(vae, x, noise, step / args.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(torch.stack([loss.detach(), pixels]))
        if step % args.log_every == 0:
            total, l1 = torch.stack(losses).mean(0).tolist()
            losses = []
            say(f"{clock.line(step, args.steps)} loss {total:.4f} l1 {l1:.4f}")
    model.save(path, dict(weights=vae.state_dict(), optimizer=optimizer.state_dict(), step=step))
    name = "decoder" if args.decoder else "vae"
    vae.eval()
    say(f"step {step}: PSNR on held-out art {judge(vae, art, args.state / 'sheets' / f'{name}-{step:06}.png'):.2f} dB")
    if step < args.steps:
        return
    if args.decoder:
        samples = dict(finished["samples"], decoder=step * args.batch)
    else:
        fold(vae, art, args.seed)
        samples = dict(vae=step * args.batch)
    model.save(args.state / "vae.pt", dict(weights=vae.state_dict(), size=art.size, samples=samples,
                                           scaling_factor=vae.config.scaling_factor))
    say(f"done: scaling_factor {vae.config.scaling_factor:.5f}, "
        f"PSNR {judge(vae, art, args.state / 'sheets' / f'{name}-done.png'):.2f} dB")


if __name__ == "__main__":
    model.run("train_vae.py", main)
