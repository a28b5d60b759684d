"""The times of a run, set by the scheduler itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..errors import check_int, check_number, shown


def set_times(
    scheduler: Any,
    steps: int,
    sigmas: Iterable[float] | None = None,
    mu: float | None = None,
    timesteps: Iterable[float] | None = None,
    original_inference_steps: int | None = None,
) -> Any:
    """A copy of a scheduler after its own ``set_timesteps``.

    Args:
        scheduler: a diffusers scheduler; left as it is.
        steps: T, which ``sigmas`` and ``timesteps`` have to agree with.
        sigmas, timesteps: schedules of one's own, first to last, for the schedulers that take them.
        mu: exponent of the dynamic shift. Schedulers that could shift dynamically but are not set to do so ignore it,
            as in diffusers' pipelines.
        original_inference_steps: of the teacher, of which a latent consistency model skips most.

    Raises:
        ValueError, TypeError: the scheduler takes no such argument, or not this value of it; mu is missing.
    """
    name = type(scheduler).__name__
    given: dict[str, Any] = {}
    if timesteps is not None:
        given["timesteps"] = _numbers("timesteps", timesteps).tolist()
    if sigmas is not None:
        given["sigmas"] = _numbers("sigmas", sigmas)
    if original_inference_steps is not None:
        given["original_inference_steps"] = check_int("original_inference_steps", original_inference_steps)
    if mu is not None:
        given["mu"] = check_number("mu", mu)
    taken = inspect.signature(scheduler.set_timesteps).parameters
    for argument in given:
        if argument not in taken:
            raise ValueError(
                f"{argument} was given, but the times of {name} do not take it: leave it out, or use a scheduler that "
                f"takes {argument}."
            )
    if not scheduler.config.get("use_dynamic_shifting"):
        given.pop("mu", None)
    elif "mu" not in given and "mu" in taken:
        raise ValueError(
            f"{name} has use_dynamic_shifting=True, whose shift depends on the size of the picture, so steps needs mu: "
            "pass mu as the pipeline computes it, or a scheduler with use_dynamic_shifting=False and a fixed shift."
        )
    if "sigmas" not in given and "timesteps" not in given:
        given["num_inference_steps"] = steps
    scheduler = copy.deepcopy(scheduler)
    try:
        scheduler.set_timesteps(**given)
    except (ValueError, TypeError, IndexError, AssertionError) as error:
        raise ValueError(
            f"{name} cannot set the times of this run, given {shown(given)}: {' '.join(str(error).split())}"
        ) from error
    count = len(scheduler.timesteps)
    if "num_inference_steps" not in given and count != steps:
        raise ValueError(
            f"num_inference_steps is {steps}, but the sigmas or timesteps given to {name} make {count} steps: pass "
            f"num_inference_steps={count}."
        )
    return scheduler


def _numbers(name: str, values: Iterable[float]) -> np.ndarray:
    """Finite numbers that fall from the first to the last, whole ones as such."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.array(values if isinstance(values, np.ndarray) else list(values))
    except TypeError:
        array = np.array(None)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a list of numbers, got {shown(values)}: pass e.g. [999, 500, 1] or an array.")
    if not np.isfinite(array).all() or (array < 0).any() or (np.diff(array) > 0).any():
        raise ValueError(
            f"{name} must be at least 0 and fall from the first to the last, got {shown(array.tolist())}: pass them in "
            "the order of the steps."
        )
    return array
