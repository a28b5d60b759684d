"""The decoder of an AutoencoderKL in strips: the plain decode's numbers in about half of its memory.

diffusers' own tiled decode gives each tile the group normalisation of its own pixels, so colours drift from tile to
tile. Here maps stay whole, and so do their statistics; what is cut into strips is the work between two maps, whose
temporaries are otherwise as large as the maps. A 3x3 convolution needs a halo of one cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.nn import functional as F

# Elements of a strip, such as 32 columns of 256 channels in a picture 512 high, where the halo is a sixteenth.
STRIP = 2**22


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """``vae.decode`` without gradients, one picture after the other.

    Args:
        vae: an AutoencoderKL of which ``unknown_part`` is None.
        latents: [B, C, h, w] in the VAE's own units and dtype.

    Returns:
        Pixels [B, 3, H, W].
    """
    hook = getattr(vae, "_hf_hook", None)
    if hook is not None:  # accelerate's, which loads an offloaded model; diffusers' own decode calls it as well
        hook.pre_forward(vae)
    with torch.no_grad():
        return torch.cat([_picture(vae, z) for z in latents.split(1)])


def unknown_part(vae: Any) -> str | None:
    """The class of the first part of a VAE's decoder that ``decode`` does not know, or None."""
    if type(vae).__name__ != "AutoencoderKL":
        return type(vae).__name__
    decoder = vae.decoder
    resnets = [*decoder.mid_block.resnets]
    for block in decoder.up_blocks:
        if type(block).__name__ != "UpDecoderBlock2D":
            return type(block).__name__
        resnets += block.resnets
        for up in block.upsamplers or ():
            if type(up).__name__ != "Upsample2D" or up.norm is not None or not up.interpolate or not _is_3x3(up.conv):
                return type(up).__name__
    for resnet in resnets:
        known = type(resnet).__name__ == "ResnetBlock2D" and resnet.time_emb_proj is None and not resnet.up
        if not known or resnet.down or not (_is_3x3(resnet.conv1) and _is_3x3(resnet.conv2)):
            return type(resnet).__name__
    if type(decoder.conv_norm_out) is not nn.GroupNorm:
        return type(decoder.conv_norm_out).__name__
    return None if _is_3x3(decoder.conv_out) else type(decoder.conv_out).__name__


def _is_3x3(conv: nn.Module) -> bool:
    if type(conv) is not nn.Conv2d or conv.kernel_size != (3, 3):
        return False
    # People replace the method to make pictures that close, which strips would do at each of their own borders.
    return conv.padding_mode == "zeros" and "_conv_forward" not in vars(conv)


def _picture(vae: Any, z: torch.Tensor) -> torch.Tensor:
    decoder = vae.decoder
    x = decoder.conv_in(z if vae.post_quant_conv is None else vae.post_quant_conv(z))
    first, *others = decoder.mid_block.resnets
    x = _resnet(first, x)
    for attention, resnet in zip(decoder.mid_block.attentions, others, strict=True):
        x = _resnet(resnet, x if attention is None else attention(x))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for up in block.upsamplers or ():
            x = _upsample(up, x)
    normalise = _Norm(decoder.conv_norm_out, decoder.conv_act, x)
    out = x.new_empty(1, decoder.conv_out.out_channels, *x.shape[2:])
    for strip in _strips(x):
        strip.of(out).copy_(strip.inner(decoder.conv_out(normalise(strip.cells))))
    return out


def _resnet(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Two maps are alive: x, and the one between the convolutions, which becomes the result."""
    normalise = _Norm(block.norm1, block.nonlinearity, x)
    h = x.new_empty(1, block.out_channels, *x.shape[2:])
    for strip in _strips(x):
        strip.of(h).copy_(strip.inner(block.conv1(normalise(strip.cells))))
    normalise = _Norm(block.norm2, block.nonlinearity, h)
    for strip in _strips(h):
        shortcut = strip.of(x) if block.conv_shortcut is None else block.conv_shortcut(strip.of(x))
        residual = strip.inner(block.conv2(normalise(strip.cells)))
        strip.of(h).copy_((shortcut + residual) / block.output_scale_factor)
    return h


def _upsample(up: Any, x: torch.Tensor) -> torch.Tensor:
    out = x.new_empty(1, up.conv.out_channels, 2 * x.shape[2], 2 * x.shape[3])
    for strip in _strips(x, growth=4):
        larger = F.interpolate(strip.cells, scale_factor=2.0, mode="nearest")
        strip.of(out, 2).copy_(strip.inner(up.conv(larger), 2))
    return out


class _Strip(NamedTuple):
    """Rows or columns of a map, whichever it has more of.

    Attributes:
        axis: 2 (rows) or 3 (columns).
        start, stop: which.
        halo: how many more come before them in ``cells``, 0 or 1; after them as many follow, where there are some.
        cells: [1, C, h, w], a copy.
    """

    axis: int
    start: int
    stop: int
    halo: int
    cells: torch.Tensor

    def of(self, whole: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Where the strip lies in a map ``scale`` times as large."""
        return whole.narrow(self.axis, scale * self.start, scale * (self.stop - self.start))

    def inner(self, convolved: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """A convolved strip without its halo, which met padding instead of its neighbours."""
        return convolved.narrow(self.axis, scale * self.halo, scale * (self.stop - self.start))


def _strips(x: torch.Tensor, growth: int = 1) -> Iterator[_Strip]:
    """All of a map, which may be overwritten where strips have been handed out."""
    axis, spans = _spans(x, growth)
    before = x.narrow(axis, 0, 0)
    for start, stop in spans:
        cells = torch.cat([before, x.narrow(axis, start, min(stop + 1, x.shape[axis]) - start)], axis)
        halo, before = before.shape[axis], x.narrow(axis, stop - 1, 1).clone()
        yield _Strip(axis, start, stop, halo, cells)


def _spans(x: torch.Tensor, growth: int = 1) -> tuple[int, list[tuple[int, int]]]:
    """The axis along which a map is cut and ``(start, stop)`` of its strips, of which each grows that many times."""
    axis = 2 if x.shape[2] > x.shape[3] else 3
    length = x.shape[axis]
    step = max(1, STRIP * length // (growth * x.numel()))
    return axis, [(start, min(start + step, length)) for start in range(0, length, step)]


class _Norm:
    """A GroupNorm and its activation with the statistics of the whole map x [1, C, H, W]."""

    def __init__(self, norm: nn.GroupNorm, activation: nn.Module, x: torch.Tensor) -> None:
        self.activation = activation
        # At least in float32, as GroupNorm itself; mean and variance of the whole from those of its strips.
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        axis, spans = _spans(x)
        moments = []
        for start, stop in spans:
            groups = x.narrow(axis, start, stop - start).to(self.dtype).reshape(norm.num_groups, -1)
            moments.append(torch.stack(torch.var_mean(groups, 1, correction=0)))
        variances, means = torch.stack(moments, 1)
        share = means.new_tensor([stop - start for start, stop in spans])[:, None] / x.shape[axis]
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        with align_module_device(norm):  # where accelerate keeps the weights elsewhere
            weight, bias = norm.weight.to(x.device, self.dtype), norm.bias.to(x.device, self.dtype)
        each = weight.numel() // norm.num_groups
        scale = weight * (variance + norm.eps).rsqrt().repeat_interleave(each)
        self.scale = scale[:, None, None]
        self.shift = (bias - scale * mean.repeat_interleave(each))[:, None, None]

    def __call__(self, strip: torch.Tensor) -> torch.Tensor:
        return self.activation(torch.addcmul(self.shift, strip.to(self.dtype), self.scale).to(strip.dtype))
