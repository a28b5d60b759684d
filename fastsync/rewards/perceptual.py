"""Views look alike, to a network that sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..errors import check_choice, check_number
from .base import Reward
from .features import FeatureFunction, Features


class Perceptual(Reward):
    """``-weight`` times the perceptual distance of a view's picture to earlier ones (Zhang 2018, LPIPS).

    The distance is that of feature maps, each position's channels brought to norm 1: squares are summed over channels,
    averaged over positions and summed over layers. LPIPS also learns a weight for each channel; here all are 1.

    Args:
        features: pictures [B, 3, H, W] in [0, 1] to maps; see :class:`fastsync.rewards.features.Features` for what None
            takes.
        weight: at least 0. The distance is about 0 to 2 a layer.
        against: ``"first"``, the view that was worked first, which costs the same for every view, or ``"mean"`` over
            all earlier ones.

    Attributes:
        source: where the features are from: ``"vgg16"``, ``"scenes-classifier"`` or ``"given"``.
    """

    pixels = True
    scores_first_view = False

    def __init__(
        self,
        features: FeatureFunction | None = None,
        weight: float = 1.0,
        against: Literal["first", "mean"] = "first",
    ) -> None:
        self.weight = check_number("weight", weight, minimum=0.0)
        self.against = check_choice("against", against, ("first", "mean"))
        self._features = Features(features)
        self.source = self._features.source

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances [B] of pictures [B, 3, H, W] in [0, 1] (one of them may be [1, 3, H, W]), differentiable."""
        total: Any = 0.0
        for f, g in zip(self._features(a), self._features(b), strict=True):
            total = total + (_unit(f) - _unit(g)).square().sum(1).mean((1, 2))
        return total

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """The score of picture x0 [3, H, W]; 0 without earlier ones."""
        if not earlier:
            return x0.new_zeros(())
        others = torch.stack(list(earlier[:1] if self.against == "first" else earlier))
        return -self.weight * self.distance(x0[None], others).mean()


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """Maps with norm 1 over channels; the small number under the root keeps the gradient finite where all are 0."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-10).rsqrt()
