"""Encoding and decoding by any of diffusers' autoencoders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from ...errors import check_int
from . import kl, local
from .base import OPEN, Codec
from .normalisation import Normalisation
from .precision import computed_in

# Bytes of the largest map from which on a picture that is larger than the model's own size is worth strips.
SMALL = 2**24
# Pixels from which on other autoencoders are computed piece by piece, or it is said that they are not.
LARGE = 2**21
# Pixels of the other side that are computed along where a picture closes and is computed whole.
MARGIN = 512


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
        decoding: further arguments of the VAE's ``decode``.

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
        decoding: Mapping[str, Any] | None = None,
    ) -> None:
        self.vae, self._dtype, self._decoding = vae, dtype, dict(decoding or {})
        self._patch = check_int("patch", patch)
        self.scale = self._patch * _scale_of(vae) if scale is None else check_int("scale", scale)
        self._normalisation = Normalisation(vae.config, factor, shift, self._patch)
        self._of_videos = _takes_videos(vae)

    def encode(self, pixels: torch.Tensor, device: torch.device, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to sample units [B, C p p, h, w] on ``device``; differentiable.

        Memory is bounded as in :meth:`decode`.

        Raises:
            ValueError: a side that is not a whole number of cells, where the picture closes or ``patch`` is over 1.
        """
        sides = pixels.shape[2:]
        if (self._patch > 1 or any(closed)) and any(side % self.scale for side in sides):
            raise ValueError(
                f"pictures must have sides that are multiples of {self.scale} pixels here, got "
                f"{sides[0]} x {sides[1]}: crop or resize the picture."
            )
        latents = computed_in(self._dtype, self.vae, partial(self._encoded, closed=closed), pixels.to(device))
        return self._normalisation.remove(pixel_unshuffle(latents, self._patch) if self._patch > 1 else latents)

    def decode(self, latents: torch.Tensor, device: torch.device, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        """Sample units [B, C p p, h, w] to pixels [B, 3, H, W] on ``device``; differentiable.

        Where no gradient is asked for, an AutoencoderKL computes pictures that are larger than its own size in strips,
        as exactly, in memory that does not grow with them beyond what they and their latents are; so are pictures of
        any size that close, or after ``vae.enable_tiling()``. Autoencoders that look at the whole picture at coarse
        levels only (AutoencoderDC, AutoencoderKLQwenImage, AutoencoderKLWan) compute the fine ones piece by piece, as
        exactly. Others compute large pictures whole, or in their own tiles if these are enabled, with a warning.
        """
        own = self._normalisation.apply(latents.to(device, self._dtype or self.vae.dtype))
        own = pixel_shuffle(own, self._patch) if self._patch > 1 else own
        return computed_in(self._dtype, self.vae, partial(self._decoded, closed=closed), own)

    def _encoded(self, pixels: torch.Tensor, closed: tuple[bool, bool]) -> torch.Tensor:
        """The VAE's own latents of pixels."""
        how = self._how(pixels, 1, closed)
        if how == "strips":
            return kl.encode(self.vae, pixels, closed)
        ratio = self.scale // self._patch
        function = partial(self._encoded_open, how)
        return _with_margins(function, pixels, closed, MARGIN // ratio * ratio, lambda side: side // ratio)

    def _encoded_open(self, how: local.Halves | None, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels[:, :, None] if self._of_videos else pixels
        if how is None:
            found = self.vae.encode(pixels, return_dict=False)[0]
            latents: torch.Tensor = found if isinstance(found, torch.Tensor) else found.mode()
        else:
            latents = local.encode(self.vae, how, pixels)
        return latents[:, :, 0] if self._of_videos else latents

    def _decoded(self, latents: torch.Tensor, closed: tuple[bool, bool]) -> torch.Tensor:
        """The pixels of latents in the VAE's own units."""
        ratio = self.scale // self._patch
        how = None if self._decoding else self._how(latents, ratio, closed)
        if how == "strips":
            return kl.decode(self.vae, latents, closed)
        function = partial(self._decoded_open, how)
        return _with_margins(function, latents, closed, MARGIN // ratio, lambda side: side * ratio)

    def _decoded_open(self, how: local.Halves | None, latents: torch.Tensor) -> torch.Tensor:
        latents = latents[:, :, None] if self._of_videos else latents
        if how is None:
            pixels: torch.Tensor = self.vae.decode(latents, return_dict=False, **self._decoding)[0]
        else:
            pixels = local.decode(self.vae, how, latents)
        return pixels[:, :, 0] if self._of_videos else pixels

    def _how(self, x: torch.Tensor, ratio: int, closed: tuple[bool, bool]) -> Literal["strips"] | local.Halves | None:
        """How x [B, C, h, w] is computed, of which each cell stands for ``ratio`` pixels a side.

        In strips by ``kl``, piece by piece by ``local``, or by the VAE's own function (None).
        """
        if torch.is_grad_enabled() and x.requires_grad:
            return None
        vae, pixels = self.vae, ratio**2 * x.shape[2] * x.shape[3]
        asked, unknown = getattr(vae, "use_tiling", False), kl.unknown_part(vae)
        if unknown is None:
            own = vae.config.get("sample_size") or 0
            own = own if isinstance(own, (list, tuple)) else (own, own)
            large = pixels > own[0] * own[1] and kl.largest_map(vae, pixels) * x.element_size() > SMALL
            return "strips" if asked or any(closed) or large else None
        if not asked and pixels <= LARGE:
            return None
        parts = local.taken_apart(vae)
        if parts is None:
            tiled = (
                "its own tiles are used, in which colours may differ from one to the next: call vae.disable_tiling() "
                "where the memory suffices"
            )
            whole = (
                f"a picture of {pixels / 1e6:.0f} million pixels is computed whole: where the memory does not suffice, "
                "call vae.enable_tiling() for its own tiles, in which colours may differ from one to the next"
            )
            warnings.warn(
                f"the VAE has a part that fastsync cannot tile ({unknown}), so {tiled if asked else whole}.",
                stacklevel=2,
            )
        return parts


def _with_margins(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    closed: tuple[bool, bool],
    margin: int,
    becomes: Callable[[int], int],
) -> torch.Tensor:
    """A function of a picture x [B, C, h, w], with up to ``margin`` cells of the other side where it closes.

    ``becomes`` says how many cells a number of cells becomes.
    """
    if not any(closed):
        return function(x)
    top, left = (min(max(margin, 1), side) if closes else 0 for closes, side in zip(closed, x.shape[2:], strict=True))
    result = function(pad(x, (left, left, top, top), mode="circular"))
    height, width = (becomes(side) for side in x.shape[2:])
    return result[..., becomes(top) :, becomes(left) :][..., :height, :width]


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
