"""Disagreement with the neighbour and its gradient in one pass: one launch for views up to WHOLE_VIEW cells."""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ._tiles import cell, laid_out, like, neighbour, packed, plan, read, tile, wide


@triton.jit
def _kernel(
    state, source, place, index, mask, loss, gradient,
    C, h, w, source_h, source_w, period_y, period_x, blocks, rounds, across,
    LAST: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    base = sample.to(tl.int64) * C * h * w
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(rounds):
        c, y, x, live = tile(program % blocks * rounds + k, C, h, w, across, ROWS, COLUMNS)
        target, weight = neighbour(
            source, place, index, mask, sample, c, y, x, live, C, h, w, source_h, source_w, period_y, period_x,
            LAST & 2, WIDE,
        )  # fmt: skip
        value = read(state, base + cell(c, y, x, C, h, w, LAST & 1), live)
        difference = tl.where(weight != 0, weight * (value - target), 0.0)
        total += difference * difference
        tl.store(gradient + base + cell(c, y, x, C, h, w, False), 2.0 * weight * difference, mask=live)
    tl.store(loss + program, tl.sum(total))


def overlap_loss(
    x: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launcher of ``fastsync::overlap_loss``."""
    gradient = like(x)
    tensors, last = laid_out(x, source)
    p = plan(*x.shape[1:], False, True)
    loss = torch.empty(len(x), p.blocks, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _kernel[(p.blocks * len(x),)](
            *tensors, *packed(place, index, mask), loss, gradient,
            *p.shape, *source.shape[2:], *period, p.blocks, p.rounds, p.across,
            LAST=last, WIDE=wide(source), ROWS=p.ROWS, COLUMNS=p.COLUMNS, num_warps=p.num_warps,
        )  # fmt: skip
    return loss.view(-1) if p.blocks == 1 else loss.sum(1), gradient
