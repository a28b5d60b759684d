"""Pictures in motion: files of frames, and illusions that turn, flip or fall apart into what a view shows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageStat

from .canvases import View
from .errors import check_int
from .files import check_writable, replacing

SUFFIXES = (".gif", ".webp")
_FRAME, _PAUSE = 50, 900  # milliseconds
_TURNS = {"rotate_cw": -90, "rotate_ccw": 90, "rotate_180": 180, "inner_circle": 180, "inner_rotate": -90}


def morph(picture: Image.Image, view: View, frames: int = 24) -> list[Image.Image]:
    """From the picture (the first frame) to what ``view`` shows of it (the last), ``frames`` RGB images of its size.

    Rotations turn, flips fold over, negatives fade, and the pieces of all other views glide into their places.
    """
    frames = check_int("frames", frames, minimum=2)
    picture = picture.convert("RGB")
    shown = seen(picture, view)
    parts = [_ease(k / (frames - 1)) for k in range(frames)]
    if view.name in _TURNS:
        moved = [_turned(picture, view.name, _TURNS[view.name] * part) for part in parts]
    elif view.name in ("flip", "flip_horizontal"):
        moved = [_folded(picture, shown, part, view.name == "flip") for part in parts]
    elif view.sign < 0:
        moved = [Image.blend(picture, shown, part) for part in parts]
    else:
        moved = _glided(picture, view, parts)
    return [picture, *moved[1:-1], shown]


def seen(picture: Image.Image, view: View) -> Image.Image:
    """What a view shows of an RGB picture."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    cells = view.index(*pixels.shape[:2])
    shown = pixels.reshape(-1, 3)[cells]
    return Image.fromarray((255 - shown if view.sign < 0 else shown).numpy())


def check_animation_path(path: str | Path) -> None:
    """Raises `ValueError` for a suffix that is not of `SUFFIXES`, `OSError` where no file can be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {suffix or 'no suffix'!r}; an animation needs one of {', '.join(SUFFIXES)}.")
    check_writable(path)


def save_animation(
    picture: Image.Image, views: Sequence[View], path: str | Path, frames: int = 16, side: int = 192
) -> None:
    """Writes a GIF or WebP, whole or not at all: from the picture to each view and back, over and over.

    Pictures smaller than ``side`` pixels are enlarged to about that.
    """
    check_animation_path(path)
    still: list[Image.Image] = []
    times: list[int] = []
    for view in (view for view in views if view.name != "identity"):
        there = morph(picture, view, frames)
        still += [*there, *reversed(there)]
        once = [_PAUSE, *[_FRAME] * (frames - 2), _PAUSE]
        times += once + once[::-1]
    if not still:
        raise ValueError("there is nothing to animate: pass a view beside the identity.")
    scale = max(1, round(side / max(picture.size)))
    still = [image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST) for image in still]
    save_frames(still, times, path, colours=64, lossless=True)


def save_frames(
    frames: Sequence[Image.Image], times: int | Sequence[int], path: str | Path, colours: int = 256, **webp: Any
) -> None:
    """Writes RGB images of one size as a GIF or WebP that plays over and over, whole or not at all.

    Args:
        times: milliseconds for which each is shown, or one number for all.
        colours: of a GIF's frames; ``webp``: Pillow's options for a WebP.
    """
    check_animation_path(path)
    options = webp
    if Path(path).suffix.lower() == ".gif":
        # Dithered paper would change in every frame, and the file be three times as large.
        options, frames = {}, [image.quantize(colours, dither=Image.Dither.NONE) for image in frames]
    with replacing(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=times, loop=0, **options)


def _ease(part: float) -> float:
    """From 0 to 1 with a gentle start and end."""
    return 0.5 - 0.5 * math.cos(math.pi * part)


def _paper(picture: Image.Image) -> tuple[int, ...]:
    """The usual colour of the picture's border."""
    border = Image.new("L", picture.size, 255)
    border.paste(0, (1, 1, picture.width - 1, picture.height - 1))
    return tuple(round(value) for value in ImageStat.Stat(picture, border).median)


def _turned(picture: Image.Image, name: str, degrees: float) -> Image.Image:
    """The whole picture, or the disc or square in its middle, turned counter-clockwise."""
    size, half = picture.size, min(picture.size) / 4
    y, x = (np.arange(n) + 0.5 - n / 2 for n in (size[1], size[0]))
    if name == "inner_circle":
        inside = y[:, None] ** 2 + x**2 < (1.5 * half) ** 2
    elif name == "inner_rotate":
        inside = (np.abs(y)[:, None] < half) & (np.abs(x) < half)
    else:
        inside = np.ones((size[1], size[0]), dtype=bool)
    mask = Image.fromarray((inside * 255).astype(np.uint8)).rotate(degrees, Image.Resampling.BILINEAR)
    turned = picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=_paper(picture))
    return Image.composite(turned, Image.new("RGB", size, _paper(picture)) if inside.all() else picture, mask)


def _folded(picture: Image.Image, shown: Image.Image, part: float, vertical: bool) -> Image.Image:
    """The picture as a card that turns over about its middle line."""
    card = picture if part < 0.5 else shown
    share = abs(math.cos(math.pi * part))
    width = picture.width if vertical else max(1, round(picture.width * share))
    height = max(1, round(picture.height * share)) if vertical else picture.height
    frame = Image.new("RGB", picture.size, tuple(value // 3 for value in _paper(picture)))
    frame.paste(
        card.resize((width, height), Image.Resampling.BILINEAR),
        ((picture.width - width) // 2, (picture.height - height) // 2),
    )
    return frame


def _glided(picture: Image.Image, view: View, parts: Sequence[float]) -> list[Image.Image]:
    """Every pixel on a straight way to its place, over the darkened picture."""
    height, width = picture.height, picture.width
    pixels = np.array(picture)
    source = view.index(height, width).numpy().reshape(-1)
    begin = np.stack([source // width, source % width])
    end = np.stack(np.divmod(np.arange(height * width), width))
    colours = pixels.reshape(-1, 3)[source]
    frames = []
    for part in parts:
        y, x = np.rint(begin + part * (end - begin)).astype(int)
        frame = pixels // 3
        frame[y, x] = colours
        frames.append(Image.fromarray(frame))
    return frames
