"""A family's calls, as fastsync is asked for them: prompts, window and guidance apart from ``pipe_kwargs``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch

import fastsync as fs
from fastsync.priors import ByView, ProbedPrior, Told, ViewRequest
from fastsync.run.noise import Noise

from .registry import FAMILIES, Family
from .running import OwnRun

_ASKED = ("prompt", "negative_prompt", "height", "width", "guidance_scale")  # options of their own


def calls(family: Family, indices: Sequence[int], dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """The calls of pictures, without arguments that are None where an option takes their place."""
    made = [family.call(index, dtype=dtype) for index in indices]
    return [{k: v for k, v in call.items() if not (k in _ASKED and v is None)} for call in made]


def alike(values: Sequence[Any]) -> bool:
    """Whether all are equal, tensors and lists of tensors included."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        return all(torch.equal(first, value) for value in values)
    if isinstance(first, (list, tuple)):
        return all(len(v) == len(first) and all(alike(pair) for pair in zip(first, v, strict=True)) for v in values)
    return all(first == value for value in values)


def wrapped(
    family: Family,
    pipe: Any,
    indices: Sequence[int] = (0,),
    dtype: torch.dtype = torch.float32,
    by: Callable[..., Any] = ProbedPrior,
) -> Any:
    """The probed prior for views that are the family's pictures ``indices``, whatever adapter there is."""
    made = calls(family, indices, dtype)
    window = (made[0]["height"], made[0]["width"]) if "height" in made[0] else None
    names = [name for name in made[0] if name not in _ASKED]
    columns = {name: [call[name] for call in made] for name in names}
    given = {name: column[0] if alike(column) else ByView(column) for name, column in columns.items()}
    return by(pipe, window=window, pipe_kwargs=given)


def request(family: Family, indices: Sequence[int] = (0,), *, seed: int = 0) -> ViewRequest:
    """What a task would ask for these pictures."""
    made = calls(family, indices)
    texts = {n: [c[n] for c in made] if n in made[0] else None for n in ("prompt", "negative_prompt")}
    guidance = fs.Guidance(made[0]["guidance_scale"]) if "guidance_scale" in made[0] else None
    return ViewRequest(len(made), texts["prompt"], texts["negative_prompt"], guidance, seed=seed)


@functools.cache
def pipe_of(name: str) -> Any:
    """A family's pipeline, for all tests of the process: probing leaves it as it is."""
    return FAMILIES[name].make()


@functools.cache
def probed(name: str, scheduler: Any = None, indices: tuple[int, ...] = (0,)) -> tuple[ProbedPrior, Told]:
    """A family's prior and what it is told of these pictures, for all tests of the process."""
    family = FAMILIES[name]
    prior = wrapped(family, pipe_of(name) if scheduler is None else family.make(scheduler=scheduler), indices)
    return prior, prior.told(request(family, indices))


def first_noise(prior: ProbedPrior, told: Told, run: OwnRun, steps: int) -> torch.Tensor:
    """The pipeline's own first noise [1, C, h, w], from the state that its first step was given."""
    table = prior.steps(steps)
    given = run.samples[0] if run.inputs[0] is None else run.inputs[0]
    state = prior.layout.unpacked(given[:, : prior.layout.state_shape[0]])
    if told.start is None:
        return state / table.start
    a, b = float(table.a[0]), float(table.b[0])
    return (state - a * told.start.to(state)) / b


def one_window(prior: Any, told: Told, run: OwnRun, steps: int) -> torch.Tensor:
    """The final state [1, C, h, w] of one window by MultiDiffusion, with all the noises of the pipeline's own run."""
    noises = iter(run.noises)

    def draw(self: Noise, shape: Sequence[int]) -> torch.Tensor:
        noise = next(noises, None)
        drawn = torch.zeros(tuple(shape)) if noise is None else prior.layout.unpacked(noise)
        assert drawn.shape == tuple(shape)
        return drawn

    with mock.patch.object(Noise, "draw", draw):
        return fs.sample(
            prior,
            fs.WideCanvas(prior.window, prior.window, 1),
            fs.MultiDiffusion(),
            cond=told.cond,
            uncond=told.uncond,
            guidance_scale=told.guidance,
            num_inference_steps=steps,
            start=told.start,
            latents=first_noise(prior, told, run, steps),
        ).canvas


def model_output(prior: ProbedPrior, told: Told, raw: torch.Tensor) -> torch.Tensor:
    """What the scheduler gets of raw outputs [2 B or B, C, h, w], by the guidance that runs."""
    if told.uncond is None:
        return raw
    one, zero = torch.ones(1), torch.zeros(1)  # a = 0, b = 1: the estimate of the noise is what was predicted
    prior.schedule, own = _Plain(prior.schedule), prior.schedule
    try:
        x = torch.zeros_like(raw[: len(raw) // 2])
        return prior.estimates(raw, x, zero, one, told.guidance.scale, told.guidance.rescale).eps
    finally:
        prior.schedule = own


class _Plain:
    """A schedule whose predictions are noise, and are not clipped."""

    prediction_type = "epsilon"

    def __init__(self, own: Any) -> None:
        self.kind = own.kind

    def clip_prediction(self, x0: torch.Tensor, eps: torch.Tensor, *_: torch.Tensor) -> Any:
        return x0, eps
