"""A diffusers pipeline as the references see it: guided estimates, DDIM's coefficients, windows of a canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """One step of a run, floats: time, coefficients there and at the next time, and time over the first time."""

    time: int
    a: float
    b: float
    a_next: float
    b_next: float
    progress: float


@dataclass
class Model:
    """A Stable-Diffusion-class pipeline, prompts encoded: ``cond`` and ``uncond`` [1, L, D] serve all windows."""

    unet: Any
    scheduler: Any  # a DDIMScheduler, epsilon or v
    cond: Tensor
    uncond: Tensor
    guidance_scale: float
    rows: int = 0  # of all network batches so far

    def steps(self, count: int) -> list[Step]:
        """DDIM's times and coefficients, as diffusers walks them."""
        self.scheduler.set_timesteps(count)
        times = [int(t) for t in self.scheduler.timesteps]
        return [self.step(t, t - self.scheduler.config.num_train_timesteps // count, times[0]) for t in times]

    def step(self, time: int, after: int, first: int) -> Step:
        """The step from one time to another."""
        abar = self.scheduler.alphas_cumprod
        now = float(abar[time])
        then = float(abar[after]) if after >= 0 else float(self.scheduler.final_alpha_cumprod)
        return Step(time, now**0.5, (1 - now) ** 0.5, then**0.5, (1 - then) ** 0.5, time / first)

    def predict(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Guided ``(x0, eps)`` of windows x [B, C, h, w] at a step's time, both halves in one batch."""
        self.rows += 2 * len(x)
        dtype = self.unet.dtype
        states = torch.cat([self.uncond.expand(len(x), -1, -1), self.cond.expand(len(x), -1, -1)])
        raw = self.unet(torch.cat([x, x]).to(dtype), step.time, encoder_hidden_states=states, return_dict=False)[0]
        uncond, cond = raw.to(x.dtype).chunk(2)
        raw = uncond + self.guidance_scale * (cond - uncond)
        if self.scheduler.config.prediction_type == "v_prediction":
            return step.a * x - step.b * raw, step.a * raw + step.b * x
        return (x - step.b * raw) / step.a, raw


def crop(z: Tensor, origin: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """The window [1, C, h, w] of a canvas [1, C, H, W] at ``origin`` (y, x)."""
    (y, x), (h, w) = origin, window
    return z[..., y : y + h, x : x + w]


def average(windows: Sequence[Tensor], origins: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Windows [1, C, h, w] each, put back and averaged: a canvas like ``like`` [1, C, H, W]."""
    value, count = torch.zeros_like(like), torch.zeros_like(like)
    for window, origin in zip(windows, origins, strict=True):
        crop(value, origin, window.shape[-2:])[...] += window  # type: ignore[arg-type]
        crop(count, origin, window.shape[-2:])[...] += 1  # type: ignore[arg-type]
    return torch.where(count > 0, value / count, value)
