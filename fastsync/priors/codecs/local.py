"""Autoencoders that look at the whole picture only where it is small: the rest piece by piece, as exactly.

They normalise each cell by itself, and attend to all cells at their coarse levels (AutoencoderDC) or in their middle
(AutoencoderKLQwenImage and AutoencoderKLWan, for which a picture is a video of one frame). What is finer are
convolutions: a piece with a halo as wide as they see gives the whole picture's numbers. The coarse part is computed
whole, and grows with the picture; it is a small share of what the fine part would take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .strips import at_once, each_picture

_VIDEO = ("QwenImage", "Wan")  # one network under two names


class Layer(NamedTuple):
    """A layer that looks at what is near alone.

    Attributes:
        run: what it makes of cells [1, C, ..., h, w].
        reach: how many cells of what it is given it sees to each side, at most.
        factor: how many times as long sides become.
        width: channels of its widest map.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    reach: int
    factor: float
    width: int


class Halves(NamedTuple):
    """An autoencoder taken apart: ``decode`` is ``coarse`` and then the layers of ``fine``, ``encode`` the reverse."""

    decode_coarse: Callable[[torch.Tensor], torch.Tensor]
    decode_fine: list[Layer]
    encode_fine: list[Layer]
    encode_coarse: Callable[[torch.Tensor], torch.Tensor]


def taken_apart(vae: Any) -> Halves | None:
    """The coarse and the fine part of both halves, or None if the autoencoder has a part that is not known here."""
    kind = type(vae).__name__
    if kind == "AutoencoderDC":
        return _of_dc(vae)
    video = next((name for name in _VIDEO if kind == f"AutoencoderKL{name}"), None)
    plain = vae.config.get("patch_size") in (None, 1) and not vae.config.get("is_residual") if video else False
    return _of_video(vae) if plain else None


def decode(vae: Any, parts: Halves, latents: torch.Tensor) -> torch.Tensor:
    """``vae.decode`` without gradients of latents [B, C, ..., h, w], one picture after the other."""
    return each_picture(vae, latents, lambda z: in_pieces(parts.decode_fine, parts.decode_coarse(z)))


def encode(vae: Any, parts: Halves, pixels: torch.Tensor) -> torch.Tensor:
    """The mode of ``vae.encode`` without gradients of pixels [B, 3, ..., H, W], one picture after the other."""
    return each_picture(vae, pixels, lambda x: parts.encode_coarse(in_pieces(parts.encode_fine, x)))


