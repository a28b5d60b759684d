"""StochSync (Yeo 2025): every step noises the canvas anew and denoises a set of disjoint views all the way down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..canvases.base import LinearCanvas
from ..diffusion import StepTable, is_vanishing
from ..errors import check_choice, check_int, check_number, shown
from ..priors.base import Prior
from ..run import Run
from .base import Method
from .stochsync_run import BoundStochSync

InnerSolver = Literal["ddim", "dpm++"]

TIMES = 1000  # the scale of `start` and `stop`
FAST_INNER_STEPS = 20
OVERLAP = 0.05  # share of a view up to which two views count as disjoint


@dataclass(eq=False)
class StochSync(Method):
    """``x_t = a_t P z + b_t noise``, ``x0 = G(x_t)``, ``z = merge(x0)`` at linearly falling times t (Yeo et al. 2025).

    The noise is fresh at every step (maximum stochasticity): one canvas noise a step, projected. G is a deterministic
    sampler of many inner steps from t to the clean end, so the canvas is always made of finished pictures.
    ``num_inference_steps`` of ``sample`` is the number of inner steps over all times (published: 50); an outer step at
    t starts exactly at t and then runs what of that grid lies below, so later steps cost less. Each outer step works
    one set of views that do not overlap, and the sets take turns: the borders of one set lie inside views of the next.

    The canvas is 0 before the first step: its views are ``b_t`` times the initial latents. So are, later, the parts of
    views that no earlier set has painted.

    In the last ``blend_steps`` steps the cells of a view near its border follow the canvas before the step, noised to
    each inner time with the step's own noise, instead of the sampler's states (after RePaint, Lugmayr 2022), so that
    borders of neighbours in one set meet in what the set before has painted across them.

    For a prior of latents the canvas may be in pixels: views ``prior.scale`` times as large as the prior's. Clean
    estimates are then decoded (to pixels in [-1, 1]) and merged as pixels, and the projected pixels encoded for the
    next step; noise is drawn view by view, in latents, and initial latents must be of view shape.

    A callback sees the projected canvas, without noise, after each outer step (with a canvas in pixels: each view's own
    clean latents, 0 before its first turn); views that it replaces are painted onto the canvas.

    Spends, an outer step at t, one evaluation for each view of its set and inner time up to t.

    Args:
        steps: outer steps; 25 if None (fast: 8).
        start, stop: first and last outer time on a scale of 1000 times, whatever the schedule's own; a flow schedule
            reads them as s = time / 1000. ``stop`` None is 270 (fast: 700). Meshes are published with start=1000, which
            needs a model that does not predict epsilon where the schedule ends without signal.
        blend_steps: how many of the last outer steps blend; 0 switches it off.
        blend_width: share of a view's side over which the sampler's part rises from 0 at the border to 1.
        solver: of the inner steps, ``"ddim"`` or ``"dpm++"``, the second-order multistep DPM-Solver++(2M) (Lu 2022);
            ``"ddim"`` if None (fast: ``"dpm++"``).
        fast: the authors' fast setting: 8 steps, stop at 700, DPM-Solver++ of at most 20 inner steps.
        sets: lists of view indices, worked in turn, each view in at least one. None: greedy sets in view order of views
            that cover at most 5 % of each other.
    """

    steps: int | None = None
    start: float = 900.0
    stop: float | None = None
    blend_steps: int = 2
    blend_width: float = 0.125
    solver: InnerSolver | None = None
    fast: bool = False
    sets: Sequence[Sequence[int]] | None = None

    joins = True
    takes_pixels = True
    prefers_pixels = True
    takes_start = False

    def __post_init__(self) -> None:
        if not isinstance(self.fast, bool):
            raise TypeError(f"fast must be True or False, got {shown(self.fast)}.")
        fast = self.fast
        self.steps = check_int("steps", (8 if fast else 25) if self.steps is None else self.steps)
        self.start = check_number("start", self.start, minimum=1.0, maximum=TIMES)
        stop = (700.0 if fast else 270.0) if self.stop is None else self.stop
        self.stop = check_number("stop", stop, minimum=1.0)
        if self.start <= self.stop:
            raise ValueError(
                f"start must be above stop, got start={self.start:g} and stop={self.stop:g}: times fall from start to "
                "stop."
            )
        self.blend_steps = check_int("blend_steps", self.blend_steps, minimum=0)
        self.blend_width = check_number("blend_width", self.blend_width, maximum=0.5)
        if self.blend_width <= 0:
            raise ValueError(
                f"blend_width must be above 0, got {self.blend_width:g}: blend_steps=0 switches blending off."
            )
        solver = ("dpm++" if fast else "ddim") if self.solver is None else self.solver
        self.solver = check_choice("solver", solver, ("ddim", "dpm++"))
        self.sets = None if self.sets is None else _checked_sets(self.sets)

    def table(self, prior: Prior, num_inference_steps: int, eta: float) -> StepTable:
        """The outer times, from start to stop in equal steps; the inner grid is checked here too."""
        if check_number("eta", eta, minimum=0.0, maximum=1.0) > 0:
            raise ValueError(
                f"eta must be 0 with StochSync, got {eta:g}: it draws all its noise anew at every step already, and "
                "the steps between are deterministic."
            )
        schedule = prior.schedule
        if schedule.continuous:
            raise ValueError(
                "StochSync works at times of its own on the training's scale, and the scheduler's are log(sigma) / 4 "
                "(timestep_type='continuous'): use another method, such as SyncTweedies."
            )
        prior.steps(num_inference_steps)
        assert self.steps is not None and self.stop is not None  # filled in above
        times = torch.linspace(self.start, self.stop, self.steps, dtype=torch.float64)
        times = times * (schedule.num_train_timesteps / TIMES)
        if schedule.kind == "flow":
            times = times.float()
        else:
            times = times.round().long().clamp(max=schedule.num_train_timesteps - 1)
        table = schedule.table_at(times)
        if schedule.prediction_type == "epsilon" and is_vanishing(table.a):
            raise ValueError(
                f"StochSync(start={self.start:g}) starts at a time without signal (a_t = 0), where a prediction of "
                "epsilon does not tell x0: use a lower start, such as 900, or a model of v_prediction."
            )
        return table

    def order_of_views(self, canvas: LinearCanvas) -> list[int]:
        """Set by set, so that split batches hold views of one set."""
        return list(dict.fromkeys(i for members in self.sets_on(canvas) for i in members))

    def sets_on(self, canvas: LinearCanvas) -> list[list[int]]:
        """The sets of views of a canvas, worked in turn."""
        if self.sets is None:
            return disjoint_sets(canvas)
        sets = [list(members) for members in self.sets]
        named, count = {i for members in sets for i in members}, canvas.num_views
        if max(named) >= count:
            raise ValueError(f"sets must hold views 0 to {count - 1} of this canvas, got {max(named)}.")
        left_out = [i for i in range(count) if i not in named]
        if left_out:
            raise ValueError(
                f"sets must hold every view of the canvas, but view {left_out[0]} is in none: add it to a set, or to a "
                "set of its own."
            )
        return sets

    def solver_name(self, prior: Prior) -> str:
        """The inner steps' solver; the prior's own has no part in the run."""
        return f"{self.solver} from fresh noise at every step"

    def inner_steps(self, num_inference_steps: int) -> int:
        """How many inner steps the grid has over all times."""
        return min(num_inference_steps, FAST_INNER_STEPS) if self.fast else num_inference_steps

    def bind(self, run: Run) -> BoundStochSync:
        """Refuses fewer steps than sets."""
        return BoundStochSync(self, run)


def disjoint_sets(canvas: LinearCanvas) -> list[list[int]]:
    """Views in sets within which none covers more than 5 % of another: each joins the first set that it may."""
    sets: list[list[int]] = []
    for i in range(canvas.num_views):
        for members in sets:
            # What view i shows of the members, and they of it; members hardly hide one another.
            shown_by_i = canvas.neighbours([*members, i]).owner[i]
            if any(float((shown_by_i == j).float().mean()) > OVERLAP for j in members):
                continue
            shown_by_members = canvas.neighbours([i, *members]).owner[members] == i
            if float(shown_by_members.float().mean((1, 2)).max()) <= OVERLAP:
                members.append(i)
                break
        else:
            sets.append([i])
    return sets


def _checked_sets(sets: Any) -> list[list[int]]:
    """Non-empty lists of different indices."""
    if isinstance(sets, str) or not isinstance(sets, Sequence) or not sets:
        raise TypeError(f"sets must be a list of lists of view indices, got {shown(sets)}: pass e.g. [[0, 2], [1, 3]].")
    checked = []
    for members in sets:
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise TypeError(f"each of sets must be a list of view indices, got {shown(members)}: pass e.g. [0, 2].")
        checked.append([check_int("each view in sets", i, minimum=0) for i in members])
        if len(set(members)) < len(members):
            raise ValueError(f"a set must not hold a view twice, got {shown(members)}.")
    return checked
