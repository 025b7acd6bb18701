#!/usr/bin/env python3
"""Makes the fixtures under tests/golden/ from PyTorch, diffusers and transformers.

    golden.py [part ...]        the parts are those of PARTS below; all of them when none is named

Run in a venv with the versions of tools/requirements.txt. Needs no network. Seeded: a second run on the same kind of
machine writes the same bytes.
"""
import importlib
import os
import sys
from pathlib import Path

# Before torch is imported: one thread keeps the order of every sum, and so the bytes, fixed.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"

PARTS = (
    "models", "default", "variants", "sampling", "schedules", "solvers_k", "solvers_dpm", "solvers_diffusers",
    "guidance", "img2img", "tokenizer",
)
OUT = Path(__file__).resolve().parent.parent / "tests" / "golden"


def main():
    parts = sys.argv[1:] or PARTS
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        sys.exit(f"unknown part {unknown[0]!r}; there are: {' '.join(PARTS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    for part in parts:
        print(f"{part}: making", flush=True)
        importlib.import_module(f"golden_{part}").make(OUT)


if __name__ == "__main__":
    main()
