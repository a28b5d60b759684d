"""The state of one run: what views look like at which step, what the prior was asked, what noise was drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import ops
from .canvases.base import Canvas
from .diffusion import StepTable
from .priors.base import Prediction, Prior
from .scheduling import Work


@dataclass
class Stats:
    """What a run spent.

    Attributes:
        evaluations: view-evaluations of the network (rows of its batches; guidance's two halves counted as two).
        gradients: rows that were also differentiated backward to their input.
        calls: batched network calls.
        padded: rows added only to keep batch shapes fixed (not in ``evaluations``).
        seconds: wall clock of the run.
        peak_memory: bytes; the device's peak allocation during the run on CUDA, the process's peak so far on a CPU
            (None where the system does not tell).
    """

    evaluations: int = 0
    gradients: int = 0
    calls: int = 0
    padded: int = 0
    seconds: float = 0.0
    peak_memory: int | None = None


@dataclass
class Run:
    """One run of N views over T steps; methods read and write view states through it.

    States are kept by (view, step) only as long as somebody still reads them, so views may be at different steps.

    Attributes:
        prior, canvas: what is sampled, and on what.
        table: per-step coefficients, float64, on the run's device (``timesteps`` too).
        cond, uncond: [N or 1, ...] or None; guidance_scale as in ``sample``.
        sources: for each view the earlier views that it reads.
        order: views in work order.
        dtype, device: of the states (float32 or float64).
        keep_steps: keep states after a step until ``forget``, for a callback.
        prepared: what the method's ``begin`` returned.
    """

    prior: Prior
    canvas: Canvas
    table: StepTable
    cond: torch.Tensor | None
    uncond: torch.Tensor | None
    guidance_scale: float
    generator: torch.Generator | None
    sources: Sequence[Sequence[int]]
    order: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    keep_steps: bool = False
    stats: Stats = field(default_factory=Stats)
    prepared: Any = None

    def __post_init__(self) -> None:
        self.steps = len(self.table)
        self.table = replace(
            self.table, **{name: getattr(self.table, name).to(self.device) for name in self.table.__dataclass_fields__}
        )
        self.readers = [sum(i in s for s in self.sources) for i in range(self.canvas.num_views)]
        self._x: dict[tuple[int, int], torch.Tensor] = {}
        self._x0: dict[tuple[int, int], torch.Tensor] = {}
        self._pending: dict[tuple[int, int], int] = {}
        self._noise: dict[int, torch.Tensor] = {}
        self._noise_readers: dict[int, int] = {}
        self._drawn = 0
        self._stochastic = self.table.stochastic
        self._started = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    # ---- states -----------------------------------------------------------------------------------------------

    def start(self, views: torch.Tensor) -> None:
        """Set the initial noisy views [N, C, h, w]."""
        for i, view in enumerate(views):
            self._x[i, 0] = view

    def x(self, view: int, step: int) -> torch.Tensor:
        """Noisy state [C, h, w] of a view before ``step``."""
        return self._x[view, step]

    def x0(self, view: int, step: int) -> torch.Tensor:
        """Clean estimate [C, h, w] that a view had at ``step``."""
        return self._x0[view, step]

    def states(self, work: Work) -> torch.Tensor:
        """Noisy states [B, C, h, w] before their steps."""
        return torch.stack([self._x[item] for item in work])

    def after(self, step: int) -> torch.Tensor:
        """All views [N, C, h, w] after ``step``."""
        return torch.stack([self._x[i, step + 1] for i in range(self.canvas.num_views)])

    def replace_after(self, step: int, views: torch.Tensor) -> None:
        """Overwrite all views [N, C, h, w] after ``step`` (methods that merge; callbacks)."""
        for i, view in enumerate(views):
            self._x[i, step + 1] = view

    def advance(self, work: Work, x_next: torch.Tensor, x0: torch.Tensor) -> None:
        """Store the result of a batch: states after the step and clean estimates at it, [B, C, h, w] each."""
        for item, after, clean in zip(work, x_next, x0, strict=True):
            view, step = item
            self._x[view, step + 1] = after
            if self.readers[view]:
                self._x0[item] = clean
            # A state is dropped once its own view and all who read it have passed it.
            self._pending[item] = self.readers[view]
            for source in self.sources[view]:
                self._pending[source, step] -= 1
                self._release((source, step))
            self._release(item)

    def _release(self, item: tuple[int, int]) -> None:
        if self._pending[item] == 0:
            del self._pending[item]
            self._x0.pop(item, None)
            if not self.keep_steps:
                self._x.pop(item, None)

    def forget(self, step: int) -> None:
        """Drop states before ``step`` that were kept for a callback."""
        for i in range(self.canvas.num_views):
            if (i, step) not in self._pending:
                self._x.pop((i, step), None)

    # ---- coefficients, noise, network -------------------------------------------------------------------------

    def at(self, name: str, work: Work) -> torch.Tensor:
        """Column ``name`` of the step table for each item of a batch, [B], float64."""
        steps = torch.tensor([k for _, k in work], device=self.device)
        return getattr(self.table, name)[steps]

    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal noise from the run's generator, drawn where and in what diffusers would draw it."""
        half = self.prior.dtype in (torch.float16, torch.bfloat16)
        device = self.generator.device if self.generator is not None else self.device
        dtype = self.prior.dtype if half else self.dtype
        return torch.randn(tuple(shape), generator=self.generator, device=device, dtype=dtype).to(
            self.device, self.dtype
        )

    def noise(self, work: Work) -> torch.Tensor | None:
        """Noise [B, C, h, w] of the items' steps: crops of one canvas noise a step, drawn in step order."""
        if not self._stochastic:
            return None
        last = max(k for _, k in work)
        while self._drawn <= last:
            canvas_noise = self.draw((1, self._x[work[0]].shape[0], *self.canvas.size))
            self._noise[self._drawn] = self.canvas.project(canvas_noise)
            self._noise_readers[self._drawn] = self.canvas.num_views
            self._drawn += 1
        noise = torch.stack([self._noise[k][i] for i, k in work])
        for _, k in work:
            self._noise_readers[k] -= 1
            if not self._noise_readers[k]:
                del self._noise[k], self._noise_readers[k]
        return noise

    def predict(self, x: torch.Tensor, work: Work) -> Prediction:
        """The prior's estimates at x [B, C, h, w] for the batch's views and times; every row is counted."""
        views = [i for i, _ in work]
        cond, uncond = self._rows(self.cond, views), self._rows(self.uncond, views)
        rows = len(work) * (1 if uncond is None else 2)
        self.stats.calls += 1
        self.stats.evaluations += rows
        return self.prior.predict(x, self.at("timesteps", work), cond, uncond, self.guidance_scale)

    def pullback(
        self, x: torch.Tensor, prediction: Prediction, g_x0: torch.Tensor, g_eps: torch.Tensor
    ) -> torch.Tensor:
        """Vector-Jacobian product of a prediction made at leaf ``x``: cotangents [B, C, h, w] to a gradient on x.

        In half precision the cotangents of each view are scaled to at most 1, since the raw network's backward
        overflows otherwise, and the gradient is scaled back in the states' precision.
        """
        self.stats.gradients += len(x) * (1 if self.uncond is None else 2)
        if self.prior.dtype not in (torch.float16, torch.bfloat16):
            return _vector_jacobian(prediction, x, (g_x0, g_eps))
        peak = torch.maximum(g_x0.abs().flatten(1).amax(1), g_eps.abs().flatten(1).amax(1))
        scale = peak.clamp_min(torch.finfo(self.dtype).tiny).reshape(-1, *([1] * (x.ndim - 1)))
        return _vector_jacobian(prediction, x, (g_x0 / scale, g_eps / scale)) * scale

    def step(self, prediction: Prediction, work: Work) -> torch.Tensor:
        """The plain step of the batch with its own times, [B, C, h, w]."""
        a_next, direction, sigma = (self.at(name, work) for name in ("a_next", "direction", "sigma"))
        return ops.ddim_step(prediction.x0, prediction.eps, a_next, direction, sigma, self.noise(work))

    def _rows(self, condition: torch.Tensor | None, views: list[int]) -> torch.Tensor | None:
        if condition is None:
            return None
        if condition.shape[0] == 1:
            return condition.expand(len(views), *condition.shape[1:])
        return condition[torch.tensor(views, device=condition.device)]

    def close(self) -> Stats:
        """Finish the account: time and peak memory."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.stats.peak_memory = torch.cuda.max_memory_allocated(self.device)
        else:
            self.stats.peak_memory = _peak_resident_bytes()
        self.stats.seconds = time.perf_counter() - self._started
        return self.stats


def _vector_jacobian(
    prediction: Prediction, x: torch.Tensor, cotangents: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """``autograd.grad`` that takes an estimate which does not depend on ``x`` for the constant that it is."""
    pairs = [(p, g) for p, g in zip(prediction, cotangents, strict=True) if p.requires_grad]
    if not pairs:
        return torch.zeros_like(x)
    return torch.autograd.grad([p for p, _ in pairs], x, [g for _, g in pairs])[0]


def _peak_resident_bytes() -> int | None:
    """The process's peak resident memory; None on systems that do not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
