"""What a network is told beside noisy views and times: named values, one row a view or shared by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from .errors import check_tensor, shape_text, shown
from .transfer import to_device

# [N, ...] or [1, ...], or a list of N or 1 values: tensors of shapes of their own, or anything else, which stays on the
# host.
Rows = torch.Tensor | list[Any]
ANONYMOUS = "cond"  # the name of a bare tensor where the prior gives it no other


class Conditions(Mapping[str, Any]):
    """Named conditions of all views, or of one batch.

    Each value of ``rows`` has one row a view along its first dimension, or a single one for all views. Values of
    ``shared`` have no rows: the network gets them as they are, whatever the batch. Neither the object nor its values
    are ever changed; every method returns a new one.

    Args:
        rows: name -> tensor [N or 1, ...], or list of N or 1 values: tensors for networks that take rows of different
            shapes, and whatever else differs from view to view.
        shared: name -> anything that is the same for all rows, such as position ids [S, 3].

    Raises:
        TypeError: a name that is no string, or a value of ``rows`` that is neither a tensor nor a list.
        ValueError: no value at all; a name in both; an empty list or a tensor without a first dimension.
    """

    __slots__ = ("_rows", "_shared")
    # Tensors have no truth of their own, so conditions are equal to themselves alone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, rows: Mapping[str, Rows], shared: Mapping[str, Any] | None = None) -> None:
        # Lists are copied, so that nobody can make them longer afterwards.
        self._rows = {name: list(value) if isinstance(value, list) else value for name, value in rows.items()}
        self._shared = dict(shared or {})
        if not self._rows and not self._shared:
            raise ValueError("conditions must have at least one value, got none: pass None for a network without any.")
        both = sorted(self._rows.keys() & self._shared.keys())
        if both:
            raise ValueError(
                f"the condition {both[0]!r} is given twice, with a row a view and shared: keep one of them."
            )
        for name in (*self._rows, *self._shared):
            if not isinstance(name, str):
                raise TypeError(f"the name of a condition must be a string, got {shown(name)}.")
        for name, value in self._rows.items():
            _check_rows(name, value)

    @classmethod
    def of(cls, value: Any, name: str = ANONYMOUS, argument: str = "cond") -> Conditions:
        """Conditions from what a caller may pass: conditions, a mapping of names to rows, or a bare tensor.

        Args:
            value: what was passed.
            name: what a bare tensor is called.
            argument: how messages call the value.
        """
        if isinstance(value, Conditions):
            return value
        if isinstance(value, Mapping):
            return cls(value)
        if isinstance(value, torch.Tensor):
            return cls({name: value})
        raise TypeError(
            f"{argument} must be a torch.Tensor or fastsync.Conditions, got {type(value).__name__}: pass a tensor, or "
            "Conditions({'text': ..., 'control': ...}) where the network takes several."
        )

    # ---- reading ----------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self._rows[name] if name in self._rows else self._shared[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._rows
        yield from self._shared

    def __len__(self) -> int:
        return len(self._rows) + len(self._shared)

    def __repr__(self) -> str:
        parts = [f"{name}: {_described(value)}" for name, value in self._rows.items()]
        parts += [f"{name}: shared" for name in self._shared]
        return f"Conditions({', '.join(parts)})"

    @property
    def rows(self) -> Mapping[str, Rows]:
        """The values that have one row a view."""
        return MappingProxyType(self._rows)

    @property
    def shared(self) -> Mapping[str, Any]:
        """The values that are the same for all rows."""
        return MappingProxyType(self._shared)

    @property
    def dtype(self) -> torch.dtype | None:
        """The widest floating-point dtype of all rows; None if there is none."""
        found: torch.dtype | None = None
        for value in self._rows.values():
            for tensor in _tensors(value):
                if tensor.is_floating_point():
                    found = tensor.dtype if found is None else torch.promote_types(found, tensor.dtype)
        return found

    def bare(self) -> torch.Tensor | Conditions:
        """The tensor itself if these are the conditions made of a bare one."""
        only = self._rows.get(ANONYMOUS)
        return only if len(self) == 1 and isinstance(only, torch.Tensor) else self

    # ---- new conditions from these ----------------------------------------------------------------------------

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Conditions:
        """The conditions with ``function`` applied to each tensor of ``rows``, each tensor in a list included."""
        return self._with({name: _mapped(function, value) for name, value in self._rows.items()})

    def map_all(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Conditions:
        """As ``map``, of the shared values that are tensors too."""
        shared = {k: function(v) if isinstance(v, torch.Tensor) else v for k, v in self._shared.items()}
        return _made({name: _mapped(function, value) for name, value in self._rows.items()}, shared)

    def to(self, device: torch.device) -> Conditions:
        """All rows on a device, and the shared values that are tensors."""
        return self.map_all(lambda tensor: tensor.to(device))

    def updated(self, **rows: Rows) -> Conditions:
        """With some rows replaced or added."""
        return Conditions({**self._rows, **rows}, self._shared)

    def renamed(self, old: str, new: str, value: Rows) -> Conditions:
        """With ``value`` under the name ``new`` in the place of ``old``."""
        rest = {name: rows for name, rows in self._rows.items() if name != old}
        return Conditions({**rest, new: value}, self._shared)

    def without(self, *names: str) -> Conditions | None:
        """With some values left out; None if none is left."""
        rows = {name: value for name, value in self._rows.items() if name not in names}
        shared = {name: value for name, value in self._shared.items() if name not in names}
        return _made(rows, shared) if rows or shared else None

    def select(self, views: Sequence[int]) -> Conditions:
        """The rows of some views in that order; a single row serves them all, without a copy."""
        index: dict[torch.device, torch.Tensor] = {}

        def picked(value: Rows) -> Rows:
            if isinstance(value, list):
                return [value[i] if len(value) > 1 else value[0] for i in views]
            if value.shape[0] == 1:
                return value.expand(len(views), *value.shape[1:])
            if value.device not in index:
                index[value.device] = to_device(torch.tensor(list(views)), value.device)
            return value[index[value.device]]

        return self._with({name: picked(value) for name, value in self._rows.items()})

    def filled(self, extra: int) -> Conditions:
        """A batch's conditions with the last row repeated ``extra`` times."""

        def longer(value: Rows) -> Rows:
            if isinstance(value, list):
                return value + value[-1:] * extra
            return torch.cat([value, value[-1:].expand(extra, *value.shape[1:])])

        return self if not extra else self._with({name: longer(value) for name, value in self._rows.items()})

    def _with(self, rows: dict[str, Rows]) -> Conditions:
        return _made(rows, self._shared)


