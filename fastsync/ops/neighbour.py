"""Reading a neighbour in place: the addressing that `overlap_loss`, `control_grad` and `ddim_step` share.

``source`` [S, C, h', w'] is a pool of views. ``place`` int64 [B, 3] holds (slot, dy, dx) of each sample: its cell
(y, x) reads ``source[slot, :, y + dy, x + dx]``. A coordinate is first taken modulo ``period`` where that is not 0;
cells that then lie outside the source are outside the overlap, and a slot below 0 means no overlap at all. With
``index`` int64 [B, h, w] a cell reads flat cell ``index`` counted from slot ``place[:, 0]`` instead (below 0: outside).
``mask`` [B, 1, h, w] weighs the overlap. What lies outside it or has weight 0 does not matter, not even if it is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .samples import Draw, Shape


def read(
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
    like: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(y [B, C, h, w], M [B, 1, h, w])`` in ``like``'s shape and dtype; y is 0 where M is."""
    _, flat = cells(source, place, index, period, like)
    weight = weights(source, place, index, mask, period, like)
    pool = source.to(like.dtype).transpose(0, 1).flatten(1)  # [C, S h' w']
    target = pool[:, flat.flatten()].reshape(pool.shape[0], *flat.shape).transpose(0, 1)
    return torch.where(weight != 0, target, 0), weight


def weights(
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
    like: torch.Tensor,
) -> torch.Tensor:
    """M [B, 1, h, w] in ``like``'s dtype."""
    inside = cells(source, place, index, period, like)[0][:, None]
    return inside.to(like.dtype) if mask is None else torch.where(inside, mask.to(like.dtype), 0)


def cells(
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    period: Sequence[int],
    like: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each cell reads, bool [B, h, w], and which flat cell of the pool [S h' w'], int64 [B, h, w] (or 0)."""
    height, width = source.shape[-2:]
    slot = place[:, 0, None, None]
    if index is not None:
        inside = (index >= 0) & (slot >= 0)
        return inside, torch.where(inside, slot * (height * width) + index, 0)
    y = torch.arange(like.shape[-2], device=like.device) + place[:, 1, None]
    x = torch.arange(like.shape[-1], device=like.device) + place[:, 2, None]
    if period[0]:
        y = y % period[0]
    if period[1]:
        x = x % period[1]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :] & (slot >= 0)
    return inside, torch.where(inside, (slot * height + y[:, :, None]) * width + x[:, None, :], 0)


def scatter(
    gradient: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    period: Sequence[int],
) -> torch.Tensor:
    """The adjoint of the unweighted ``read``: gradient [B, C, h, w], 0 outside the overlap, added up in a pool."""
    _, flat = cells(source, place, index, period, gradient)
    pool = gradient.new_zeros(source.shape[1], source.shape[0] * source.shape[2] * source.shape[3])
    pool = pool.index_add(1, flat.flatten(), gradient.transpose(0, 1).flatten(1))
    return pool.unflatten(1, (source.shape[0], *source.shape[2:])).transpose(0, 1).to(source.dtype)


def check(
    name: str,
    x: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
) -> None:
    """One sentence where the addressing's shapes or dtypes do not fit x [B, C, h, w]."""
    batch, channels, height, width = x.shape
    if source.ndim != 4 or source.shape[1] != channels:
        raise ValueError(f"{name}: source must be [S, {channels}, h', w'], got {list(source.shape)}.")
    if place.shape != (batch, 3) or place.dtype != torch.int64:
        raise ValueError(f"{name}: place must be int64 [{batch}, 3], got {place.dtype} {list(place.shape)}.")
    if index is not None and (index.shape != (batch, height, width) or index.dtype != torch.int64):
        raise ValueError(
            f"{name}: index must be int64 [{batch}, {height}, {width}], got {index.dtype} {list(index.shape)}."
        )
    if mask is not None and mask.shape != (batch, 1, height, width):
        raise ValueError(f"{name}: mask must be [{batch}, 1, {height}, {width}], got {list(mask.shape)}.")
    if len(period) != 2 or any(p and p < side for p, side in zip(period, source.shape[2:], strict=True)):
        raise ValueError(
            f"{name}: period must be two numbers, each 0 or at least the source's side {tuple(source.shape[2:])}, got "
            f"{tuple(period)}."
        )


def sample(draw: Draw, shape: Shape) -> tuple[Any, ...]:
    """One ``(source, place, index, mask, period)`` for views of a shape (B, C, h, w), with mask and period."""
    return samples(draw, shape)[3]


def samples(draw: Draw, shape: Shape) -> list[tuple[Any, ...]]:
    """``(source, place, index, mask, period)`` of many kinds for views of a shape (B, C, h, w).

    Empty and full overlaps are among them. What must not be read holds NaN.
    """
    batch, channels, height, width = shape
    slots, rows, columns = 3, height + 2, max(1, width - 1)
    capacity = rows * columns

    def place(dy: tuple[int, int], dx: tuple[int, int]) -> torch.Tensor:
        parts = [draw.integers(0, slots, batch), draw.integers(*dy, batch), draw.integers(*dx, batch)]
        return torch.stack(parts, 1)

    def source(layout: str = "contiguous") -> torch.Tensor:
        return draw.normal(slots, channels, rows, columns, layout=layout)

    shift, half = place((-2, 3), (0, width)), place((-height, height), (-width, width))
    partly = shift.clone()
    partly[0, 0] = -1
    far = shift + torch.tensor([0, 1000, 0], device=shift.device)
    onward = draw.integers(-capacity, 2 * capacity, batch, height, width).clamp_min(-1)
    first = torch.zeros_like(shift)
    first[:, 0] = draw.integers(0, 2, batch)  # the index may reach into the next slot
    nowhere = first.clone()
    nowhere[-1, 0] = -1
    found = [
        (source(), shift, None, None, [0, 0]),
        (source("channels_last"), half, None, None, [0, 0]),
        (source(), partly, None, draw.mask(batch, 1, height, width), [0, 0]),
        (source(), half, None, draw.mask(batch, 1, height, width), [rows, columns]),
        (source("channels_last"), half, None, None, [0, columns + 3]),
        (source(), half, None, None, [rows + 1, 0]),
        (source(), far, None, None, [0, 0]),
        (source(), first, onward, None, [0, 0]),
        (source("channels_last"), nowhere, onward, draw.mask(batch, 1, height, width), [0, 0]),
    ]
    like = torch.empty(shape, dtype=draw.dtype, device=draw.device)
    return [_poisoned(*address, like) for address in found]


def _poisoned(
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
    like: torch.Tensor,
) -> tuple[Any, ...]:
    """The same address with NaN wherever source and mask must not be read."""
    inside, flat = cells(source, place, index, period, like)
    read = torch.zeros(source.shape[0] * source.shape[2] * source.shape[3], dtype=torch.bool, device=source.device)
    weighs = inside if mask is None else inside & (mask[:, 0] != 0)
    read[flat[weighs]] = True
    read = read.reshape(source.shape[0], 1, *source.shape[2:])
    source = source.masked_fill(~read, float("nan"))
    mask = None if mask is None else mask.masked_fill(~inside[:, None], float("nan"))
    return source, place, index, mask, period
