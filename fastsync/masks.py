"""Masks as users have them, files and arrays of any size, as masks of a canvas."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from .errors import shape_text, shown
from .pictures import read_image


def read_masks(masks: Sequence[Any], size: tuple[int, int]) -> torch.Tensor:
    """Masks float32 [K, 1, H, W] in [0, 1], scaled to ``size`` (H, W) by area.

    Each of ``masks`` is a file, a PIL image (its alpha where it has one, else its brightness), or an array or tensor
    [H, W] (or [1, H, W]) in [0, 1], of bool or of bytes. White is inside.

    Raises:
        ValueError, TypeError, FileNotFoundError: which mask is wrong, and how.
    """
    return torch.cat([_scaled(_read(mask, f"masks[{n}]"), size) for n, mask in enumerate(masks)])


def _read(mask: Any, name: str) -> torch.Tensor:
    if isinstance(mask, (str, os.PathLike)):
        mask = read_image(mask, name)
    if isinstance(mask, Image.Image):
        alpha = mask.getchannel("A") if mask.mode in ("RGBA", "LA") else None
        clear = alpha is not None and int(np.array(alpha).min()) < 255
        return torch.from_numpy(np.array(alpha if clear else mask.convert("L"))).float() / 255
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(np.ascontiguousarray(mask))
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"{name} must be a file, a PIL image, an array or a tensor, got {shown(mask)}.")
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or not mask.numel():
        raise ValueError(f"{name} must be [H, W], got {shape_text(mask.shape)}: pass one channel.")
    found = mask.detach().cpu().float() / (255 if mask.dtype == torch.uint8 else 1)
    if not bool(((found >= 0) & (found <= 1)).all()):
        low, high = float(found.min()), float(found.max())
        raise ValueError(f"{name} must lie in [0, 1], got values from {low:g} to {high:g}: divide bytes by 255.")
    return found


def _scaled(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[1, 1, H, W]: each cell the mean of the pixels under it."""
    height, width = mask.shape
    if abs(height * size[1] - width * size[0]) > 0.02 * max(height * size[1], width * size[0]):
        raise ValueError(
            f"a mask of {height} x {width} (height x width) does not have the shape of the picture, {size[0]} : "
            f"{size[1]}: draw it in the picture's proportions."
        )
    return interpolate(mask[None, None], size=size, mode="area")
