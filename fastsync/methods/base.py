"""What a method is to the sampler: settings, and what is bound to one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch

from ..canvases.base import LinearCanvas
from ..diffusion import StepTable
from ..priors.base import Prior
from ..run import Estimates, Run
from ..scheduling import Order, Work


@dataclass(eq=False)  # settings may hold functions, and methods may be keys
class Method:
    """A rule that keeps trajectories in agreement. A method object holds settings only; any number of runs may use it.

    Attributes:
        orders: orders of work that the method allows, the fastest first.
        joins: whether it changes all views together once all have done a step (:meth:`Bound.synchronise`).
        noise_use: what becomes of noisy states: each view keeps its ``"own"``, they are ``"read"`` by other views, or
            ``"merged"``, which only canvases of crops and permutations allow.
        takes_pixels: whether it takes a canvas in pixels for a prior of latents.
        prefers_pixels: whether tasks give it one.
        takes_start: whether its runs can begin from clean views with noise; else it takes the first states for noise.
    """

    orders: ClassVar[tuple[Order, ...]] = ("batched", "sequential")
    joins: ClassVar[bool] = False
    noise_use: ClassVar[Literal["own", "read", "merged"]] = "own"
    takes_pixels: ClassVar[bool] = False
    prefers_pixels: ClassVar[bool] = False
    takes_start: ClassVar[bool] = True

    def table(self, prior: Prior, num_inference_steps: int, eta: float) -> StepTable:
        """The run's steps; says what is wrong with ``num_inference_steps`` or ``eta``."""
        return prior.steps(num_inference_steps, eta)

    def solver_name(self, prior: Prior) -> str:
        """The solver that takes the steps, for records of a run."""
        return prior.schedule.solver

    def order_of_views(self, canvas: LinearCanvas) -> list[int]:
        """Views in the order in which they are worked."""
        return list(range(canvas.num_views))

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """For each view the earlier views whose work at the same step it needs."""
        return [()] * canvas.num_views

    def recorded(self, otherwise: Callable[[Any], str]) -> dict[str, Any]:
        """The method's settings as JSON can hold them; ``otherwise`` tells of functions and the like."""
        return {name: plain(value, otherwise) for name, value in vars(self).items()}

    def bind(self, run: Run) -> Bound[Any]:
        """The method at work in one run; refuses, before any network call, what it cannot do there."""
        return Bound(self, run)


def plain(value: Any, otherwise: Callable[[Any], str]) -> Any:
    """Numbers, strings, and lists of them, as they are; ``otherwise(value)`` of all else."""
    if isinstance(value, (list, tuple)):
        return [plain(item, otherwise) for item in value]
    return value if isinstance(value, (int, float, str, type(None))) else otherwise(value)


M = TypeVar("M", bound=Method)


class Bound(Generic[M]):
    """A method at work in one run; subclasses hold what the run needs between steps. This one samples independently.

    Everything here is called without gradients; what needs some records them itself.

    A method says what its views are estimated to be (:meth:`estimate`), and the run's stepper takes the step. Methods
    that merge the estimates of all views first keep them in :meth:`advance`, and let the run finish all views from
    :meth:`synchronise`. StochSync alone takes inner steps of its own.

    Attributes:
        settings: the method.
        run: the run.
    """

    def __init__(self, settings: M, run: Run) -> None:
        self.settings, self.run = settings, run

    def estimate(self, work: Work) -> Estimates:
        """What the batch's views are estimated to be; the engine takes the step."""
        x = self.run.states.before(work)
        return Estimates(x, self.run.network.predict(x, work))

    def advance(self, work: Work) -> None:
        """Take the batch's views one step on. Methods whose views wait for all others estimate here and step later."""
        self.run.finish(work, self.estimate(work))

    def synchronise(self, step: int) -> None:
        """Called once all views have done ``step``, for methods that join."""

    def clean(self, step: int) -> torch.Tensor:
        """Clean estimates [N, C, h, w] of all views at ``step``, once all have done it."""
        return self.run.states.estimates([(i, step) for i in range(self.run.canvas.num_views)])

    def compose(self, views: torch.Tensor) -> torch.Tensor:
        """The canvas [1, C, H, W] of the final views [N, C, h, w]."""
        return self.run.canvas.merge(views)

    def result(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The canvas and the views to hand out, from the final views [N, C, h, w]."""
        return self.compose(views), views

    def state_dict(self) -> dict[str, Any]:
        """What the method keeps between steps: tensors, numbers, and lists and dictionaries of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called."""
