"""A pipeline's own run, spied upon."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import ConfigMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.overrides import TorchFunctionMode

from .registry import FAMILIES


@dataclass
class OwnRun:
    """What a pipeline's own call did, step by step.

    Attributes:
        times: the time of each ``scheduler.step``, as it was given.
        samples: the state that each step was given, ``[1, ...]``.
        inputs: what the step's first ``scale_model_input`` gave back for the state, None where the loop has none.
        outputs: the ``model_output`` of each step.
        states: what each step gave back (``prev_sample``).
        noises: what each step drew, None where it drew nothing.
        timesteps: the scheduler's table after ``set_timesteps``, the pipeline's own arguments included.
        picture: float array ``[1, ...]`` of ``output_type="pt"``.
    """

    times: list[Any] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    inputs: list[torch.Tensor | None] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    noises: list[torch.Tensor | None] = field(default_factory=list)
    timesteps: torch.Tensor | None = None
    picture: Any = None

    @property
    def final(self) -> torch.Tensor:
        return self.states[-1]


class Drawn(TorchFunctionMode):
    """Keeps what is drawn by ``torch.randn`` below it."""

    def __init__(self) -> None:
        super().__init__()
        self.noises: list[torch.Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.randn:
            self.noises.append(out.clone())
        return out


@contextmanager
def means() -> Iterator[None]:
    """Posteriors that would draw from the global generator give their mean: nobody could repeat what they draw."""
    own = DiagonalGaussianDistribution.sample

    def sample(self: Any, generator: Any = None) -> torch.Tensor:
        return self.mode() if generator is None else own(self, generator)

    DiagonalGaussianDistribution.sample = sample
    try:
        yield
    finally:
        DiagonalGaussianDistribution.sample = own


def spied(pipe: Any, call: dict[str, Any], *, steps: int, seed: int = 0, **more: Any) -> OwnRun:
    """``pipe(**call)`` on a shallow copy with copied schedulers and guiders: the pipeline and they stay as they were.

    What it encodes without a generator is the posterior's mean (:func:`means`).

    Args:
        call: arguments of ``__call__`` without ``generator``, ``num_inference_steps`` and ``output_type``.
        more: overrides of ``call`` and of ``output_type`` ("pt").
    """
    run, scaled = OwnRun(), []
    shadow = copy.copy(pipe)
    for name, part in pipe.components.items():
        if isinstance(part, ConfigMixin) and not isinstance(part, torch.nn.Module):
            shadow.__dict__[name] = copy.deepcopy(part)
    scheduler = shadow.scheduler
    real_step, real_scale = scheduler.step, getattr(scheduler, "scale_model_input", None)

    @functools.wraps(real_step)
    def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        run.times.append(copy.deepcopy(timestep))
        run.samples.append(sample.detach().clone())
        run.outputs.append(model_output.detach().clone())
        run.inputs.append(scaled[0] if scaled else None)
        scaled.clear()
        with Drawn() as drawn:
            out = real_step(model_output, timestep, sample, *args, **kwargs)
        run.noises.append(drawn.noises[0] if drawn.noises else None)
        run.states.append((out[0] if isinstance(out, tuple) else out.prev_sample).detach().clone())
        return out

    scheduler.step = step
    if real_scale is not None:

        @functools.wraps(real_scale)
        def scale(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            out = real_scale(sample, *args, **kwargs)
            if sample.ndim > 0:
                scaled.append(out[:1].detach().clone())
            return out

        scheduler.scale_model_input = scale
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_inference_steps": steps, "generator": generator, "output_type": "pt", **call, **more}
    with torch.random.fork_rng(devices=[]), means():
        torch.manual_seed(seed)
        run.picture = shadow(**settings, return_dict=False)[0]
    run.timesteps = scheduler.timesteps
    return run


@functools.cache
def own_run(
    name: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    index: int = 0,
    scheduler: Any = None,
    dtype: torch.dtype = torch.float32,
) -> OwnRun:
    """The own run of a family's picture ``index``, cached for all tests of the process: change nothing of it.

    ``steps``: the family's own short number if None. ``scheduler``: as ``Family.make`` takes it (hashable).
    """
    found = FAMILIES[name]
    pipe = found.make(dtype=dtype, scheduler=scheduler)
    return spied(pipe, found.call(index, dtype=dtype), steps=steps or found.steps, seed=seed)
