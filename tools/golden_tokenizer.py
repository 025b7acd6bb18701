"""Token ids of transformers' CLIPTokenizer, called as diffusers' pipelines call it.

Writes, under `out_dir`/tokenizer:
  clip/            vocab.json and merges.txt of CLIP (MIT licence, OpenAI; from the copy in open_clip_torch), laid
                   out as in SD 1.x
  <variant>/       the small files of other folder layouts around the same vocabulary
  prompts.json     {tokenizer: {"max_length", "pad_id", "cases": [{"text", "ids", "tokens"}]}}
                   ids without the padding at their end; tokens = how many the prompt has
"""

import gzip
import importlib.util
import json
import random
import shutil
import tempfile
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

ROOT = Path(__file__).resolve().parent.parent


def added_token(content, **flags):
    token = {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return token | flags


BOS, EOS = "<|startoftext|>", "<|endoftext|>"

# Folder layouts met in the wild, as {file: content}.
LAYOUTS = {
    # Stable Diffusion 1.x: token objects, which are looked for in the normalised prompt.
    "clip": {
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "bos_token": {"__type": "AddedToken"} | added_token(BOS),
            "do_lower_case": True,
            "eos_token": {"__type": "AddedToken"} | added_token(EOS),
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": EOS,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken"} | added_token(EOS),
        },
        "special_tokens_map.json": {
            "bos_token": added_token(BOS),
            "eos_token": added_token(EOS),
            "pad_token": EOS,
            "unk_token": added_token(EOS),
        },
    },
    # Stable Diffusion 2.x: pads with "!", which makes it a special token.
    "clip-pad-exclamation": {
        "tokenizer_config.json": {
            "bos_token": added_token(BOS),
            "eos_token": added_token(EOS),
            "model_max_length": 77,
            "pad_token": EOS,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map.json": {"bos_token": BOS, "eos_token": EOS, "pad_token": "!", "unk_token": EOS},
    },
    # What transformers 4.34 and later write; with one token more than the vocabulary, as textual inversion adds.
    "clip-added-tokens": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "49406": added_token(BOS, special=True, normalized=True),
                "49407": added_token(EOS, special=True, normalized=False),
                "49408": added_token("<Sks>", special=False, normalized=False, lstrip=True),
            },
            "bos_token": BOS,
            "eos_token": EOS,
            "model_max_length": 77,
            "pad_token": EOS,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": EOS,
        },
        # Not read by transformers when there is an added_tokens_decoder.
        "special_tokens_map.json": {"pad_token": "!"},
    },
    # Nothing but the vocabulary.
    "clip-bare": {},
}

PROMPTS = [
    "",
    " ",
    "a",
    "a photo of an astronaut riding a horse on mars",
    "A BLUE Cat On A YELLOW Background",
    "hello, world! how's it going? I'm fine; they've said we'll do what you'd expect -- it isn't 'Bob's'.",
    "don't DON'T can't 'S 'LL y'all rock'n'roll ''' '' 's",
    "1234567890 3.14159 1,000,000 0x7f 1st 2nd 4k 8K ½ ² Ⅷ ٣٤٥ ١٢",
    "(masterpiece:1.2), [best quality], {8k}, <lora:thing:0.8>, a|b, \\(escaped\\), #tag @user 50% $5 & * ~ ` ^ _ = +",
    "...!!!???---___***",
    "http://example.com/path?query=1#fragment user@example.com C:\\dir\\file.png",
    "snake_case CamelCase kebab-case UPPER_CASE mixed123numbers456",
    # Accents, composed and decomposed.
    "café crème brûlée naïve Zürich Ångström Łódź señor",
    "cafe\u0301 cre\u0300me bru\u0302le\u0301e nai\u0308ve Zu\u0308rich A\u030angstro\u0308m",
    "İstanbul ISTANBUL ıı straße STRASSE ǅ ﬁ ﬂ ß ẞ",
    "ÀÉÎÕÜ ΑΒΓΔ Σίσυφος ΣΊΣΥΦΟΣ",
    "Привет, мир! Ёлка ёлка",
    "שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "한국어 각 \u1100\u1161\u11a8 ＦＵＬＬＷＩＤＴＨ ｱｲｳ",
    "一只蓝色的猫，黄色背景。「猫」と犬　日本語",
    "\U00020000\U0002a6d6 \U0001d49c\U0001d4b7 𝕳𝖊𝖑𝖑𝖔 𓀀",
    # Emoji, of one and of several code points.
    "😀 🐱 cat🐱dog ❤️ ❤ ☺️",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ 🧑🏿‍🚀",
    # White space.
    "tab\there\nnewline\r\ncarriage\rreturn\x0bvertical\x0cform  double   triple",
    "\u00a0no\u00a0break\u2003em\u2009thin\u3000ideographic\u1680ogham\u0085next\u2028line\u2029paragraph\u202fnarrow",
    "zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom\u180emongolian\u00adsoft",
    "  leading and trailing  ",
    "\t\n\r",
    # Control characters.
    "nul\x00here bell\x07 esc\x1b[31mred\x1b[0m del\x7f fs\x1cgs\x1drs\x1eus\x1f c1\x80\x9f",
    "\x00",
    "\ufffd \ufffe \U0010ffff \ue000",
    # The text of special tokens.
    "<|endoftext|>",
    "a cat<|endoftext|>a dog",
    "a cat <|startoftext|> a dog <|endoftext|><|endoftext|>",
    "<|ENDOFTEXT|> <|EndOfText|> <| endoftext |> <|endoftext <|endoftext|",
    "<sks> <Sks>   <Sks>dog a <Sks>",
    "wow! so! much!! !",
    "the</w> cat</w> Ġthe Ċ </w>",
    # Just short of, at and past the length of the context, and far past it.
    " ".join(["cat"] * 29),
    " ".join(["cat"] * 30),
    " ".join(["cat"] * 31),
    " ".join(["cat"] * 74),
    " ".join(["cat"] * 75),
    " ".join(["cat"] * 76),
    "the quick brown fox jumps over the lazy dog, " * 30,
    "a" * 3000,
    "supercalifragilisticexpialidocious" * 20,
    "é" * 200,
    "😀" * 100,
    "!" * 500,
    "1" * 100,
    "<|endoftext|>" * 80,
]

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz     ",
    "ABCdef'sStmM'llLLdDvV 0123456789.,!?-_/\\|<>[]{}()\"'`~@#$%^&*+=:; ",
    "àéîõüçñøåßœæłžšđ\u0300\u0301\u0302\u0303\u0308\u030a aeiou ",
    "абвгдеёжз АБВΑΒΓαβγς שלוםمرحبا नमस्ते ",
    "日本語中文漢字かなカナ한국어ｱＡ　。、「」 ",
    "😀🐱❤️👩‍👧👍🏽🇩🇪1️⃣🏳️‍🌈 ab ",
    " \t\n\r\x0b\x0c\x1c\x1f\x85\u00a0\u1680\u2003\u200b\u200d\u2028\u202f\u3000\ufeff\x00\x07ab",
]


