"""Gather by an index map, one launch; the map is read once for all channels."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._tiles import laid_out, number, packed


@triton.jit
def _kernel(
    state, index, factor, out, C, cells, pixels, blocks, index_stride,
    LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    p = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    flat = tl.load(index + sample * index_stride + p, mask=p < pixels, other=-1)
    for c in range(C):
        if LAST:
            offset = (sample * cells + flat) * C + c
        else:
            offset = (sample * C + c) * cells + flat
        value = tl.load(state + offset, mask=flat >= 0, other=0.0)
        if factor is not None:
            value = number(factor, sample) * value.to(tl.float32)
        tl.store(out + (sample * C + c) * pixels + p, value, mask=p < pixels)


def transform(x: torch.Tensor, index: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    """Launcher of ``fastsync::transform``."""
    batch, channels, height, width = x.shape
    pixels = index.shape[1] * index.shape[2]
    out = torch.empty((batch, channels, *index.shape[1:]), dtype=x.dtype, device=x.device)
    tensors, last = laid_out(x)
    # Small views are cut finer, so that there are enough programs.
    block = 256 if batch * pixels <= 2**18 else 1024
    blocks = triton.cdiv(pixels, block)
    with torch.cuda.device_of(x):
        _kernel[(blocks * batch,)](
            *tensors, *packed(index, factor), out,
            channels, height * width, pixels, blocks, pixels if len(index) > 1 else 0,
            LAST=last, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return out
