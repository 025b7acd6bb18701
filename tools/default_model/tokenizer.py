#!/usr/bin/env python3
"""CLIP's byte-pair encoding, cut to 4096 tokens, so that the text encoder's table is small.

    tokenizer.py PACKAGES OUT       writes vocab.json, merges.txt and the two configs into OUT

Kept are all merges that an emoji's label or a word of the templates needs, which therefore split as in full CLIP, and
CLIP's first merges up to the size; a name in things.py that is no label may split into more tokens. The file of merges
is read inside the open_clip_torch wheel that fetch.py left; nothing of the package is imported. Needs the standard
library only.
"""
import argparse
import gzip
import json
import re
import sys
from pathlib import Path

from captions import words_of_templates
from concepts import everything, plain
from fetch import ARCHIVES, Refused, read_member

SIZE, LENGTH = 4096, 32        # tokens in the table; tokens of a prompt, with begin and end
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
# Words of prompts that people may try; they cost nothing when CLIP's first merges have them anyway.
MORE = "tiny small big large light dark sky navy lime grey gold silver two one next to above below with in at".split()
# CLIP's pattern, for text that is lower-case ASCII already.
PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")


def byte_symbols():
    """CLIP's printable stand-in for each of the 256 bytes, in the order of its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def clip_merges(packages):
    """CLIP's 48,894 merges, in rank order, as pairs."""
    table = read_member(packages / ARCHIVES["open_clip_torch"], "open_clip/bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(table).decode("utf-8").split("\n")[1:49408 - 512 - 2 + 1]
    return [tuple(line.split()) for line in lines]


def split(word, rank):
    """The tokens of one piece of text, and the merges that made them."""
    symbols, used = [*word[:-1], word[-1] + "</w>"], []
    while len(symbols) > 1:
        pair = min(zip(symbols, symbols[1:]), key=lambda pair: rank.get(pair, len(rank)))
        if pair not in rank:
            break
        merged, i = [], 0
        while i < len(symbols):
            if tuple(symbols[i:i + 2]) == pair:
                merged.append(symbols[i] + symbols[i + 1])
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        used.append(pair)
        symbols = merged
    return symbols, used


def trim(merges, words):
    """The merges to keep, in rank order: those that `words` need, then CLIP's first."""
    rank = {pair: i for i, pair in enumerate(merges)}
    keep = {pair for word in words for pair in split(word, rank)[1]}
    if len(keep) > SIZE - 514:
        raise Refused(f"the captions need {len(keep)} merges, more than the {SIZE - 514} that the table has room for")
    needed = len(keep)
    for pair in merges:
        if len(keep) == SIZE - 514:
            break
        keep.add(pair)
    return [pair for pair in merges if pair in keep], needed


class Tokenizer:
    """Captions to rows of LENGTH ids, padded with the end token; long captions are cut, with the end token last."""

    def __init__(self, folder):
        self.ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
        self.rank = {tuple(line.split()): i for i, line in enumerate(filter(None, lines))}
        self.words = {}

    def __call__(self, text):
        row = [self.ids[BEGIN]]
        for word in text.lower().split():
            if word not in self.words:
                tokens = [token for piece in PIECES.findall(word) for token in split(piece, self.rank)[0]]
                self.words[word] = [self.ids[token] for token in tokens]
            row += self.words[word]
        row = row[:LENGTH - 1] + [self.ids[END]]
        return row + [self.ids[END]] * (LENGTH - len(row))


def check(folder):
    """Refuses a tokenizer of another size, which the text encoder's table would not fit."""
    if not (folder / "vocab.json").exists() or not (folder / "merges.txt").exists():
        raise Refused(f"{folder} has no vocab.json and merges.txt")
    ids = Tokenizer(folder).ids
    if len(ids) != SIZE or ids.get(END) != SIZE - 1 or ids.get(BEGIN) != SIZE - 2:
        raise Refused(f"{folder}: not a tokenizer of {SIZE} tokens that ends with {BEGIN} and {END}")


def write_json(path, value, indent=2):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write(packages, out):
    labels = [e["label"] for e in everything(packages)]
    words = {piece for label in labels for piece in PIECES.findall(plain(label))}
    merges, needed = trim(clip_merges(packages), sorted(words | set(words_of_templates()) | set(MORE)))
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges] + [BEGIN, END]
    assert len(set(tokens)) == SIZE
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "vocab.json", {token: i for i, token in enumerate(tokens)}, None)
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges), encoding="utf-8")
    special = dict(bos_token=BEGIN, eos_token=END, pad_token=END, unk_token=END)
    write_json(out / "special_tokens_map.json", special)
    write_json(out / "tokenizer_config.json", dict(
        add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=LENGTH,
        tokenizer_class="CLIPTokenizer", **special))
    return needed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder that fetch.py filled")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        needed = write(args.packages, args.out)
    except (Refused, OSError) as error:
        sys.exit(f"tokenizer.py: {error}")
    print(f"{args.out}: {SIZE} tokens; labels and templates need {needed} of its {SIZE - 514} merges")


if __name__ == "__main__":
    main()
