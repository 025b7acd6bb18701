#!/usr/bin/env python3
"""Writes the trained model as a folder that diffusers and libdiffusion load, with its card and NOTICE.

    export.py STATE OUT

Weights are the averaged ones, in float16; tiny/ is the small autoencoder, when it has been trained. The card takes its
numbers from STATE/evaluation.json when evaluate.py wrote it for these very weights, and says so when there are none:
run export.py, evaluate.py, and export.py again. The card quotes STATE/look.md, what people write about the sheets, and
STATE/beginning.md, how it went on from a smaller model, if it did (grow.py; people may say more).
"""
import argparse
import hashlib
import json
import os
import shutil
import string
from pathlib import Path

import model           # first: it sets what the libraries read when they are imported
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from art import Art
from captions import BACKGROUNDS, COLOURS
from tokenizer import LENGTH, Tokenizer, write_json
from train_tiny import load_tiny
from train_vae import load_vae

TEMPLATES = Path(__file__).resolve().parent / "templates"
# What this machine, or a cache, is called is nobody's business.
PRIVATE = ("_name_or_path", "name_or_path", "local_files_only", "is_local", "_commit_hash")
WEIGHTS = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
           "vae/diffusion_pytorch_model.safetensors"]


def fingerprint(folder):
    """SHA-256 over the weight files: what numbers belong to."""
    digest = hashlib.sha256()
    for name in WEIGHTS:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def load_unet(state):
    if not (state / "unet.pt").exists():
        raise model.Refused(f"{state / 'unet.pt'} is missing; train_unet.py makes it")
    saved = model.load(state / "unet.pt")
    unet, text_encoder = model.make_unet(saved["size"]), model.make_text_encoder()
    unet.load_state_dict(saved["weights"][2])
    text_encoder.load_state_dict(saved["weights"][3])
    return unet.eval(), text_encoder.eval(), saved


