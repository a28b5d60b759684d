"""A letter or digit with its hand, ink and paper, and how it is painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsync.zoo.glyphs.strokes import Stroke, skeletons

CHARACTERS = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
INKS: dict[str, tuple[int, int, int]] = {
    "black": (24, 24, 28),
    "grey": (112, 112, 116),
    "brown": (104, 62, 30),
    "red": (200, 30, 36),
    "orange": (236, 120, 20),
    "yellow": (246, 208, 60),
    "green": (36, 134, 62),
    "blue": (34, 70, 184),
    "purple": (118, 42, 150),
    "pink": (240, 120, 170),
    "white": (250, 250, 246),
}
PAPERS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 244),
    "cream": (246, 234, 204),
    "grey": (196, 198, 200),
    "pink": (250, 208, 218),
    "green": (204, 232, 200),
    "blue": (196, 220, 246),
    "yellow": (250, 238, 150),
    "navy": (22, 28, 74),
    "black": (18, 18, 22),
}
HANDS = ("plain", "bold", "thin", "serif", "brush", "outline", "shadow")


@dataclass(frozen=True)
class Glyph:
    """One picture: the character, how it is written, and the seed of everything else."""

    character: str
    hand: str
    ink: str
    paper: str
    seed: int


def sample_glyph(rng: np.random.Generator, character: str | None = None) -> Glyph:
    """A glyph of the training distribution; all characters equally often where none is given."""
    character = str(rng.choice(CHARACTERS)) if character is None else character
    hand = str(rng.choice(HANDS, p=[0.24, 0.2, 0.1, 0.14, 0.16, 0.08, 0.08]))
    while True:
        ink, paper = str(rng.choice(list(INKS))), str(rng.choice(list(PAPERS)))
        if abs(_luma(INKS[ink]) - _luma(PAPERS[paper])) > 85:
            return Glyph(character, hand, ink, paper, int(rng.integers(2**40)))


def render(glyph: Glyph, size: int = 64) -> NDArray[np.uint8]:
    """The picture, uint8 [size, size, 3]; the same glyph gives the same picture at any size, up to sampling."""
    rng = np.random.default_rng([glyph.seed, CHARACTERS.index(glyph.character)])
    forms = skeletons()[glyph.character]
    strokes = [stroke.copy() for stroke in forms[rng.integers(len(forms))]]
    width = float(
        np.clip(rng.normal({"bold": 0.19, "thin": 0.065, "outline": 0.19}.get(glyph.hand, 0.12), 0.02), 0.05, 0.24)
    )
    if glyph.hand == "serif":
        strokes += _serifs(strokes, float(rng.uniform(0.1, 0.17)))
    contrast = {"serif": rng.uniform(1.5, 2.6), "brush": rng.uniform(1.6, 3.2)}.get(glyph.hand, rng.uniform(1.0, 1.25))
    nib = float(rng.uniform(-0.2, 0.2) if glyph.hand == "serif" else rng.uniform(0.3, 1.1))
    strokes = _place([_wobbled(stroke, rng, 0.035 if glyph.hand == "brush" else 0.012) for stroke in strokes], rng)
    corner = float(rng.choice([1.0, 1.0, 0.55]))  # 1: round ends, less: square ones
    height = float(max(np.ptp(np.concatenate(strokes)[:, 1]), 0.3))
    far = _distance(strokes, size, nib, float(contrast), corner)
    half = 0.5 * width * height
    cover = np.clip((half - far) * size + 0.5, 0.0, 1.0)
    paper = _surface(np.array(PAPERS[glyph.paper], float), 7.0, size, rng)
    ink = _surface(np.array(INKS[glyph.ink], float), 10.0, size, rng)
    if glyph.hand == "outline":
        cover *= np.clip((far - half + max(0.045 * height, 1.3 / size)) * size + 0.5, 0.0, 1.0)
    if glyph.hand == "shadow":
        shift = max(1, round(0.045 * size))
        thrown = np.zeros_like(cover)
        thrown[shift:, shift:] = cover[:-shift, :-shift]
        paper = paper + 0.3 * thrown[..., None] * (_middle(INKS[glyph.ink], PAPERS[glyph.paper]) - paper)
    picture = paper + cover[..., None] * (ink - paper)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _luma(colour: tuple[int, int, int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _middle(ink: tuple[int, int, int], paper: tuple[int, int, int]) -> NDArray[np.float64]:
    return 0.5 * (np.array(ink, float) + np.array(paper, float))


def _surface(colour: NDArray[np.float64], spread: float, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour near the named one that changes gently over the picture: [size, size, 3]."""
    slope = rng.normal(0.0, spread / 2, (2, 3))
    at = np.linspace(-0.5, 0.5, size)
    return colour + rng.normal(0.0, spread / 2, 3) + at[:, None, None] * slope[0] + at[None, :, None] * slope[1]


