"""StochSync at work in one run: its canvas, its sets of views, and the inner sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .. import ops
from ..diffusion import StepTable, solver_estimate
from ..run import Run
from ..scheduling import Work
from ..transfer import to_device
from .base import Bound

if TYPE_CHECKING:
    from .stochsync import StochSync


@dataclass
class _Turn:
    """One outer step under way.

    Attributes:
        active: its views.
        table: its inner steps, on the run's device.
        noise: [N, C, h, w].
        painted: [N, 1, h, w], 1 where a view shows what was painted before this step.
        inside: [N, 1, h, w], the sampler's part in the blend; None where the step does not blend.
        found: clean views by index, in the prior's units and in the canvas's.
    """

    active: frozenset[int]
    table: StepTable
    noise: torch.Tensor
    painted: torch.Tensor
    inside: torch.Tensor | None
    found: dict[int, list[torch.Tensor]] = field(default_factory=dict)


class BoundStochSync(Bound["StochSync"]):
    """What a run keeps between outer steps.

    Attributes:
        z: the canvas [1, C, H, W].
        shown: what the views show of it, in its units.
        latents: the run's states after the last step [N, C, h, w]: ``shown``, or clean latents of a canvas in pixels.
        done: views that have been painted.
    """

    def __init__(self, settings: StochSync, run: Run) -> None:
        super().__init__(settings, run)
        self._sets, steps = settings.sets_on(run.canvas), len(run.times)
        if steps < len(self._sets):
            raise ValueError(
                f"StochSync has {len(self._sets)} sets of views to work in turn but steps={steps}, so some would never "
                f"be painted: use steps={len(self._sets)} or more, or larger sets=."
            )
        channels = 3 if run.in_pixels else run.prior.view_shape[0]
        self.z = torch.zeros(1, channels, *run.canvas.size, dtype=run.dtype, device=run.device)
        self.shown = run.canvas.project(self.z)
        self.latents = self.z.new_zeros(run.canvas.num_views, *run.prior.view_shape)
        self.done: set[int] = set()
        # All inner times, on the CPU.
        self._grid = run.prior.steps(settings.inner_steps(run.num_inference_steps)).timesteps.cpu()
        self._border = self._ramps().to(self.z)
        self._step = -1
        self._turn: _Turn | None = None

    def advance(self, work: Work) -> None:
        """Sample the batch's views that are in the step's set; the others wait."""
        turn = self._begun(work[0][1])
        mine = [(i, k) for i, k in work if i in turn.active]
        if mine:
            x0 = self._sampled(mine, turn)
            pixels = self.run.in_canvas_units(x0)
            turn.found.update({i: pair for (i, _), *pair in zip(mine, x0, pixels, strict=True)})

    def synchronise(self, step: int) -> None:
        """Paint the set's clean views onto the canvas."""
        found = self._begun(step).found
        latents, pixels = (torch.stack(part) for part in zip(*found.values(), strict=True))
        self._paint(list(found), latents, pixels)
        self.run.states.replace_after(step, self.latents)

    def clean(self, step: int) -> torch.Tensor:
        """The states themselves, which are clean between outer steps."""
        return self.run.states.after(step)

    def compose(self, views: torch.Tensor) -> torch.Tensor:
        """The canvas itself."""
        self._apply_edits(views)
        return self.z

    def result(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The canvas, and what the views show of it, in the canvas's units."""
        return self.compose(views), self.shown

    def state_dict(self) -> dict[str, Any]:
        """The canvas and what has been painted on it; there is no step under way between steps."""
        return {"z": self.z, "shown": self.shown, "latents": self.latents, "done": sorted(self.done)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that canvas."""
        self.z, self.shown, self.latents = state["z"], state["shown"], state["latents"]
        self.done = set(state["done"])

    # ---- an outer step ----------------------------------------------------------------------------------------

    def _begun(self, step: int) -> _Turn:
        """The outer step under way."""
        if self._turn is None or self._step != step:
            self._turn, self._step = self._open(step), step
        return self._turn

    def _open(self, step: int) -> _Turn:
        """What the views of one outer step have in common; its noise is drawn here, whatever the batches."""
        run, settings, first = self.run, self.settings, step == 0
        if not first:
            self._apply_edits(run.states.after(step - 1))
        # The run's initial states are the first step's noise.
        noise = run.states.after(-1) if first else run.noise.views()
        t = run.times.host_times[step : step + 1]
        inner = torch.cat([t, self._grid[self._grid < t]])
        table = run.prior.schedule.table_at(inner, multistep=settings.solver == "dpm++")
        painted = self._painted()
        inside = None
        if not first and step >= len(run.times) - settings.blend_steps:
            inside = 1 - (1 - self._border) * painted
        members = frozenset(self._sets[step % len(self._sets)])
        return _Turn(members, table.to(run.device), noise, painted, inside)

    def _sampled(self, work: Work, turn: _Turn) -> torch.Tensor:
        """Clean views [B, C, h, w] from the canvas noised to the outer step's time."""
        run, table = self.run, turn.table
        rows = to_device(torch.tensor([i for i, _ in work]), run.device)
        clean, noise = self.shown[rows], turn.noise[rows]
        if run.in_pixels:
            clean = run.encode(clean) * turn.painted[rows]
        none, last = clean.new_zeros(len(work)), None

        def at(column: torch.Tensor, j: int) -> torch.Tensor:
            return column[j].expand(len(work))

        x = ops.ddim_step(clean, noise, at(table.a, 0), at(table.b, 0), none, None)
        for j in range(len(table)):
            a, b = at(table.a, j), at(table.b, j)
            x0, eps = own = run.network.predict_at(x, work, at(table.timesteps, j), a, b)
            if table.multistep and last is not None:
                ahead = at(table.extrapolation, j)
                x0, eps = solver_estimate(x0, eps, x, last, a, b, extrapolation=ahead)
            last = own.x0
            a_next, b_next = at(table.a_next, j), at(table.b_next, j)
            x = ops.ddim_step(x0, eps, a_next, b_next, none, None)
            if turn.inside is not None:
                x = torch.lerp(ops.ddim_step(clean, noise, a_next, b_next, none, None), x, turn.inside[rows])
        return x

    # ---- painting ---------------------------------------------------------------------------------------------

    def _ramps(self) -> torch.Tensor:
        """The sampler's part [h, w] in a blend: 0 at the view's border, 1 from ``blend_width`` of its side on."""
        ramps = []
        for side in self.run.prior.view_shape[1:]:
            cells = torch.arange(side, dtype=torch.float64)
            ramps.append((torch.minimum(cells, side - 1 - cells) / (self.settings.blend_width * side)).clamp(max=1.0))
        return torch.minimum(ramps[0][:, None], ramps[1])

    def _painted(self) -> torch.Tensor:
        """[N, 1, h, w], 1 where views show what has been painted, be it by others; beside the canvas, by themselves."""
        run, canvas = self.run, self.run.canvas
        if len(self.done) in (0, canvas.num_views):
            return torch.full((canvas.num_views, 1, *run.prior.view_shape[1:]), float(bool(self.done))).to(self.z)
        # Where views show the canvas's negative, its ones are -1 in them.
        whole = self.z.new_ones(canvas.num_views, 1, *canvas.view_shape)
        ones = run.project_over(self.z.new_ones(1, 1, *canvas.size), whole)
        own = _only(list(self.done), ones)
        seen = run.project_over(canvas.merge(ones, own), own) * ones
        painted = (seen > 0.999).to(run.dtype)
        scale = painted.shape[-1] // run.prior.view_shape[-1]
        # A latent cell is painted if all its pixels are.
        return painted if scale == 1 else -torch.nn.functional.max_pool2d(-painted, scale)

    def _paint(self, views: list[int], latents: torch.Tensor, pixels: torch.Tensor) -> None:
        """Merge some clean views, given in the prior's units and in the canvas's, over the canvas."""
        # The others enter with weight 0, as what they show anyhow.
        self.shown = self.shown.clone()  # a result that was handed out stays as it is
        self.shown[views] = pixels
        self.done.update(views)
        self.z = self.run.canvas.merge(self.shown, _only(views, self.shown), previous=self.z)
        self.shown = self.run.project_over(self.z, self.shown)
        if self.run.in_pixels:
            self.latents[views] = latents
        else:
            self.latents = self.shown

    def _apply_edits(self, latents: torch.Tensor) -> None:
        """Paint the views that a caller has replaced since the last step, [N, C, h, w] being all states now."""
        changed = (latents != self.latents).flatten(1).any(1)
        if bool(changed.any()):
            views = changed.nonzero()[:, 0].tolist()
            self._paint(views, latents[changed], self.run.in_canvas_units(latents[changed]))


def _only(views: list[int], like: torch.Tensor) -> torch.Tensor:
    """Weights [N, 1, h, w] of 1 for some views and 0 for the others."""
    weights = like.new_zeros(len(like), 1, *like.shape[2:])
    weights[views] = 1.0
    return weights