def fuzz(count):
    rng = random.Random(20231101)
    for i in range(count):
        alphabet = ALPHABETS[i % len(ALPHABETS)] if i % 3 else "".join(ALPHABETS)
        yield "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 60)))


def write_clip(folder):
    """CLIP's vocabulary: 256 bytes, the same as ends of words, the merges, two special tokens."""
    # Found without importing the package, which needs torchvision.
    package = Path(importlib.util.find_spec("open_clip").origin).parent
    archive = package / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.open(archive).read().decode("utf-8").split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    # The printable bytes stand for themselves and come first, the others follow from U+0100 on.
    symbols = sorted(ByteLevel.alphabet())
    assert len(symbols) == 256
    vocab = symbols + [s + "</w>" for s in symbols] + [merge.replace(" ", "") for merge in merges] + [BOS, EOS]
    ids = {token: i for i, token in enumerate(vocab)}
    assert len(ids) == 49408
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def cases(tokenizer, prompts):
    for text in prompts:
        ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
        assert len(ids) == tokenizer.model_max_length
        while len(ids) > 1 and ids[-1] == ids[-2] == tokenizer.pad_token_id:
            ids.pop()
        if ids[-1] == tokenizer.pad_token_id != tokenizer.eos_token_id:
            ids.pop()
        tokens = len(tokenizer(text, add_special_tokens=False).input_ids)
        yield {"text": text, "ids": ids, "tokens": tokens}


def make(out_dir):
    out = Path(out_dir) / "tokenizer"
    shutil.rmtree(out, ignore_errors=True)
    for name, files in LAYOUTS.items():
        for file, content in files.items():
            (out / name).mkdir(parents=True, exist_ok=True)
            (out / name / file).write_text(json.dumps(content, indent=2) + "\n")
    write_clip(out / "clip")

    result = {}
    for name in [*LAYOUTS, "emoji-64"]:
        with tempfile.TemporaryDirectory() as folder:
            if name == "emoji-64":
                folder = ROOT / "models/emoji-64/tokenizer"
            else:
                for file in ["vocab.json", "merges.txt"]:
                    shutil.copy(out / "clip" / file, folder)
                for file in LAYOUTS[name]:
                    shutil.copy(out / name / file, folder)
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            if not LAYOUTS.get(name, True):
                tokenizer.model_max_length = 77
            prompts = PROMPTS + list(fuzz(140 if name in ("clip", "emoji-64") else 20))
            result[name] = {
                "max_length": tokenizer.model_max_length,
                "pad_id": tokenizer.pad_token_id,
                "cases": list(cases(tokenizer, prompts)),
            }
    text = ",\n".join(
        f'{json.dumps(name)}: {{"max_length": {r["max_length"]}, "pad_id": {r["pad_id"]}, "cases": [\n'
        + ",\n".join(json.dumps(case, separators=(",", ":")) for case in r["cases"])
        + "\n]}"
        for name, r in result.items()
    )
    (out / "prompts.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    make(ROOT / "tests/golden")
