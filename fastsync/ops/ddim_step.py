"""The step from time t to time s, with the coupling to neighbours that some methods add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import dispatch, neighbour
from .declare import define
from .samples import LAYOUTS, Draw
from .shapes import check_per_sample, check_same, per_sample, widened


def reference(
    x0: torch.Tensor,
    eps: torch.Tensor,
    a_next: torch.Tensor,
    direction: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor | None,
    pull: torch.Tensor | None,
    x: torch.Tensor | None,
    source: torch.Tensor | None,
    place: torch.Tensor | None,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
) -> torch.Tensor:
    """``x_s = a_s x0 + direction eps + sigma noise - pull M (x - y)``."""
    clean = widened(x0)
    x_next = per_sample(a_next, clean) * clean + per_sample(direction, clean) * eps
    if noise is not None:
        x_next = x_next + per_sample(sigma, clean) * noise
    if pull is not None and x is not None and source is not None and place is not None:
        target, weight = neighbour.read(source, place, index, mask, period, clean)
        x_next = x_next - torch.where(weight != 0, per_sample(pull, clean) * weight * (x - target), 0)
    return x_next.to(x0.dtype).contiguous()


def _setup_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.period, ctx.noisy = given.period, given.noise is not None
    numbers = (given.a_next, given.direction, given.sigma, given.pull)
    ctx.save_for_backward(*numbers, given.source, given.place, given.index, given.mask)


def _backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    a_next, direction, sigma, pull, source, place, index, mask = ctx.saved_tensors
    g_noise = per_sample(sigma, g) * g if ctx.noisy else None
    g_x = g_source = None
    if pull is not None:
        weight = neighbour.weights(source, place, index, mask, ctx.period, g)
        g_x = torch.where(weight != 0, -per_sample(pull, g) * weight * g, 0)
        if ctx.needs_input_grad[OP.position("source")]:
            g_source = neighbour.scatter(-g_x, source, place, index, ctx.period)
    return per_sample(a_next, g) * g, per_sample(direction, g) * g, g_noise, g_x, g_source


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    def case(shape: Sequence[int], layout: str, noisy: bool, address: tuple[Any, ...] | None) -> tuple[Any, ...]:
        x0, eps, noise = (draw.normal(*shape, layout=layout) for _ in range(3))
        x = None if address is None else draw.normal(*shape, layout=layout)
        numbers = [draw.uniform(shape[0]) for _ in range(3)]
        step = (x0, eps, *numbers, noise if noisy else None)
        if address is None:
            return *step, *[None] * 6, [0, 0]
        return *step, draw.uniform(shape[0], high=2.0), x, *address

    yield case(draw.shapes[0], "contiguous", True, neighbour.sample(draw, draw.shapes[0]))
    for shape in draw.shapes:
        for i, layout in enumerate(LAYOUTS):
            yield case(shape, layout, i > 0, None)
        for i, address in enumerate(neighbour.samples(draw, shape)):
            yield case(shape, LAYOUTS[i % 3], i % 2 == 1, address)


OP = define(
    "ddim_step",
    reference=reference,
    triton="ddim_step",
    native=("cpu",),
    fake=lambda given: given.x0.new_empty(given.x0.shape),
    differentiable=("x0", "eps", "noise", "x", "source"),
    setup_context=_setup_context,
    backward=_backward,
    samples=_samples,
)


def ddim_step(
    x0: torch.Tensor,
    eps: torch.Tensor,
    a_next: torch.Tensor,
    direction: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor | None = None,
    pull: torch.Tensor | None = None,
    x: torch.Tensor | None = None,
    source: torch.Tensor | None = None,
    place: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    period: Sequence[int] = (0, 0),
) -> torch.Tensor:
    """``x_s = a_s x0 + sqrt(b_s^2 - sigma^2) eps + sigma noise - g M (x - y)`` (DDIM, Song 2021, eq. 12).

    Args:
        x0, eps: [B, C, h, w].
        a_next: [B], ``a_s``.
        direction: [B], ``sqrt(b_s^2 - sigma^2)``.
        sigma: [B]; read only with ``noise``.
        noise: [B, C, h, w] of unit variance, or None for a deterministic step.
        pull: [B], ``g``: each view x [B, C, h, w] is drawn to its neighbour's noisy state y (SyncSDE, SyncVC); None for
            no such term. Needs ``x``, ``source``, ``place``; the rest as in :mod:`fastsync.ops.neighbour`.

    Differentiable in x0, eps, noise, x and source.
    """
    check_same("ddim_step", "x0", x0.shape, eps=eps, noise=noise, x=x)
    check_per_sample("ddim_step", len(x0), a_next=a_next, direction=direction, sigma=sigma, pull=pull)
    if pull is not None:
        if x is None or source is None or place is None:
            raise ValueError("ddim_step: pull needs x, source and place: pass them, or leave pull out.")
        neighbour.check("ddim_step", x0, source, place, index, mask, period)
    coupling = (pull, x, source, place, index, mask, list(period))
    return dispatch.call(OP, x0, eps, a_next, direction, sigma, noise, *coupling)
