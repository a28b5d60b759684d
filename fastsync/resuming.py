"""What a session saves of itself, and what two sessions must have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .canvases.base import LinearCanvas


def places_of(canvas: LinearCanvas) -> list[list[float]]:
    """A number or two a view that tell where it looks, rounded: geometry may differ in a cell between machines."""
    parts = [torch.stack([canvas.cells(i) for i in range(canvas.num_views)])]
    parts += [] if canvas.regions is None else [canvas.regions]
    parts += [] if canvas.signs is None else [canvas.signs[:, None].expand(-1, math.prod(canvas.view_shape))]
    means = []
    for part in parts:
        flat = part.cpu().double().flatten(1)
        means.append((flat * torch.linspace(0, 1, flat.shape[1], dtype=flat.dtype)).mean(1))
    return [[round(mean, 2) for mean in row] for row in torch.stack(means, 1).tolist()]


def copied(value: Any, device: torch.device | None = None) -> Any:
    """A copy that shares no tensor, list or dictionary with the original, its tensors on ``device`` if given."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if device is None else value.detach().to(device, copy=True)
    if isinstance(value, Mapping):
        return {name: copied(item, device) for name, item in value.items()}
    return [copied(item, device) for item in value] if isinstance(value, (list, tuple)) else value
