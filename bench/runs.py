"""The cases of `bench/test_runs.py`: whole runs on a row of windows, ours and the references', of the same picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import fastsync as fs
from bench import reference
from bench.models import load
from fastsync.priors import Runtime
from fastsync.stats import Stats

REFERENCE, ALONE = "reference", "network alone"
STOCHSYNC_TIMES = [900, 700, 500, 300]
SYNCVC = (REFERENCE, "sequential", "wavefront", ALONE)
COMPILED = (REFERENCE, "wavefront", "wavefront, regional")
MULTIDIFFUSION = (REFERENCE, "reference, batched", "batched", "batched, regional", ALONE)
OTHERS = (REFERENCE, "batched")


@dataclass(frozen=True)
class Race:
    """Runs of one method on one canvas; the variants are named ``ORDER``, ``ORDER, COMPILE`` or as above.

    ``overlap`` is the share of a window that its neighbour shares. ``figure`` names the table that the race is for,
    ``note`` tells two races apart.
    """

    method: str
    model: str
    views: int
    steps: int
    variants: tuple[str, ...]
    dtype: torch.dtype = torch.float32
    overlap: float = 0.25
    figure: str = "methods"
    note: str = ""

    @property
    def name(self) -> str:
        precision = str(self.dtype).removeprefix("torch.") + self.note
        return f"{self.method} | {self.model}, {self.views} windows | {precision}"


CPU = (
    Race("SyncVC", "scenes", 8, 10, SYNCVC),
    Race("SyncVC", "scenes", 8, 20, COMPILED, note=", compiled"),
    Race("MultiDiffusion", "scenes", 8, 10, MULTIDIFFUSION),
    Race("SyncTweedies", "scenes", 8, 10, OTHERS),
    Race("SyncSDE", "scenes", 8, 10, OTHERS),
    Race("SyncDiffusion", "scenes", 8, 4, OTHERS),
    Race("StochSync", "scenes", 8, 10, OTHERS, overlap=0.5),
    *(Race("SyncVC", "scenes", n, 4, (REFERENCE, "wavefront"), figure="scaling") for n in (1, 2, 4, 16, 25)),
)
HALF = torch.float16
# 2048 x 512 pixels are five windows of SD that share a quarter, or 25 at MultiDiffusion's published stride of 8 cells.
CUDA = (
    Race("SyncVC", "SD 2.1", 5, 10, (REFERENCE, "wavefront", ALONE), HALF),
    Race("MultiDiffusion", "SD 2.1", 25, 10, (REFERENCE, "reference, batched", "batched", ALONE), HALF, overlap=0.875),
    # What compiles for minutes has races of its own: nothing else waits for it.
    Race("SyncVC", "SD 2.1", 5, 10, COMPILED, HALF, note=", compiled"),
    Race("SyncVC", "SDXL", 5, 10, (REFERENCE, "wavefront"), HALF),
    Race("SyncVC", "SANA 1.6B", 5, 10, ("sequential", "wavefront", ALONE), torch.bfloat16),
    Race("SyncVC", "SD 1.5", 5, 10, ("wavefront", ALONE), torch.bfloat16),
    # In half precision pictures are not compared.
    Race("SyncVC", "SD 1.5", 3, 2, (REFERENCE, "wavefront")),
    *(Race("SyncVC", "SD 2.1", n, 4, ("wavefront",), HALF, figure="scaling") for n in (1, 2, 10, 25)),
    # One batch size, forward only: SyncVC's sizes, forward and backward, take "max" longer than a machine is lent.
    Race(
        "MultiDiffusion",
        "SD 2.1",
        25,
        10,
        ("batched", "batched, regional", "batched, max"),
        HALF,
        0.875,
        note=", compiled",
    ),
)
RACES = {"cpu": CPU, "cuda": CUDA}


@dataclass
class Figures:
    """What one run spent: network rows, those gone back through, seconds in the network (None where not watched)."""

    rows: int = 0
    gradients: int = 0
    calls: int = 0
    padded: int = 0
    network_seconds: float | None = None


class Course:
    """What all variants of a race share: network, canvas and noise."""

    def __init__(self, race: Race, device: str) -> None:
        self.race, self.device = race, device
        self.network = load(race.model, device, race.dtype)
        c, h, w = self.network.view_shape
        stride = w - int(race.overlap * w)
        self.canvas = fs.WideCanvas((h, w + (race.views - 1) * stride), (h, w), stride)
        generator = torch.Generator().manual_seed(0)
        self.noise = [torch.randn(1, c, *self.canvas.size, generator=generator).to(device) for _ in STOCHSYNC_TIMES]
        self._runtimes: dict[str, Runtime] = {}  # what is compiled once serves all rounds

    def run(self, variant: str, steps: int | None = None) -> tuple[Tensor | None, Figures]:
        """The picture that a variant makes (none by ``ALONE``), and what it spent."""
        steps = steps or self.race.steps
        if variant.startswith(REFERENCE):
            return self._reference(variant, steps)
        if variant == ALONE:
            return self._alone()
        order, _, compile = variant.partition(", ")
        watch = NetworkWatch(self.device) if self.race.method != "SyncDiffusion" else None
        out = self._sample(self.network.prior(), order, steps, compile, watch)
        stats: Stats = out.stats
        seconds = watch.seconds() if watch else None
        return out.canvas, Figures(stats.evaluations, stats.gradients, stats.calls, stats.padded, seconds)

    def _sample(
        self, prior: fs.FunctionPrior, order: str, steps: int, compile: str = "", watch: NetworkWatch | None = None
    ) -> fs.SyncOutput:
        network = self.network
        if compile:
            if compile not in self._runtimes:
                self._runtimes[compile] = Runtime([network.module], compile=compile)  # type: ignore[arg-type]
            prior.runtime = self._runtimes[compile]
        stochastic = self.race.method == "StochSync"
        with watch.on(prior) if watch else nullcontext():
            return fs.sample(
                prior,
                self.canvas,
                self._method(),
                cond=network.cond,
                uncond=network.uncond,
                guidance_scale=network.guidance_scale,
                num_inference_steps=steps,
                latents=None if stochastic else self.noise[0],
                generator=torch.Generator().manual_seed(0),
                order=order,  # type: ignore[arg-type]
                fixed_batches=bool(compile),
            )

    def _method(self) -> fs.Method:
        if self.race.method == "SyncDiffusion":
            return fs.SyncDiffusion(perceptual=mean_colour, decode=self.network.decode)
        if self.race.method == "StochSync":
            first, last = STOCHSYNC_TIMES[0], STOCHSYNC_TIMES[-1]
            return fs.StochSync(steps=len(STOCHSYNC_TIMES), start=first, stop=last, blend_steps=0)
        return getattr(fs, self.race.method)()

    def _reference(self, variant: str, steps: int) -> tuple[Tensor, Figures]:
        network, z = self.network, self.noise[0]
        model = reference.Model(network, network.scheduler, network.cond, network.uncond, network.guidance_scale)
        place = reference.Windows(self.canvas.origins, self.canvas.window, self.canvas.size)
        name = self.race.method.lower() + ("_batched" if variant.endswith("batched") else "")
        if name == "stochsync":
            picture = reference.stochsync(model, self.noise.__getitem__, place, steps, STOCHSYNC_TIMES)
        elif name in ("syncsde", "syncvc"):
            views = torch.cat([place.view(z, i) for i in range(len(place))])
            picture, _ = getattr(reference, name)(model, views, place, steps)
        else:
            extra: tuple[Any, ...] = (network.decode, mean_colour) if name == "syncdiffusion" else ()
            picture = getattr(reference, name)(model, z, place, steps, *extra)
        return picture, Figures(model.rows)

    def _alone(self) -> tuple[None, Figures]:
        """The network calls of ours, and nothing else: no sampler can be faster on the same rows."""
        network, figures = self.network, Figures()
        for rows, gradient in self._calls:
            x = self._inputs[:rows].requires_grad_(gradient)
            with torch.set_grad_enabled(gradient):
                raw = network(x, self._times[:rows], network.cond.expand(rows, -1, -1))
            if gradient:
                torch.autograd.grad(raw, x, raw.detach())
            figures.rows += rows
            figures.gradients += rows * gradient
            figures.calls += 1
        return None, figures

    @cached_property
    def _calls(self) -> list[tuple[int, bool]]:
        """Rows of each network call of ours, and whether it is gone back through; asked of a network without work."""
        calls: list[tuple[int, bool]] = []

        def network(x: Tensor, t: Tensor, cond: Any) -> Tensor:
            calls.append((len(x), x.requires_grad))
            return 0.1 * x

        order = next(variant.partition(",")[0] for variant in self.race.variants if not variant.startswith(REFERENCE))
        if "wavefront" in self.race.variants:
            order = "wavefront"
        prior = self.network.prior()
        prior.eps_fn = network
        self._sample(prior, order, self.race.steps)
        return calls

    @cached_property
    def _inputs(self) -> Tensor:
        most = max(rows for rows, _ in self._calls)
        return torch.randn(most, *self.network.view_shape, device=self.device).to(self.race.dtype)

    @cached_property
    def _times(self) -> Tensor:
        return torch.full((len(self._inputs),), 500, device=self.device)


class NetworkWatch:
    """Seconds that a run passes in its prior's network, forward and backward."""

    def __init__(self, device: str) -> None:
        self._mark: Callable[[], Any] = _event if device == "cuda" else time.perf_counter
        self._spans: list[tuple[Any, Any]] = []

    @contextmanager
    def on(self, prior: fs.FunctionPrior) -> Iterator[None]:
        """Watches the prior's calls, and all of autograd's."""
        prior.network = self._timed(prior.network)  # type: ignore[method-assign]
        with patch("torch.autograd.grad", self._timed(torch.autograd.grad)):
            yield

    def seconds(self) -> float:
        """The sum of all calls; waits for the GPU."""
        if not self._spans or isinstance(self._spans[0][0], float):
            return sum(end - begin for begin, end in self._spans)
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self._spans) / 1000

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            begin = self._mark()
            result = function(*arguments, **keywords)
            self._spans.append((begin, self._mark()))
            return result

        return timed


def mean_colour(a: Tensor, b: Tensor) -> Tensor:
    """SyncDiffusion's perceptual distance here: any will do to time the method."""
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()


def difference(picture: Tensor, right: Tensor) -> float:
    """Relative norm of the difference of two pictures."""
    return float((picture.double() - right.double()).norm() / right.double().norm())


def named(races: Sequence[Race]) -> dict[str, Race]:
    """Races by name."""
    return {race.name: race for race in races}


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