def _serifs(strokes: list[Stroke], half: float) -> list[Stroke]:
    """Level bars under and over the steep free ends of strokes."""
    bars = []
    everything = [(k, stroke) for k, stroke in enumerate(strokes)]
    for k, stroke in everything:
        for end, before in ((stroke[0], stroke[1]), (stroke[-1], stroke[-2])):
            steep = abs(end[1] - before[1]) > 1.2 * abs(end[0] - before[0])
            free = all(np.min(np.linalg.norm(other - end, axis=1)) > 0.12 for n, other in everything if n != k)
            if steep and free and (end[1] < 0.08 or end[1] > 0.92):
                bars.append(np.array([[end[0] - half, end[1]], [end[0] + half, end[1]]]))
    return bars


def _wobbled(stroke: Stroke, rng: np.random.Generator, amount: float) -> Stroke:
    """Smoothly bent, finely sampled."""
    fine = _resampled(stroke, 0.09)
    phase = rng.uniform(0, 2 * np.pi, (2, 2))
    wave = [
        np.sin(2.2 * fine[:, 0] + 3.1 * fine[:, 1] + phase[k, 0]) + np.sin(5.3 * fine[:, k] + phase[k, 1])
        for k in (0, 1)
    ]
    return fine + amount * np.stack(wave, axis=1)


def _resampled(stroke: Stroke, spacing: float) -> Stroke:
    """The same polyline with points at most `spacing` apart, corners kept."""
    parts = [stroke[:1]]
    for start, end in zip(stroke[:-1], stroke[1:], strict=True):
        count = max(1, int(np.ceil(np.linalg.norm(end - start) / spacing)))
        parts.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(parts)


def _place(strokes: list[Stroke], rng: np.random.Generator) -> list[Stroke]:
    """Height, width, slant, turn and position in the picture, which is the unit square."""
    height = rng.uniform(0.52, 0.74)
    width = height * rng.uniform(0.62, 0.98)
    slant = rng.normal(0.0, 0.1)
    turn = np.radians(np.clip(rng.normal(0.0, 4.0), -9.0, 9.0))
    across = np.array([[width, -slant * height], [0.0, height]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = 0.5 + rng.uniform(-0.035, 0.035, 2)
    return [(stroke - 0.5) @ (rotation @ across).T + middle for stroke in strokes]


def _distance(strokes: list[Stroke], size: int, nib: float, contrast: float, corner: float) -> NDArray[np.float64]:
    """Distance of each pixel to the nearest stroke as a broad nib feels it, [size, size], in pictures' sides."""
    turn = np.array([[np.cos(nib), np.sin(nib)], [-np.sin(nib) * contrast, np.cos(nib) * contrast]])
    at = (np.arange(size) + 0.5) / size
    pixels = (np.stack(np.broadcast_arrays(at[None, :], at[:, None]), axis=-1).reshape(-1, 2) @ turn.T).astype(
        np.float32
    )
    nearest = np.full(len(pixels), np.inf, np.float32)
    for stroke in strokes:
        points = (stroke @ turn.T).astype(np.float32)
        start, along = points[:-1], np.diff(points, axis=0)
        offset = pixels[:, None] - start
        length = np.maximum((along**2).sum(1), 1e-12)
        where = np.clip((offset * along).sum(2) / length, 0.0, 1.0)
        rest = np.abs(offset - where[..., None] * along)
        # A norm between the round one and the largest coordinate squares the nib's corners.
        far = corner * np.hypot(rest[..., 0], rest[..., 1]) + (1 - corner) * rest.max(2)
        nearest = np.minimum(nearest, far.min(1))
    return nearest.reshape(size, size).astype(np.float64)
