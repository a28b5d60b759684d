"""From the estimates' gradients to the network's cotangent: one launch for views up to WHOLE_VIEW cells."""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ._tiles import cell, laid_out, like, linear_form, neighbour, number, packed, plan, read, tile, wide


@triton.jit
def _larger(peak, broken, value):
    # The maximum drops NaN on GPUs, so NaN is counted beside it.
    nan = value != value
    return tl.maximum(peak, tl.where(nan, 0.0, tl.abs(value))), broken | nan.to(tl.int32)


@triton.jit
def _kernel(
    state, eps, eps_free, control, overlap_gradient, reward_gradient, source, place, index, mask,
    coupling, a, b, guidance, kl_weight, reward_weight, control_cost,
    loss, g_raw, direct, peak,
    half, C, h, w, source_h, source_w, period_y, period_x, blocks, rounds, across,
    KIND: tl.constexpr, GUIDED: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    base = sample.to(tl.int64) * C * h * w
    kappa, strength, s = number(kl_weight, sample), number(coupling, sample), number(guidance, sample)
    if KIND != "estimates":
        px, pr, qx, qr = linear_form(number(a, sample), number(b, sample), KIND)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    largest = tl.zeros([ROWS, COLUMNS], tl.float32)
    broken = tl.zeros([ROWS, COLUMNS], tl.int32)
    for k in range(rounds):
        c, y, x, live = tile(program % blocks * rounds + k, C, h, w, across, ROWS, COLUMNS)
        target, weight = neighbour(
            source, place, index, mask, sample, c, y, x, live, C, h, w, source_h, source_w, period_y, period_x,
            LAST & 64, WIDE,
        )  # fmt: skip
        noisy = read(state, base + cell(c, y, x, C, h, w, LAST & 1), live)
        pull = strength * weight
        deviation = read(eps, base + cell(c, y, x, C, h, w, LAST & 2), live)
        deviation += tl.where(weight != 0, pull * (noisy - target), 0.0)
        deviation -= read(eps_free, base + cell(c, y, x, C, h, w, LAST & 4), live)
        moved = read(control, base + cell(c, y, x, C, h, w, LAST & 8), live)
        total += tl.where(live, kappa * deviation * deviation + control_cost * moved * moved, 0.0)
        g_eps = 2.0 * kappa * deviation
        g_x0 = reward_weight * read(overlap_gradient, base + cell(c, y, x, C, h, w, LAST & 16), live)
        if reward_gradient is not None:
            g_x0 -= read(reward_gradient, base + cell(c, y, x, C, h, w, LAST & 32), live)
        past = pull * g_eps + 2.0 * control_cost * moved
        out = base + cell(c, y, x, C, h, w, False)
        if KIND == "estimates":
            first, second = g_x0, g_eps
        else:
            past += px * g_x0 + qx * g_eps
            g = pr * g_x0 + qr * g_eps
            first = (1.0 - s) * g if GUIDED else g
            second = s * g
        tl.store(direct + out, past, mask=live)
        tl.store(g_raw + out, first, mask=live)
        largest, broken = _larger(largest, broken, tl.where(live, first, 0.0))
        if GUIDED or KIND == "estimates":
            tl.store(g_raw + half + out, second, mask=live)
            largest, broken = _larger(largest, broken, tl.where(live, second, 0.0))
    tl.store(loss + program, tl.sum(total))
    tl.store(peak + program, tl.where(tl.max(broken) > 0, float("nan"), tl.max(largest)))


def control_grad(
    x: torch.Tensor,
    eps: torch.Tensor,
    eps_free: torch.Tensor,
    control: torch.Tensor,
    overlap_gradient: torch.Tensor,
    reward_gradient: torch.Tensor | None,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    coupling: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    guidance: torch.Tensor,
    kl_weight: torch.Tensor,
    reward_weight: float,
    control_cost: float,
    period: Sequence[int],
    prediction_type: str,
    guided: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launcher of ``fastsync::control_grad``."""
    batch = len(x)
    halves = 2 if guided or prediction_type == "estimates" else 1
    direct = like(x)
    g_raw = torch.empty((halves * batch, *x.shape[1:]), dtype=x.dtype, device=x.device)
    tensors, last = laid_out(x, eps, eps_free, control, overlap_gradient, reward_gradient, source)
    p = plan(*x.shape[1:], False, True)
    # A view of one program is finished by it, so it writes the final dtype.
    dtype = x.dtype if p.blocks == 1 else torch.float32
    loss = torch.empty(batch, p.blocks, dtype=dtype, device=x.device)
    peak = torch.empty(batch, p.blocks, dtype=dtype, device=x.device)
    with torch.cuda.device_of(x):
        _kernel[(p.blocks * batch,)](
            *tensors, *packed(place, index, mask, coupling, a, b, guidance, kl_weight), reward_weight, control_cost,
            loss, g_raw, direct, peak,
            x.numel(), *p.shape, *source.shape[2:], *period, p.blocks, p.rounds, p.across,
            KIND=prediction_type, GUIDED=guided, LAST=last, WIDE=wide(source), ROWS=p.ROWS, COLUMNS=p.COLUMNS,
            num_warps=p.num_warps,
        )  # fmt: skip
    if p.blocks == 1:
        return loss.view(-1), g_raw, direct, peak.view(-1)
    return loss.sum(1).to(x.dtype), g_raw, direct, peak.amax(1).to(x.dtype)
