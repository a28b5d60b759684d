"""Encoding and decoding by any of diffusers' autoencoders."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ...errors import check_int
from .. import tiling
from .base import Codec
from .normalisation import Normalisation
from .precision import computed_in


class VaeCodec(Codec):
    """The codec of an autoencoder: its own latents are ``z = factor x + shift``, where x are sample units.

    Takes what has diffusers' ``encode`` and ``decode``: AutoencoderKL, AutoencoderDC, AutoencoderTiny, and those of
    videos (AutoencoderKLQwenImage, AutoencoderKLWan), for which a picture is a video of one frame. Where encoding gives
    a distribution, its mode counts.

    Args:
        vae: the model; it is never changed.
        scale: pixels along a side of one cell of the prior; what the VAE says of itself, times ``patch``, if None.
        factor, shift: a number, a tensor [C], or a tensor [C, patch, patch], which differs inside of a cell; C counts
            the VAE's own latent channels. By default what the VAE's config says: ``latents_std / scaling_factor`` and
            ``latents_mean`` or ``shift_factor``.
        patch: the side p of the square of VAE cells that make a cell of the prior, whose sample units then are
            [B, C p p, h / p, w / p], in the order of :func:`torch.nn.functional.pixel_unshuffle`.
        dtype: what to compute in; the VAE's own if None. Its weights stay as they are; copies in this dtype are made
            for each call. See :func:`upcast_dtype`.

    Raises:
        TypeError, ValueError: an argument of a wrong kind, or a VAE that does not say its scale.
    """

    def __init__(
        self,
        vae: Any,
        *,
        scale: int | None = None,
        factor: float | torch.Tensor | None = None,
        shift: float | torch.Tensor | None = None,
        patch: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.vae, self._dtype = vae, dtype
        self._patch = check_int("patch", patch)
        self.scale = self._patch * _scale_of(vae) if scale is None else check_int("scale", scale)
        self._normalisation = Normalisation(vae.config, factor, shift, self._patch)
        self._of_videos = _takes_videos(vae)

    def encode(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to sample units [B, C p p, h, w] on ``device``; differentiable."""
        latents = computed_in(self._dtype, self.vae, self._encoded, pixels.to(device))
        return self._normalisation.remove(pixel_unshuffle(latents, self._patch) if self._patch > 1 else latents)

    def decode(self, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Sample units [B, C p p, h, w] to pixels [B, 3, H, W] on ``device``; differentiable.

        Where tiling is switched on (``pipe.vae.enable_tiling()``) and no gradient is asked for, it takes about half
        of the memory and gives the same numbers.
        """
        own = self._normalisation.apply(latents.to(device, self._dtype or self.vae.dtype))
        own = pixel_shuffle(own, self._patch) if self._patch > 1 else own
        return computed_in(self._dtype, self.vae, self._decoded, own)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        """The VAE's own latents of pixels."""
        found = self.vae.encode(pixels[:, :, None] if self._of_videos else pixels, return_dict=False)[0]
        latents: torch.Tensor = found if isinstance(found, torch.Tensor) else found.mode()
        return latents[:, :, 0] if self._of_videos else latents

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
        pixels: torch.Tensor = vae.decode(latents[:, :, None] if self._of_videos else latents, return_dict=False)[0]
        return pixels[:, :, 0] if self._of_videos else pixels


def upcast_dtype(vae: Any) -> torch.dtype | None:
    """float32 for a VAE in float16 that overflows there by its config (``force_upcast``), as SDXL's; else None."""
    return torch.float32 if vae.dtype == torch.float16 and vae.config.get("force_upcast") else None


def _scale_of(vae: Any) -> int:
    """Pixels along a side of one of the VAE's cells, as it says itself."""
    ratio = getattr(vae, "spatial_compression_ratio", None) or vae.config.get("spatial_compression_ratio")
    levels = vae.config.get("block_out_channels")
    if ratio is None and levels is not None:
        ratio = 2 ** (len(levels) - 1)
    if ratio is None:
        raise ValueError(
            f"{type(vae).__name__} does not say how many pixels a side of its cells has (spatial_compression_ratio, or "
            "block_out_channels in its config): pass scale=."
        )
    return int(ratio)


def _takes_videos(vae: Any) -> bool:
    """Whether the encoder is one of videos [B, C, frames, H, W].

    Some that compute single frames only derive their convolutions from the flat ones, but keep the name.
    """
    return any(type(module).__name__.endswith("Conv3d") for module in getattr(vae, "encoder", vae).modules())