def check_tokenizer(folder, art):
    """What training used and what transformers makes of the same files must be the same ids."""
    theirs, ours = CLIPTokenizer.from_pretrained(folder), Tokenizer(folder)
    for concept in art.concepts:
        for text in [*concept["names"], *concept["keywords"]]:
            ids = theirs(text, padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
            if ids != ours(text):
                raise model.Refused(f"tokenizers disagree about {text!r}")
    return theirs


def save_pipeline(state, out, art):
    unet, text_encoder, saved = load_unet(state)
    vae, saved_vae = load_vae(state, "cpu")
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=check_tokenizer(state / "tokenizer", art), unet=unet,
        scheduler=DDIMScheduler(**model.SCHEDULE), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    pipeline.to(torch.float16).save_pretrained(out)
    # transformers 5 leaves out the prefix that published checkpoints have.
    path = out / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    save_file({name if name.startswith("text_model.") else "text_model." + name: tensor.contiguous()
               for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    for file in (state / "tokenizer").iterdir():
        shutil.copyfile(file, out / "tokenizer" / file.name)
    samples = dict(saved_vae["samples"], unet=saved["samples"])
    if (state / "tiny.pt").exists():
        tiny, saved_tiny = load_tiny(state, "cpu")
        tiny.to(torch.float16).save_pretrained(out / "tiny")
        samples["tiny"] = saved_tiny["samples"]
    for path in out.rglob("*.json"):
        if path.name not in ("vocab.json", "tokenizer.json"):
            config = json.loads(path.read_text(encoding="utf-8"))
            write_json(path, {k: v for k, v in config.items() if k not in PRIVATE})
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return samples


def evaluation_of(state, out):
    """What evaluate.py wrote for these very weights, or None."""
    path = state / "evaluation.json"
    if not path.exists():
        return None
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    return evaluation if evaluation["weights"] == fingerprint(out) else None


def table_of_numbers(evaluation):
    """The evaluation as Markdown, or a sentence that there is none."""
    if evaluation is None:
        return "Not evaluated with these weights."
    lines = ["| what | n | measured | wanted | |", "|---|---|---|---|---|"]
    for row in evaluation["rows"]:
        lines.append(f"| {row['what']} | {row['n']} | {row['value']:.1f} {row['unit']} | {row['wanted']} | "
                     f"{'met' if row['met'] else 'not met'} |")
    lines.append(f"\n{evaluation['steps']} DDIM steps, guidance {evaluation['guidance']}, one picture a prompt, "
                 f"seeds from {evaluation['seed']}, float32."
                 + (f" At most {evaluation['limit']} prompts of each kind." if evaluation["limit"] else ""))
    return "\n".join(lines)


def failures(evaluation):
    """What the model cannot draw, by name."""
    if evaluation is None:
        return "Not evaluated with these weights."
    titles = dict(plain="Plain prompts", colour="Held-out colours", background="Held-out backgrounds",
                  style="Held-out styles")
    lines = []
    for kind, title in titles.items():
        wrong = [f"“{case['prompt']}” ({case['nearest']})" for case in evaluation["wrong"].get(kind, [])]
        lines.append(f"- {title}: {', '.join(wrong) or 'none'}.")
    if evaluation["failures"]:
        lines += ["", "![drawn, and true](failures.png)", "",
                  f"{len(evaluation['failures'])} of them, each with the true picture to its right: "
                  + "; ".join(evaluation["failures"]) + "."]
    return "\n".join(lines)


def sheet(evaluation):
    """The sheet of random prompts, row by row, with those in italics whose picture is nearer to another thing."""
    if evaluation is None:
        return "Not evaluated with these weights."
    wrong = {case["index"] for case in evaluation["wrong"]["sheet"]}
    texts = [f"*{text}*" if i in wrong else text for i, text in enumerate(evaluation["sheet"])]
    lines = [f"![{len(texts)} random prompts](samples.png)", "",
             f"Random prompts, nothing chosen, seeds from {evaluation['seed']}; in italics where another thing's "
             f"picture is nearer ({len(wrong)} of {len(texts)}):", ""]
    return "\n".join([*lines, *(f"{i // 8 + 1}. {'; '.join(texts[i:i + 8])}" for i in range(0, len(texts), 8))])


def write_card(state, out, art, samples, hardware):
    parameters, evaluation = {}, evaluation_of(state, out)
    for part, file in zip(("unet", "text_encoder", "vae"), WEIGHTS):
        parameters[part] = f"{sum(t.numel() for t in load_file(out / file).values()) / 1e6:.2f} M"
    names = {"unet": "U-Net and text encoder", "vae": "autoencoder", "decoder": "decoder alone, afterwards",
             "tiny": "tiny autoencoder"}
    quoted = lambda name, otherwise: (
        (state / name).read_text(encoding="utf-8").strip() if (state / name).exists() else otherwise)
    fields = dict(
        look=quoted("look.md", "Nobody has described its pictures yet."),
        beginning=quoted("beginning.md", "All of it began from scratch."),
        hardware=hardware,
        name=art.size, px=art.px, latent=art.px // 4, concepts=len(art.concepts),
        colours=" ".join(COLOURS), backgrounds=", ".join(BACKGROUNDS), table=table_of_numbers(evaluation),
        failures=failures(evaluation), sheet=sheet(evaluation),
        samples=", ".join(f"{names[part]} {count:,}" for part, count in samples.items() if count),
        size=f"{sum(p.stat().st_size for p in out.rglob('*.safetensors')) / 1e6:.1f} MB",
        things=", ".join("/".join(c["names"]) for c in art.concepts),
        **{f"{k}_parameters": v for k, v in parameters.items()},
        **{f"{k}_widths": "/".join(map(str, model.SIZES[art.size][k])) for k in ("unet", "vae")})
    if evaluation is not None:
        shutil.copyfile(state / "sheets" / "evaluation.png", out / "samples.png")
        if evaluation["failures"]:
            shutil.copyfile(state / "sheets" / "failures.png", out / "failures.png")
    for file in ("README.md", "NOTICE"):
        template = string.Template((TEMPLATES / file).read_text(encoding="utf-8"))
        (out / file).write_text(template.substitute(fields), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("out", type=Path, help="the model folder; replaced when it is one")
    parser.add_argument("--hardware", default="hardware nobody wrote down", help="what it was trained on, for the card")
    args = parser.parse_args()
    if args.out.exists() and not (args.out / "model_index.json").exists():
        raise model.Refused(f"{args.out} exists and is no model folder")
    art = Art(args.state / "data.npz")
    new = args.out.with_name(args.out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    samples = save_pipeline(args.state, new, art)
    write_card(args.state, new, art, samples, args.hardware)
    shutil.rmtree(args.out, ignore_errors=True)
    os.replace(new, args.out)
    total = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {total:,} bytes; {samples}")


if __name__ == "__main__":
    model.run("export.py", main)
