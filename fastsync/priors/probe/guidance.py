"""From the networks' outputs to the model output that a scheduler gets: halves, sign, scale, rescaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .nested import first
from .recording import Step
from .refusal import CannotProbe

_SMALL = 1e-4  # a weight that is none


@dataclass(frozen=True)
class Source:
    """Rows of a network's output: part ``part`` of those of the step's call ``call``."""

    call: int
    part: int


@dataclass(frozen=True)
class Combination:
    """``model_output = sign (u + scale (c - u))``, rescaled by ``rule``.

    Attributes:
        cond: where c is.
        uncond: where u is; None without guidance.
        sign: 1, or -1 where the pipeline negates its network's output.
        scale: s; 1 without guidance.
        rule: key of ``RULES``.
        strength: the rule's number.
    """

    cond: Source
    uncond: Source | None
    sign: int
    scale: float = 1.0
    rule: str = "linear"
    strength: float = 0.0

    def __call__(self, cond: torch.Tensor, uncond: torch.Tensor | None) -> torch.Tensor:
        """The model output of halves whose sign has been set right, in float32 at least: some pipelines mix in it."""
        if uncond is None:
            return cond
        cond, uncond = (half.to(torch.promote_types(half.dtype, torch.float32)) for half in (cond, uncond))
        return RULES[self.rule](cond, uncond + self.scale * (cond - uncond), self.strength)

    def of(self, outputs: Sequence[Any], rows: int, shape: torch.Size) -> torch.Tensor:
        """The model output [rows, ...] of a step's outputs; ``shape`` is that of one state."""
        cond = self.sign * piece(outputs[self.cond.call], self.cond.part, rows, shape)
        if self.uncond is None:
            return cond
        return self(cond, self.sign * piece(outputs[self.uncond.call], self.uncond.part, rows, shape))


# ---- rescaling ----------------------------------------------------------------------------------------------------
# From the conditional half and the guided output, rows first. Linear in neither.


def _by_deviation(cond: torch.Tensor, guided: torch.Tensor, strength: float) -> torch.Tensor:
    """The contrast of each sample drawn to the conditional half's (Lin 2023, eq. 15 and 16)."""
    axes = tuple(range(1, cond.ndim))
    ratio = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return guided * (strength * ratio + 1 - strength)


def _by_token(cond: torch.Tensor, guided: torch.Tensor, strength: float) -> torch.Tensor:
    """Each vector along the last axis at the length of the conditional half's."""
    return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


def _bounded(cond: torch.Tensor, guided: torch.Tensor, strength: float) -> torch.Tensor:
    """Each sample at most ``strength`` times as long as the conditional half."""
    most = strength * cond.flatten(1).norm(dim=1) / guided.flatten(1).norm(dim=1)
    return guided * most.clamp(max=1).reshape(-1, *[1] * (cond.ndim - 1))


def _bounded_by_token(cond: torch.Tensor, guided: torch.Tensor, strength: float) -> torch.Tensor:
    """Each vector along the last axis at most ``strength`` times as long as the conditional half's."""
    most = strength * cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
    return guided * most.clamp(max=1)


RULES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "linear": lambda cond, guided, strength: guided,
    "deviation": _by_deviation,
    "token": _by_token,
    "bounded": _bounded,
    "bounded token": _bounded_by_token,
}


# ---- finding ------------------------------------------------------------------------------------------------------


def combination(steps: Sequence[Step], rows: int, tolerance: float) -> Combination:
    """How the model output of steps comes from made-up outputs of the networks, the same way in each.

    Args:
        steps: recorded steps whose networks answered random numbers.
        rows: pictures in each.
        tolerance: relative, of what the pipeline computes in.

    Raises:
        CannotProbe: it is no guidance that is known, or it changes from step to step.
    """
    found = _found(steps[0], rows, tolerance)
    if not all(holds(found, step, rows, tolerance) for step in steps[1:]):
        raise CannotProbe("its guidance changes from step to step")
    return found


def holds(combination: Combination, step: Step, rows: int, tolerance: float) -> bool:
    """Whether a step's model output is the combination of its networks' outputs."""
    wanted, outputs = model_output(step), [call.output for call in step.calls]
    try:
        got = combination.of(outputs, rows, step.sample.shape[1:])
    except (IndexError, CannotProbe, RuntimeError):
        return False  # the step asks its networks otherwise
    return close(got, wanted, 10 * tolerance)


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    """Whether two model outputs are the same but for rounding, relative to the largest value."""
    return got.shape == wanted.shape and distance(got, wanted) <= tolerance


def model_output(step: Step) -> torch.Tensor:
    """What the scheduler was given, without channels beyond the state's, such as a learned variance."""
    return cropped(step.output, step.sample.shape[1:])


