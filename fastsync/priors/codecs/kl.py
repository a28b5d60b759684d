"""The encoder and the decoder of diffusers' AutoencoderKL in strips: its own numbers in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .attention import attend
from .maps import Cut, Map, Maps
from .strips import Norm, convolve, downsample, each_picture, resnet, upsample

_CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2")  # one network, of two normalisations of its latents


def decode(
    vae: Any, latents: torch.Tensor, closed: tuple[bool, bool] = (False, False), make: Callable[..., Maps] = Maps
) -> torch.Tensor:
    """``vae.decode`` without gradients, one picture after the other.

    Args:
        vae: an autoencoder of which ``unknown_part`` is None.
        latents: [B, C, h, w] in the VAE's own units and dtype.
        closed: whether the picture closes vertically, and horizontally. Then convolutions go on at the other side.
        make: makes the maps, given a tensor like them and a cut.

    Returns:
        Pixels [B, 3, H, W].
    """
    decoder = vae.decoder

    def picture(z: torch.Tensor, maps: Maps) -> torch.Tensor:
        cells = Map.of(z if vae.post_quant_conv is None else vae.post_quant_conv(z), maps.cut)
        x = maps.new(decoder.conv_in.out_channels, cells.shape[2:])
        convolve(decoder.conv_in, cells, x.write)
        x = _middle(decoder.mid_block, x, maps)
        for block in decoder.up_blocks:
            for each in block.resnets:
                x = resnet(each, x, maps)
            for up in block.upsamplers or ():
                x = upsample(up, x, maps)
        return _last(decoder, x)

    return _all(vae, latents, closed, make, picture)


def encode(
    vae: Any, pixels: torch.Tensor, closed: tuple[bool, bool] = (False, False), make: Callable[..., Maps] = Maps
) -> torch.Tensor:
    """The mode of ``vae.encode`` without gradients, one picture after the other; arguments as of :func:`decode`.

    Args:
        pixels: [B, 3, H, W] in the VAE's dtype.

    Returns:
        Latents [B, C, h, w] in the VAE's own units.
    """
    encoder = vae.encoder

    def picture(pixels: torch.Tensor, maps: Maps) -> torch.Tensor:
        x = maps.new(encoder.conv_in.out_channels, pixels.shape[2:])
        convolve(encoder.conv_in, Map.of(pixels, maps.cut), x.write)
        for block in encoder.down_blocks:
            for each in block.resnets:
                x = resnet(each, x, maps)
            for down in block.downsamplers or ():
                x = downsample(down, x, maps)
        x = _middle(encoder.mid_block, x, maps)
        both = _last(encoder, x)  # mean and log variance
        return (both if vae.quant_conv is None else vae.quant_conv(both)).chunk(2, 1)[0]

    return _all(vae, pixels, closed, make, picture)


def largest_map(vae: Any, pixels: int) -> int:
    """Elements of the largest map in decoding a picture of so many pixels; encoding has as large ones."""
    return int(vae.decoder.up_blocks[-1].resnets[0].in_channels * pixels)


def unknown_part(vae: Any) -> str | None:
    """The class of the first part of an autoencoder that strips do not know, or None."""
    if type(vae).__name__ not in _CLASSES:
        return type(vae).__name__
    parts = [
        *_parts_of(vae.decoder, vae.decoder.up_blocks, "UpDecoderBlock2D", "upsamplers", _is_known_upsampler),
        *_parts_of(vae.encoder, vae.encoder.down_blocks, "DownEncoderBlock2D", "downsamplers", _is_known_downsampler),
    ]
    return next((type(part).__name__ for part, known in parts if not known), None)


def _parts_of(
    half: Any, blocks: Iterable[Any], name: str, samplers: str, is_known_sampler: Callable[[Any], bool]
) -> Iterable[tuple[nn.Module, bool]]:
    """The parts of an encoder or a decoder, and whether each is known."""
    resnets = [*half.mid_block.resnets]
    for block in blocks:
        yield block, type(block).__name__ == name
        if type(block).__name__ == name:
            resnets += block.resnets
            yield from ((sampler, is_known_sampler(sampler)) for sampler in getattr(block, samplers) or ())
    yield from ((each, _is_known_resnet(each)) for each in resnets)
    yield half.conv_norm_out, type(half.conv_norm_out) is nn.GroupNorm
    yield from ((conv, _is_3x3(conv)) for conv in (half.conv_in, half.conv_out))


def _is_known_upsampler(up: Any) -> bool:
    return type(up).__name__ == "Upsample2D" and up.norm is None and up.interpolate and _is_3x3(up.conv)


def _is_known_downsampler(down: Any) -> bool:
    known = type(down).__name__ == "Downsample2D" and down.norm is None and down.use_conv and down.padding == 0
    return known and _is_3x3(down.conv, stride=2, padding=0)


def _is_known_resnet(block: Any) -> bool:
    known = type(block).__name__ == "ResnetBlock2D" and block.time_emb_proj is None and not block.up and not block.down
    return known and _is_3x3(block.conv1) and _is_3x3(block.conv2)


def _is_3x3(conv: Any, stride: int = 1, padding: int = 1) -> bool:
    if type(conv) is not nn.Conv2d or conv.kernel_size != (3, 3):
        return False
    if conv.stride != (stride, stride) or conv.padding != (padding, padding) or conv.dilation != (1, 1):
        return False
    # People replace the method to make pictures that close, which strips would do at each of their own borders.
    return conv.padding_mode == "zeros" and "_conv_forward" not in vars(conv)


def _middle(block: Any, x: Map, maps: Maps) -> Map:
    first, *others = block.resnets
    x = resnet(first, x, maps)
    for attention, each in zip(block.attentions, others, strict=True):
        x = resnet(each, x if attention is None else attend(attention, x, maps), maps)
    return x


def _last(half: Any, x: Map) -> torch.Tensor:
    """The end of an encoder or a decoder: normalisation, activation, convolution."""
    norm = Norm(half.conv_norm_out, half.conv_act, x)
    out = torch.empty(1, half.conv_out.out_channels, *x.shape[2:], dtype=x.dtype, device=x.device)
    convolve(half.conv_out, x, Map.of(out, x.cut).put, norm)
    return out


def _all(
    vae: Any,
    given: torch.Tensor,
    closed: tuple[bool, bool],
    make: Callable[..., Maps],
    picture: Callable[[torch.Tensor, Maps], torch.Tensor],
) -> torch.Tensor:
    """What ``picture`` makes of each [1, ...] of a batch of pictures [B, ...], in a batch, with maps of its own."""

    def one(given: torch.Tensor) -> torch.Tensor:
        with make(given, Cut.of(given.shape[2:], closed)) as maps:
            return picture(given, maps)

    return each_picture(vae, given, one)
