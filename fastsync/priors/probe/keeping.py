"""A pipeline is afterwards as it was: plain state of its modules, random states, messages."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_CONTAINERS = (dict, list, set)
_REGISTRY = "_diffusers_hook"  # of hooks of diffusers' own, by its attribute
# What decides how a module answers, beside its weights.
_WORKINGS = ("processor", "forward", "training", "_modules", "_forward_hooks", "_forward_pre_hooks")


class PlainState:
    """Everything that a module and its parts hold beside the values of their weights.

    Attributes, switches, hooks, processors and which parameters they have, one level deep into dictionaries, lists and
    sets. Weights themselves are not copied: no pipeline writes into them.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._parts = [_Part(part) for part in module.modules()]

    def changed(self) -> str | None:
        """Which hook, processor or layer of a module is not what it was; None if all are.

        Tables that modules make when they are first asked, such as rotary embeddings, change nothing.
        """
        return next((name for part in self._parts if not part.untouched() for name in part.workings_changed()), None)

    def touched(self) -> str | None:
        """Which attribute of a module is not what it was, whatever it is; None if all are.

        diffusers' registry of hooks does not count while there are none: it is made when somebody looks for it.
        """
        return next((name for part in self._parts if not part.untouched() for name in part.changed()), None)

    def restore(self) -> None:
        """Put everything back."""
        for part in self._parts:
            if not part.untouched():
                part.restore()
            part.restore_grad()


class _Part:
    """One module: its attributes, and what is in those that are containers."""

    def __init__(self, part: torch.nn.Module) -> None:
        self.part, self.before = part, vars(part).copy()
        held = [value for value in self.before.values() if isinstance(value, _CONTAINERS)]
        self._empty = [value for value in held if not value]  # most of a module's are
        self._contents = [(value, value.copy()) for value in held if value]
        self._grad = [(p, p.requires_grad) for p in part._parameters.values() if p is not None]

    def untouched(self) -> bool:
        """Whether everything is surely what it was: equal at C's speed, where identical objects are equal unasked."""
        try:
            return (
                vars(self.part) == self.before
                and not any(self._empty)
                and all(value == content for value, content in self._contents)
            )
        except (RuntimeError, TypeError, ValueError):  # tensors and arrays that are others now
            return False

    def workings_changed(self) -> Iterator[str]:
        """What decides how the module answers, and is not what it was."""
        return self.changed(_WORKINGS)

    def changed(self, names: Iterable[str] | None = None) -> Iterator[str]:
        """Attributes that are not what they were, of all or of those with some names."""
        now = vars(self.part)
        for name in dict.fromkeys((*self.before, *now)) if names is None else names:
            kept = name in self.before
            if name == _REGISTRY and not getattr(now.get(name), "hooks", None):
                continue
            if kept != (name in now) or (kept and not self._alike(self.before[name], now[name])):
                yield f"{name.strip('_')} of {type(self.part).__name__}"

    def restore(self) -> None:
        now = vars(self.part)
        for name in [name for name in now if name not in self.before]:
            del now[name]
        for value in self._empty:
            value.clear()
        for value, content in self._contents:
            if not _holds(value, content):
                _refill(value, content)
        now.update(self.before)

    def restore_grad(self) -> None:
        for parameter, grad in self._grad:
            if parameter.requires_grad != grad:
                parameter.requires_grad_(grad)

    def _alike(self, before: Any, now: Any) -> bool:
        if before is not now:
            # Numbers and names are written anew all the time.
            return isinstance(before, (int, float, str, torch.dtype)) and type(before) is type(now) and before == now
        if not isinstance(before, _CONTAINERS):
            return True
        content = next((content for value, content in self._contents if value is before), ())
        return _holds(before, content) if content else not before


def _holds(value: Any, content: Any) -> bool:
    """Whether a container holds what it did: the same objects, or equal numbers and names."""
    if len(value) != len(content):
        return False
    if isinstance(content, dict):
        return all(key in value and _equal(kept, value[key]) for key, kept in content.items())
    return all(map(_equal, content, value)) if isinstance(content, list) else bool(content == value)


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
