#!/usr/bin/env python3
"""Trains the U-Net and the text encoder together, from scratch or from what grow.py left, in runs that resume.

    train_unet.py STATE [--minutes N] [--steps N] [--decay N]

v-prediction on a schedule with zero terminal SNR, min-SNR weights, a tenth of the captions empty (captions.py), and an
average of the weights (EMA), which is what is exported. STATE/unet.pt holds all of it, and the optimizer. The learning
rate is level until the last --decay steps, so --steps need not be known before those begin: give a large number, look
at the sheets, and when the time is up run with --steps (steps so far + decay).
"""
import torch

import model
from art import Art, save_sheet
from captions import BACKGROUND_NAMES, COLOUR_NAMES, STYLES, prompt
from encode import load_pool
from tokenizer import Tokenizer
from train_vae import load_vae

WARM_UP, TEXT_RATE = 150, 0.8


def snr_weights(schedule, most):
    """Min-SNR (arXiv 2303.09556) in the form of diffusers' training scripts for v: min(SNR + 1, most) / (SNR + 1).

    It is 1 at zero SNR, where the plain form would leave the last step, which sets the background, untrained."""
    ratio = schedule / (1 - schedule) + 1
    return ratio.clamp(max=most) / ratio


def make_networks(size, device):
    unet = model.make_unet(size).to(device, memory_format=torch.channels_last)
    return unet, model.make_text_encoder().to(device)


def sheet_prompts(art, count=24):
    """Prompts spread over the concepts, in all styles, colours and backgrounds."""
    texts = []
    for i in range(count):
        concept = i * len(art.concepts) // count
        colour = (i * 5) % len(COLOUR_NAMES) if i % 2 and art.item[0, concept, 1] >= 0 else 0
        background = (i * 7) % len(BACKGROUND_NAMES) if i % 3 == 2 else 0
        texts.append(prompt(art.concepts[concept]["names"][0], STYLES[(1, 2)[i % 2]] if i % 6 > 3 else "3d",
                            COLOUR_NAMES[colour], BACKGROUND_NAMES[background]))
    return texts


@torch.no_grad()
def sheet(path, unet, text_encoder, vae, rows):
    latents = model.sample(unet, text_encoder, rows)
    save_sheet(path, torch.cat([vae.decode(z / vae.config.scaling_factor).sample for z in latents.split(8)]))


def main():
    parser = model.training_arguments(__doc__.split("\n")[0], steps=12000, batch=1024, lr=1e-3)
    parser.add_argument("--decay", type=int, default=3000, help="steps at the end in which the learning rate falls")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--min-snr", type=float, default=5.0)
    parser.add_argument("--sheet-every", type=int, default=1000, help="steps from sample sheet to sample sheet")
    args = parser.parse_args()
    device, say = model.begin(args, "train_unet.py")
    art, (vae, _) = Art(args.state / "data.npz"), load_vae(args.state, device)
    pool, things = load_pool(args.state, device)
    tokenizer = Tokenizer(args.state / "tokenizer")
    torch.manual_seed(args.seed)
    networks, averaged = make_networks(art.size, device), make_networks(art.size, device)
    for network, average in zip(networks, averaged):
        average.load_state_dict(network.state_dict())
        average.eval().requires_grad_(False)
        network.train()
    unet, text_encoder = networks
    trained = [*unet.parameters(), *text_encoder.parameters()]
    followers = [*averaged[0].parameters(), *averaged[1].parameters()]
    optimizer = model.adamw(
        [dict(params=list(unet.parameters()), base=args.lr),
         dict(params=list(text_encoder.parameters()), base=args.lr * TEXT_RATE)], args.lr, device, weight_decay=0.01)
    path, step, samples = args.state / "unet.pt", 0, 0
    if path.exists():
        saved = model.load(path)
        for network, weights in zip([*networks, *averaged], saved["weights"]):
            network.load_state_dict(weights)
        if saved["optimizer"]:                  # grow.py has none
            optimizer.load_state_dict(saved["optimizer"])
        step, samples = saved["step"], saved["samples"]
        say(f"resumed at step {step}")

    def keep():
        model.save(path, dict(weights=[n.state_dict() for n in [*networks, *averaged]], step=step, samples=samples,
                              optimizer=optimizer.state_dict(), size=art.size))
    schedule = model.DDIMScheduler(**model.SCHEDULE).alphas_cumprod
    weights = snr_weights(schedule, args.min_snr).to(device)
    schedule = schedule.to(device)
    prompts = sheet_prompts(art)
    rows = torch.tensor([tokenizer(text) for text in [*prompts, ""]]).to(device)
    (args.state / "sheets").mkdir(exist_ok=True)
    (args.state / "sheets" / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    clock, losses = model.Clock(args.minutes, step, args.batch), []
    while step < args.steps and not clock.over():
        generator = model.step_generator(args.seed, step)
        index = torch.randint(len(pool), (args.batch,), generator=generator)
        ids = torch.tensor([tokenizer(text) for text in art.captions(args.seed * 1_000_003 + step, things[index])])
        # Timesteps are stratified: the batch covers 0 to 999 evenly.
        t = (torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) * 1000 / args.batch
        t = t.long().clamp(0, 999).to(device)
        latents = pool[index.to(device)].float().contiguous(memory_format=torch.channels_last)
        noise = torch.randn(latents.shape, generator=model.step_generator(args.seed, step, device), device=device)
        signal, rest = schedule[t].sqrt()[:, None, None, None], (1 - schedule[t]).sqrt()[:, None, None, None]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * model.level(step, args.steps, WARM_UP, args.decay)
        with model.autocast(device):
            context = text_encoder(ids.to(device))[0]
            predicted = unet(signal * latents + rest * noise, t, context).sample
        error = (predicted.float() - (signal * noise - rest * latents)).pow(2).mean((1, 2, 3))
        loss = (weights[t] * error).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step, samples = step + 1, samples + args.batch
        with torch.no_grad():
            torch._foreach_lerp_(followers, trained, 1 - min(args.ema, (1 + step) / (10 + step)))
        losses.append(torch.stack([loss.detach(), error.detach().mean()]))
        if step % args.log_every == 0:
            weighted, plain = torch.stack(losses).mean(0).tolist()
            losses = []
            say(f"{clock.line(step, args.steps)} loss {weighted:.4f} v-error {plain:.4f}")
        if step % args.sheet_every == 0:
            keep()
            sheet(args.state / "sheets" / f"unet-{step:06}.png", *averaged, vae, rows)
    keep()
    sheet(args.state / "sheets" / f"unet-{step:06}.png", *averaged, vae, rows)
    say(f"{'done' if step >= args.steps else 'saved'}: step {step}/{args.steps}, {samples:,} samples seen")


if __name__ == "__main__":
    model.run("train_unet.py", main)
