"""What a method is to the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from ..canvases.base import LinearCanvas
from ..diffusion import NoiseSchedule, StepTable
from ..run import Run
from ..scheduling import Order, Work


class Method:
    """A rule that keeps trajectories in agreement; the base class samples views independently.

    Attributes:
        orders: orders of work that the method allows, the fastest first.
        joins: whether it changes all views together once all have done a step (``synchronise``).
        noise: what becomes of noisy states: each view keeps its ``"own"``, they are ``"read"`` by other views, or
            ``"merged"``, which only canvases of crops and permutations allow.
        pixels: whether it takes a canvas in pixels for a prior of latents.
        prefers_pixels: whether tasks give it one.
    """

    orders: ClassVar[tuple[Order, ...]] = ("batched", "sequential")
    joins: ClassVar[bool] = False
    noise: ClassVar[Literal["own", "read", "merged"]] = "own"
    pixels: ClassVar[bool] = False
    prefers_pixels: ClassVar[bool] = False

    def table(self, schedule: NoiseSchedule, num_inference_steps: int, eta: float) -> StepTable:
        """The run's steps; what is wrong with ``num_inference_steps`` or ``eta`` is said here."""
        return schedule.steps(num_inference_steps, eta)

    def view_order(self, canvas: LinearCanvas) -> list[int]:
        """Views in the order in which they are worked."""
        return list(range(canvas.num_views))

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """For each view the earlier views whose work at the same step it needs."""
        return [()] * canvas.num_views

    def begin(self, run: Run) -> Any:
        """Check that the method can do this run, before any network call; what it returns is kept as run.prepared."""
        return None

    def advance(self, run: Run, work: Work) -> None:
        """Take the batch's views one step on."""
        with torch.no_grad():
            prediction = run.predict(run.states(work), work)
        run.advance(work, run.step(prediction, work), prediction.x0)

    def synchronise(self, run: Run, step: int) -> None:
        """Called once all views have done ``step``, for methods that join."""

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """The canvas [1, C, H, W] of the final views [N, C, h, w]."""
        return run.canvas.merge(views)

    def finish(self, run: Run, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The canvas and the views to hand out, from the final views [N, C, h, w]."""
        return self.compose(run, views), views
