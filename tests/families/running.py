"""A pipeline's own run, spied upon."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import ConfigMixin

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
        timesteps: the scheduler's table after ``set_timesteps``, the pipeline's own arguments included.
        picture: float array ``[1, ...]`` of ``output_type="pt"``.
    """

    times: list[Any] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    inputs: list[torch.Tensor | None] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    timesteps: torch.Tensor | None = None
    picture: Any = None

    @property
    def final(self) -> torch.Tensor:
        return self.states[-1]


def spied(pipe: Any, call: dict[str, Any], *, steps: int, seed: int = 0, **more: Any) -> OwnRun:
    """``pipe(**call)`` on a shallow copy with copied schedulers and guiders: the pipeline and they stay as they were.

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
        out = real_step(model_output, timestep, sample, *args, **kwargs)
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
    with torch.random.fork_rng(devices=[]):
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
