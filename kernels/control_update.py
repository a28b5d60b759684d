"""Adam on the control and the controlled view that follows, in one launch."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._tiles import cell, laid_out, like, number, packed, plan, read, tile

# Adam's numbers, as in fastsync.ops.control_update.
_BETA1, _BETA2, _EPSILON = tl.constexpr(0.9), tl.constexpr(0.999), tl.constexpr(1e-8)


@triton.jit
def _kernel(
    control, first_moment, second_moment, vjp, direct, state, scale, moved,
    step_size, correction, strength,
    C, h, w, blocks, across,
    LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    c, y, x, live = tile(program % blocks, C, h, w, across, ROWS, COLUMNS)
    base = sample.to(tl.int64) * C * h * w
    at_control = base + cell(c, y, x, C, h, w, LAST & 1)
    at_first = base + cell(c, y, x, C, h, w, LAST & 2)
    at_second = base + cell(c, y, x, C, h, w, LAST & 4)
    g = read(vjp, base + cell(c, y, x, C, h, w, LAST & 8), live)
    if scale is not None:
        g *= number(scale, sample)
    g = strength * (g + read(direct, base + cell(c, y, x, C, h, w, LAST & 16), live))
    first = _BETA1 * read(first_moment, at_first, live) + (1 - _BETA1) * g
    second = _BETA2 * read(second_moment, at_second, live) + (1 - _BETA2) * g * g
    u = read(control, at_control, live) - step_size * first / (tl.sqrt(second * correction) + _EPSILON)
    tl.store(control + at_control, u, mask=live)
    tl.store(first_moment + at_first, first, mask=live)
    tl.store(second_moment + at_second, second, mask=live)
    value = read(state, base + cell(c, y, x, C, h, w, LAST & 32), live) + strength * u
    tl.store(moved + base + cell(c, y, x, C, h, w, False), value, mask=live)


def control_update(
    control: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    vjp: torch.Tensor,
    scale: torch.Tensor | None,
    direct: torch.Tensor,
    x: torch.Tensor,
    iteration: int,
    lr: float,
    control_strength: float,
) -> torch.Tensor:
    """Launcher of ``fastsync::control_update``."""
    changed = (control, first_moment, second_moment)
    moved = like(x)
    tensors, last = laid_out(*changed, vjp, direct, x)
    p = plan(*x.shape[1:], last == 0, False)
    step_size = lr / (1 - _BETA1.value ** (iteration + 1))
    correction = 1 / (1 - _BETA2.value ** (iteration + 1))
    with torch.cuda.device_of(x):
        _kernel[(p.blocks * len(x),)](
            *tensors, *packed(scale), moved, step_size, correction, control_strength, *p.shape, p.blocks, p.across,
            LAST=last, ROWS=p.ROWS, COLUMNS=p.COLUMNS, num_warps=p.num_warps,
        )  # fmt: skip
    for given, held in zip(changed, tensors[:3], strict=True):
        if held is not None and held is not given:  # a layout that the kernel could not change in place
            given.copy_(held)
    return moved
