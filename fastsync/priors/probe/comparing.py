"""From recorded calls to templates: arguments compared over steps, and over the number of rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from .nested import leaves, same
from .recording import NetworkCall, Recording
from .refusal import CannotProbe
from .template import TIMES, CallTemplate, Fixed, Output, Rows, State, Time


def templates(one: Recording, many: Recording) -> tuple[CallTemplate, ...]:
    """How the networks are called in each step.

    Args:
        one: a recording of few pictures.
        many: one of more pictures, all alike, at least three steps, whose networks answered random numbers.

    Raises:
        CannotProbe: something changes from step to step that is neither the state nor the time.
    """
    calls = many.steps[0].calls
    for step in (*many.steps, *one.steps):
        if [call.name for call in step.calls] != [call.name for call in calls]:
            raise CannotProbe(
                f"it asks its networks differently from step to step ({_names(calls)}, then {_names(step.calls)})"
            )
        for call, other in zip(step.calls, calls, strict=True):
            if len(call.args) != len(other.args) or call.kwargs.keys() != other.kwargs.keys():
                raise CannotProbe(f"the arguments of its {call.name} are not the same in all steps")
    return tuple(_Comparison(one, many, index).template() for index in range(len(calls)))


def _names(calls: Sequence[NetworkCall]) -> str:
    return " and ".join(call.name for call in calls)


class _Comparison:
    """One call of a step, over all steps of a recording of several rows and beside one of fewer rows."""

    def __init__(self, one: Recording, many: Recording, index: int) -> None:
        self.steps, self.rows, self.few = many.steps, many.rows, one.rows
        self.index = index
        self.single = one.steps[-1].calls[index]
        self.calls = [step.calls[index] for step in many.steps]
        self.network = self.calls[0].name

    def template(self) -> CallTemplate:
        args = tuple(
            self._node([call.args[i] for call in self.calls], self.single.args[i], f"{self.network}.{i}")
            for i in range(len(self.single.args))
        )
        kwargs = {
            key: self._node([call.kwargs[key] for call in self.calls], self.single.kwargs[key], f"{self.network}.{key}")
            for key in self.single.kwargs
        }
        template = CallTemplate(self.network, args, kwargs)
        if not any(isinstance(node, State) for node in template.nodes):
            raise CannotProbe(f"the {self.network} is not given the state in a form that is known")
        return template

    def _node(self, values: list[Any], single: Any, path: str) -> Any:
        """The tree of nodes for an argument's values at the steps; ``single`` is its value for fewer rows."""
        output = self._output(values)
        if output is not None:
            return output
        if all(same(values[0], value) for value in values[1:]):
            return self._constant(values[0], single, path)
        found = self._state(values, path) or self._time(values, single)
        if found is not None:
            return found
        first = values[0]
        if isinstance(first, dict) and all(isinstance(v, dict) and v.keys() == first.keys() for v in values):
            return {key: self._node([v[key] for v in values], single[key], f"{path}.{key}") for key in first}
        if type(first) in (list, tuple) and all(type(v) is type(first) and len(v) == len(first) for v in values):
            if len(single) == len(first):
                return type(first)(
                    self._node([v[i] for v in values], single[i], f"{path}.{i}") for i in range(len(first))
                )
        raise CannotProbe(f"{path} changes from step to step, and is neither the state nor the time")

    # ---- constants --------------------------------------------------------------------------------------------

    def _constant(self, value: Any, single: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            if not isinstance(single, torch.Tensor) or value.ndim != single.ndim:
                raise CannotProbe(f"{path} has another form for several pictures than for few")
            if value.shape == single.shape:
                return Fixed(value)
            longer = [axis for axis in range(value.ndim) if value.shape[axis] != single.shape[axis]]
            if len(longer) == 1 and self._scaled(value.shape[longer[0]], single.shape[longer[0]]):
                return Rows(path, axis=longer[0])
            raise CannotProbe(
                f"{path} is {list(value.shape)} for {self.rows} pictures and {list(single.shape)} for {self.few}"
            )
        if isinstance(value, dict) and isinstance(single, dict) and value.keys() == single.keys():
            return type(value)(**{k: self._constant(value[k], single[k], f"{path}.{k}") for k in value})
        if type(value) in (list, tuple) and type(single) is type(value):
            if len(value) != len(single):
                if self._scaled(len(value), len(single)):
                    return Rows(path, listed=True)
                raise CannotProbe(
                    f"{path} has {len(value)} values for {self.rows} pictures and {len(single)} for {self.few}"
                )
            return type(value)(self._constant(value[i], single[i], f"{path}.{i}") for i in range(len(value)))
        return Fixed(value)

    def _scaled(self, several: int, single: int) -> bool:
        return several * self.few == single * self.rows

    # ---- what changes -----------------------------------------------------------------------------------------

    def _output(self, values: list[Any]) -> Output | None:
        if not isinstance(values[0], torch.Tensor):
            return None
        for call in range(self.index):
            for leaf, output in enumerate(leaves(self.steps[0].calls[call].output)):
                if output is values[0] and all(
                    list(leaves(step.calls[call].output))[leaf] is value
                    for step, value in zip(self.steps, values, strict=True)
                ):
                    return Output(call, leaf)
        return None

    def _state(self, values: list[Any], path: str) -> State | None:
        first = values[0]
        listed = isinstance(first, list) and bool(first) and all(isinstance(row, torch.Tensor) for row in first)
        if listed:
            if any(len(v) != len(first) or len({row.shape for row in v}) != 1 for v in values):
                return None
            values = [torch.stack(v) for v in values]
            first = values[0]
        if not isinstance(first, torch.Tensor) or not first.ndim or len(first) % self.rows:
            return None
        repeats = len(first) // self.rows
        states = [torch.cat([step.scaled.to(first.dtype)] * repeats) for step in self.steps]
        shape, dtype = tuple(first.shape[1:]), first.dtype
        if first.numel() == states[0].numel():
            found = all(torch.equal(v.flatten(1), s.flatten(1)) for v, s in zip(values, states, strict=True))
            return State(shape, dtype, listed) if found else None
        if first.ndim != states[0].ndim:
            return None
        for dim in range(1, first.ndim):
            size, rest = states[0].shape[dim], first.shape[dim] - states[0].shape[dim]
            others = [side for axis, side in enumerate(first.shape) if axis != dim]
            if rest <= 0 or others != [side for axis, side in enumerate(states[0].shape) if axis != dim]:
                continue
            for before in (False, True):
                own = [v.narrow(dim, rest if before else 0, size) for v in values]
                beside = [v.narrow(dim, 0 if before else size, rest) for v in values]
                if all(map(torch.equal, own, states)) and all(torch.equal(b, beside[0]) for b in beside[1:]):
                    return State(shape, dtype, listed, f"{path}.beside", dim, before, size)
        return None

    def _time(self, values: list[Any], single: Any) -> Time | None:
        first = values[0]
        number = isinstance(first, (int, float)) and not isinstance(first, bool)
        if not number and not isinstance(first, torch.Tensor):
            return None
        told = [torch.as_tensor(value).flatten() for value in values]
        if any(not len(value) or not bool((value == value[0]).all()) for value in told):
            return None
        times = torch.stack([torch.as_tensor(step.t).cpu().flatten()[0] for step in self.steps])
        wanted = torch.stack([value[0].cpu() for value in told])
        dtype = None if number else first.dtype
        rows = not number and first.ndim > 0
        near: Time | None = None
        lines = _lines(times.double(), wanted.double())
        for way, line in itertools.product(TIMES, lines):
            time = Time(way, *line, dtype, rows)
            try:
                got = time(times)
            except ZeroDivisionError:
                continue
            if torch.equal(got.to(wanted.dtype), wanted):
                return time
            error = (got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-12)
            eps = torch.finfo(wanted.dtype).eps if wanted.is_floating_point() else 1e-6
            if near is None and float(error) < 4 * eps:
                near = time
        return near


def _lines(t: torch.Tensor, values: torch.Tensor) -> list[tuple[float, float]]:
    """``(alpha, beta)`` of ``values = alpha t + beta``, in numbers as people write them and as they are found."""
    spread = t - t.mean()
    if float(spread.abs().max()) == 0:
        return []
    alpha = float((spread * (values - values.mean())).sum() / (spread**2).sum())
    beta = float(values.mean() - alpha * t.mean())
    scale = float(values.abs().max())
    round_beta = 0.0 if abs(beta) < 4e-3 * scale else float(f"{beta:.3g}")
    lines = [(float(f"{alpha:.4g}"), round_beta), (alpha, beta)]
    return [(a, b) for a, b in lines if a and float((a * t + b - values).abs().max()) <= 1e-2 * scale]
