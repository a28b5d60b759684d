"""One real call of a network: the form of its answer, and whether any row's answer depends on another row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .keeping import random_states, set_random_states
from .nested import kept, leaves, same
from .refusal import CannotProbe

PICTURES = 2  # of a call in which rows can be told apart


def ask(network: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int) -> tuple[Any, bool]:
    """Ask a network once, with NaN for the states of one picture in each part of the batch.

    What mixes rows, in whatever way, spreads the NaN: a finite answer for the other rows shows that they do not depend
    on them. Parts take turns with the picture that is left out, so that halves of guidance are told apart as well.

    Args:
        network: is asked without gradients.
        args, kwargs: its arguments, the first of which is the states of parts of ``rows`` pictures each.
        rows: pictures.

    Returns:
        The answer, in which each part has the rows of its finite picture for both, and whether the rows are apart.
        Where that cannot be told (one picture, a network in training or one that draws random numbers, an answer that
        is not finite), it is the answer to the arguments as they are, and False.

    Raises:
        CannotProbe: the network writes into what it is given.
    """
    state = next((v for v in (*args, *kwargs.values()) if isinstance(v, (list, torch.Tensor))), None)
    order = None if any(part.training for part in network.modules()) else _order(state, rows)
    if order is not None:
        given = _poisoned(kept(args), kept(kwargs), order)  # networks take things out of lists
        tensors = [value for value in leaves(list(given)) if isinstance(value, torch.Tensor)]
        before, drawn = [value.clone() for value in tensors], random_states()
        try:
            answer = network(*given[0], **given[1])
        except (IndexError, RuntimeError, ValueError):
            answer = None  # it looks at the numbers
        draws = any(not torch.equal(a, b) for a, b in zip(drawn, random_states(), strict=False))
        set_random_states(drawn)
        if answer is not None and not same(before, tensors):
            raise CannotProbe("its network writes into what it is given")
        healed = _healed(answer, order, isinstance(state, list))
        if answer is not None and not draws and _finite(healed):
            return healed, True
    drawn = random_states()
    try:
        return network(*args, **kwargs), False
    finally:
        set_random_states(drawn)


def _order(state: Any, rows: int) -> list[int] | None:
    """For each row of the states the finite one of its part; None where no row can be left out."""
    if state is None or rows != PICTURES or not _floating(state) or len(state) % rows:
        return None
    return [row - row % rows + (row // rows + 1) % rows for row in range(len(state))]


def _floating(state: Any) -> bool:
    tensors = state if isinstance(state, list) else [state]
    return bool(tensors) and all(isinstance(x, torch.Tensor) and x.ndim > 0 and x.is_floating_point() for x in tensors)


def _poisoned(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], order: list[int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with NaN for the states of all rows that ``order`` leaves out."""
    left_out = sorted(set(range(len(order))) - set(order))
    found = False

    def poisoned(value: Any) -> Any:
        nonlocal found
        if found or not isinstance(value, (list, torch.Tensor)):
            return value
        found = True
        if isinstance(value, list):
            return [torch.full_like(x, torch.nan) if row in left_out else x for row, x in enumerate(value)]
        return value.index_fill(0, torch.tensor(left_out, device=value.device), torch.nan)

    return tuple(map(poisoned, args)), {name: poisoned(value) for name, value in kwargs.items()}


def _healed(answer: Any, order: list[int], listed: bool) -> Any:
    """The answer with finite rows in the place of the others; ``listed`` says whether lists have one value a row."""
    if isinstance(answer, dict):
        return type(answer)(**{key: _healed(value, order, listed) for key, value in answer.items()})
    if listed and type(answer) is list and len(answer) == len(order):
        return [answer[row] for row in order]
    if type(answer) in (list, tuple):
        return type(answer)(_healed(value, order, listed) for value in answer)
    if isinstance(answer, torch.Tensor) and answer.ndim and len(answer) == len(order):
        return answer[order]
    return answer


def _finite(answer: Any) -> bool:
    tensors = [value for value in leaves(answer) if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return bool(tensors) and all(bool(value.isfinite().all()) for value in tensors)
