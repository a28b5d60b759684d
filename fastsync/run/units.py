"""Whether canvas and views are in different units."""

from __future__ import annotations

from ..canvases.base import Canvas
from ..priors.base import Prior


def decodes(prior: Prior, canvas: Canvas) -> bool:
    """Whether the canvas is in pixels while the prior's views are latents, which have to be decoded to meet on it."""
    return canvas.units == "pixels" and prior.scale > 1
