"""Guidance, prediction type and Tweedie's estimate in one launch."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._tiles import cell, laid_out, like, number, packed, plan, read, tile


@triton.jit
def _kernel(
    raw, uncond, state, a, b, guidance, x0, eps,
    C, h, w, blocks, across,
    KIND: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    c, y, x, live = tile(program % blocks, C, h, w, across, ROWS, COLUMNS)
    base = sample.to(tl.int64) * C * h * w
    r = read(raw, base + cell(c, y, x, C, h, w, LAST & 1), live)
    if uncond is not None:
        u = read(uncond, base + cell(c, y, x, C, h, w, LAST & 2), live)
        r = u + number(guidance, sample) * (r - u)
    noisy = read(state, base + cell(c, y, x, C, h, w, LAST & 4), live)
    a_, b_ = number(a, sample), number(b, sample)
    if KIND == "epsilon":
        clean, noise = (noisy - b_ * r) / a_, r
    elif KIND == "v_prediction":
        clean, noise = a_ * noisy - b_ * r, b_ * noisy + a_ * r
    elif KIND == "sample":
        clean, noise = r, (noisy - a_ * r) / b_
    else:
        clean, noise = noisy - b_ * r, noisy + a_ * r
    out = base + cell(c, y, x, C, h, w, False)
    tl.store(x0 + out, clean, mask=live)
    tl.store(eps + out, noise, mask=live)


def cfg_tweedie(
    raw: torch.Tensor,
    raw_uncond: torch.Tensor | None,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    guidance: torch.Tensor,
    prediction_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launcher of ``fastsync::cfg_tweedie``."""
    x0, eps = like(x), like(x)
    tensors, last = laid_out(raw, raw_uncond, x)
    p = plan(*x.shape[1:], last == 0, False)
    with torch.cuda.device_of(x):
        _kernel[(p.blocks * len(x),)](
            *tensors, *packed(a, b, guidance), x0, eps, *p.shape, p.blocks, p.across,
            KIND=prediction_type, LAST=last, ROWS=p.ROWS, COLUMNS=p.COLUMNS, num_warps=p.num_warps,
        )  # fmt: skip
    return x0, eps
