"""Between a prior's sample units and pixels."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from . import tiling


class Codec:
    """Sample units that are pixels in [-1, 1] already: both ways give back what they are given."""

    scale: int = 1  # pixels along a side of one cell

    def encode(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to sample units [B, C, h, w], computed on ``device``, differentiable."""
        return pixels

    def decode(self, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Sample units [B, C, h, w] to pixels [B, 3, H, W], about [-1, 1], computed on ``device``, differentiable."""
        return latents


PIXELS = Codec()


class VaeCodec(Codec):
    """A diffusers AutoencoderKL: ``z = (posterior mean - shift_factor) scaling_factor``.

    Args:
        vae: the model; its dtype is computed in.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.scale = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Pixels to latents: the posterior's mean, scaled."""
        vae = self.vae
        latents = vae.encode(pixels.to(device, vae.dtype)).latent_dist.mode()
        shift = vae.config.get("shift_factor")
        return (latents - shift if shift else latents) * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Latents to pixels.

        Where tiling is switched on (``pipe.vae.enable_tiling()``) and no gradient is asked for, it takes about half
        of the memory and gives the same numbers.
        """
        vae = self.vae
        latents = latents.to(device, vae.dtype) / vae.config.scaling_factor
        shift = vae.config.get("shift_factor")
        latents = latents + shift if shift else latents
        if getattr(vae, "use_tiling", False) and not (torch.is_grad_enabled() and latents.requires_grad):
            unknown = tiling.unknown_part(vae)
            if unknown is None:
                return tiling.decode(vae, latents)
            warnings.warn(
                f"the VAE has a part that fastsync cannot tile ({unknown}), so its own tiled decode is used, in which "
                "colours may differ from tile to tile: call vae.disable_tiling() where the memory suffices.",
                stacklevel=2,
            )
        return vae.decode(latents, return_dict=False)[0]
