"""Views of one picture: rotations, flips, permutations, as a gather by an index map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import dispatch
from .declare import define
from .samples import Draw
from .shapes import check_per_sample, per_sample


def reference(x: torch.Tensor, index: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    """``y[b, :, p] = factor_b x[b, :, index[b, p]]``, 0 where the index is below 0."""
    batch, channels = x.shape[:2]
    flat = index.expand(batch, -1, -1).flatten(1)[:, None].expand(-1, channels, -1)
    y = torch.where(flat >= 0, x.flatten(2).gather(2, flat.clamp_min(0)), 0)
    y = y.unflatten(2, index.shape[1:])
    return (y if factor is None else per_sample(factor, y) * y).contiguous()


def _setup_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.shape = given.x.shape
    ctx.save_for_backward(given.index, given.factor)


def _backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    index, factor = ctx.saved_tensors
    batch, channels, height, width = ctx.shape
    g = g if factor is None else per_sample(factor, g) * g
    flat = index.expand(batch, -1, -1).flatten(1)[:, None].expand(-1, channels, -1)
    values = torch.where(flat >= 0, g.flatten(2), 0)
    adjoint = g.new_zeros(batch, channels, height * width).scatter_add(2, flat.clamp_min(0), values)
    return (adjoint.reshape(ctx.shape),)


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for batch, channels, height, width in draw.shapes:
        cells = height * width
        permutation = torch.randperm(cells, generator=draw.generator).to(draw.device).reshape(1, height, width)
        anything = draw.integers(-2, cells, batch, height + 1, width).clamp_min(-1)
        for index, layout in ((anything, "channels_last"), (anything[:1], "strided"), (permutation, "contiguous")):
            for factor in (draw.uniform(batch, low=-1.0), None):
                yield draw.normal(batch, channels, height, width, layout=layout), index, factor


OP = define(
    "transform",
    reference=reference,
    triton="transform",
    native=("cpu",),
    fake=lambda given: given.x.new_empty(*given.x.shape[:2], *given.index.shape[1:]),
    differentiable=("x",),
    setup_context=_setup_context,
    backward=_backward,
    samples=_samples,
)


def transform(x: torch.Tensor, index: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
    """``y[b, :, p] = factor_b x[b, :, index[b, p]]``: rotate, flip, skew, permute, negate.

    Args:
        x: [B, C, h, w].
        index: int64 [B or 1, h', w'], flat cells of x; below 0: the result is 0 there.
        factor: [B], e.g. -1 to negate; None for 1.

    Returns:
        [B, C, h', w']. Differentiable in x (the adjoint adds up).
    """
    if index.ndim != 3 or index.shape[0] not in (1, x.shape[0]) or index.dtype != torch.int64:
        raise ValueError(
            f"transform: index must be int64 [{x.shape[0]} or 1, h', w'], got {index.dtype} {list(index.shape)}."
        )
    check_per_sample("transform", len(x), factor=factor)
    return dispatch.call(OP, x, index, factor)


def inverse_permutation(index: torch.Tensor) -> torch.Tensor:
    """The index [.., h, w] that undoes a permutation ``index``; raises ``ValueError`` where it is none."""
    flat = index.flatten(-2)
    ordered, inverse = flat.sort(dim=-1)
    if not bool((ordered == torch.arange(flat.shape[-1], device=flat.device)).all()):
        raise ValueError("index is no permutation: each cell must be named exactly once, so that it can be undone.")
    return inverse.reshape(index.shape)
