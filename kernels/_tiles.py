"""What the kernels on image tensors [B, C, h, w] share: layouts, tiles, coefficients, the neighbour's address.

A program works on tiles of one sample: some rows of its [C h, w] and some columns. Rows and columns are split here
once a tile, so that a cell costs no integer division; offsets are int64, what is divided is int32. Block sizes follow
from the shape alone: there is no autotuning, because these kernels wait for memory, and a tile of a thousand cells or
more keeps enough loads in flight.
"""

# Triton gives annotations of kernels a meaning of their own.
# mypy: allow-untyped-defs

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

# Views up to this size are reduced by one program each, in one launch; larger ones in parts that torch adds up.
WHOLE_VIEW = 65_536
_PARTS_OF = 4  # tiles a program where views are reduced in parts


class Plan(NamedTuple):
    """How the programs of a launch share the samples; its fields are kernel arguments of the same names."""

    blocks: int  # programs a sample
    rounds: int  # tiles a program
    across: int  # tiles beside each other
    shape: tuple[int, int, int]  # (C, h, w) as the kernel is to see it
    ROWS: int
    COLUMNS: int
    num_warps: int


@lru_cache(maxsize=4096)
def plan(channels: int, height: int, width: int, flat: bool, reduces: bool) -> Plan:
    """Tiles for views [C, h, w]; ``flat`` where all tensors are contiguous and no cell needs its coordinates."""
    cells = channels * height * width
    if flat and cells < 2**30:
        channels, height, width = 1, 1, cells
    rows = channels * height
    block, warps = (4096, 16) if reduces and cells <= WHOLE_VIEW else (2048, 8) if reduces else (1024, 4)
    # Wide rows are cut into pieces of 256 before rows are taken one by one: little of a last piece is wasted.
    down = max(1, min(_power_of_2(rows), block // min(_power_of_2(width), 256)))
    columns = max(1, min(_power_of_2(width), block // down))
    across = max(1, -(-width // columns))
    tiles = max(1, -(-rows // down) * across)
    rounds = 1 if not reduces else tiles if cells <= WHOLE_VIEW else _PARTS_OF
    return Plan(-(-tiles // rounds), rounds, across, (channels, height, width), down, columns, warps)


def _power_of_2(number: int) -> int:
    """The least power of 2 that is not smaller."""
    return 1 << max(0, number - 1).bit_length()


def laid_out(*tensors: torch.Tensor | None) -> tuple[list[torch.Tensor | None], int]:
    """The tensors in layouts that a kernel reads in place, and a number whose bit i says that i is channels-last."""
    found: list[torch.Tensor | None] = []
    last = 0
    for i, tensor in enumerate(tensors):
        if tensor is not None and not tensor.is_contiguous():
            if tensor.is_contiguous(memory_format=torch.channels_last):
                last |= 1 << i
            else:
                tensor = tensor.contiguous()
        found.append(tensor)
    return found, last


def packed(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The tensors, contiguous: coefficients [B] (which may be expanded), index maps, masks."""
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def like(tensor: torch.Tensor) -> torch.Tensor:
    """Memory for a contiguous result of a tensor's shape and dtype."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def wide(source: torch.Tensor) -> bool:
    """Whether the flat cells of a pool of neighbours have numbers beyond int32."""
    return len(source) * source.shape[2] * source.shape[3] >= 2**31


@triton.jit
def tile(which, C, h, w, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Channels and rows [ROWS, 1], columns [1, COLUMNS] of a tile's cells, and which of them exist."""
    row = which // across * ROWS + tl.arange(0, ROWS)[:, None]
    x = which % across * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    c = row // h
    return c, row - c * h, x, (row < C * h) & (x < w)


@triton.jit
def cell(c, y, x, C, h, w, LAST: tl.constexpr):
    """Offset of cells in a sample, contiguous or channels-last."""
    if LAST:
        offset = (y.to(tl.int64) * w + x) * C + c
    else:
        offset = (c * h + y).to(tl.int64) * w + x
    return offset


@triton.jit
def read(tensor, offset, live):
    """Values in float32, 0 where not live."""
    return tl.load(tensor + offset, mask=live, other=0.0).to(tl.float32)


@triton.jit
def number(coefficient, sample):
    """A coefficient [B] of any float dtype, of one sample, in float32."""
    return tl.load(coefficient + sample).to(tl.float32)


@triton.jit
def linear_form(a, b, KIND: tl.constexpr):
    """``(px, pr, qx, qr)`` as in fastsync.ops.cfg_tweedie.linear_form."""
    if KIND == "epsilon":
        px, pr, qx, qr = 1.0 / a, -b / a, a * 0.0, a * 0.0 + 1.0
    elif KIND == "v_prediction":
        px, pr, qx, qr = a, -b, b, a
    elif KIND == "sample":
        px, pr, qx, qr = b * 0.0, b * 0.0 + 1.0, 1.0 / b, -a / b
    else:
        px, pr, qx, qr = a * 0.0 + 1.0, -b, a * 0.0 + 1.0, a
    return px, pr, qx, qr


@triton.jit
def _wrapped(coordinate, period):
    # The interpreter rounds quotients like Python, the compiler like C.
    rest = coordinate % period
    return tl.where(rest < 0, rest + period, rest)


@triton.jit
def neighbour(
    source, place, index, mask, sample, c, y, x, live, C, h, w, source_h, source_w, period_y, period_x,
    LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """``(target, M)`` of a tile, 0 outside the overlap; addressing as in fastsync.ops.neighbour.

    ``WIDE``: see :func:`wide`.
    """
    slot = tl.load(place + sample * 3)
    inside = live & (slot >= 0)
    here = (sample.to(tl.int64) * h + y) * w + x
    if index is not None:
        flat = tl.load(index + here, mask=inside, other=-1)
        inside = inside & (flat >= 0)
        if WIDE:
            cells = tl.full([], 1, tl.int64) * source_h * source_w
        else:
            flat = flat.to(tl.int32)  # dividing int64 is several times slower
            cells = source_h * source_w
        hop = flat // cells
        slot = slot + hop
        inner = (flat - hop * cells).to(tl.int64)
    else:
        # What is far outside on either side stays outside, and the sums below fit into int32.
        dy = tl.load(place + sample * 3 + 1)
        dx = tl.load(place + sample * 3 + 2)
        if period_y > 0:
            dy = _wrapped(dy, period_y)
        if period_x > 0:
            dx = _wrapped(dx, period_x)
        far = 1 << 30
        source_y = y + tl.minimum(tl.maximum(dy, -far), far).to(tl.int32)
        source_x = x + tl.minimum(tl.maximum(dx, -far), far).to(tl.int32)
        if period_y > 0:
            source_y = source_y % period_y
        if period_x > 0:
            source_x = source_x % period_x
        inside = inside & (source_y >= 0) & (source_y < source_h) & (source_x >= 0) & (source_x < source_w)
        inner = source_y.to(tl.int64) * source_w + source_x
    if mask is not None:
        weight = tl.load(mask + here, mask=inside, other=0.0).to(tl.float32)
    else:
        weight = inside.to(tl.float32)
    if LAST:
        offset = (slot.to(tl.int64) * source_h * source_w + inner) * C + c
    else:
        offset = (slot.to(tl.int64) * C + c) * source_h * source_w + inner
    return tl.load(source + offset, mask=inside & (weight != 0), other=0.0).to(tl.float32), weight
