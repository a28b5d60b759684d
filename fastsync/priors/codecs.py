"""Between a prior's sample units and pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import chain
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
        upcast: compute in float32 where the model is in float16 and its config says that it overflows there
            (``force_upcast``), as some pipelines do.
    """

    def __init__(self, vae: Any, *, upcast: bool = False) -> None:
        self.vae, self._upcast = vae, upcast
        self.scale = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Pixels to latents: the posterior's mean, scaled."""
        latents = self._computed(lambda x: self.vae.encode(x).latent_dist.mode(), pixels.to(device))
        shift = self.vae.config.get("shift_factor")
        return (latents - shift if shift else latents) * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Latents to pixels.

        Where tiling is switched on (``pipe.vae.enable_tiling()``) and no gradient is asked for, it takes about half
        of the memory and gives the same numbers.
        """
        vae = self.vae
        latents = latents.to(device, self._dtype) / vae.config.scaling_factor
        shift = vae.config.get("shift_factor")
        return self._computed(self._decoded, latents + shift if shift else latents)

    @property
    def _dtype(self) -> torch.dtype:
        """What is computed in."""
        dtype: torch.dtype = self.vae.dtype
        overflows = self._upcast and dtype == torch.float16 and self.vae.config.force_upcast
        return torch.float32 if overflows else dtype

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """The decoder's pixels of latents in the VAE's own units."""
        vae = self.vae
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

    def _computed(self, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """A function of the VAE's at x, in the dtype to compute in."""
        vae, dtype = self.vae, self._dtype
        x = x.to(dtype)
        if dtype == vae.dtype:
            return function(x)
        hook = getattr(vae, "_hf_hook", None)
        if hook is not None:  # accelerate's, which loads an offloaded model
            hook.pre_forward(vae)
        # Copies, which a backward pass still finds when the VAE has its own weights again. Parameters, since accelerate
        # loads what is offloaded weight by weight into one of the same class and dtype.
        weights: dict[str, torch.Tensor] = {
            f"model.{name}": torch.nn.Parameter(tensor.detach().to(dtype), requires_grad=False)
            for name, tensor in chain(vae.named_parameters(), vae.named_buffers())
        }
        pixels: torch.Tensor = torch.func.functional_call(_Bound(vae, function), weights, (x,))
        return pixels


class _Bound(torch.nn.Module):
    """A function of a model's as a module's forward, which can be called with other weights."""

    def __init__(self, model: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)
