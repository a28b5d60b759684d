"""The state of one run: what views look like at which step, what the prior was asked, what noise was drawn."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from . import conditions, ops
from .canvases.base import LinearCanvas, Neighbours
from .conditions import Condition
from .diffusion import StepTable
from .priors.base import Prediction, Prior
from .priors.reuse import DeepFeatures
from .query import Query
from .scheduling import Work
from .stats import Stats


class Address(NamedTuple):
    """Where a batch's views read their neighbours in a pool of states: `place, index, mask, period` of the ops."""

    place: torch.Tensor
    cells: torch.Tensor | None
    mask: torch.Tensor | None
    period: tuple[int, int]

    def rows(self, rows: torch.Tensor) -> Address:
        """The address of some of the batch's items."""
        cells, mask = (t if t is None else t[rows] for t in (self.cells, self.mask))
        return Address(self.place[rows], cells, mask, self.period)


@dataclass
class Run:
    """One run of N views over T steps; methods read and write view states through it.

    States live in two pools [S, C, h, w], one of noisy states and one of clean estimates, where ops read them in place.
    View i owns ``lifetimes[i]`` slots, used in turn, so views may be at different steps. Where some views show the
    canvas's negative, a second half of the pools holds all states with the other sign.

    Attributes:
        prior, canvas: what is sampled, and on what.
        table: per-step coefficients, float64, on the run's device (``timesteps`` too).
        cond, uncond: [N or 1, ...], tuples of such, or None, on the prior's device; guidance_scale as in ``sample``.
        sources: for each view the earlier views that it reads.
        order: views in work order.
        lifetimes: how many consecutive states of each view are remembered.
        dtype, device: of the states and the canvas (float32 or float64).
        prepared: what the method's ``begin`` returned.
        candidates: how many noises beside its own each step has for ``candidate_noise``; set in ``begin``.
        buckets: ascending batch sizes that the network is called with, smaller batches being padded; None: any size.
        num_inference_steps: as asked for; the table has as many steps, unless the method makes its own.
    """

    prior: Prior
    canvas: LinearCanvas
    table: StepTable
    cond: Condition | None
    uncond: Condition | None
    guidance_scale: float
    generator: torch.Generator | None
    sources: Sequence[Sequence[int]]
    order: Sequence[int]
    lifetimes: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    stats: Stats = field(default_factory=Stats)
    prepared: Any = None
    candidates: int = 0
    num_inference_steps: int = 0
    buckets: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self.steps = len(self.table)
        self.table = self.table.to(self.device)
        lives = torch.tensor(list(self.lifetimes))
        self._lives, self._first = lives, lives.cumsum(0) - lives
        self._slots, self._signed = int(lives.sum()), self.canvas.signs is not None
        shape = (self._slots * (2 if self._signed else 1), *self.prior.view_shape)
        self.pool_x = torch.zeros(shape, dtype=self.dtype, device=self.device)
        # Clean estimates are kept only where views read one another.
        self.pool_x0 = self.pool_x.new_zeros(shape if any(self.sources) else (0, *shape[1:]))
        self._batch: Work | None = None
        self._batch_steps = torch.zeros(0, dtype=torch.long)
        self._noise: dict[int, list[torch.Tensor]] = {}
        self._noise_readers: dict[int, int] = {}
        self._drawn = 0
        self._stochastic = self.table.stochastic
        self._started = time.perf_counter()
        if self.prior.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.prior.device)

    @property
    def pixels(self) -> bool:
        """Whether the canvas is in pixels while the prior's views are latents."""
        return self.canvas.units == "pixels" and getattr(self.prior, "scale", 1) > 1

    # ---- states -----------------------------------------------------------------------------------------------

    def start(self, views: torch.Tensor) -> None:
        """Set the initial noisy views [N, C, h, w]."""
        self.replace_after(-1, views)

    def slots(self, views: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
        """Where the pools hold each view's state before a step, int64 [len(views)], on the CPU."""
        rows = torch.tensor(list(views))
        return self._first[rows] + torch.tensor(list(steps)) % self._lives[rows]

    def x0(self, view: int, step: int) -> torch.Tensor:
        """Clean estimate [C, h, w] that a view had at ``step``."""
        return self.pool_x0[int(self.slots([view], [step]))]

    def states(self, work: Work) -> torch.Tensor:
        """Noisy states [B, C, h, w] before their steps."""
        return self.pool_x[self.to_device(self.slots(*zip(*work, strict=True)))]

    def after(self, step: int) -> torch.Tensor:
        """All views [N, C, h, w] after ``step``, once all have done it."""
        return self.states([(i, step + 1) for i in range(self.canvas.num_views)])

    def replace_after(self, step: int, views: torch.Tensor) -> None:
        """Overwrite all views [N, C, h, w] after ``step`` (methods that merge; callbacks)."""
        count = self.canvas.num_views
        self._store(self.pool_x, self.slots(range(count), [step + 1] * count), views)

    def advance(self, work: Work, x_next: torch.Tensor, x0: torch.Tensor) -> None:
        """Store the result of a batch: states after the step and clean estimates at it, [B, C, h, w] each."""
        views, steps = zip(*work, strict=True)
        self._store(self.pool_x, self.slots(views, [k + 1 for k in steps]), x_next)
        if len(self.pool_x0):
            self._store(self.pool_x0, self.slots(views, steps), x0)
        # Noise goes when all views have done its step, and not when they read it: a batch that turns out too large for
        # the memory reads it again.
        for k in steps:
            if k in self._noise_readers:
                self._noise_readers[k] -= 1
                if not self._noise_readers[k]:
                    del self._noise[k], self._noise_readers[k]

    def _store(self, pool: torch.Tensor, slots: torch.Tensor, states: torch.Tensor) -> None:
        slots = self.to_device(slots)
        pool[slots] = states
        if self._signed:
            pool[slots + self._slots] = -states

    def address(self, work: Work, neighbours: Neighbours) -> Address:
        """Where the items read their neighbours' states of their own step, in either pool."""
        views, steps = zip(*work, strict=True)
        shifts = [neighbours.shift[i] for i in views]
        if None not in shifts:
            sources, dy, dx = torch.tensor(shifts).unbind(1)
            slots = torch.where(sources >= 0, self.slots(sources.clamp_min(0).tolist(), steps), sources)
            return Address(self.to_device(torch.stack([slots, dy, dx], 1)), None, None, neighbours.period)
        rows = torch.tensor(views)
        owner, cell = neighbours.owner[rows], neighbours.cell[rows]
        # The slot of every view at every item's step: tables [B, N], looked up by the owner of each cell.
        slots = self._first + torch.tensor(steps)[:, None] % self._lives
        if neighbours.signs is not None:
            opposite = neighbours.signs * neighbours.signs[rows][:, None] < 0
            slots = slots + self._slots * opposite
        slot = slots.gather(1, owner.clamp_min(0).flatten(1)).reshape(owner.shape)
        index = torch.where(owner >= 0, slot * math.prod(owner.shape[1:]) + cell, owner)
        place = torch.zeros(len(work), 3, dtype=torch.long)
        mask = None
        if neighbours.weight is not None:
            mask = self.to_device(neighbours.weight[rows][:, None]).to(self.dtype)
        return Address(self.to_device(place), self.to_device(index), mask, (0, 0))

    def to_device(self, indices: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
        """Indices made on the host, where the states are; a GPU gets them without the host waiting for it."""
        device = device or self.device
        if device.type != "cuda":
            return indices.to(device)
        return indices.pin_memory().to(device, non_blocking=True)

    # ---- coefficients, noise, network -------------------------------------------------------------------------

    def steps_of(self, work: Work) -> torch.Tensor:
        """The items' steps, int64 [B], on the run's device; sent there once for a batch."""
        if self._batch is not work:
            self._batch, self._batch_steps = work, self.to_device(torch.tensor([k for _, k in work]))
        return self._batch_steps

    def at(self, name: str, work: Work) -> torch.Tensor:
        """Column ``name`` of the step table for each item of a batch, [B], float64."""
        return getattr(self.table, name)[self.steps_of(work)]

    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal noise from the run's generator, drawn where and in what diffusers would draw it."""
        half = self.prior.dtype in (torch.float16, torch.bfloat16)
        device = self.generator.device if self.generator is not None else self.device
        dtype = self.prior.dtype if half else self.dtype
        return torch.randn(tuple(shape), generator=self.generator, device=device, dtype=dtype).to(
            self.device, self.dtype
        )

    def view_noise(self) -> torch.Tensor:
        """Noise [N, C, h, w] for all views: one canvas noise projected, or drawn view by view where that is not white.

        Latents have no noise in common with a canvas in pixels.
        """
        c, h, w = self.prior.view_shape
        if self.pixels or self.canvas.whiteness == "none":
            return self.draw((self.canvas.num_views, c, h, w))
        return self.canvas.project_noise(self.draw((1, c, *self.canvas.size)))

    def noise(self, work: Work) -> torch.Tensor | None:
        """Noise [B, C, h, w] of the items' steps: crops of one canvas noise a step, drawn in step order."""
        if not self._stochastic and not self.candidates:
            return None
        self._draw_until(max(k for _, k in work))
        return torch.stack([self._noise[k][-1][i] for i, k in work]) if self._stochastic else None

    def candidate_noise(self, work: Work, candidate: int) -> torch.Tensor:
        """As ``noise``: one more canvas noise a step for each candidate, from 0."""
        self._draw_until(max(k for _, k in work))
        return torch.stack([self._noise[k][candidate][i] for i, k in work])

    def _draw_until(self, last: int) -> None:
        """Draw all noises of the steps up to ``last``, so that their order does not depend on the order of work."""
        while self._drawn <= last:
            self._noise[self._drawn] = [self.view_noise() for _ in range(self.candidates + self._stochastic)]
            self._noise_readers[self._drawn] = self.canvas.num_views
            self._drawn += 1

    def prepare_conditions(self) -> None:
        """Let a prior that has something to make of the conditions, once a run, do so."""
        prepare = getattr(self.prior, "prepare_conditions", None)
        if prepare is not None:
            self.cond, self.uncond = prepare(self.cond, self.uncond, self.canvas.num_views)

    def query(self, work: Work) -> Query:
        """What the network is to be asked about a batch of work."""
        return self._query([i for i, _ in work], self.at("timesteps", work))

    def predict(self, x: torch.Tensor, work: Work) -> Prediction:
        """The prior's estimates at x [B, C, h, w] for the batch's views and times; every row is counted."""
        return self.query(work).predict(x)

    def predict_at(self, x: torch.Tensor, views: list[int], t: torch.Tensor) -> Prediction:
        """As ``predict``, at times t [B] that need not be the table's."""
        return self._query(views, t).predict(x)

    def shown(self, z: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """What the views show of a clean canvas [1, C, H, W]; beside it they keep their own [N, C, h, w]."""
        views, foreground = self.canvas.project(z), self.canvas.foreground
        return views if foreground is None else torch.where(self.to_device(foreground, z.device), views, own)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] to the prior's sample units, in the states' precision and place."""
        return self.prior.encode(pixels.to(self.prior.device)).to(self.device, self.dtype)

    def in_canvas_units(self, x0: torch.Tensor) -> torch.Tensor:
        """Clean views [B, C, h, w] in the canvas's units; what the decoder puts beyond white and black is no pixel."""
        return self.decode(x0).to(self.dtype).clamp(-1.0, 1.0) if self.pixels else x0

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Clean views [B, C, h, w] to pixels, in the decoder's precision, where the states are."""
        return self.prior.decode(x0.to(self.prior.device)).to(self.device)

    def deep_features(self) -> DeepFeatures:
        """A new, empty keeper of the network's deep features, for ``Query.evaluate``.

        Raises:
            ValueError: the prior's network has none that are known.
        """
        keeper = getattr(self.prior, "deep_features", None)
        if keeper is None:
            raise ValueError(
                f"feature_reuse=True needs a prior whose network's levels are known (a pipeline with a UNet), and "
                f"{type(self.prior).__name__} is none: use feature_reuse=False."
            )
        return keeper()

    def step(
        self,
        prediction: Prediction,
        work: Work,
        pull: torch.Tensor | None = None,
        x: torch.Tensor | None = None,
        address: Address | None = None,
    ) -> torch.Tensor:
        """The step of the batch with its own times, [B, C, h, w].

        With ``pull`` [B] each view is also drawn to its neighbours' noisy states: ``- pull M (x - y)``.
        """
        a_next, direction, sigma = (self.at(name, work) for name in ("a_next", "direction", "sigma"))
        noise = self.noise(work)
        if pull is None or address is None:
            return ops.ddim_step(prediction.x0, prediction.eps, a_next, direction, sigma, noise)
        return ops.ddim_step(
            prediction.x0, prediction.eps, a_next, direction, sigma, noise, pull, x, self.pool_x, *address
        )

    def _query(self, views: list[int], t: torch.Tensor) -> Query:
        cond, uncond = conditions.both(lambda member: self._rows(member, views), self.cond, self.uncond)
        return Query(self.prior, self.stats, self.buckets, self.guidance_scale, t, cond, uncond)

    def _rows(self, member: torch.Tensor, views: list[int]) -> torch.Tensor:
        if member.shape[0] == 1:
            return conditions.expand(member, len(views))
        return member[self.to_device(torch.tensor(views), member.device)]

    def close(self) -> Stats:
        """Finish the account: time and peak memory."""
        if self.prior.device.type == "cuda":
            torch.cuda.synchronize(self.prior.device)
            self.stats.peak_memory = torch.cuda.max_memory_allocated(self.prior.device)
        else:
            self.stats.peak_memory = _peak_resident_bytes()
        self.stats.seconds = time.perf_counter() - self._started
        return self.stats


def _peak_resident_bytes() -> int | None:
    """The process's peak resident memory; None on systems that do not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
