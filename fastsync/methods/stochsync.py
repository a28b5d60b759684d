"""StochSync (Yeo 2025): every step noises the canvas anew and denoises a set of disjoint views all the way down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .. import ops
from ..canvases.base import LinearCanvas
from ..diffusion import NoiseSchedule, StepTable, is_vanishing
from ..errors import check_choice, check_int, check_number, shown
from ..run import Run
from ..scheduling import Work
from .base import Method

Solver = Literal["ddim", "dpm++"]

TIMES = 1000  # the scale of `start` and `stop`
FAST_INNER_STEPS = 20
OVERLAP = 0.05  # share of a view up to which two views count as disjoint


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

    joins = True
    pixels = True
    prefers_pixels = True

    def __init__(
        self,
        steps: int | None = None,
        start: float = 900.0,
        stop: float | None = None,
        blend_steps: int = 2,
        blend_width: float = 0.125,
        solver: Solver | None = None,
        fast: bool = False,
        sets: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if not isinstance(fast, bool):
            raise TypeError(f"fast must be True or False, got {shown(fast)}.")
        self.fast = fast
        self.steps = check_int("steps", (8 if fast else 25) if steps is None else steps)
        self.start = check_number("start", start, minimum=1.0, maximum=TIMES)
        self.stop = check_number("stop", (700.0 if fast else 270.0) if stop is None else stop, minimum=1.0)
        if self.start <= self.stop:
            raise ValueError(
                f"start must be above stop, got start={self.start:g} and stop={self.stop:g}: times fall from start to "
                "stop."
            )
        self.blend_steps = check_int("blend_steps", blend_steps, minimum=0)
        self.blend_width = check_number("blend_width", blend_width, maximum=0.5)
        if self.blend_width <= 0:
            raise ValueError(f"blend_width must be above 0, got {blend_width:g}: blend_steps=0 switches blending off.")
        self.solver: Solver = check_choice(
            "solver", ("dpm++" if fast else "ddim") if solver is None else solver, ("ddim", "dpm++")
        )
        self.sets = None if sets is None else _checked_sets(sets)

    def table(self, schedule: NoiseSchedule, num_inference_steps: int, eta: float) -> StepTable:
        """The outer times, from start to stop in equal steps; the inner grid is checked here too."""
        if check_number("eta", eta, minimum=0.0, maximum=1.0) > 0:
            raise ValueError(
                f"eta must be 0 with StochSync, got {eta:g}: it draws all its noise anew at every step already, and "
                "the steps between are deterministic."
            )
        schedule.steps(num_inference_steps)
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

    def view_order(self, canvas: LinearCanvas) -> list[int]:
        """Set by set, so that split batches hold views of one set."""
        return list(dict.fromkeys(i for members in self._sets(canvas) for i in members))

    def begin(self, run: Run) -> _State:
        """The sets, the inner grid and an empty canvas."""
        sets = self._sets(run.canvas)
        if self.steps < len(sets):
            raise ValueError(
                f"StochSync has {len(sets)} sets of views to work in turn but steps={self.steps}, so some would never "
                f"be painted: use steps={len(sets)} or more, or larger sets=."
            )
        inner = min(run.num_inference_steps, FAST_INNER_STEPS) if self.fast else run.num_inference_steps
        channels = 3 if run.pixels else run.prior.view_shape[0]
        z = torch.zeros(1, channels, *run.canvas.size, dtype=run.dtype, device=run.device)
        latents = z.new_zeros(run.canvas.num_views, *run.prior.view_shape)
        grid = run.prior.schedule.steps(inner).timesteps
        return _State(sets, grid, self._border(run).to(z), z, run.canvas.project(z), latents)

    def advance(self, run: Run, work: Work) -> None:
        """Sample the batch's views that are in the step's set; the others wait."""
        state, step = run.prepared, work[0][1]
        if state.step != step:
            state.turn = self._open(run, step)
            state.step = step
        views = [i for i, _ in work if i in state.turn.active]
        if views:
            x0 = self._sampled(run, views)
            pixels = run.in_canvas_units(x0)
            state.turn.found.update({i: pair for i, *pair in zip(views, x0, pixels, strict=True)})

    def synchronise(self, run: Run, step: int) -> None:
        """Paint the set's clean views onto the canvas."""
        state = run.prepared
        views = list(state.turn.found)
        latents, pixels = (torch.stack(part) for part in zip(*state.turn.found.values(), strict=True))
        _paint(run, views, latents, pixels)
        run.replace_after(step, state.latents)

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """The canvas itself."""
        _heed(run, views)
        z: torch.Tensor = run.prepared.z
        return z

    def finish(self, run: Run, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The canvas, and what the views show of it, in the canvas's units."""
        return self.compose(run, views), run.prepared.views

    def _sets(self, canvas: LinearCanvas) -> list[list[int]]:
        if self.sets is None:
            return disjoint_sets(canvas)
        named, count = {i for members in self.sets for i in members}, canvas.num_views
        if max(named) >= count:
            raise ValueError(f"sets must hold views 0 to {count - 1} of this canvas, got {max(named)}.")
        left_out = [i for i in range(count) if i not in named]
        if left_out:
            raise ValueError(
                f"sets must hold every view of the canvas, but view {left_out[0]} is in none: add it to a set, or to a "
                "set of its own."
            )
        return self.sets

    def _border(self, run: Run) -> torch.Tensor:
        """The sampler's part [h, w] in a blend: 0 at the view's border, 1 from ``blend_width`` of its side on."""
        ramps = []
        for side in run.prior.view_shape[1:]:
            cells = torch.arange(side, dtype=torch.float64)
            ramps.append((torch.minimum(cells, side - 1 - cells) / (self.blend_width * side)).clamp(max=1.0))
        return torch.minimum(ramps[0][:, None], ramps[1])

    def _open(self, run: Run, step: int) -> _Turn:
        """What the views of one outer step have in common; its noise is drawn here, whatever the batches."""
        state = run.prepared
        first = step == 0
        if not first:
            _heed(run, run.after(step - 1))
        # The run's initial states are the first step's noise.
        noise = run.after(-1) if first else run.view_noise()
        t = run.table.timesteps[step : step + 1].cpu()
        table = run.prior.schedule.table_at(torch.cat([t, state.grid[state.grid < t]]))
        painted = _painted(run)
        inside = None
        if not first and step >= run.steps - self.blend_steps:
            inside = 1 - (1 - state.border) * painted
        lean = _lean(table) if self.solver == "dpm++" else None
        members = frozenset(state.sets[step % len(state.sets)])
        return _Turn(members, table.to(run.device), lean, noise, painted, inside)

    def _sampled(self, run: Run, views: list[int]) -> torch.Tensor:
        """Clean views [B, C, h, w] from the canvas noised to the outer step's time."""
        state, turn = run.prepared, run.prepared.turn
        rows = run.to_device(torch.tensor(views))
        clean, noise = state.views[rows], turn.noise[rows]
        if run.pixels:
            clean = run.encode(clean) * turn.painted[rows]
        none, last = clean.new_zeros(len(views)), None

        def at(column: torch.Tensor, j: int) -> torch.Tensor:
            return column[j].expand(len(views))

        table = turn.table
        x = ops.ddim_step(clean, noise, at(table.a, 0), at(table.b, 0), none, None)
        for j in range(len(table)):
            x0, eps = run.predict_at(x, views, at(table.timesteps, j))
            if turn.lean is not None:
                # In terms of x0 DPM-Solver++ is DDIM's step towards an x0 extrapolated to the middle of the step.
                ahead = x0 if last is None else torch.lerp(last, x0, 1 + turn.lean[j])
                last = x0
                x0, eps = ops.cfg_tweedie(ahead, None, x, at(table.a, j), at(table.b, j), 1.0, "sample")
            a_next, b_next = at(table.a_next, j), at(table.b_next, j)
            x = ops.ddim_step(x0, eps, a_next, b_next, none, None)
            if turn.inside is not None:
                x = torch.lerp(ops.ddim_step(clean, noise, a_next, b_next, none, None), x, turn.inside[rows])
        return x


@dataclass
class _Turn:
    """One outer step under way.

    Attributes:
        active: its views.
        table: its inner steps, on the run's device.
        lean: for each inner step how far DPM-Solver++ extrapolates; None for DDIM.
        noise: [N, C, h, w].
        painted: [N, 1, h, w], 1 where a view shows what was painted before this step.
        inside: [N, 1, h, w], the sampler's part in the blend; None where the step does not blend.
        found: clean views by index, in the prior's units and in the canvas's.
    """

    active: frozenset[int]
    table: StepTable
    lean: list[float] | None
    noise: torch.Tensor
    painted: torch.Tensor
    inside: torch.Tensor | None
    found: dict[int, list[torch.Tensor]] = field(default_factory=dict)


@dataclass
class _State:
    """What a run keeps between outer steps.

    Attributes:
        sets: views of the first, second, ... step.
        grid: all inner times, on the CPU.
        border: [h, w].
        z: the canvas [1, C, H, W].
        views: what the views show of it, in its units.
        latents: the run's states after the last step [N, C, h, w]: ``views``, or clean latents of a canvas in pixels.
        done: views that have been painted.
    """

    sets: list[list[int]]
    grid: torch.Tensor
    border: torch.Tensor
    z: torch.Tensor
    views: torch.Tensor
    latents: torch.Tensor
    done: set[int] = field(default_factory=set)
    step: int = -1
    turn: _Turn | None = None


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


def _lean(table: StepTable) -> list[float]:
    """How far each step of DPM-Solver++(2M) extrapolates x0, in lengths of the step before it (Lu 2022, algorithm 2).

    ``D = x0 + (h / 2 h_before) (x0 - x0_before)``, h being steps of ``log(a/b)``; 0 where the solver is of first order:
    at both ends, and after a step of less than a quarter of its length (an outer time close to the grid's next; coarse
    grids towards the clean end), from which it would extrapolate too far.
    """
    h = (table.a / table.b).log().diff()
    lean = torch.zeros_like(table.a)
    lean[1:-1] = (h[1:] / (2 * h[:-1])).where(h[1:] <= 4 * h[:-1], 0.0)
    return [float(c) for c in lean]


def _painted(run: Run) -> torch.Tensor:
    """[N, 1, h, w], 1 where views show what has been painted, be it by others; beside the canvas, by themselves."""
    canvas, done, dtype, device = run.canvas, run.prepared.done, run.dtype, run.device
    if len(done) in (0, canvas.num_views):
        return torch.full(
            (canvas.num_views, 1, *run.prior.view_shape[1:]), float(bool(done)), dtype=dtype, device=device
        )
    # Where views show the canvas's negative, its ones are -1 in them.
    whole = torch.ones(canvas.num_views, 1, *canvas.view_shape, dtype=dtype, device=device)
    ones = run.shown(torch.ones(1, 1, *canvas.size, dtype=dtype, device=device), whole)
    own = _only(list(done), ones)
    seen = run.shown(canvas.merge(ones, own), own) * ones
    painted = (seen > 0.999).to(dtype)
    scale = painted.shape[-1] // run.prior.view_shape[-1]
    # A latent cell is painted if all its pixels are.
    return painted if scale == 1 else -torch.nn.functional.max_pool2d(-painted, scale)


def _only(views: list[int], like: torch.Tensor) -> torch.Tensor:
    """Weights [N, 1, h, w] of 1 for some views and 0 for the others."""
    weights = like.new_zeros(len(like), 1, *like.shape[2:])
    weights[views] = 1.0
    return weights


def _paint(run: Run, views: list[int], latents: torch.Tensor, pixels: torch.Tensor) -> None:
    """Merge some clean views, given in the prior's units and in the canvas's, over the canvas."""
    state = run.prepared
    # The others enter with weight 0, as what they show anyhow.
    state.views[views] = pixels
    state.done.update(views)
    state.z = run.canvas.merge(state.views, _only(views, state.views), previous=state.z)
    state.views = run.shown(state.z, state.views)
    if run.pixels:
        state.latents[views] = latents
    else:
        state.latents = state.views


def _heed(run: Run, latents: torch.Tensor) -> None:
    """Paint the views that a callback has replaced since the last step, [N, C, h, w] being all states now."""
    changed = (latents != run.prepared.latents).flatten(1).any(1)
    if bool(changed.any()):
        views = changed.nonzero()[:, 0].tolist()
        _paint(run, views, latents[changed], run.in_canvas_units(latents[changed]))
