"""Cotangents divided by their sample's peak and cast to the network's dtype, in one launch."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._tiles import cell, laid_out, number, packed, plan, read, tile

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def _kernel(
    g_raw, peak, scaled,
    batch, C, h, w, blocks, across,
    LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    c, y, x, live = tile(program % blocks, C, h, w, across, ROWS, COLUMNS)
    base = sample.to(tl.int64) * C * h * w
    scale = number(peak, sample % batch)
    # NaN must come through, which a maximum may drop.
    scale = tl.where(scale < _TINY, _TINY, scale)
    value = read(g_raw, base + cell(c, y, x, C, h, w, LAST), live) / scale
    tl.store(scaled + base + cell(c, y, x, C, h, w, False), value, mask=live)


def scale_cotangent(g_raw: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Launcher of ``fastsync::scale_cotangent``."""
    scaled = torch.empty(g_raw.shape, dtype=dtype, device=g_raw.device)
    tensors, last = laid_out(g_raw)
    p = plan(*g_raw.shape[1:], last == 0, False)
    with torch.cuda.device_of(g_raw):
        _kernel[(p.blocks * len(g_raw),)](
            *tensors, *packed(peak), scaled, len(peak), *p.shape, p.blocks, p.across,
            LAST=last, ROWS=p.ROWS, COLUMNS=p.COLUMNS, num_warps=p.num_warps,
        )  # fmt: skip
    return scaled
