"""Any diffusers pipeline as a prior, by its own loop, which is entered at one of its steps for each evaluation."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from ..conditions import Conditions
from ..diffusion import StepTable
from ..errors import check_int
from ..guidance import Guidance
from .called import CalledPrior
from .probe.calling import FEW, group_numbers, guidance_argument, own_scale
from .probe.checking import Answers, check_real, check_steps, find_first, rows_stay_apart
from .probe.entering import Entry, Memories, Memory, Place
from .probe.layout import PATTERNS, patterns
from .probe.learning import clean_start, learn_tail
from .probe.nested import first, same
from .probe.recording import Recording
from .probe.refusal import CannotProbe, refusing
from .probe.timing import own_steps
from .request import Told, ViewRequest
from .shared_attention import NeighbourLists, not_shared

CALL, CALLS = "call", "calls"  # names among the conditions


@dataclass
class Calls:
    """The pipeline's calls for all views of a task, each different one once.

    Attributes:
        arguments: of each call, for one picture.
        groups: numbers of calls that differ in their texts alone have the same one, and can be made as one.
        seed: of what the pipeline itself draws.
        memories: of what entries into them need not find out again.
    """

    arguments: tuple[dict[str, Any], ...]
    groups: tuple[int, ...]
    seed: int
    memories: Memories = field(default_factory=Memories)


@dataclass(frozen=True)
class Loop:
    """A run's loop, as the pipeline sets it.

    Attributes:
        steps: that were asked for, which may be more than it takes.
        times: of its iterations.
        scales: what ``scale_model_input`` multiplies states by in each.
        skipped: times of the scheduler before its first one.
    """

    steps: int
    times: tuple[float, ...]
    scales: tuple[float, ...]
    skipped: int

    def nearest(self, t: float) -> tuple[int, float]:
        """The iteration whose time is nearest to t, and the distance as a share of the times' size."""
        k = min(range(len(self.times)), key=lambda i: abs(self.times[i] - t))
        return k, abs(self.times[k] - t) / max(1.0, abs(self.times[0]))


_SAME_TIME = 1e-6  # relative: what rounding makes of a time


