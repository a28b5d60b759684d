"""What depth-conditioned models are shown of a mesh."""

from __future__ import annotations

import torch

from .sight import Sight

FARTHEST = 0.1  # of the surface, so that it stands out from the background


def depth_maps(sight: Sight) -> torch.Tensor:
    """Inverse depth as depth-conditioned models take it, float32 [N, 1, h, w] in [0, 1].

    A view's nearest point is 1, its farthest 0.1, the background 0 (after MiDaS, and as SyncMVD, Liu 2024, has it).
    """
    seen = sight.foreground
    near = torch.where(seen, 1 / sight.depth, 0)
    low = torch.where(seen, near, torch.inf).amin((1, 2), keepdim=True)
    high = near.amax((1, 2), keepdim=True)
    part = torch.where(high > low, (near - low) / (high - low).clamp_min(1e-12), 1.0)
    return torch.where(seen, FARTHEST + (1 - FARTHEST) * part, 0)[:, None]
