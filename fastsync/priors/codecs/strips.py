"""Layers of convolutional autoencoders, from map to map in strips: a plain layer's numbers in bounded memory.

diffusers' own tiles each have the group normalisation of their own pixels, so colours drift from tile to tile. Here the
statistics are the whole picture's. What is cut into strips is the work between two maps; a 3x3 convolution needs a halo
of one line. Where the picture closes, the halo comes from the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.nn import functional as F

from ..offload import load_offloaded
from .maps import Cut, Map, Maps

# Elements of a strip, such as 16 columns of 256 channels in a picture 512 high, where the halo is an eighth.
STRIP = 2**21


class Strip(NamedTuple):
    """Lines of a map.

    Attributes:
        start, stop: which.
        before: how many more come before them in ``cells``, and
        after: how many more come after them: the halo, or less where an open picture ends.
        cells: [1, C, H, W], a copy.
    """

    start: int
    stop: int
    before: int
    after: int
    cells: torch.Tensor


def strips(x: Map, before: int = 1, after: int = 1, *, growth: int = 1, multiple: int = 1) -> Iterator[Strip]:
    """All of a map, whose lines may be overwritten once they have been handed out.

    Args:
        before, after: lines of the halo.
        growth: how many times as many elements a strip becomes.
        multiple: of how many lines strips are, but for the last one.
    """
    axis, lines = x.cut.axis, x.lines
    step = multiple * at_once(growth * multiple * x.shape[1] * x.shape[x.cut.across])
    closes = x.cut.closes(axis)
    # What lies around the ends of a closed picture, read while it is still there.
    first = _around(x, range(lines, lines + after)) if closes and after else None
    last = _around(x, range(-before, 0)) if closes and before else x.read(0, 0)
    for start in range(0, lines, step):
        stop = min(start + step, lines)
        parts = [last, x.read(start, min(stop + after, lines))]
        if first is not None and stop + after > lines:
            parts.append(first.narrow(axis, 0, min(after, stop + after - lines)))
        cells = torch.cat(parts, axis)
        known = last.shape[axis]
        if before:
            keep = min(before, known + stop - start)
            last = cells.narrow(axis, known + stop - start - keep, keep).clone()
        yield Strip(start, stop, known, cells.shape[axis] - known - (stop - start), cells)


def _around(x: Map, lines: range) -> torch.Tensor:
    """Lines of a closed map, counted on past its ends; a copy."""
    return torch.cat([x.read(line % x.lines, line % x.lines + 1) for line in lines], x.cut.axis)


def at_once(elements: int) -> int:
    """How many parts of so many elements are worked on at once."""
    return max(1, STRIP // elements)


class Norm:
    """A GroupNorm and its activation (None: without one) with the statistics of the whole map."""

    def __init__(self, norm: nn.GroupNorm, activation: nn.Module | None, x: Map) -> None:
        self.activation = activation
        mean, variance = x.moments(norm.num_groups)
        self.dtype = mean.dtype
        with align_module_device(norm):  # where accelerate keeps the weights elsewhere
            weight, bias = norm.weight.to(x.device, self.dtype), norm.bias.to(x.device, self.dtype)
        each = weight.numel() // norm.num_groups
        scale = weight * (variance + norm.eps).rsqrt().repeat_interleave(each)
        self.scale = scale[:, None, None]
        self.shift = (bias - scale * mean.repeat_interleave(each))[:, None, None]

    def __call__(self, cells: torch.Tensor) -> torch.Tensor:
        normal = torch.addcmul(self.shift, cells.to(self.dtype), self.scale).to(cells.dtype)
        return normal if self.activation is None else self.activation(normal)


def convolve(conv: nn.Module, x: Map, write: Callable[[int, torch.Tensor], None], norm: Norm | None = None) -> None:
    """A 3x3 convolution of a map, after a normalisation if given; ``write`` gets each strip's start and result."""
    for strip in strips(x):
        write(strip.start, _convolved(conv, strip, strip.cells if norm is None else norm(strip.cells), x.cut))


def resnet(block: Any, x: Map, maps: Maps) -> Map:
    """A ResnetBlock2D; x is closed. Two maps are open: x, and the one between the convolutions, which becomes the
    result."""
    h = maps.new(block.out_channels, x.shape[2:])
    convolve(block.conv1, x, h.write, Norm(block.norm1, block.nonlinearity, x))
    norm = Norm(block.norm2, block.nonlinearity, h)
    h.restart()
    for strip in strips(h):
        own = x.read(strip.start, strip.stop)
        shortcut = own if block.conv_shortcut is None else block.conv_shortcut(own)
        residual = _convolved(block.conv2, strip, norm(strip.cells), x.cut)
        h.write(strip.start, (shortcut + residual) / block.output_scale_factor)
    maps.close(x)
    return h


def upsample(up: Any, x: Map, maps: Maps) -> Map:
    """An Upsample2D: each cell becomes two by two, then a 3x3 convolution; x is closed."""
    out = maps.new(up.conv.out_channels, [2 * side for side in x.shape[2:]])
    for strip in strips(x, growth=4):
        larger = F.interpolate(strip.cells, scale_factor=2.0, mode="nearest")
        out.write(2 * strip.start, _convolved(up.conv, strip, larger, x.cut, scale=2))
    maps.close(x)
    return out


def downsample(down: Any, x: Map, maps: Maps) -> Map:
    """A Downsample2D without padding of its own: a 3x3 convolution with stride 2, from each even cell on; x is closed.

    A line of zeros follows the picture's last, or its first one where it closes.
    """
    out = maps.new(down.conv.out_channels, [side // 2 for side in x.shape[2:]])
    for strip in strips(x, before=0, multiple=2):
        if strip.stop - strip.start < 2:  # the last line of an odd number, which no result begins at
            continue
        cells = _padded(strip.cells, x.cut.across, 0, 1, x.cut.closes(x.cut.across))
        if not strip.after:
            cells = _padded(cells, x.cut.axis, 0, 1, closed=False)
        out.write(strip.start // 2, down.conv(cells))
    maps.close(x)
    return out


def _convolved(conv: nn.Module, strip: Strip, cells: torch.Tensor, cut: Cut, scale: int = 1) -> torch.Tensor:
    """A 3x3 convolution of what a strip has become, ``scale`` times as large, without the halo."""
    closes = cut.closes(cut.across)
    if closes:
        cells = _padded(cells, cut.across, 1, 1, closed=True)
    # The convolution pads by zeros, which is right at the ends of an open picture; elsewhere it is cut away.
    result: torch.Tensor = conv(cells)
    if closes:
        result = result.narrow(cut.across, 1, result.shape[cut.across] - 2)
    return result.narrow(cut.axis, scale * strip.before, scale * (strip.stop - strip.start))


def _padded(cells: torch.Tensor, axis: int, before: int, after: int, closed: bool) -> torch.Tensor:
    """Lines more at both ends of an axis: zeros, or from the other end."""
    sides = (before, after, 0, 0) if axis == 3 else (0, 0, before, after)
    return F.pad(cells, sides, mode="circular" if closed else "constant")


def each_picture(vae: Any, given: torch.Tensor, one: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What ``one`` makes of each [1, ...] of a batch of pictures [B, ...], in a batch, without gradients.

    ``vae``, whose parts it asks, is loaded first where it is offloaded, as diffusers' own functions do.
    """
    load_offloaded(vae)
    with torch.no_grad():
        results = [one(picture) for picture in given.split(1)]
        return results[0] if len(results) == 1 else torch.cat(results)
