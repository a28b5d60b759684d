"""Conditions of the network: one tensor a run, or a tuple of them, rows being views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .errors import check_tensor, shape_text, shown

# [N, ...] or [1, ...] (for all views alike) each: text states, or e.g. text states and control images.
Condition = torch.Tensor | tuple[torch.Tensor, ...]


def members(condition: Condition) -> tuple[torch.Tensor, ...]:
    """The tensors of a condition."""
    return (condition,) if isinstance(condition, torch.Tensor) else condition


def each(function: Callable[..., torch.Tensor], *conditions: Condition) -> Condition:
    """The condition made of ``function(member, ...)`` of conditions that are built alike."""
    first = conditions[0]
    if isinstance(first, torch.Tensor):
        return function(*conditions)
    return tuple(function(*parts) for parts in zip(*map(members, conditions), strict=True))


def both(
    function: Callable[[torch.Tensor], torch.Tensor], cond: Condition | None, uncond: Condition | None
) -> tuple[Condition | None, Condition | None]:
    """``function`` of every member of guidance's two conditions; what they share is computed once and stays shared."""
    found: dict[int, torch.Tensor] = {}

    def once(member: torch.Tensor) -> torch.Tensor:
        if id(member) not in found:
            found[id(member)] = function(member)
        return found[id(member)]

    cond, uncond = (c if c is None else each(once, c) for c in (cond, uncond))
    return cond, uncond


def expand(member: torch.Tensor, count: int) -> torch.Tensor:
    """A member [1 or count, ...] for ``count`` views, without a copy."""
    return member.expand(count, *member.shape[1:])


def check_condition(name: str, value: Any, num_views: int) -> Condition:
    """Return ``value`` if it is a condition of 1 or ``num_views`` views; TypeError or ValueError otherwise."""
    if isinstance(value, (tuple, list)):
        if not isinstance(value, tuple) or not value:
            raise TypeError(
                f"{name} must be a torch.Tensor or a tuple of them, got {shown(value)}: pass e.g. (text, control)."
            )
        for i, member in enumerate(value):
            _check_member(f"{name}[{i}]", member, num_views)
    else:
        _check_member(name, value, num_views)
    checked: Condition = value
    return checked


def check_alike(cond: Condition, uncond: Condition) -> None:
    """ValueError where guidance's two conditions cannot be rows of one batch."""
    shapes = [[shape_text(member.shape[1:]) for member in members(c)] for c in (cond, uncond)]
    if isinstance(cond, tuple) == isinstance(uncond, tuple) and shapes[0] == shapes[1]:
        return
    got = [
        f"({', '.join(texts)})" if isinstance(c, tuple) else texts[0]
        for c, texts in zip((cond, uncond), shapes, strict=True)
    ]
    raise ValueError(f"cond and uncond must have the same shape a view, got {got[0]} and {got[1]}.")


def _check_member(name: str, value: Any, num_views: int) -> None:
    check_tensor(name, value, floating=False)
    if value.ndim == 0 or value.shape[0] not in (1, num_views):
        raise ValueError(
            f"{name} must hold 1 condition (for all views) or {num_views} (one a view) along its first dimension, got "
            f"shape {shape_text(value.shape)}."
        )
