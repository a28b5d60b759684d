"""The shallow copy of a pipeline that is called in its place, with stand-ins for its scheduler and its modules."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin

from ..runtime import is_autoencoder
from .keeping import random_states, set_random_states
from .nested import cloned, leaves, same
from .standing_in import StandIn


class Stop(BaseException):
    """Ends a call; no ``except Exception`` in a pipeline may catch it."""


_PLAIN = (str, int, float, torch.device, torch.dtype, type(None))


@dataclass(frozen=True)
class Text:
    """What ``encode_prompt`` gave.

    Attributes:
        read: attributes of the pipeline that it read, as the call had set them; None where it had not.
        output: what it gave.
        left: attributes that it set.
    """

    read: dict[str, Any]
    output: Any
    left: dict[str, Any]

    def fits(self, known: Mapping[str, Any]) -> bool:
        """Whether it would give the same where a call has set these attributes."""
        return all(same(value, known.get(name)) for name, value in self.read.items())


@contextlib.contextmanager
def _reading(shadow: Any) -> Iterator[set[str]]:
    """The names of the attributes of ``shadow`` that are read in here."""
    kind: Any = type(shadow)
    read: set[str] = set()

    def noting(self: Any, name: str) -> Any:
        read.add(name)
        return kind.__getattribute__(self, name)

    shadow.__class__ = type(kind.__name__, (kind,), {"__getattribute__": noting, "__module__": kind.__module__})
    try:
        yield read
    finally:
        shadow.__class__ = kind


class Shadow:
    """One call of a pipeline by a copy of it; what the stand-ins answer is for subclasses to say.

    Args:
        pipe: the pipeline, which stays as it is.
        modules: its networks by name.
        texts: what its ``encode_prompt`` gave, by arguments; filled here.

    Attributes:
        name: of the pipeline's class.
        scheduler: the copy's, whose methods are answered here too.
        stand_ins: of its networks by name, once it is copied.
    """

    def __init__(self, pipe: Any, modules: Mapping[str, torch.nn.Module], texts: dict[str, list[Text]]) -> None:
        self.pipe, self.modules, self.texts = pipe, modules, texts
        self.name = type(pipe).__name__
        self.stand_ins: dict[str, StandIn] = {}
        self.scheduler = self._scheduler(pipe.scheduler)

    # ---- the copy of the pipeline -----------------------------------------------------------------------------

    def copied(self) -> Any:
        """The shallow copy with its stand-ins."""
        shadow = copy.copy(self.pipe)
        parts = vars(shadow)
        for name, part in vars(self.pipe).items():
            if isinstance(part, types.MethodType) and part.__self__ is self.pipe:  # put in the place of the class's own
                parts[name] = types.MethodType(part.__func__, shadow)
        parts["_progress_bar_config"] = {"disable": True}
        for name, part in vars(self.pipe).items():
            if isinstance(part, ConfigMixin) and not isinstance(part, torch.nn.Module):
                parts[name] = copy.deepcopy(part)  # guiders count their steps
        parts["scheduler"] = self.scheduler
        for name, module in self.modules.items():
            if is_autoencoder(module):
                stand_in = StandIn(module, self._outside(module))
                vars(stand_in)["decode"] = functools.partial(self._decode, name, stand_in)
                vars(stand_in)["encode"] = functools.partial(self._encode, module)
            else:
                stand_in = StandIn(module, functools.partial(self._answer, name, module))
            if hasattr(module, "cache_context"):
                # It hangs a registry of hooks on a network, which none needs that caches nothing (``check_fit``).
                vars(stand_in)["cache_context"] = contextlib.nullcontext
            parts[name] = self.stand_ins[name] = stand_in
        if hasattr(self.pipe, "encode_prompt"):
            own = parts.get("encode_prompt", functools.partial(type(shadow).encode_prompt, shadow))
            parts["encode_prompt"] = functools.partial(self._encode_prompt, shadow, own)
        self._as_copied = parts.copy()
        return shadow

    def _scheduler(self, given: Any) -> Any:
        scheduler = copy.deepcopy(given)
        for method, wrapper in (
            ("step", self._step),
            ("set_timesteps", self._set_timesteps),
            ("scale_model_input", self._scale),
            ("add_noise", self._noised),
            ("scale_noise", self._noised),
        ):
            own = getattr(scheduler, method, None)
            if own is not None:
                setattr(scheduler, method, functools.wraps(own)(functools.partial(wrapper, own)))
        return scheduler

    def _outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that may draw from global generators, as dropout does, without being seen to."""

        def called(*args: Any, **kwargs: Any) -> Any:
            states = random_states()
            try:
                return function(*args, **kwargs)
            finally:
                set_random_states(states)

        return called

    def _encode_prompt(self, shadow: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own, asked once for the same texts where what the call has set before is the same."""
        if not all(isinstance(value, _PLAIN) for value in leaves([args, kwargs])):
            return own(*args, **kwargs)  # pictures and embeddings
        key, known = repr((args, sorted(kwargs.items()))), self._set_by_call(shadow)
        found = next((text for text in self.texts.get(key, []) if text.fits(known)), None)
        if found is None:
            with _reading(shadow) as read:
                output = own(*args, **kwargs)
            left = {name: v for name, v in self._set_by_call(shadow).items() if known.get(name, shadow) is not v}
            found = Text({name: known.get(name) for name in read}, cloned(output), left)
            self.texts.setdefault(key, []).append(found)
        vars(shadow).update(found.left)
        return cloned(found.output)

    def _set_by_call(self, shadow: Any) -> dict[str, Any]:
        """Attributes that the call has set by now."""
        before = self._as_copied
        return {name: v for name, v in vars(shadow).items() if name not in before or before[name] is not v}

    def _encode(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """The autoencoder's own; a posterior from which nobody's generator is to draw gives its mean."""
        output = self._outside(module.encode)(*args, **kwargs)
        posterior = getattr(output, "latent_dist", None)
        if posterior is not None:
            # Of its class: the same posterior may come here again.
            own, mean = functools.partial(type(posterior).sample, posterior), posterior.mode

            def sample(generator: Any = None) -> torch.Tensor:
                drawn: torch.Tensor = mean() if generator is None else own(generator)
                return drawn

            posterior.sample = sample
        return output

    # ---- what subclasses say ----------------------------------------------------------------------------------

    def _step(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _set_timesteps(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    def _scale(self, own: Callable[..., Any], sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError

    def _noised(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    def _decode(self, name: str, stand_in: StandIn, z: torch.Tensor, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def _answer(self, name: str, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError
