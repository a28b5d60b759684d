"""Reading a neighbour in place: the addressing that `overlap_loss`, `control_grad` and `ddim_step` share.

``source`` [S, C, h', w'] is a pool of views. ``place`` int64 [B, 3] holds (slot, dy, dx) of each sample: its cell
(y, x) reads ``source[slot, :, y + dy, x + dx]``. A coordinate is first taken modulo ``period`` where that is not 0;
cells that then lie outside the source are outside the overlap, and a slot below 0 means no overlap at all. With
``index`` int64 [B, h, w] a cell reads flat cell ``index`` counted from slot ``place[:, 0]`` instead (below 0: outside).
``mask`` [B, 1, h, w] weighs the overlap. What lies outside it or has weight 0 does not matter, not even if it is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


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
