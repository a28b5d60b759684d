"""How one of guidance's halves is asked: the calls of a step that its output needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from .guidance import Source, piece
from .nested import mapped, same
from .recording import NetworkCall, batch_of
from .refusal import CannotProbe
from .template import CallTemplate, Fixed, Output, Rows, State, Time


@dataclass(frozen=True)
class Recipe:
    """The calls that lead to one half's output, the last of which gives it.

    Attributes:
        calls: in order; outputs are numbered among them.
        sign: 1, or -1 where the pipeline negates the output.
    """

    calls: tuple[CallTemplate, ...]
    sign: int

    def __call__(self, networks: Any, state: torch.Tensor, t: torch.Tensor, rows: Mapping[str, Any]) -> torch.Tensor:
        """The half's output in the state's layout, [B, ...].

        Args:
            networks: the pipeline, whose attributes the networks are.
            state: [B, ...], in the pipeline's own layout.
            t: [B].
            rows: conditions of B rows.
        """
        outputs: list[Any] = []
        for call in self.calls:
            args, kwargs = call.filled(state, t, rows, outputs)
            outputs.append(getattr(networks, call.network)(*args, **kwargs))
        found = piece(outputs[-1], 0, len(state), state.shape[1:])
        return found if self.sign == 1 else -found

    @cached_property
    def names(self) -> dict[str, bool]:
        """Names of the conditions with one row a view, and whether each is handed over as a list."""
        found: dict[str, bool] = {}
        for call in self.calls:
            for node in call.nodes:
                if isinstance(node, Rows):
                    found[node.name] = node.listed
                elif isinstance(node, State) and node.beside is not None:
                    found[node.beside] = False
        return found

    @cached_property
    def needs_one_time(self) -> bool:
        """Whether a time is handed over as a Python number, so that all rows have to have the same."""
        return any(isinstance(node, Time) and node.dtype is None for call in self.calls for node in call.nodes)

    def equals(self, other: Recipe) -> bool:
        """Whether both ask alike, constants included."""
        mine, theirs = ([(c.network, c.args, c.kwargs) for c in recipe.calls] for recipe in (self, other))
        return self.sign == other.sign and len(mine) == len(theirs) and _alike(mine, theirs)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Fixed) and isinstance(b, Fixed):
        return same(a.value, b.value)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(_alike, a, b))
    return bool(a == b)


# One half's recipe, and its rows by name: a list with one value a picture.
Half = tuple[Recipe, dict[str, list[Any]]]


def half(templates: Sequence[CallTemplate], calls: Sequence[NetworkCall], source: Source, sign: int, rows: int) -> Half:
    """One half's recipe and the rows that a recording has of it.

    Args:
        templates: of a step's calls.
        calls: the recorded ones, of the same pipeline for ``rows`` pictures.
        source: where the half's output is.
        sign: of the output.
        rows: how many pictures were asked for.
    """
    needed = needed_calls(templates, source.call)
    number = {call: place for place, call in enumerate(needed)}
    found: dict[str, list[Any]] = {}
    made: list[CallTemplate] = []
    for call in needed:
        # A network that is asked twice on the way to one output gets names of its own the second time.
        twice = any(templates[call].network == other.network for other in made)
        reading = _Reading(calls[call], source.part, rows, f"{call}." if twice else "", number)
        made.append(reading.read(templates[call]))
        found.update(reading.rows)
    return Recipe(tuple(made), sign), found


def needed_calls(templates: Sequence[CallTemplate], last: int) -> list[int]:
    """The calls that call ``last`` depends on, and itself, in order."""
    needed = {last}
    for call in range(last, -1, -1):
        if call in needed:
            needed |= {node.call for node in templates[call].nodes if isinstance(node, Output)}
    return sorted(needed)


class _Reading:
    """One recorded call, read by its template: the rows of one part, and constants as they are in this recording."""

    def __init__(self, call: NetworkCall, part: int, count: int, prefix: str, number: Mapping[int, int]) -> None:
        self.call, self.count, self.prefix, self.number = call, count, prefix, number
        self.batch = batch_of(call)
        self.parts = self.batch // count
        self.part = part if self.parts > 1 else 0
        self.rows: dict[str, list[Any]] = {}

    def read(self, template: CallTemplate) -> CallTemplate:
        name = self.prefix + template.network
        call = self.call
        if len(call.args) != len(template.args) or call.kwargs.keys() != template.kwargs.keys():
            raise CannotProbe(f"the arguments of its {template.network} are not the same in all calls")
        args = tuple(
            self._node(node, value, f"{name}.{i}")
            for i, (node, value) in enumerate(zip(template.args, call.args, strict=True))
        )
        kwargs = {key: self._node(node, call.kwargs[key], f"{name}.{key}") for key, node in template.kwargs.items()}
        return CallTemplate(template.network, args, kwargs)

    def _node(self, node: Any, value: Any, path: str) -> Any:
        if isinstance(node, Output):
            return replace(node, call=self.number[node.call])
        if isinstance(node, Time):
            return node
        if isinstance(node, State):
            return self._state(node, value, path)
        if isinstance(node, Rows):
            if isinstance(value, torch.Tensor) and node.axis < value.ndim:
                value = value.movedim(node.axis, 0)
            if not isinstance(value, (list, torch.Tensor)) or len(value) % self.count:
                return self._fixed(value)
            self.rows[path] = self._own(value)
            return replace(node, name=path)
        if isinstance(node, Fixed):
            # A mask may be given for some texts only.
            if isinstance(value, torch.Tensor) and not isinstance(node.value, torch.Tensor):
                if value.ndim and len(value) in (self.batch, self.count):
                    self.rows[path] = self._own(value)
                    return Rows(path)
            return self._fixed(value)
        if isinstance(node, dict) and isinstance(value, dict) and node.keys() == value.keys():
            return {key: self._node(node[key], value[key], f"{path}.{key}") for key in node}
        if isinstance(node, list) and type(value) is list and 1 == len(node) < len(value) in (self.batch, self.count):
            # One value for pictures of one text, and one for each of several texts.
            self.rows[path] = self._own(value)
            return Rows(path, listed=True)
        if isinstance(node, (list, tuple)) and type(value) is type(node) and len(node) == len(value):
            return type(node)(self._node(n, v, f"{path}.{i}") for i, (n, v) in enumerate(zip(node, value, strict=True)))
        raise CannotProbe(f"{path} has another form in one call than in another")

    def _fixed(self, value: Any) -> Any:
        return mapped(Fixed, value)

    def _own(self, value: Any) -> list[Any]:
        """The part's rows of a tensor or list; all of them where it has no parts."""
        first = self.part * self.count if len(value) == self.parts * self.count else 0
        own = value[first : first + self.count]
        return list(own.unbind(0)) if isinstance(own, torch.Tensor) else list(own)

    def _state(self, node: State, value: Any, path: str) -> State:
        if node.beside is None:
            return node
        name = f"{path}.beside"
        whole = torch.stack(value) if isinstance(value, list) else value
        rest = whole.shape[node.dim] - node.side
        constant = whole.narrow(node.dim, 0 if node.before else whole.shape[node.dim] - rest, rest)
        self.rows[name] = self._own(constant)
        return replace(node, beside=name, shape=tuple(whole.shape[1:]))
