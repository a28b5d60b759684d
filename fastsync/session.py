"""``Session``: a run that is taken step by step, in a loop of the caller's own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from . import scheduling
from .batches import Batches
from .canvases.base import Canvas
from .conditions import Conditions
from .errors import check_choice, check_device, check_int, check_tensor, shape_text, shown
from .guidance import Guidance
from .memory import begin_peak, peak_memory
from .methods.base import Method, plain
from .priors.base import Prior
from .resuming import copied, places_of
from .run import Network, Noise, Run, States, Stepper, Timetable
from .sampling_checks import (
    check_generator,
    check_noise,
    check_parts,
    check_start,
    check_table,
    check_view_shape,
    checked_conditions,
    initial_views,
    merging,
    state_dtype,
)
from .stats import Stats

_FORMAT = 1  # of state_dict


@dataclass(frozen=True)
class SyncOutput:
    """The result of a run.

    Attributes:
        canvas: [1, C, H, W], the merged result in the prior's sample units (in pixels if the canvas is).
        views: [N, C, h, w], the final views, in the same units.
        stats: what the run spent.
        solver: what took the steps, e.g. ``"ddim"`` or ``"dpmsolver++(2M)"``.
    """

    canvas: torch.Tensor
    views: torch.Tensor
    stats: Stats
    solver: str


class SessionState:
    """All views after a step, to be read before the session takes the next one.

    Attributes:
        step: from 0.
        t: the step's time, as the scheduler has it.
    """

    def __init__(self, session: Session, step: int) -> None:
        self.step, self.t = step, session.run.times.host_times[step]
        self._session = session

    @property
    def views(self) -> torch.Tensor:
        """Noisy views [N, C, h, w] after the step, a copy. Assign a tensor of this shape to replace them."""
        return self._session.noisy(self.step)

    @views.setter
    def views(self, views: torch.Tensor) -> None:
        self._session.replace(self.step, views)

    @property
    def x0(self) -> torch.Tensor:
        """Clean estimates [N, C, h, w] at the step, as the method left them: for previews."""
        return self._session.clean(self.step)


class Session:
    """One run of :func:`fastsync.sample`, taken step by step.

    ::

        session = fs.Session(prior, canvas, fs.SyncVC(), cond=cond, uncond=uncond, num_inference_steps=30)
        for state in session:
            show(prior.decode(state.x0))
        result = session.result()

    Between two steps the prior's networks are as their owner left them, and so is the caller's generator but for what
    has been drawn. ``with session:`` around the loop keeps the networks switched for sampling in between. That saves
    some milliseconds a step, and more where ``channels_last`` copies all convolution weights at each switch.

    Args:
        prior, canvas, method, cond, uncond, guidance_scale, num_inference_steps, eta, latents, start, generator,
            max_batch, fixed_batches, canvas_device, progress: as in :func:`fastsync.sample`.
        order: likewise; None takes the fastest order in which all views are at one step after each step, so that they
            may be replaced.
        previews: keep what ``state.views`` and ``state.x0`` need. False saves memory, and lets ``order=None`` be the
            wavefront; states then tell ``step`` and ``t`` only.

    Attributes:
        run: the parts of the run (:class:`fastsync.run.Run`).

    Raises:
        ValueError, TypeError: bad input, before any network call.
    """

    def __init__(
        self,
        prior: Prior,
        canvas: Canvas,
        method: Method,
        *,
        cond: torch.Tensor | Conditions | Mapping[str, Any] | None = None,
        uncond: torch.Tensor | Conditions | Mapping[str, Any] | None = None,
        guidance_scale: float | Guidance = 7.5,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        latents: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        order: scheduling.Order | None = None,
        max_batch: int | Literal["auto"] | None = None,
        fixed_batches: bool = False,
        canvas_device: torch.device | str | None = None,
        progress: bool = False,
        previews: bool = True,
    ) -> None:
        check_parts(prior, canvas, method)
        dtype = state_dtype(prior, cond, latents, start)
        canvas = merging(canvas, method)
        check_view_shape(prior, canvas, method)
        check_start(canvas, prior, method, start)
        guidance = Guidance.of(guidance_scale)
        given, given_uncond = checked_conditions(prior, canvas, cond, uncond, guidance)
        check_generator(generator)
        if isinstance(max_batch, str) and max_batch != "auto":
            raise ValueError(f"max_batch must be a whole number, 'auto' or None, got {shown(max_batch)}.")
        self._batches = Batches(max_batch == "auto", prior, method)
        self._max_batch = max_batch if max_batch in (None, "auto") else check_int("max_batch", max_batch)
        most = None if isinstance(self._max_batch, str) else self._max_batch
        self.order = _checked_order(order, method, previews)
        check_noise(canvas, method, eta)
        table = method.table(prior, num_inference_steps, eta)
        check_table(prior, canvas, table)
        views = method.order_of_views(canvas)
        sources = method.sources(canvas, views)
        level = scheduling.levels(sources, views)
        device = prior.device if canvas_device is None else check_device("canvas_device", canvas_device)
        self.method, self._previews, self._begins = method, previews, "noise" if start is None else "noised views"
        self._plan = list(scheduling.plan(self.order, views, level, len(table), most))
        with self._counted(stats := Stats()), _plain():
            times = Timetable(table, device)
            lifetimes = scheduling.lifetimes(self.order, sources, level, keep=previews)
            states = States(
                prior.view_shape,
                lifetimes,
                # Where views read one another's, where a solver looks back, and for previews.
                keeps_clean=previews or table.multistep or any(sources),
                signed=canvas.signs is not None,
                dtype=dtype,
                device=device,
            )
            noise = Noise(prior, canvas, generator, stochastic=table.stochastic, dtype=dtype, device=device)
            buckets = _buckets(self._plan, level, self._batches.most) if fixed_batches else None
            network = Network(prior, given, given_uncond, guidance, times, stats, buckets)
            stepper = Stepper(times, states, noise)
            self.run = Run(
                prior, canvas, times, states, noise, network, stepper, sources, views, stats, num_inference_steps
            )
            self._bound = method.bind(self.run)
            states.start(initial_views(self.run, latents, start))
        self._position, self._done = 0, [0] * len(table)
        self._prepared = self._broken = False
        self._result: SyncOutput | None = None
        self._bar = tqdm(total=len(table) * canvas.num_views, desc=type(method).__name__, disable=not progress)
        self._switched: list[ExitStack] = []

    # ---- the loop ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many steps the run has."""
        return len(self._done)

    def __iter__(self) -> Iterator[SessionState]:
        return self

    def __next__(self) -> SessionState:
        """Work until one more step of all views is done.

        Raises:
            RuntimeError: an error has ended the session within a step.
        """
        self._check_whole()
        if self._position == len(self._plan):
            self._bar.close()
            raise StopIteration
        self._broken = True  # until the step is done
        with self._counted(self.run.stats), self._sampling(), _plain():
            if not self._prepared:
                begin_peak(self.run.network.device)
                self.run.network.prepare(self.run.canvas.num_views)
                self._prepared = True
            finished: int | None = None
            while finished is None:
                for work in self._batches.advance(self._bound, self.run, self._plan[self._position]):
                    self._bar.update(len(work))
                    finished = self._tick(work, finished)
                self._position += 1
        self._broken = False
        return SessionState(self, finished)

    def _tick(self, work: scheduling.Work, finished: int | None) -> int | None:
        """Note what is done; the step that all views have done now, if there is one."""
        for _, step in work:
            self._done[step] += 1
            if self._done[step] == self.run.canvas.num_views:
                if self.method.joins:
                    self._bound.synchronise(step)
                finished = step
        return finished

    def result(self) -> SyncOutput:
        """The canvas and the final views, once all steps are done.

        Raises:
            RuntimeError: steps are left.
            FloatingPointError: the result is not finite.
        """
        self._check_whole()
        if self._position < len(self._plan):
            raise RuntimeError(
                f"the session has done {self._steps_done} of {len(self)} steps, so there is no result yet: iterate it "
                "to the end."
            )
        if self._result is None:
            run = self.run
            with self._counted(run.stats), self._sampling(), _plain():
                canvas, views = self._bound.result(run.states.after(len(self) - 1))
                # Waits for the device, so that what it still had to compute is in the account.
                finite = bool(torch.isfinite(canvas).all())
            if not finite:
                raise FloatingPointError(
                    "the result has values that are NaN or infinite: run the prior in float32 or bfloat16, or look for "
                    "them in what the network returns."
                )
            peaks = (run.stats.peak_memory, peak_memory(run.network.device))
            run.stats.peak_memory = max((peak for peak in peaks if peak is not None), default=None)
            self._result = SyncOutput(canvas, views, run.stats, self.method.solver_name(run.prior))
        return self._result

    def __enter__(self) -> Session:
        """Keep the prior's networks switched for sampling until the block ends."""
        stack = ExitStack()
        stack.enter_context(self.run.prior.sampling())
        self._switched.append(stack)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._switched.pop().close()

    # ---- between steps ----------------------------------------------------------------------------------------

    def noisy(self, step: int) -> torch.Tensor:
        """Noisy views [N, C, h, w] after ``step``, the last one done; a copy.

        Raises:
            RuntimeError: the session keeps no previews, or has done further steps.
        """
        self._check_kept(step)
        return self.run.states.after(step)

    def clean(self, step: int) -> torch.Tensor:
        """Clean estimates [N, C, h, w] at ``step``, the last one done; a copy.

        Raises:
            RuntimeError: as for :meth:`noisy`.
        """
        self._check_kept(step)
        return self._bound.clean(step)

    def replace(self, step: int, views: torch.Tensor, name: str = "the views") -> None:
        """Put other noisy views [N, C, h, w] in the place of those after ``step``, the last one done.

        The solver's next step of a view that is not what it was is of first order, because its past is not its own any
        more. Messages call the views ``name``.

        Raises:
            TypeError, ValueError: no tensor, another shape, values that are not finite, or the wavefront, in which
                other views are ahead of this step already.
            RuntimeError: the session has done further steps.
        """
        if self.order == "wavefront":
            raise ValueError(
                "views cannot be replaced in the wavefront, in which other views are already ahead of this step: use "
                "order='sequential'."
            )
        latents = check_tensor(name, views)
        expected = (self.run.canvas.num_views, *self.run.prior.view_shape)
        if tuple(latents.shape) != expected:
            raise ValueError(f"{name} must be {shape_text(expected)}, got {shape_text(latents.shape)}.")
        self._check_last(step)
        run = self.run
        with _plain():
            latents = latents.detach().to(run.device, run.dtype)
            changed = (latents != run.states.after(step)).flatten(1).any(1)
            run.states.replace_after(step, latents)
        run.stepper.forget(changed.nonzero()[:, 0].tolist(), step + 1)
        self._result = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, for ``torch.save``: tensors, numbers, lists, dictionaries.

        A session that is built by the same call and given this goes on bit for bit as this one would.

        Raises:
            RuntimeError: an error has ended the session within a step.
        """
        self._check_whole()
        run = self.run
        state = {
            "format": _FORMAT,
            "run": self._description(),
            "position": self._position,
            "done": self._done,
            "states": run.states.state_dict(),
            "noise": run.noise.state_dict(),
            "stepper": run.stepper.state_dict(),
            "network": run.network.state_dict(),
            "batches": self._batches.state_dict(),
            "method": self._bound.state_dict(),
            "stats": {**run.stats.state_dict(), "peak_memory": peak_memory(run.network.device)},
        }
        return dict(copied(state))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was called, in this process or another.

        Raises:
            ValueError: the state is of another format or another run; says what differs.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or "run" not in state:
            raise ValueError(
                f"the state must be what Session.state_dict() gave (format {_FORMAT}), got {shown(state)}."
            )
        mine, other = self._description(), state["run"]
        for name in (*mine, *other):
            if mine.get(name) != other.get(name):
                raise ValueError(
                    f"the state is of another run: there {name} is {shown(other.get(name))}, and here "
                    f"{shown(mine.get(name))}: build the session by the call that the state was taken from."
                )
        run, begun = self.run, self._position or self._broken
        self._broken = True  # until all of it is there
        with _plain():
            state = copied(state, run.device)
            if begun:
                # What the method knows of steps that this session has taken is nothing to go on with.
                self._bound = self.method.bind(run)
            run.states.load_state_dict(state["states"])
            run.noise.load_state_dict(state["noise"])
            run.stepper.load_state_dict(state["stepper"])
            run.network.load_state_dict(state["network"])
            run.stats.load_state_dict(state["stats"])
            self._batches.load_state_dict(state["batches"])
            self._bound.load_state_dict(state["method"])
        self._position, self._done = state["position"], state["done"]
        self._result, self._broken = None, False
        self._bar.n = sum(self._done)
        self._bar.refresh()

    def _description(self) -> dict[str, Any]:
        """What two sessions must have in common for one to go on with the other's state."""
        run = self.run
        return {
            "method": type(self.method).__name__,
            **self.method.recorded(lambda value: type(value).__name__),
            "canvas": f"{type(run.canvas).__name__} of {run.canvas.num_views} views, {list(run.canvas.size)}",
            "view shape": list(run.prior.view_shape),
            "where views lie": places_of(run.canvas),
            "order of views": list(run.order),
            "what views read": plain(run.sources, repr),
            "solver": self.method.solver_name(run.prior),
            "times": run.times.host_times.tolist(),
            "what it begins from": self._begins,
            "noise of the steps": run.times.table.sigma.tolist(),
            "guidance": str(run.network.guidance),
            "conditions": run.network.told,
            "num_inference_steps": run.num_inference_steps,
            "order": self.order,
            "max_batch": self._max_batch,
            "fixed_batches": run.network.buckets is not None,
            "precision": str(run.dtype),
            "previews": self._previews,
        }

    # ---- checks -----------------------------------------------------------------------------------------------

    @property
    def _steps_done(self) -> int:
        return sum(count == self.run.canvas.num_views for count in self._done)

    def _check_whole(self) -> None:
        if self._broken:
            raise RuntimeError(
                "an error has ended the session within a step, some views being further than others: load a "
                "state_dict() that was taken before it, or build the session again."
            )

    def _check_kept(self, step: int) -> None:
        if not self._previews:
            raise RuntimeError(
                "views and clean estimates are not kept with previews=False: start the session with previews=True."
            )
        self._check_last(step)

    def _check_last(self, step: int) -> None:
        last = self._steps_done - 1
        if step != last:
            raise RuntimeError(
                f"the views of step {step} are not kept, since the session has gone on to step {last}: read or replace "
                "them before the next step."
            )

    # ---- contexts ---------------------------------------------------------------------------------------------

    def _sampling(self) -> AbstractContextManager[None]:
        """The prior's switches, unless ``with session:`` holds them already."""
        return nullcontext() if self._switched else self.run.prior.sampling()

    @contextmanager
    def _counted(self, stats: Stats) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            stats.seconds += time.perf_counter() - began


@contextmanager
def _plain() -> Iterator[None]:
    """Outside of controls nothing is recorded for autograd; inference mode would forbid them to record at all."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _checked_order(order: Any, method: Method, previews: bool) -> scheduling.Order:
    if order is None:
        order = next((o for o in method.orders if not previews or o != "wavefront"), "sequential")
    check_choice("order", order, scheduling.ORDERS)
    if order not in method.orders:
        raise ValueError(
            f"order={order!r} is not possible with {type(method).__name__}, whose views "
            f"{'all wait for each other at every step' if method.joins else 'wait for their earlier neighbours'}: "
            f"use one of {', '.join(map(repr, method.orders))}."
        )
    checked: scheduling.Order = order
    return checked


def _buckets(plan: Sequence[scheduling.Work], level: Sequence[int], most: int | None) -> list[int]:
    """The batch sizes of a run whose network is compiled: of whole batches, and of their views that read others.

    ``most`` views at once are known to fit the memory.
    """
    batches = [piece for work in plan for piece in scheduling.pieces(work, most or len(work))]
    return scheduling.bucket_sizes(
        [len(work) for work in batches] + [sum(level[i] > 0 for i, _ in work) for work in batches]
    )
