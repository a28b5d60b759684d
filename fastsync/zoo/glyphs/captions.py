"""Captions of glyphs: a small grammar with the words that users type. Letters are lower case, as the tokenizer is."""

from __future__ import annotations

import numpy as np

from fastsync.zoo.glyphs.glyph import CHARACTERS, INKS, PAPERS, Glyph

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_HANDS: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "bold": ("bold", "thick", "heavy"),
    "thin": ("thin", "light", "fine"),
    "serif": ("serif",),
    "brush": ("brush", "handwritten", "calligraphic"),
    "outline": ("outline", "outlined", "hollow"),
    "shadow": ("shadow", "raised"),
}
_ON = ("on {}", "on {} paper", "on a {} background")
_FRAMES = ("{}", "{}", "{}", "a picture of {}", "a drawing of {}", "a painting of {}")


def name(character: str, rng: np.random.Generator) -> str:
    """What a caption calls a character: `6`, `the digit 6`, `six`, `m`, `the letter m`."""
    low = character.lower()
    if character.isdigit():
        forms = [low, low, f"the digit {low}", f"digit {low}", f"the number {low}", f"number {low}", _NUMBERS[int(low)]]
    else:
        forms = [low, low, f"the letter {low}", f"letter {low}", f"the letter {low}", f"the capital letter {low}"]
    return str(forms[int(rng.integers(len(forms)))])


def caption(glyph: Glyph, rng: np.random.Generator) -> str:
    """A short lower-case caption. The character is always named; ink, paper and hand each in about 30 %."""
    what = name(glyph.character, rng)
    has_ink, has_paper, has_hand = rng.random(3) < 0.3
    before: list[str] = []
    after: list[str] = []
    if has_hand:
        words = _HANDS[glyph.hand]
        before.append(words[int(rng.integers(len(words)))])
    if has_ink:
        style = rng.random()
        (before if style < 0.6 else after).append(glyph.ink if style < 0.6 else f"in {glyph.ink}")
    if has_paper:
        after.append(_ON[int(rng.integers(len(_ON)))].format(glyph.paper))
    if what.startswith("the "):
        what, before = what[4:], ["the", *before]
    elif before and rng.random() < 0.4:
        before.insert(0, "a")
    text = " ".join([*before, what, *after])
    return _FRAMES[int(rng.integers(len(_FRAMES)))].format(text)


def vocabulary() -> list[str]:
    """Every word that `caption` can emit, sorted."""
    phrases = ["the a in digit number letter capital", *_NUMBERS, *_ON, *_FRAMES, *INKS, *PAPERS]
    phrases += [word for words in _HANDS.values() for word in words]
    phrases += [character.lower() for character in CHARACTERS]
    return sorted({word for phrase in phrases for word in phrase.replace("{}", " ").split()})
