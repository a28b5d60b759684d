"""The decoder of an AutoencoderKL in strips of rows: the plain decode's numbers in about half of its memory.

diffusers' own tiled decode gives each tile the group normalisation of its own pixels, so colours drift from tile to
tile. Here maps stay whole, and so do their statistics; what is cut into strips is the work between two maps, whose
temporaries are otherwise as large as the maps. A 3x3 convolution needs one row of halo.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.nn import functional as F

# Elements of a strip: 16 rows of 256 channels at a width of 2,048, where the halo costs an eighth more convolution.
STRIP = 2**23


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
    known = type(decoder.conv_norm_out) is nn.GroupNorm and _is_3x3(decoder.conv_out)
    return None if known else type(decoder.conv_norm_out).__name__


def _is_3x3(conv: nn.Module) -> bool:
    return type(conv) is nn.Conv2d and conv.kernel_size == (3, 3) and conv.padding_mode == "zeros"


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
    for rows, halo, strip in _strips(x):
        out[:, :, rows] = _inner(decoder.conv_out(normalise(strip)), halo, rows)
    return out


def _resnet(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Two maps are alive: x, and the one between the convolutions, which becomes the result."""
    normalise = _Norm(block.norm1, block.nonlinearity, x)
    h = x.new_empty(1, block.out_channels, *x.shape[2:])
    for rows, halo, strip in _strips(x):
        h[:, :, rows] = _inner(block.conv1(normalise(strip)), halo, rows)
    normalise = _Norm(block.norm2, block.nonlinearity, h)
    for rows, halo, strip in _strips(h):
        shortcut = x[:, :, rows] if block.conv_shortcut is None else block.conv_shortcut(x[:, :, rows])
        sums = shortcut + _inner(block.conv2(normalise(strip)), halo, rows)
        h[:, :, rows] = sums / block.output_scale_factor
    return h


def _upsample(up: Any, x: torch.Tensor) -> torch.Tensor:
    out = x.new_empty(1, up.conv.out_channels, 2 * x.shape[2], 2 * x.shape[3])
    for rows, halo, strip in _strips(x, growth=4):
        larger = slice(2 * rows.start, 2 * rows.stop)
        out[:, :, larger] = _inner(up.conv(F.interpolate(strip, scale_factor=2.0, mode="nearest")), 2 * halo, larger)
    return out


def _strips(x: torch.Tensor, growth: int = 1) -> Iterator[tuple[slice, int, torch.Tensor]]:
    """``(rows, halo, strip)``: the rows, and a copy of them with a row more on either side where there is one.

    ``halo`` is how many come before. The map's rows may be overwritten as they are handed out. ``growth`` is how many
    times as many elements are made of a strip.
    """
    height = x.shape[2]
    step = max(1, STRIP // (growth * x[:, :, :1].numel()))
    above = x[:, :, :0]
    for start in range(0, height, step):
        stop = min(start + step, height)
        strip = torch.cat([above, x[:, :, start : stop + 1]], 2)
        halo, above = above.shape[2], x[:, :, stop - 1 : stop].clone()
        yield slice(start, stop), halo, strip


def _inner(strip: torch.Tensor, halo: int, rows: slice) -> torch.Tensor:
    """A convolved strip without the rows of its halo, which met padding instead of their neighbours."""
    return strip[:, :, halo : halo + rows.stop - rows.start]


class _Norm:
    """A GroupNorm and its activation with the statistics of the whole map x [1, C, H, W]."""

    def __init__(self, norm: nn.GroupNorm, activation: nn.Module, x: torch.Tensor) -> None:
        self.activation = activation
        # At least in float32, as GroupNorm itself; mean and variance of the whole from those of its strips.
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        rows, moments = [], []
        for start in range(0, x.shape[2], step := max(1, STRIP // x[:, :, :1].numel())):
            groups = x[:, :, start : start + step].to(self.dtype).reshape(norm.num_groups, -1)
            rows.append(groups.shape[1])
            moments.append(torch.stack(torch.var_mean(groups, 1, correction=0)))
        share = torch.tensor(rows, dtype=self.dtype, device=x.device)[:, None] / sum(rows)
        variances, means = torch.stack(moments, 1)
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
