#!/usr/bin/env python3
"""What can be tested of these scripts with the standard library alone, without a network, in a second."""
import io
import json
import random
import re
import tarfile
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from unittest import mock

import captions
import concepts
import fetch
import tokenizer
from things import MORE, SMALL, things


def archive(path, members):
    with tarfile.open(path, "w:gz") as out:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            out.addfile(info, io.BytesIO(text))


class Captions(unittest.TestCase):
    def test_held_out_splits_are_what_they_were(self):
        # A trained model's numbers mean nothing if a split moves. From sha256sum of the keys:
        # `printf colour/cat/purple | sha256sum` begins with dc8a29a8, and 0xdc8a29a8 / 2**32 = 0.8615.
        self.assertAlmostEqual(captions.share("colour", "cat", "purple"), 0.8615, places=4)
        labels = [f"thing {i}" for i in range(1000)]
        pairs = [(t, c) for t in labels for c in captions.COLOURS]
        self.assertAlmostEqual(sum(captions.colour_held_out(*p) for p in pairs) / len(pairs), 0.10, delta=0.01)
        self.assertAlmostEqual(sum(captions.style_held_out(t, "flat") for t in labels) / 1000, 0.06, delta=0.02)
        self.assertAlmostEqual(sum(captions.style_held_out(t, "line") for t in labels) / 1000, 0.06, delta=0.02)

    def test_names_take_their_article(self):
        for words in ("an hourglass", "a house", "an owl", "a unicorn", "an umbrella", "a ufo", "a cup of coffee",
                      "an orange bus", "an octopus", "a dress"):
            self.assertEqual(captions.article(words.split(" ", 1)[1]), words)
        for words in ("skis", "paw prints", "red cherries", "rice", "yellow cheese", "noodle soup"):
            self.assertEqual(captions.article(words), words)

    def test_the_words_are_those_that_models_know(self):
        self.assertEqual(" ".join(captions.COLOURS), "red orange yellow green teal blue purple pink brown")
        self.assertEqual(" ".join(captions.BACKGROUNDS),
                         "white black light blue mint pink lavender cream dark blue yellow gray")
        self.assertEqual(captions.STYLES, ["3d", "flat", "line"])

    def test_what_is_plain_is_never_held_out(self):
        for i in range(300):
            thing = f"thing {i}"
            self.assertFalse(captions.style_held_out(thing, "3d") or captions.colour_held_out(thing, "original")
                             or captions.background_held_out(thing, "white"))
            held = [captions.style_held_out(f"thing {i}", style) for style in ("flat", "line")]
            self.assertFalse(all(held))

    def test_prompts(self):
        for name, words in [("owl", "an owl"), ("unicorn", "a unicorn"), ("ufo", "a ufo"), ("cherries", "cherries"),
                            ("cactus", "a cactus"), ("octopus", "an octopus"), ("t-rex", "a t-rex"),
                            ("face with hearts", "a face with hearts"), ("yellow cheese", "yellow cheese"),
                            ("cup of coffee", "a cup of coffee"), ("glasses", "glasses")]:
            self.assertEqual(captions.prompt(name), words)
        self.assertEqual(captions.prompt("octopus", "flat", "purple", "yellow"),
                         "a flat icon of a purple octopus on a yellow background")

    def test_captions_say_what_they_must(self):
        rng = random.Random(0)
        empty = 0
        for _ in range(3000):
            style, colour = rng.choice(captions.STYLES), rng.choice(captions.COLOUR_NAMES)
            background = rng.choice(captions.BACKGROUND_NAMES)
            text = captions.caption(rng, ["owl", "bird of night"], ["wise", "dark"], style, colour, background)
            empty += not text
            if not text:
                continue
            self.assertNotRegex(text, r"\ba [aeio]|\ban [^aeiou]|  |{")
            end = re.search(r"( on a ([a-z ]+) background)?$", text)
            self.assertIn(end[2] or "white", (background, captions.SHORT.get(background)))
            text = text[:end.start()]
            self.assertEqual(colour in text, colour != "original")
            says = "line" if re.search(r"\b(line|outline)\b", text) else "flat" if "flat" in text else "3d"
            self.assertEqual(says, style)
        self.assertAlmostEqual(empty / 3000, 0.10, delta=0.02)


