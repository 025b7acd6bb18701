#!/usr/bin/env python3
"""What can be drawn: the pictures of the fetched packages that Microsoft published, with names and keywords.

    concepts.py PACKAGES        counts what is kept and what is refused

Reads the archives that fetch.py left, without unpacking them. Needs the standard library only.
"""
import argparse
import json
import re
import sys
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

from captions import COLOUR_WORDS
from fetch import ARCHIVES, Refused, read_member
from things import MORE, SMALL, things

# In Microsoft's list, but excepted in the README of its repository because of trademarks (the paperclip, the video
# game, technologists), and one gesture that a default model need not draw.
EXCEPTED = {"1F4CE", "1F3AE", "1F9D1-200D-1F4BB", "1F468-200D-1F4BB", "1F469-200D-1F4BB", "1F595"}
# Drawn from twice as often: what people ask for first.
FAVOURED = {"smileys-emotion", "animals-nature", "food-drink", "travel-places"}


def norm(hexcode):
    """A code point sequence the way all packages can agree on: upper case, no variation selectors or leading zeros."""
    return hexcode.upper().replace(" ", "-").replace("-FE0F", "").lstrip("0")


def plain(text):
    """Lower case, unaccented, ASCII."""
    text = unicodedata.normalize("NFKD", text.replace("’", "'").lower())
    return "".join(c for c in text if c.isascii()).replace(":", "").replace(",", "").replace("“", "").strip()


def read_json(folder, package, member):
    return json.loads(read_member(folder / ARCHIVES[package], "package/" + member))


def allowed(folder):
    """The code points that Microsoft's own list has, less what its README excepts."""
    entries = read_json(folder, "fluentui-emoji-js", "emojiData.json")
    return {norm(entry["unicode"]) for entry in entries} - EXCEPTED


def names_of_3d(folder):
    """Code points -> member of the archive, of every 3D picture in it, allowed or not."""
    with tarfile.open(folder / ARCHIVES["@lobehub/fluent-emoji-3d"]) as archive:
        members = [m.name for m in archive.getmembers() if m.name.endswith(".webp")]
    return {norm(Path(member).stem): member for member in members}


def everything(folder):
    """One dict for every base emoji that is allowed and has a 3D picture, in emojibase's order.

    hex, label, group, keywords, and member (of the 3D archive).
    """
    permitted, pictures = allowed(folder), names_of_3d(folder)
    groups = read_json(folder, "emojibase-data", "meta/groups.json")["groups"]
    library = read_json(folder, "emojilib", "dist/emoji-en-US.json")
    found = []
    for entry in read_json(folder, "emojibase-data", "en/data.json"):
        hexcode, label = norm(entry["hexcode"]), plain(entry["label"])
        if hexcode not in permitted or hexcode not in pictures:
            continue
        group = groups.get(str(entry.get("group")), "")
        words = [plain(word.replace("_", " ")) for word in entry.get("tags", []) + library.get(entry["emoji"], [])]
        keywords = [w for w in dict.fromkeys(words) if re.fullmatch(r"[a-z][a-z' -]+", w) and w != label]
        found.append(dict(hex=hexcode, label=label, group=group, keywords=keywords, member=pictures[hexcode]))
    return found


def choose(emoji, which, limit=None):
    """The concepts of a model, with their names: `which` is "small" (120 things) or "large" (407)."""
    wanted = things(SMALL) | (things(MORE) if which == "large" else {})
    by_label = {e["label"]: e for e in emoji}
    missing = [label for label in wanted if label not in by_label]
    if missing:
        raise Refused(f"emojibase-data has no {missing[0]!r}")
    chosen = [dict(by_label[label], names=names) for label, names in wanted.items()]
    # A keyword that is another thing's name would teach that the one looks like the other.
    names = {name for e in chosen for name in e["names"]}
    for e in chosen:
        e["keywords"] = [k for k in e["keywords"] if k not in names and not COLOUR_WORDS & set(k.split())]
    return chosen if limit is None else chosen[::max(1, len(chosen) // limit)][:limit]


def colourless(name):
    """Whether a colour word can be put before the name."""
    return not COLOUR_WORDS & set(re.findall(r"[a-z]+", name))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder that fetch.py filled")
    args = parser.parse_args()
    try:
        pictures, permitted, emoji = names_of_3d(args.packages), allowed(args.packages), everything(args.packages)
    except (Refused, OSError) as error:
        sys.exit(f"concepts.py: {error}")
    print(f"3D pictures: {len(pictures)}; not on Microsoft's list, or excepted there, and refused: "
          f"{len(set(pictures) - permitted)}")
    chosen = choose(emoji, "large")
    print(f"base emoji kept: {len(emoji)}; things that a model draws: {len(chosen)}")
    for group, count in Counter(e["group"] for e in chosen).most_common():
        print(f"  {group}: {count}")


if __name__ == "__main__":
    main()
