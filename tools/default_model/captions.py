"""Colours, backgrounds, styles, caption templates and held-out splits: what a prompt can say, in one place.

Needs the standard library only. Nothing here depends on which concepts there are; concepts.py knows those.
"""
import hashlib
import re

STYLES = ["3d", "flat", "line"]
# What the procedural recolouring aims at (sRGB). "original" is the thing's own colour and is never said.
COLOURS = {
    "red": (230, 40, 50), "orange": (250, 140, 30), "yellow": (250, 210, 50), "green": (50, 180, 70),
    "teal": (20, 170, 170), "blue": (45, 110, 235), "purple": (140, 70, 210), "pink": (250, 110, 180),
    "brown": (130, 85, 50)}
BACKGROUNDS = {
    "white": (255, 255, 255), "black": (20, 20, 24), "light blue": (160, 210, 250), "mint": (180, 240, 210),
    "pink": (255, 190, 215), "lavender": (210, 195, 250), "cream": (252, 240, 215), "dark blue": (25, 40, 100),
    "yellow": (255, 225, 110), "gray": (150, 152, 158)}
# What some of them are also called: people ask for "a blue background", not for a light one.
SHORT = {"light blue": "blue", "mint": "green", "lavender": "purple", "gray": "grey"}
DARK = {"black", "dark blue"}           # where line drawings are white, not black
COLOUR_NAMES = ["original", *COLOURS]
BACKGROUND_NAMES = list(BACKGROUNDS)
# Words that are in a thing's name already, so that "a red green apple" is never asked for.
COLOUR_WORDS = {*COLOURS, "black", "white", "gray", "grey", "gold", "golden", "silver", "colored", "rainbow"}

PHRASES = {
    "3d": ["3d {}", "3d emoji of {}", "glossy 3d icon of {}", "3d render of {}"],
    "flat": ["flat {}", "flat icon of {}", "flat emoji of {}"],
    "line": ["line drawing of {}", "black and white outline icon of {}", "line art of {}"]}
COLOURED_LINE = ["line drawing of {}", "outline icon of {}", "line art of {}"]
EMPTY, KEYWORD, ADD_KEYWORDS, SHORTEN = 0.10, 0.15, 0.15, 0.30    # shares of captions


def share(*key):
    """A number in [0, 1) that depends on the key only: the same on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256("/".join(key).encode()).digest()[:4], "big") / 2 ** 32


def colour_held_out(concept, colour):
    """A tenth of the (concept, colour) pairs that the U-Net never sees, in any style."""
    return colour != "original" and share("colour", concept, colour) < 0.10


def background_held_out(concept, background):
    """A tenth of the (concept, background) pairs; white is always seen."""
    return background != "white" and share("background", concept, background) < 0.10


def style_held_out(concept, style):
    """Six in a hundred concepts are never seen flat, six others never as a line drawing."""
    place = share("style", concept)
    return style == "flat" and place < 0.06 or style == "line" and 0.06 <= place < 0.12


def art_held_out(hexcode):
    """A tenth of the pictures that are no concept: the autoencoder never sees them and is judged on them."""
    return share("art", hexcode) < 0.10


UNCOUNTED = {
    "bacon", "bread", "broccoli", "butter", "cheese", "chocolate", "coffee", "corn", "dna", "fire", "garlic", "honey",
    "lettuce", "lightning", "milk", "poo", "popcorn", "ramen", "rice", "salad", "soap", "soup", "spaghetti", "sushi",
    "wine"}

PAIRS = {"skis"}


def plural(head):
    return head in PAIRS or head.endswith("s") and not re.search(r"(ss|us|is|os)$", head)


def article(words):
    """`words` with the article they take: "an owl", "a unicorn", "cherries", "yellow cheese", "a cup of coffee"."""
    head = re.split(r" (?:with|of|in|on|over|behind|and|holding|showing) ", words)[0].split()[-1]
    if plural(head) or head in UNCOUNTED:
        return words
    vowel = re.match(r"[aeio]|u(?!ni|f|te)|hour", words) and not re.match(r"eu|one", words)
    return ("an " if vowel else "a ") + words


def prompt(name, style="3d", colour="original", background="white"):
    """The plainest caption of a picture; what evaluation and sample sheets ask for."""
    words = name if colour == "original" else f"{colour} {name}"
    if style == "flat":
        text = article("flat icon of ") + article(words)
    elif style == "line":
        text = article("line drawing of ") + article(words)
    else:
        text = article(words)
    return text if background == "white" else f"{text} on a {background} background"


def caption(rng, names, keywords, style, colour, background):
    """One of the many captions of a picture, by `rng` (random.Random); a tenth of them are empty.

    What a caption leaves out is 3D, in the thing's own colour, on white. `names` are what the thing is called, the
    first one oftenest; `keywords` are words about it, which take the name's place or follow it now and then.
    """
    if rng.random() < EMPTY:
        return ""
    name = names[0] if len(names) == 1 or rng.random() < 0.7 else rng.choice(names[1:])
    chosen = rng.sample(keywords, min(2, len(keywords)))
    if chosen and rng.random() < KEYWORD:
        name = chosen.pop()
    words = name if colour == "original" else f"{colour} {name}"
    with_article = article(words) if rng.random() < 0.75 else words
    if style != "3d" or rng.random() < 0.3:
        phrases = COLOURED_LINE if style == "line" and colour != "original" else PHRASES[style]
        phrase = rng.choice(phrases)
        text = phrase.format(with_article if " of " in phrase else words)
        if rng.random() < 0.75:
            text = ("an " if phrase[0] == "o" else "a ") + text
    else:
        text = f"an emoji of {with_article}" if rng.random() < 0.15 else with_article
    if chosen and rng.random() < ADD_KEYWORDS:
        text += ", " + ", ".join(chosen)
    if background != "white" or rng.random() < 0.3:
        if background in SHORT and rng.random() < SHORTEN:
            background = SHORT[background]
        text += f" on a {background} background"
    return text


def words_of_templates():
    """Every word that captions can have beside names and keywords; the tokenizer keeps them whole."""
    text = " ".join([*COLOURS, *BACKGROUNDS, *sum(PHRASES.values(), []), *COLOURED_LINE, "a an emoji of on background"])
    return sorted(set(re.findall(r"[a-z0-9]+", text)))
