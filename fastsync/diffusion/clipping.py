"""What a scheduler does to clean estimates that leave the range of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..ops.shapes import per_sample


@dataclass(frozen=True)
class Clipping:
    """A rule for clean estimates [B, C, h, w].

    Attributes:
        bound: values are clamped to [-bound, bound]; None: they are not.
        quantile: dynamic thresholding (Saharia 2022, section 2.3), which goes before the bound: each sample is clamped
            to this quantile of its magnitudes, and divided by it; None: it is not.
        maximum: largest value of that quantile; the smallest is 1.
        renews_eps: whether the step goes on with the noise that belongs to the clipped estimate. DDIM alone keeps the
            network's.
    """

    bound: float | None = None
    quantile: float | None = None
    maximum: float = 1.0
    renews_eps: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any], *, samples: bool, renews_eps: bool = True) -> Clipping:
        """As a scheduler's config says; ``samples``: whether its class honours ``clip_sample``."""
        return cls(
            bound=config.get("clip_sample_range", 1.0) if samples and config.get("clip_sample") else None,
            quantile=config.get("dynamic_thresholding_ratio", 0.995) if config.get("thresholding") else None,
            maximum=config.get("sample_max_value", 1.0),
            renews_eps=renews_eps,
        )

    def __bool__(self) -> bool:
        return self.bound is not None or self.quantile is not None

    def __call__(self, x0: torch.Tensor) -> torch.Tensor:
        """The clipped estimates."""
        if self.quantile is not None:
            magnitude = x0.detach().abs().flatten(1)
            bound = torch.quantile(magnitude, self.quantile, dim=1)
            bound = bound.clamp(min=1.0, max=self.maximum).reshape(-1, *([1] * (x0.ndim - 1)))
            return torch.maximum(torch.minimum(x0, bound), -bound) / bound
        return x0 if self.bound is None else x0.clamp(-self.bound, self.bound)

    def prediction(
        self, x0: torch.Tensor, eps: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clipped estimates and their noise, for x at coefficients a, b [B]."""
        if not self:
            return x0, eps
        clipped = self(x0)
        if self.renews_eps:
            eps = (x - per_sample(a, x) * clipped) / per_sample(b, x)
        return clipped, eps
