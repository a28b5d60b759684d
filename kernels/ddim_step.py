"""The step from time t to time s, coupling included, in one launch."""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ._tiles import cell, laid_out, like, neighbour, number, packed, plan, read, tile, wide


@triton.jit
def _kernel(
    x0, eps, noise, state, source, a_next, direction, sigma, pull, place, index, mask, x_next,
    C, h, w, source_h, source_w, period_y, period_x, blocks, across,
    LAST: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    c, y, x, live = tile(program % blocks, C, h, w, across, ROWS, COLUMNS)
    base = sample.to(tl.int64) * C * h * w
    value = number(a_next, sample) * read(x0, base + cell(c, y, x, C, h, w, LAST & 1), live)
    value += number(direction, sample) * read(eps, base + cell(c, y, x, C, h, w, LAST & 2), live)
    if noise is not None:
        value += number(sigma, sample) * read(noise, base + cell(c, y, x, C, h, w, LAST & 4), live)
    if pull is not None:
        target, weight = neighbour(
            source, place, index, mask, sample, c, y, x, live, C, h, w, source_h, source_w, period_y, period_x,
            LAST & 16, WIDE,
        )  # fmt: skip
        noisy = read(state, base + cell(c, y, x, C, h, w, LAST & 8), live)
        value -= tl.where(weight != 0, number(pull, sample) * weight * (noisy - target), 0.0)
    tl.store(x_next + base + cell(c, y, x, C, h, w, False), value, mask=live)


def ddim_step(
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
    """Launcher of ``fastsync::ddim_step``."""
    x_next = like(x0)
    if pull is None:
        x = source = place = index = mask = None
    tensors, last = laid_out(x0, eps, noise, x, source)
    p = plan(*x0.shape[1:], last == 0 and pull is None, False)
    pool = (0, 0) if source is None else source.shape[2:]
    with torch.cuda.device_of(x0):
        _kernel[(p.blocks * len(x0),)](
            *tensors, *packed(a_next, direction, sigma, pull, place, index, mask), x_next,
            *p.shape, *pool, *period, p.blocks, p.across,
            LAST=last, WIDE=source is not None and wide(source), ROWS=p.ROWS, COLUMNS=p.COLUMNS, num_warps=p.num_warps,
        )  # fmt: skip
    return x_next