class Fetch(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name) / "x-1.0.0.tgz"

    def refused(self, package):
        with self.assertRaises(fetch.Refused) as caught:
            fetch.fetch(Path(self.folder.name), package)
        self.assertNotIn("\n", str(caught.exception))
        return str(caught.exception)

    def test_wrong_sum(self):
        archive(self.path, {"package/LICENSE": b"MIT"})
        self.assertIn("SHA-256", self.refused(("npm", "x", "1.0.0", self.path.name, "0" * 64, {})))

    def test_wrong_licence_and_damaged_archive(self):
        archive(self.path, {"package/LICENSE": b"All rights reserved"})
        total = fetch.hashlib.sha256(self.path.read_bytes()).hexdigest()
        package = ("npm", "x", "1.0.0", self.path.name, total)
        self.assertIn("licence", self.refused((*package, {"package/LICENSE": fetch.MIT})))
        self.assertIn("has no", self.refused((*package, {"package/COPYING": fetch.MIT})))
        self.path.write_bytes(b"no archive")
        with self.assertRaises(fetch.Refused):
            fetch.check_licence(self.path, {"package/LICENSE": "MIT"})

    def test_package_that_cannot_be_had(self):
        package = ("npm", "x", "1.0.0", self.path.name, "0" * 64, {})
        with mock.patch.dict("os.environ", PATH=""):
            self.assertIn("npm is not installed", self.refused(package))
        for said, line in [("npm error code E404", "npm has no x 1.0.0"), ("a\nnpm error no", "npm error no")]:
            with mock.patch("subprocess.run", return_value=mock.Mock(returncode=1, stdout="", stderr=said)), \
                    mock.patch("shutil.which", return_value="npm"):
                self.assertIn(line, self.refused(package))
        with mock.patch("subprocess.run", return_value=mock.Mock(returncode=1, stdout="", stderr="npm error ENOSPC")), \
                mock.patch("shutil.which", return_value="npm"), self.assertRaises(OSError):
            fetch.fetch(Path(self.folder.name), package)


class Concepts(unittest.TestCase):
    def test_only_pictures_on_microsofts_list(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            dump = lambda value: json.dumps(value).encode()
            archive(folder / fetch.ARCHIVES["fluentui-emoji-js"], {
                "package/emojiData.json": dump([{"unicode": "1f98a"}, {"unicode": "1f4ce"}, {"unicode": "2764 fe0f"}])})
            archive(folder / fetch.ARCHIVES["@lobehub/fluent-emoji-3d"], {
                f"package/assets/{code}.webp": b"" for code in ("1f98a", "1f4ce", "1f1eb-1f1f7", "2764-fe0f")})
            tags = ["red", "Piñata", ":)"]
            entry = lambda code, label: dict(hexcode=code, label=label, emoji=label, group=0, tags=tags)
            archive(folder / fetch.ARCHIVES["emojibase-data"], {
                "package/meta/groups.json": dump({"groups": {"0": "animals-nature"}}),
                "package/en/data.json": dump([entry("1F98A", "Fox"), entry("1F4CE", "paperclip"),
                                              entry("1F1EB-1F1F7", "flag: France"), entry("2764-FE0F", "red heart")])})
            archive(folder / fetch.ARCHIVES["emojilib"], {"package/dist/emoji-en-US.json": b"{}"})
            found = concepts.everything(folder)
            self.assertEqual([e["label"] for e in found], ["fox", "red heart"])
            with mock.patch.object(concepts, "SMALL", "\nfox | red heart = heart, love\n"):
                chosen = concepts.choose(found, "small")
                self.assertRaisesRegex(fetch.Refused, "winking face", concepts.choose, found, "large")
            self.assertEqual([e["names"] for e in chosen], [["fox"], ["heart", "love"]])
            self.assertEqual(chosen[0]["keywords"], ["pinata"])

    def test_things(self):
        small, more = things(SMALL), things(MORE)
        self.assertEqual((len(small), len({**small, **more})), (120, 407))
        names = Counter(name for names in [*small.values(), *more.values()] for name in names)
        self.assertEqual(max(names.values()), 1)


class Tokenizer(unittest.TestCase):
    def test_merges(self):
        merges = [("t", "h"), ("th", "e</w>"), ("a", "t</w>"), ("c", "at</w>")]
        rank = {pair: i for i, pair in enumerate(merges)}
        self.assertEqual(tokenizer.split("the", rank)[0], ["the</w>"])
        self.assertEqual(tokenizer.split("hat", rank), (["h", "at</w>"], [("a", "t</w>")]))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.assertRaises(fetch.Refused, tokenizer.check, folder)
            for ids in ({"a": 0}, {str(i): i for i in range(tokenizer.SIZE)}):
                (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
                (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
                self.assertRaises(fetch.Refused, tokenizer.check, folder)
        self.assertEqual(tokenizer.PIECES.findall("woman's 3d t-rex"), ["woman", "'s", "3", "d", "t", "-", "rex"])


if __name__ == "__main__":
    unittest.main()