def in_pieces(layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    """Layers of a picture's cells [1, C, ..., h, w], in pieces along its longer side."""
    axis = x.ndim - 2 if x.shape[-2] > x.shape[-1] else x.ndim - 1
    length, across = x.shape[axis], x.shape[-2] * x.shape[-1] // x.shape[axis]
    factor, coarsest, reach, most = 1.0, 1.0, 0.0, 0.0
    for layer in layers:
        reach += layer.reach / factor
        most = max(most, layer.width * max(factor, factor * layer.factor) ** 2)
        factor *= layer.factor
        coarsest = min(coarsest, factor)
    multiple = round(1 / coarsest)  # where pieces may begin, so that strides meet the same cells
    halo = multiple * math.ceil(reach / multiple)
    step = max(multiple * at_once(round(most * across * multiple)), 4 * halo)
    out: torch.Tensor | None = None
    for start in range(0, length, step):
        stop, first = min(start + step, length), max(0, start - halo)
        piece = x.narrow(axis, first, min(stop + halo, length) - first)
        for layer in layers:
            piece = layer.run(piece)
        if out is None:
            shape = list(piece.shape)
            shape[axis] = math.floor(length * factor)
            out = piece.new_empty(shape)
        begin, end = round(start * factor), math.floor(stop * factor)
        out.narrow(axis, begin, end - begin).copy_(piece.narrow(axis, begin - round(first * factor), end - begin))
    assert out is not None
    return out


# ---- AutoencoderDC ----------------------------------------------------------------------------------------------


def _of_dc(vae: Any) -> Halves | None:
    encoder, decoder = vae.encoder, vae.decoder
    up = [layer for block in reversed(decoder.up_blocks) for layer in block]
    down = [layer for block in encoder.down_blocks for layer in block]
    fine_from = max((i + 1 for i, layer in enumerate(up) if _dc_layer(layer) is None), default=0)
    fine_to = min((i for i, layer in enumerate(down) if _dc_layer(layer) is None), default=len(down))
    first, last = _dc_layer(encoder.conv_in), _dc_layer(decoder.conv_out)
    if first is None or last is None:
        return None

    def start(z: torch.Tensor) -> torch.Tensor:
        x = decoder.conv_in(z)
        if decoder.in_shortcut:
            x = x + z.repeat_interleave(decoder.in_shortcut_repeats, dim=1)
        return _run(up[:fine_from], x)

    def head(x: torch.Tensor) -> torch.Tensor:
        return last.run(decoder.conv_act(decoder.norm_out(x.movedim(1, -1)).movedim(-1, 1)))

    def end(x: torch.Tensor) -> torch.Tensor:
        x = _run(down[fine_to:], x)
        latents: torch.Tensor = encoder.conv_out(x)
        if encoder.out_shortcut:
            latents = latents + x.unflatten(1, (-1, encoder.out_shortcut_average_group_size)).mean(2)
        return latents

    ups, downs = ([_dc_layer(layer) for layer in layers] for layers in (up[fine_from:], down[:fine_to]))
    return Halves(start, [*_known(ups), last._replace(run=head)], [first, *_known(downs)], end)


def _dc_layer(layer: Any) -> Layer | None:
    kind, width = type(layer).__name__, _width(layer)
    if kind == "ResBlock" and (layer.norm_type == "rms_norm" or not layer.training):
        return Layer(layer, 2, 1, width)
    if kind == "DCUpBlock2d":
        return Layer(layer, 1, 2, width)
    if kind == "DCDownBlock2d":
        return Layer(layer, 2, 0.5, width)
    return Layer(layer, 1, 1, width) if _is_3x3(layer) else None


def _is_3x3(layer: Any) -> bool:
    return type(layer) is nn.Conv2d and layer.kernel_size == (3, 3) and layer.stride == (1, 1)


# ---- autoencoders of videos, at one frame -----------------------------------------------------------------------


def _of_video(vae: Any) -> Halves | None:
    """At one frame nothing is remembered from an earlier one, and convolutions over time meet zeros."""
    encoder, decoder = vae.encoder, vae.decoder
    up = [layer for block in decoder.up_blocks for layer in (*block.resnets, *(block.upsamplers or ()))]
    down = list(encoder.down_blocks)
    ups, downs = ([_video_layer(layer) for layer in layers] for layers in (up, down))
    if None in ups or None in downs:
        return None

    def head(x: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))
        return pixels.clamp(-1.0, 1.0)

    def end(x: torch.Tensor) -> torch.Tensor:
        x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(encoder.mid_block(x))))
        return vae.quant_conv(x).chunk(2, 1)[0]  # mean, and log variance

    return Halves(
        lambda z: decoder.mid_block(decoder.conv_in(vae.post_quant_conv(z))),
        [*_known(ups), Layer(head, 1, 1, _width(decoder.conv_out))],
        [Layer(encoder.conv_in, 1, 1, _width(encoder.conv_in)), *_known(downs)],
        end,
    )


def _video_layer(layer: Any) -> Layer | None:
    kind, width = type(layer).__name__, _width(layer)
    if kind in [f"{name}ResidualBlock" for name in _VIDEO]:
        return Layer(layer, 2, 1, width)
    if kind in [f"{name}Resample" for name in _VIDEO] and layer.mode.startswith(("up", "down")):
        return Layer(layer, 1, 2, width) if layer.mode.startswith("up") else Layer(layer, 2, 0.5, width)
    return None


# ---- both -------------------------------------------------------------------------------------------------------


def _run(layers: Sequence[Any], x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _known(layers: Sequence[Layer | None]) -> Iterator[Layer]:
    return (layer for layer in layers if layer is not None)


def _width(layer: Any) -> int:
    """The most channels that a convolution in a layer takes or gives."""
    convolutions = [each for each in layer.modules() if isinstance(each, (nn.Conv2d, nn.Conv3d))]
    return max((max(each.in_channels, each.out_channels) for each in convolutions), default=1)
