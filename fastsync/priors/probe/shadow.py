"""The shallow copy of a pipeline that is called in its place, with stand-ins for its scheduler and its modules."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import ConfigMixin

from .keeping import random_states, set_random_states
from .nested import cloned, leaves
from .standing_in import StandIn


class Stop(BaseException):
    """Ends a call; no ``except Exception`` in a pipeline may catch it."""


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

    def __init__(self, pipe: Any, modules: Mapping[str, torch.nn.Module], texts: dict[str, Any]) -> None:
        self.pipe, self.modules, self.texts = pipe, modules, texts
        self.name = type(pipe).__name__
        self.stand_ins: dict[str, StandIn] = {}
        self.scheduler = self._scheduler(pipe.scheduler)

    # ---- the copy of the pipeline -----------------------------------------------------------------------------

    def copied(self) -> Any:
        """The shallow copy with its stand-ins."""
        shadow = copy.copy(self.pipe)
        parts = vars(shadow)
        parts["_progress_bar_config"] = {"disable": True}
        for name, part in vars(self.pipe).items():
            if isinstance(part, ConfigMixin) and not isinstance(part, torch.nn.Module):
                parts[name] = copy.deepcopy(part)  # guiders count their steps
        parts["scheduler"] = self.scheduler
        for name, module in self.modules.items():
            if hasattr(module, "decode") and hasattr(module, "encode"):
                stand_in = self._stand_in(name, module, self._outside(module))
                vars(stand_in)["decode"] = functools.partial(self._decode, name, stand_in)
                vars(stand_in)["encode"] = functools.partial(self._encode, module)
            else:
                stand_in = self._stand_in(name, module, functools.partial(self._answer, name, module))
            if hasattr(module, "cache_context"):
                # It hangs a registry of hooks on a network, which none needs that caches nothing (``check_fit``).
                vars(stand_in)["cache_context"] = contextlib.nullcontext
            parts[name] = self.stand_ins[name] = stand_in
        if hasattr(self.pipe, "encode_prompt"):
            parts["encode_prompt"] = functools.partial(self._encode_prompt, shadow)
        return shadow

    def _stand_in(self, name: str, module: torch.nn.Module, answer: Callable[..., Any]) -> StandIn:
        return StandIn(module, answer)

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

    def _encode_prompt(self, shadow: Any, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own, asked once for the same texts."""
        own = functools.partial(type(self.pipe).encode_prompt, shadow)
        values = list(leaves([*args, kwargs]))
        if any(isinstance(value, torch.Tensor) for value in values):
            return own(*args, **kwargs)
        key = repr((args, sorted(kwargs.items())))
        if key not in self.texts:
            self.texts[key] = own(*args, **kwargs)
        return cloned(self.texts[key])

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

    def _step(
        self,
        own: Callable[..., Any],
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> Any:
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
