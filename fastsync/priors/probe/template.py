"""What a network's arguments are made of: states, times, rows of conditions, constants, earlier outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from .nested import leaves


@dataclass(frozen=True)
class State:
    """The noisy state, as it is or beside constant rows.

    Attributes:
        shape: of one row of the argument.
        dtype: that it is cast to.
        listed: whether the argument is a list with one tensor a row.
        beside: name of the constant rows that the state is joined with; None if there are none.
        dim: along which they are joined.
        before: whether they come before the state.
        side: the state's own size along ``dim``.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    listed: bool = False
    beside: str | None = None
    dim: int = 1
    before: bool = False
    side: int = 0


@dataclass(frozen=True)
class Time:
    """The time t of the scheduler, ``alpha t + beta``, computed in one of a few ways that round differently.

    Attributes:
        way: key of ``TIMES``.
        alpha, beta: of the line.
        dtype: of the argument; None where it is a Python number.
        rows: whether it has one value a row.
    """

    way: str
    alpha: float
    beta: float
    dtype: torch.dtype | None
    rows: bool

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        """The argument's values at times t [B]."""
        return TIMES[self.way](t, self.alpha, self.beta, t.dtype if self.dtype is None else self.dtype)


def _float(t: torch.Tensor) -> torch.Tensor:
    return t if t.is_floating_point() else t.to(torch.get_default_dtype())


# How pipelines compute times: cast first or last, times or divided by a number, from 1 or from 1000 down.
TIMES: dict[str, Callable[[torch.Tensor, float, float, torch.dtype], torch.Tensor]] = {
    "t": lambda t, alpha, beta, dtype: t.to(dtype),
    "t / n": lambda t, alpha, beta, dtype: t.to(dtype) / round(1 / alpha),
    "t / n, cast": lambda t, alpha, beta, dtype: (t / round(1 / alpha)).to(dtype),
    "1 - t / n": lambda t, alpha, beta, dtype: 1 - t.to(dtype) / round(-1 / alpha),
    "1 - t / n, cast": lambda t, alpha, beta, dtype: (1 - t / round(-1 / alpha)).to(dtype),
    "(n - t) / n": lambda t, alpha, beta, dtype: (round(-1 / alpha) - t.to(dtype)) / round(-1 / alpha),
    "(n - t) / n, cast": lambda t, alpha, beta, dtype: ((round(-1 / alpha) - t) / round(-1 / alpha)).to(dtype),
    "alpha t": lambda t, alpha, beta, dtype: t.to(dtype) * alpha,
    "alpha t, cast": lambda t, alpha, beta, dtype: (_float(t) * alpha).to(dtype),
    "alpha t + beta": lambda t, alpha, beta, dtype: (_float(t) * alpha + beta).to(dtype),
}


@dataclass(frozen=True)
class Rows:
    """A condition with one row a view, under a name among the conditions.

    Attributes:
        name: of the condition.
        listed: whether the argument is a list with one value a row.
        axis: of the argument along which its rows lie.
    """

    name: str
    listed: bool = False
    axis: int = 0


@dataclass(frozen=True)
class Fixed:
    """A value that is the same for all rows and steps."""

    value: Any


@dataclass(frozen=True)
class Output:
    """Leaf ``leaf`` of what an earlier call of the step gave, such as a ControlNet's residuals."""

    call: int
    leaf: int


Node = State | Time | Rows | Fixed | Output


@dataclass(frozen=True)
class CallTemplate:
    """How one network is called: trees of nodes in the places of its arguments."""

    network: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def nodes(self) -> list[Any]:
        """All nodes."""
        return list(leaves([self.args, self.kwargs]))

    def filled(
        self, state: torch.Tensor, t: torch.Tensor, rows: Mapping[str, Any], outputs: Sequence[Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments.

        Args:
            state: [B, ...], in the pipeline's own layout.
            t: [B].
            rows: values of B rows each.
            outputs: what the calls before gave.
        """

        args = tuple([_filled(node, state, t, rows, outputs) for node in self.args])
        return args, {name: _filled(node, state, t, rows, outputs) for name, node in self.kwargs.items()}


def _filled(node: Any, state: torch.Tensor, t: torch.Tensor, rows: Mapping[str, Any], outputs: Sequence[Any]) -> Any:
    """The value of a tree of nodes; one pass without closures, since every evaluation waits for it."""
    kind = type(node)
    if kind is Fixed:
        return node.value
    if kind is Rows:
        value = rows[node.name]
        if node.listed:
            return list(value.unbind(0)) if isinstance(value, torch.Tensor) else list(value)
        value = torch.stack(value) if isinstance(value, list) else value
        return value.movedim(0, node.axis) if node.axis else value
    if kind is State:
        return _state(node, state, rows)
    if kind is Time:
        values = node(t)
        return values[0].item() if node.dtype is None else values
    if kind is Output:
        return list(leaves(outputs[node.call]))[node.leaf]
    if kind is list or kind is tuple:
        return kind([_filled(part, state, t, rows, outputs) for part in node])
    return kind(**{name: _filled(part, state, t, rows, outputs) for name, part in node.items()})


def _state(node: State, state: torch.Tensor, rows: Mapping[str, Any]) -> Any:
    x = state.to(node.dtype)
    if node.beside is not None:
        constant = rows[node.beside]
        constant = torch.stack(constant) if isinstance(constant, list) else constant
        x = torch.cat([constant, x] if node.before else [x, constant], node.dim)
    if x.shape[1:] != node.shape:
        x = x.reshape(len(x), *node.shape)
    return list(x.unbind(0)) if node.listed else x
