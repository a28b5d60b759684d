"""Which adapter makes a prior of a pipeline: by the name of its class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import shown
from .base import PipelinePrior

Adapter = Callable[..., PipelinePrior]
A = TypeVar("A", bound=Adapter)

# Users' adapters go before fastsync's own, however general the class that they are registered for.
_USERS: dict[str, Adapter] = {}
_OWN: dict[str, Adapter] = {}


class Unfit(ValueError):
    """A pipeline of the right class that an adapter of fastsync's own cannot ask."""


def register(*pipeline_classes: str) -> Callable[[A], A]:
    """Make a class or function the adapter of diffusers pipelines, as a decorator.

    ::

        @fs.priors.register("MyPipeline")
        class MyPrior(fs.priors.PipelinePrior):
            def __init__(self, pipe, *, window=None, runtime=None, solver="auto"): ...

    The adapter is called as ``adapter(pipe, window=, runtime=, solver=)``, the window (h, w) in the prior's sample
    units or None, and with ``neighbours`` and ``conditioning_scale`` where it takes them and a task asks for them. It
    serves subclasses of the named classes too, and goes before fastsync's own adapters. A later registration replaces
    an earlier one.

    Args:
        pipeline_classes: names of pipeline classes, without their modules.
    """
    for name in pipeline_classes:
        if not isinstance(name, str) or not name.isidentifier():
            raise TypeError(f"register() takes names of pipeline classes such as 'FluxPipeline', got {shown(name)}.")
    if not pipeline_classes:
        raise TypeError("register() takes one name of a pipeline class or more, got none.")

    return _adding_to(_USERS, pipeline_classes)


def built_in(pipeline_class: str) -> Callable[[A], A]:
    """As :func:`register`, of an adapter of fastsync's own."""

    return _adding_to(_OWN, (pipeline_class,))


def _adding_to(table: dict[str, Adapter], pipeline_classes: Sequence[str]) -> Callable[[A], A]:
    def registered(adapter: A) -> A:
        if not callable(adapter):
            raise TypeError(f"register() decorates a class or a function, got {shown(adapter)}.")
        table.update(dict.fromkeys(pipeline_classes, adapter))
        return adapter

    return registered


def users_adapter(pipe: Any) -> Adapter | None:
    """The user's adapter for a pipeline's class, or for the nearest that it inherits from; None if there is none."""
    return next((_USERS[c.__name__] for c in type(pipe).__mro__ if c.__name__ in _USERS), None)


def own_adapter(pipe: Any) -> Adapter | None:
    """fastsync's own adapter for a pipeline's class; None if there is none, or if its call may do something else.

    A subclass may encode prompts in its own way, which adapters ask it for. Whatever else it overrides, or has been
    given itself, the call may use and an adapter does not.
    """
    kinds = type(pipe).__mro__
    for place, ancestor in enumerate(kinds):
        if ancestor.__name__ in _OWN and ancestor.__module__.startswith("diffusers."):
            overriding = [*map(vars, kinds[:place]), vars(pipe)]
            own = {name for names in overriding for name, value in names.items() if _is_method(value)}
            own -= {name for name in own if not hasattr(ancestor, name)} | {"__init__", "encode_prompt"}
            return None if own else _OWN[ancestor.__name__]
    return None


def _is_method(value: Any) -> bool:
    return isinstance(value, (property, classmethod, staticmethod, functools.partial)) or inspect.isroutine(value)