def _made(rows: dict[str, Rows], shared: Mapping[str, Any]) -> Conditions:
    """Conditions of values that have been checked already, as those of every batch have."""
    made = Conditions.__new__(Conditions)
    made._rows, made._shared = rows, dict(shared)
    return made


def joined(first: Conditions, second: Conditions) -> Conditions:
    """The rows of two batches in one, as guidance's two halves are; shared values are those of the first."""

    def both(name: str) -> Rows:
        a, b = first.rows[name], second.rows[name]
        if isinstance(a, list) or isinstance(b, list):
            return [*a, *b]
        return torch.cat([a, b])

    return _made({name: both(name) for name in first.rows}, first.shared)


def check_views(argument: str, conditions: Conditions, num_views: int) -> None:
    """ValueError where a value holds neither one row nor one a view; NaN and infinities are refused too."""
    for name, value in conditions.rows.items():
        label = argument if name == ANONYMOUS else f"{argument}[{name!r}]"
        for tensor in _tensors(value):
            check_tensor(label, tensor, floating=False)
        if len(value) not in (1, num_views):
            raise ValueError(
                f"{label} must hold 1 condition (for all views) or {num_views} (one a view) along its first dimension, "
                f"got {_described(value)}."
            )


def check_alike(cond: Conditions, uncond: Conditions) -> None:
    """ValueError where guidance's two conditions cannot be rows of one batch."""
    if _signature(cond) != _signature(uncond):
        raise ValueError(
            f"cond and uncond must have the same names and the same shape a view, got {_signature_text(cond)} and "
            f"{_signature_text(uncond)}."
        )
    for name, value in cond.shared.items():
        other = uncond.shared[name]
        if not _same(value, other):
            raise ValueError(
                f"the shared condition {name!r} must be the same in cond and uncond, whose rows go through the network "
                "together: give it one row a view instead."
            )


def _same(a: Any, b: Any) -> bool:
    """Whether two shared values are equal; what cannot be compared is not."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool((a == b.to(a.device)).all())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


def _signature(conditions: Conditions) -> dict[str, Any]:
    """What must agree in both halves: names, and shapes a row where rows are stacked."""
    rows: dict[str, Any] = {
        name: "list" if isinstance(value, list) else tuple(value.shape[1:]) for name, value in conditions.rows.items()
    }
    return {**rows, **dict.fromkeys(conditions.shared, "shared")}


def _signature_text(conditions: Conditions) -> str:
    parts = {k: v if isinstance(v, str) else shape_text(v) for k, v in _signature(conditions).items()}
    if list(parts) == [ANONYMOUS]:
        return parts[ANONYMOUS]
    return "(" + ", ".join(f"{name}: {text}" for name, text in parts.items()) + ")"


def _tensors(value: Rows) -> Sequence[torch.Tensor]:
    return [row for row in value if isinstance(row, torch.Tensor)] if isinstance(value, list) else [value]


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Rows) -> Rows:
    if isinstance(value, list):
        return [function(row) if isinstance(row, torch.Tensor) else row for row in value]
    return function(value)


def _described(value: Rows) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else f"shape {shape_text(value.shape)}"


def _check_rows(name: str, value: Any) -> None:
    if not isinstance(value, (torch.Tensor, list)):
        raise TypeError(
            f"the condition {name!r} must be a torch.Tensor or a list, got {shown(value)}: pass what is the same for "
            "all views by shared={...}."
        )
    if (isinstance(value, list) and not value) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        raise ValueError(
            f"the condition {name!r} must have a row for each view, or one for all, along its first dimension, got "
            f"{_described(value)}: stack the rows."
        )
