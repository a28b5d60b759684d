"""What is said of a painted object."""

from __future__ import annotations

from typing import get_args

import numpy as np

from fastsync.geometry.cameras import Side
from fastsync.zoo.objects.materials import MATERIALS
from fastsync.zoo.objects.shapes import SHAPES
from fastsync.zoo.objects.thing import Thing

_FRAMES = ("{}", "{}", "{}", "a photo of {}", "a picture of {}", "a 3d model of {}", "a texture of {}")
_OBJECTS = ("an object", "a thing", "a sculpture", "a statue")
_OF = ("{thing} made of {stuff}", "{thing} made of {stuff}", "{thing} of {stuff}", "{stuff} {bare}", "{thing}, {stuff}")
SIDES = get_args(Side)


def caption(thing: Thing, rng: np.random.Generator) -> str:
    """A short lower-case English caption.

    The material is always named; its colour in 60 % of the captions, the shape in half of them, the side it is seen
    from in 40 %, so that a prior learns what a prompt leaves open.
    """

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    stuff = pick(MATERIALS[thing.material].words)
    if rng.random() < 0.6:
        article = stuff.split()[0] if stuff.split()[0] == "a" else ""
        stuff = " ".join(part for part in (article, thing.palette, stuff.removeprefix("a ")) if part)
    if rng.random() < 0.5:
        what = pick(SHAPES[thing.shape].words) if rng.random() < 0.8 else pick(_OBJECTS)
        bare = what.split(maxsplit=1)[-1]
        stuff = pick(_OF).format(thing=what, stuff=stuff, bare=bare)
    text = pick(_FRAMES).format(stuff)
    if rng.random() < 0.4:
        text += f", {thing.camera.side} view"
    return text


def vocabulary() -> list[str]:
    """Every lower-case word that ``caption`` can emit, sorted."""
    phrases = [*_FRAMES, *_OBJECTS, *SIDES, "view made of , a an"]
    phrases += [word for material in MATERIALS.values() for word in (*material.words, *material.palettes)]
    phrases += [word for shape in SHAPES.values() for word in shape.words]
    return sorted({word for phrase in phrases for word in phrase.replace("{}", " ").replace(",", " , ").split()})
