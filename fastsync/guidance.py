"""Classifier-free guidance: how strongly, when, and whether its contrast is rescaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .errors import check_number, shown


@dataclass(frozen=True)
class Guidance:
    """``r = r_u + s (r_c - r_u)``, in weights ``(1 - s) r_u + s r_c`` (Ho and Salimans 2022).

    Args:
        scale: s; at exactly 1 the unconditional half has no effect and is not evaluated.
        rescale: from 0 to 1. The guided prediction of each view is mixed with itself at the standard deviation of the
            conditional one, ``r (rescale std(r_c) / std(r) + 1 - rescale)``, which takes back the excess of contrast
            (Lin 2023, section 3.4; diffusers' ``guidance_rescale``). Not linear, so the gradients of controls pass
            through it by autograd.
        interval: ``(start, stop)``, fractions of the run's T steps, 0 <= start < stop <= 1: steps from ``int(start T)``
            to before ``int(stop T)`` are guided, the others follow the conditional prediction alone, which costs half
            (Kynkäänniemi 2024; diffusers' guiders).
    """

    scale: float = 7.5
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.scale)
        check_number("rescale", self.rescale, minimum=0.0, maximum=1.0)
        if not isinstance(self.interval, (tuple, list)) or len(self.interval) != 2:
            raise TypeError(
                f"interval must be (start, stop), two fractions of the run, got {shown(self.interval)}: pass e.g. "
                "(0.0, 0.8)."
            )
        start, stop = (check_number("interval", end, minimum=0.0, maximum=1.0) for end in self.interval)
        if start >= stop:
            raise ValueError(
                f"interval must be (start, stop) with start below stop, got {shown(self.interval)}: guidance_scale=1 "
                "switches guidance off."
            )
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "rescale", float(self.rescale))
        object.__setattr__(self, "interval", (start, stop))

    @classmethod
    def of(cls, value: Any) -> Guidance:
        """Guidance from what a caller may pass as ``guidance_scale``: a number or guidance itself."""
        return value if isinstance(value, Guidance) else cls(value)

    def scales(self, steps: int) -> list[float]:
        """s at each of a run's steps: ``scale`` inside the interval, 1 outside."""
        first, last = (int(end * steps) for end in self.interval)
        return [self.scale if first <= k < last else 1.0 for k in range(steps)]


def rescaled(guided: torch.Tensor, conditional: torch.Tensor, rescale: float) -> torch.Tensor:
    """The guided prediction [B, C, h, w] with each sample's contrast drawn to the conditional one's.

    The standard deviations are those of a whole sample (Lin 2023, eq. 15 and 16). Differentiable in both.
    """
    axes = tuple(range(1, guided.ndim))
    # Where nothing varies there is nothing to rescale, and no 0 / 0.
    spread = guided.std(axes, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    ratio = conditional.std(axes, keepdim=True) / spread
    return guided * (rescale * ratio + (1.0 - rescale))
