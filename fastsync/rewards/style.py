"""Views in the style of a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn import functional

from ..errors import check_number, check_tensor, shape_text, shown
from .base import Reward
from .features import FeatureFunction, Features


class Style(Reward):
    """Minus Gatys's style loss, and his content loss if asked for (Gatys 2016, eq. 1 to 7).

    Style: ``sum (G - A)^2 / (4 C^2)`` of the Gram matrices ``G = F F^T / positions`` of each feature layer, averaged
    over layers; means over positions let the reference have any size. Content: the mean squared difference of the
    deepest layer's features to those of ``content``, which is resized to the views' pictures.

    Args:
        reference: whose style it is: a PIL image, a path, or a tensor [3, H, W] in [0, 1].
        content: what every view should show, given alike; None for none.
        style_weight, content_weight: at least 0.
        features: as in :class:`fastsync.rewards.Perceptual`.

    Attributes:
        source: where the features are from.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a picture that is none, in one sentence.
    """

    pixels = True
    reads_earlier = False

    def __init__(
        self,
        reference: Image.Image | str | os.PathLike[str] | torch.Tensor,
        content: Image.Image | str | os.PathLike[str] | torch.Tensor | None = None,
        style_weight: float = 1.0,
        content_weight: float = 0.0,
        features: FeatureFunction | None = None,
    ) -> None:
        self.style_weight = check_number("style_weight", style_weight, minimum=0.0)
        self.content_weight = check_number("content_weight", content_weight, minimum=0.0)
        if (content is None) != (self.content_weight == 0.0):
            raise ValueError(
                f"content={'None' if content is None else 'a picture'} and content_weight={self.content_weight:g} do "
                "not fit together: pass both a picture and a weight above 0, or neither."
            )
        self._reference = _picture("reference", reference)
        self._content = None if content is None else _picture("content", content)
        self._features = Features(features)
        self.source = self._features.source
        self._targets: dict[Any, Any] = {}

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """The score of picture x0 [3, H, W]."""
        maps = self._features(x0[None])
        wanted, content = self._wanted(x0)
        grams = zip(maps, wanted, strict=True)
        style = torch.stack([(_gram(m) - a).square().mean() / 4 for m, a in grams]).mean()
        score = -self.style_weight * style
        if content is not None:
            score = score - self.content_weight * (maps[-1] - content).square().mean()
        return score

    @torch.no_grad()
    def _wanted(self, like: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Gram matrices of the reference and features of the content; the same for every view of one size."""
        key = (like.device, like.dtype, tuple(like.shape))
        if key not in self._targets:
            grams, content = [_gram(m) for m in self._features(self._reference.to(like)[None])], None
            if self._content is not None:
                picture = self._content.to(like)[None]
                if picture.shape[1:] != like.shape:
                    picture = functional.interpolate(picture, like.shape[1:], mode="bilinear", antialias=True)
                content = self._features(picture)[-1]
            self._targets = {key: (grams, content)}
        found: tuple[list[torch.Tensor], torch.Tensor | None] = self._targets[key]
        return found


def _gram(maps: torch.Tensor) -> torch.Tensor:
    """[B, C, C], products of channels averaged over positions."""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _picture(name: str, value: Any) -> torch.Tensor:
    """A picture [3, H, W] in [0, 1]."""
    if isinstance(value, (str, os.PathLike)):
        if not os.path.isfile(value):
            raise FileNotFoundError(f"{name} must be a picture, and there is no file {os.fspath(value)}.")
        try:
            with Image.open(value) as opened:
                value = opened.convert("RGB")
        except UnidentifiedImageError as error:
            raise ValueError(f"{name} must be a picture, and {os.fspath(value)} is none that PIL can read.") from error
    if isinstance(value, Image.Image):
        return torch.from_numpy(np.asarray(value.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a PIL image, a path or a tensor [3, H, W] in [0, 1], got {shown(value)}.")
    check_tensor(name, value)
    if value.ndim != 3 or value.shape[0] != 3 or not value.numel():
        raise ValueError(f"{name} must be one picture [3, H, W], got {shape_text(value.shape)}.")
    if float(value.min()) < 0 or float(value.max()) > 1:
        low, high = float(value.min()), float(value.max())
        raise ValueError(f"{name} must lie in [0, 1], got {low:g} to {high:g}: rescale it.")
    return value.detach()
