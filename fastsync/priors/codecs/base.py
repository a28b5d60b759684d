"""What a codec is, and the one of priors whose sample units are pixels."""

from __future__ import annotations

import torch

OPEN = (False, False)  # a picture that closes neither vertically nor horizontally


class Codec:
    """Sample units that are pixels in [-1, 1] already: both ways give back what they are given.

    ``closed`` says of both ways whether the picture closes vertically, and horizontally: its last line is then beside
    its first one.
    """

    scale: int = 1  # pixels along a side of one cell

    def encode(self, pixels: torch.Tensor, device: torch.device, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to sample units [B, C, h, w], computed on ``device``, differentiable."""
        return pixels

    def decode(self, latents: torch.Tensor, device: torch.device, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        """Sample units [B, C, h, w] to pixels [B, 3, H, W], about [-1, 1], computed on ``device``, differentiable."""
        return latents


PIXELS = Codec()