def _found(step: Step, rows: int, tolerance: float) -> Combination:
    shape, wanted = step.sample.shape[1:], model_output(step).double()
    if not bool(wanted.isfinite().all()):
        raise CannotProbe("it makes values of its network's output that are NaN or infinite")
    pieces: dict[Source, torch.Tensor] = {}
    for index, call in enumerate(step.calls):
        output = first(call.output)
        if not isinstance(output, (torch.Tensor, list)) or len(output) % rows:
            continue
        try:
            for part in range(len(output) // rows):
                pieces[Source(index, part)] = piece(call.output, part, rows, shape).double()
        except (CannotProbe, RuntimeError):
            continue  # a ControlNet's
    if not pieces:
        raise CannotProbe("no network gives an output of the state's shape")
    sources = list(pieces)
    weights = _weights([pieces[source] for source in sources], wanted)
    used = [source for source, weight in zip(sources, weights, strict=True) if abs(weight) > _SMALL]
    guess = {source: weight for source, weight in zip(sources, weights, strict=True) if source in used}
    mixed = sum(weight * pieces[source] for source, weight in guess.items())
    linear = isinstance(mixed, torch.Tensor) and distance(mixed, wanted) < tolerance
    if linear and abs(abs(sum(guess.values())) - 1) < 1e-3:
        return _linear(guess)
    for cond in sources:
        for uncond in sources:
            for sign in (1, -1):
                if cond != uncond:
                    c, u = sign * pieces[cond], sign * pieces[uncond]
                    rescaled = _rescaled(c, u, wanted, tolerance)
                    if rescaled is not None:
                        return Combination(cond, uncond, sign, *rescaled)
    if linear:
        raise CannotProbe(f"it multiplies its network's output by {sum(guess.values()):.4g}")
    raise CannotProbe("what it makes of its network's output is no guidance that is known")


def _linear(weights: dict[Source, float]) -> Combination:
    sign = round(sum(weights.values()))
    ordered = sorted(weights, key=lambda source: -sign * weights[source])  # the condition weighs more
    if len(ordered) == 1:
        return Combination(ordered[0], None, sign)
    if len(ordered) > 2:
        raise CannotProbe(f"its guidance mixes {len(ordered)} outputs")
    return Combination(ordered[0], ordered[1], sign, sign * weights[ordered[0]])


def _rescaled(
    cond: torch.Tensor, uncond: torch.Tensor, wanted: torch.Tensor, tolerance: float
) -> tuple[float, str, float] | None:
    """Scale, rule and strength of rescaled guidance, whose result is parallel to ``u + s (c - u)``."""
    for rule, flat in (("token", False), ("bounded token", False), ("deviation", True), ("bounded", True)):
        m, u, d = (x.flatten(1) if flat else x for x in (wanted, uncond, cond - uncond))
        unit = m / m.norm(dim=-1, keepdim=True)
        across_u, across_d = (x - (x * unit).sum(-1, keepdim=True) * unit for x in (u, d))
        scale = float(-(across_u * across_d).sum() / (across_d**2).sum())
        if float((across_u + scale * across_d).abs().max()) > 100 * tolerance * float(u.abs().max()):
            continue
        guided = uncond + scale * (cond - uncond)
        strength = _strength(rule, cond, guided, wanted)
        if strength is not None and distance(RULES[rule](cond, guided, strength), wanted) < 10 * tolerance:
            return scale, rule, strength
    return None


def _strength(rule: str, cond: torch.Tensor, guided: torch.Tensor, wanted: torch.Tensor) -> float | None:
    if rule.endswith("token"):
        cond, guided, wanted = (x.reshape(-1, x.shape[-1]) for x in (cond, guided, wanted))
    factor = (wanted.flatten(1) * guided.flatten(1)).sum(1) / (guided.flatten(1) ** 2).sum(1)
    if bool((factor <= 0).any()):
        return None
    if rule == "deviation":
        ratio = cond.flatten(1).std(1) / guided.flatten(1).std(1)
        return _nice(float(((factor - 1) * (ratio - 1)).sum() / ((ratio - 1) ** 2).sum()))
    if rule.startswith("bounded"):
        shortened = factor < 1 - 1e-6
        if not bool(shortened.any()):
            return None
        lengths = factor * guided.flatten(1).norm(dim=1) / cond.flatten(1).norm(dim=1)
        return _nice(float(lengths[shortened].mean()))
    return 0.0


def _nice(value: float) -> float:
    """The number that somebody wrote, where rounding has made it another."""
    return float(f"{value:.4g}")


def _weights(pieces: list[torch.Tensor], wanted: torch.Tensor) -> list[float]:
    columns = torch.stack([p.flatten() for p in pieces], 1)
    step = max(1, len(columns) // 200_000)  # more rows than that tell no more
    solution = torch.linalg.lstsq(columns[::step], wanted.flatten()[::step, None]).solution
    return [float(weight) for weight in solution[:, 0]]


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-12))


# ---- outputs in the state's shape ---------------------------------------------------------------------------------


def piece(output: Any, part: int, rows: int, shape: torch.Size) -> torch.Tensor:
    """Rows of part ``part`` of a network's output, [rows, *shape]."""
    found = first(output)
    if part or len(found) != rows:
        found = found[part * rows : (part + 1) * rows]
    return cropped(torch.stack(list(found)) if isinstance(found, (list, tuple)) else found, shape)


def cropped(output: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """An output [rows, ...] in the state's shape, without what is beyond it along its axes."""
    if output.shape[1:] == shape:
        return output
    if output.shape[1:].numel() == shape.numel():
        return output.reshape(len(output), *shape)
    if output.ndim == len(shape) + 1 and all(a >= b for a, b in zip(output.shape[1:], shape, strict=True)):
        return output[(slice(None), *(slice(0, side) for side in shape))]
    raise CannotProbe(f"its network gives {list(output.shape[1:])} a row where the state is {list(shape)}")
