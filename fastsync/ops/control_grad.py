"""Closed-form gradients of SyncVC's loss, from the estimates back to the raw network output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import dispatch, neighbour
from .cfg_tweedie import PREDICTION_TYPES, linear_form
from .declare import define
from .samples import LAYOUTS, Draw
from .shapes import check_per_sample, check_same, per_sample, widened

ESTIMATES = "estimates"  # the prediction type of a prior that hands out (x0, eps) and no raw output


def reference(
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
    """The formulas of :func:`control_grad`."""
    dtype, x, control = x.dtype, widened(x), widened(control)
    target, weight = neighbour.read(source, place, index, mask, period, x)
    pull, kappa = per_sample(coupling, x) * weight, per_sample(kl_weight, x)
    deviation = eps + torch.where(weight != 0, pull * (x - target), 0) - eps_free
    loss = kl_weight.to(x) * deviation.square().flatten(1).sum(1) + control_cost * control.square().flatten(1).sum(1)
    g_eps = 2.0 * kappa * deviation
    g_x0 = reward_weight * widened(overlap_gradient)
    if reward_gradient is not None:
        g_x0 = g_x0 - reward_gradient
    direct = pull * g_eps + 2.0 * control_cost * control
    if prediction_type == ESTIMATES:
        g_raw = torch.cat([g_x0, g_eps])
    else:
        px, pr, qx, qr = (per_sample(c, x) for c in linear_form(a, b, prediction_type))
        direct = direct + px * g_x0 + qx * g_eps
        g_raw = pr * g_x0 + qr * g_eps
        if guided:
            s = per_sample(guidance, x)
            g_raw = torch.cat([(1.0 - s) * g_raw, s * g_raw])
    peak = g_raw.abs().reshape(-1, *x.shape).flatten(2).amax(2).amax(0)
    return loss.to(dtype), g_raw.to(dtype).contiguous(), direct.to(dtype).contiguous(), peak.to(dtype)


def _fake(given: Any) -> tuple[torch.Tensor, ...]:
    x, halves = given.x, 2 if given.guided or given.prediction_type == ESTIMATES else 1
    g_raw = x.new_empty(halves * len(x), *x.shape[1:])
    return x.new_empty(len(x)), g_raw, x.new_empty(x.shape), x.new_empty(len(x))


def _setup_context(ctx: Any, given: Any, output: tuple[torch.Tensor, ...]) -> None:
    ctx.reward_weight, ctx.control_cost, ctx.period = given.reward_weight, given.control_cost, given.period
    ctx.prediction_type, ctx.guided = given.prediction_type, given.guided
    ctx.rewarded = given.reward_gradient is not None
    states = (given.x, given.eps, given.eps_free, given.control)
    numbers = (given.coupling, given.a, given.b, given.guidance, given.kl_weight)
    ctx.save_for_backward(*states, given.source, given.place, given.index, given.mask, *numbers)
    ctx.mark_non_differentiable(output[3])


def _backward(
    ctx: Any, g_loss: torch.Tensor, g_raw: torch.Tensor, g_direct: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    x, eps, eps_free, control, source, place, index, mask, coupling, a, b, guidance, kl_weight = ctx.saved_tensors
    dtype, x, control, g_raw, g_direct = x.dtype, *(widened(t) for t in (x, control, g_raw, g_direct))
    target, weight = neighbour.read(source, place, index, mask, ctx.period, x)
    pull, kappa = per_sample(coupling, x) * weight, per_sample(kl_weight, x)
    deviation = eps + torch.where(weight != 0, pull * (x - target), 0) - eps_free
    # Back to the two cotangents, which are linear in what the forward was given.
    if ctx.prediction_type == ESTIMATES:
        to_x0, to_eps = g_raw.chunk(2)
        to_eps = to_eps + pull * g_direct
    else:
        if ctx.guided:
            s = per_sample(guidance, x)
            low, high = g_raw.chunk(2)
            g_raw = (1.0 - s) * low + s * high
        px, pr, qx, qr = (per_sample(c, x) for c in linear_form(a, b, ctx.prediction_type))
        to_x0 = pr * g_raw + px * g_direct
        to_eps = qr * g_raw + (pull + qx) * g_direct
    per_view = per_sample(g_loss, x)
    g_deviation = 2.0 * kappa * (to_eps + per_view * deviation)
    g_x = torch.where(weight != 0, pull * g_deviation, 0)
    g_control = 2.0 * ctx.control_cost * (g_direct + per_view * control)
    wanted = ctx.needs_input_grad[OP.position("source")]
    g_source = neighbour.scatter(-g_x, source, place, index, ctx.period) if wanted else None
    g_reward = -to_x0 if ctx.rewarded else None
    gradients = (g_x, g_deviation, -g_deviation, g_control, ctx.reward_weight * to_x0, g_reward)
    return *(None if g is None else g.to(dtype) for g in gradients), g_source


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    def case(
        shape: Sequence[int],
        layout: str,
        address: tuple[Any, ...],
        kind: str,
        rewarded: bool,
        guided: bool,
        control_cost: float,
    ) -> tuple[Any, ...]:
        *tensors, reward_gradient = (draw.normal(*shape, layout=layout) for _ in range(6))
        a, b = draw.uniform(shape[0], low=0.3), draw.uniform(shape[0], low=0.3)
        if kind == "v_prediction":
            a, b = (c / (a.square() + b.square()).sqrt() for c in (a, b))
        coupling, kl = draw.uniform(shape[0], high=1.5), draw.uniform(shape[0], high=0.5)
        guidance = draw.uniform(shape[0], low=1.0, high=7.5)
        source, place, index, mask, period = address
        numbers = (coupling, a, b, guidance, kl, 1.7, control_cost)
        states = (*tensors, reward_gradient if rewarded else None)
        return *states, source, place, index, mask, *numbers, period, kind, guided

    full = neighbour.sample(draw, draw.shapes[0])
    yield case(draw.shapes[0], "contiguous", full, "epsilon", True, True, 0.2)
    kinds = ("epsilon", "v_prediction", "sample", "flow", ESTIMATES)
    for shape in draw.shapes:
        for i, address in enumerate(neighbour.samples(draw, shape)):
            control_cost = 0.2 if i % 3 else 0.0
            yield case(shape, LAYOUTS[i % 3], address, kinds[i % 5], i % 2 == 0, i % 2 == 1, control_cost)


OP = define(
    "control_grad",
    reference=reference,
    triton="control_grad",
    native=("cpu",),
    fake=_fake,
    differentiable=("x", "eps", "eps_free", "control", "overlap_gradient", "reward_gradient", "source"),
    setup_context=_setup_context,
    backward=_backward,
    samples=_samples,
)


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
    """Cotangents of ``w |M (x0 - y0)|^2 - rewards + kappa |eps~ - eps_free|^2 + c |control|^2``.

    ``eps~ = eps + coupling M (x - y)`` is the coupled prediction (docs/mathematics.md, "SyncVC"). With
    ``g_x0 = w overlap_gradient - reward_gradient``, ``g_eps = 2 kappa (eps~ - eps_free)`` and :func:`linear_form`:

    - ``g_r = pr g_x0 + qr g_eps``, for the network's conditional half times ``s``, for the other times ``1 - s``;
    - ``direct = coupling M g_eps + 2 c control + px g_x0 + qx g_eps``, what does not pass through the network.

    Args:
        x: controlled noisy views ``x + gamma u`` [B, C, h, w].
        eps: the prior's prediction at ``x``; eps_free: its prediction without control; control: ``gamma u``;
            overlap_gradient, reward_gradient: on the clean estimate; all [B, C, h, w].
        source, place, index, mask, period: where each view reads its neighbour's noisy state y, and M; see
            :mod:`fastsync.ops.neighbour`.
        coupling: [B], ``(1/lambda)(t/T_max) / b_t``.
        a, b: [B], coefficients at each sample's time. guidance: [B], s.
        kl_weight: [B], ``kappa`` times the scheme's coefficient.
        reward_weight, control_cost: ``w`` and ``c``.
        prediction_type: of the raw output, or ``"estimates"`` for a prior that only hands out (x0, eps).
        guided: whether the raw output has two halves, the unconditional one first.

    Returns:
        ``(loss [B] without overlap and rewards, g_raw [B or 2 B, C, h, w], direct [B, C, h, w], peak [B])``; with
        ``"estimates"`` g_raw is ``(g_x0, g_eps)`` one after the other. peak is the largest ``|g_raw|`` of a sample.
    """
    if prediction_type not in (*PREDICTION_TYPES, ESTIMATES):
        kinds = ", ".join((*PREDICTION_TYPES, ESTIMATES))
        raise ValueError(f"prediction_type must be one of {kinds}, got {prediction_type!r}.")
    check_same("control_grad", "x", x.shape, eps=eps, eps_free=eps_free, control=control)
    check_same("control_grad", "x", x.shape, overlap_gradient=overlap_gradient, reward_gradient=reward_gradient)
    numbers_a_sample = {"coupling": coupling, "a": a, "b": b, "guidance": guidance, "kl_weight": kl_weight}
    check_per_sample("control_grad", len(x), **numbers_a_sample)
    neighbour.check("control_grad", x, source, place, index, mask, period)
    tensors = (x, eps, eps_free, control, overlap_gradient, reward_gradient, source, place, index, mask)
    numbers = (coupling, a, b, guidance, kl_weight, float(reward_weight), float(control_cost), list(period))
    return dispatch.call(OP, *tensors, *numbers, prediction_type, guided)
