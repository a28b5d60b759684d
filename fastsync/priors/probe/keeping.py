"""A pipeline is afterwards as it was: plain state of its modules, random states, messages."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_CONTAINERS = (dict, list, set)
# What decides how a module answers, beside its weights.
_WORKINGS = ("processor", "forward", "training", "_modules", "_forward_hooks", "_forward_pre_hooks")


class PlainState:
    """Everything that a module and its parts hold beside the values of their weights.

    Attributes, switches, hooks, processors and which parameters they have, one level deep into dictionaries, lists and
    sets. Weights themselves are not copied: no pipeline writes into them.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._kept = [(part, _state(part)) for part in module.modules()]
        self._grad = [(p, p.requires_grad) for p in module.parameters()]

    def changed(self) -> str | None:
        """Which hook, processor or layer of a module is not what it was; None if all are.

        Tables that modules make when they are first asked, such as rotary embeddings, change nothing.
        """
        for part, before in self._kept:
            now = vars(part)
            for name in _WORKINGS:
                if (name in before) != (name in now) or (name in now and not _alike(before[name], now[name])):
                    return f"{name.strip('_')} of {type(part).__name__}"
        return None

    def restore(self) -> bool:
        """Put everything back; whether there was anything to put back."""
        found = False
        for part, before in self._kept:
            now = vars(part)
            for name in [name for name in now if name not in before]:
                del now[name]
                found = True
            for name, (value, content) in before.items():
                if name not in now or not _alike((value, content), now[name]):
                    found = True
                if content is not None and not _alike((value, content), value):
                    _refill(value, content)
                now[name] = value
        for parameter, grad in self._grad:
            if parameter.requires_grad != grad:
                parameter.requires_grad_(grad)
                found = True
        return found


def _state(part: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    return {name: (value, _content(value)) for name, value in vars(part).items()}


def _content(value: Any) -> Any:
    return value.copy() if isinstance(value, _CONTAINERS) else None


def _alike(before: tuple[Any, Any], now: Any) -> bool:
    value, content = before
    if value is not now:
        # Numbers and names are written anew all the time.
        return isinstance(value, (int, float, str, torch.dtype)) and type(value) is type(now) and bool(value == now)
    if content is None:
        return True
    if len(content) != len(now):
        return False
    if isinstance(content, dict):
        return all(key in now and _equal(value, now[key]) for key, value in content.items())
    return all(_equal(a, b) for a, b in zip(content, now, strict=True)) if isinstance(content, list) else content == now


def _equal(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, (int, float, str)) and type(a) is type(b) and a == b)


def _refill(value: Any, content: Any) -> None:
    value.clear()
    if isinstance(value, list):
        value.extend(content)
    else:
        value.update(content)


def random_states() -> list[torch.Tensor]:
    """The states of torch's global generators, the CPU's first."""
    states = [torch.random.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: list[torch.Tensor]) -> None:
    """Put the states back that ``random_states`` gave."""
    torch.random.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


@contextmanager
def random_kept() -> Iterator[None]:
    """What is drawn in here from global generators (torch, numpy, Python) is drawn again afterwards."""
    torch_states, numpy_state, python_state = random_states(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        set_random_states(torch_states)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def quiet() -> Iterator[None]:
    """Pipelines repeat their warnings at every call: in here they are silent."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