class ReenteredPrior(CalledPrior):
    """The prior inside a diffusers pipeline whose step cannot be learnt, as :class:`ProbedPrior` learns it.

    For each evaluation the pipeline's own call is made with stand-ins, which answer at once until its loop comes to the
    step of the rows' time. There the noisy views are its state, its networks are asked, and what it hands its scheduler
    is the network's output. So recipes that change from step to step are followed: ControlNets that end halfway,
    guidance in an interval, layers skipped for some steps. It is exact, but costs some milliseconds a call, and rows
    at different times are different calls. Guidance is inside of the call.

    Args:
        pipe, window, runtime, solver, conditioning_scale, pipe_kwargs, example, num_inference_steps: as in
            :class:`ProbedPrior`.
        neighbours: None; the views of shared self-attention do not meet in one call.

    Raises:
        ValueError: arguments that the pipeline's call does not take.
        CannotProbe: its loop cannot be entered (says why).
    """

    way: ClassVar[str] = "re-entry"
    needed_conditions = (CALL, CALLS)
    known_conditions = (CALL, CALLS)

    def _first_call(self) -> dict[str, Any]:
        return self._calling.plain(negative=True)

    def _learn(self, neighbours: NeighbourLists | None) -> None:
        if neighbours is not None:
            raise not_shared(self.pipe)
        self._recorder.steps_alike = False
        self._answers: Answers = {}
        self._loops: list[Loop] = []  # the one of the latest run last
        one = self._recorder.record(self._calling.repeated(self._call, 1), 1)
        self._state = one.steps[0].sample
        # Schedulers of states x0 + sigma eps make states of fastsync's form of them for the network.
        self._scaled = one.unscaled or not torch.equal(one.steps[0].scaled, self._state)
        # Nothing is really asked in this one, so that what changes in the networks is the pipeline's doing.
        self._recorder.record(self._trial(1), 1)
        self._network_name = one.steps[0].calls[-1].name
        self._check(one)
        self._together = rows_stay_apart(self._recorder, self._answers, self._trial, one)
        self._learn_layout(len(one.steps))
        self._keep_loop(one, FEW)

    def _planned(self, num_inference_steps: int) -> None:
        self.steps(num_inference_steps)

    @property
    def _denoiser(self) -> str:
        return self._network_name

    # ---- learning ---------------------------------------------------------------------------------------------

    def _trial(self, rows: int) -> dict[str, Any]:
        return self._calling.apart([self._call] * rows)

    def _check(self, one: Recording) -> None:
        """Enter the loop at every step of a recording, and once with the real networks.

        Raises:
            CannotProbe: another model output comes of it.
        """
        memory = Memory()
        find_first(self._recorder, self._answers, memory, lambda: self._trial(1))
        check_steps(self._recorder, self._answers, memory, lambda: self._trial(1), one)
        check_real(self._recorder, self._answers, memory, lambda: self._trial(1), one)

    def _learn_layout(self, steps: int) -> None:
        """Layout and codec from known last states, in one call where pictures can be made together."""
        rows = PATTERNS if self._together else 1
        recordings = []
        for start in range(0, PATTERNS, rows):
            known = slice(start, start + rows)
            recordings.append(
                self._recorder.record(
                    self._calling.apart([self._call] * rows),
                    rows,
                    steps=steps,
                    last_state=lambda state, known=known: patterns(state)[known],  # type: ignore[misc]
                )
            )
        many = recordings[0]
        if many.decoded is not None:
            many.decoded = torch.cat([r.decoded for r in recordings if r.decoded is not None])
        elif many.pictures is not None:
            many.pictures = np.concatenate([np.asarray(first(r.pictures)) for r in recordings])
        self._laid_out(learn_tail(many, self.pipe), many.decoder, self._state.shape[1:])

    # ---- the network ------------------------------------------------------------------------------------------

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The model output at noisy views x [B, C, h, w], times t [B], for the calls that :meth:`told` gave the rows.

        Raises:
            ValueError: conditions of another prior; gradients of a loop that lets none pass.
        """
        if cond is None or CALLS not in cond.shared:
            raise ValueError(
                f"cond is {cond!r}, but {type(self.pipe).__name__} is asked by its own call: pass what "
                "prior.told(request) or prior.encode_prompt(prompt) gives."
            )
        calls: Calls = cond[CALLS]
        parts = self._parts(calls, cond[CALL], t.expand(len(x)).tolist())
        outputs = [self._asked(calls, [cond[CALL][row] for row in rows], time, x[rows]) for time, rows in parts]
        if len(parts) == 1:
            return outputs[0]
        order = torch.tensor([row for _, rows in parts for row in rows], device=x.device)
        return torch.cat(outputs)[order.argsort()]

    def _parts(self, calls: Calls, numbers: Sequence[int], times: Sequence[float]) -> list[tuple[float, list[int]]]:
        """Times, and the rows that can be asked together at each."""
        if not self._together:
            return [(time, [row]) for row, time in enumerate(times)]
        found: dict[tuple[int, float], list[int]] = {}
        for row, (number, time) in enumerate(zip(numbers, times, strict=True)):
            found.setdefault((calls.groups[number], time), []).append(row)
        return [(time, rows) for (_, time), rows in found.items()]

    def _asked(self, calls: Calls, numbers: list[int], t: float, x: torch.Tensor) -> torch.Tensor:
        """The model output at views x of one call."""
        steps, place = self._place(t)
        memory = calls.memories[tuple(numbers)]

        def call() -> dict[str, Any]:
            return self._calling.apart([calls.arguments[number] for number in numbers], steps, calls.seed)

        if place.iteration == 0 and memory.first is None:
            find_first(self._recorder, self._answers, memory, call)
        state, dtype = self.layout.packed(x), self._state.dtype
        unscaled = state if place.scale in (None, 1.0) else state / place.scale
        entry = Entry(self._recorder, self._answers, memory, place, unscaled.to(dtype), state.to(dtype))
        output = entry(call())
        if x.requires_grad and torch.is_grad_enabled() and not output.requires_grad:
            raise ValueError(
                f"no gradient passes through the call of {type(self.pipe).__name__}, which cuts it in its loop: use a "
                "method without gradients, such as MultiDiffusion."
            )
        return self.layout.unpacked(output)

    def _place(self, t: float) -> tuple[int, Place]:
        """Where a loop has time t, and the number of steps that the loop is asked for."""
        loop = min(reversed(self._loops), key=lambda one: one.nearest(t)[1] > _SAME_TIME)
        k, distance = loop.nearest(t)
        index, scale = loop.skipped + k, loop.scales[k]
        if distance <= _SAME_TIME:
            return loop.steps, Place(k, index, scale=scale)
        a, b = (float(c) for c in self.schedule.coefficients(torch.tensor([t])))
        sigma = b if self.schedule.kind == "flow" else b / a
        return loop.steps, Place(k, index, t, sigma, scale=1.0 if scale == 1.0 else a)

    # ---- conditions -------------------------------------------------------------------------------------------

    def told(self, request: ViewRequest) -> Told:
        """The pipeline's call for each view, with the view's own arguments.

        Raises:
            ValueError: the pipeline's call cannot say what is asked for.
            CannotProbe: a view's call raises, or does something else than the others.
        """
        with refusing(self.pipe):
            calling, asked = self._calling, request.guidance
            calling.check(request)
            if asked is not None and asked != Guidance(asked.scale):
                raise ValueError(
                    f"{type(self.pipe).__name__} is guided inside of its own call, which knows no rescale and no "
                    "interval of fastsync's: leave them out, and pass what it takes itself by pipe_kwargs."
                )
            calling.extra = guidance_argument(self._recorder, calling, request)
            calling.seed(request.seed)
            views = [calling.of_view(request, view) for view in range(request.num_views)]
            different: list[dict[str, Any]] = []
            numbers = []
            for view in views:
                number = next((k for k, call in enumerate(different) if same(call, view)), len(different))
                if number == len(different):
                    different.append(view)
                numbers.append(number)
            self._call = different[0]
            starts = [self._start(call) for call in different]
            calls = Calls(tuple(different), tuple(group_numbers(different)), request.seed)
            cond = Conditions({CALL: numbers}, {CALLS: calls})
            start = None if starts[0] is None else torch.cat([starts[number] for number in numbers])  # type: ignore[misc]
            guidance = Guidance(1.0)
            return Told(cond, None, guidance, start, own_scale(calling, request, guidance, guided=False))

    def _start(self, call: Mapping[str, Any]) -> torch.Tensor | None:
        """The clean view that a call begins from, if it does so."""
        recording = self._recorder.record(self._calling.apart([call]), 1)
        if recording.steps[0].sample.shape != self._state.shape:
            raise CannotProbe("its views are of different sizes")
        start = clean_start(recording, self.layout)
        return None if start is None else start[:1]

    # ---- times ------------------------------------------------------------------------------------------------

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> StepTable:
        """The run's step table at the times that the pipeline itself sets.

        Raises:
            CannotProbe: the pipeline takes its steps at other times than its scheduler has.
        """
        with refusing(self.pipe):
            count = check_int("num_inference_steps", num_inference_steps)
            recording = self._recorder.record(self._calling.repeated(self._call, 1, count), 1)
            table = own_steps(self.schedule, recording, count, eta)
            self._keep_loop(recording, count)
        return table

    def _keep_loop(self, recording: Recording, steps: int) -> None:
        """Note the loop of a run that was asked for so many steps."""
        count, own = len(recording.steps), [float(t) for t in recording.scheduler.timesteps]
        skipped = len(own) - count
        times = [float(torch.as_tensor(step.t).flatten()[0]) for step in recording.steps]
        bound = _SAME_TIME * max(1.0, abs(own[0]))
        if skipped < 0 or any(abs(a - b) > bound for a, b in zip(times, own[skipped:], strict=True)):
            raise CannotProbe("it takes its steps at other times than those that its scheduler has set")
        scales = self.schedule.coefficients(torch.tensor(times))[0].tolist() if self._scaled else [1.0] * count
        loop = Loop(steps, tuple(times), tuple(scales), skipped)
        self._loops = [one for one in self._loops if one.steps != steps] + [loop]


def unasked(pipe: Any, probing: CannotProbe, entering: CannotProbe) -> ValueError:
    """What to raise where a pipeline's call can be neither learnt nor entered again: one sentence.

    Args:
        pipe: the pipeline.
        probing, entering: why :class:`ProbedPrior` and :class:`ReenteredPrior` cannot be made of it.
    """
    name = type(pipe).__name__
    why, why_not_entered = (str(error).removeprefix(f"{name}: ") for error in (probing, entering))
    also = "" if why == why_not_entered else f" ({textwrap.shorten(why_not_entered, 80, placeholder='...')})"
    return ValueError(
        f"{name}: {why}, and its __call__ cannot be entered again{also}: register an adapter with "
        "fastsync.priors.register, or wrap its network with FunctionPrior."
    )
