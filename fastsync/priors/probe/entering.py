"""A pipeline's loop entered at one of its iterations: a state goes in, the model output comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .guidance import cropped
from .keeping import PlainState, quiet, random_kept
from .nested import cloned, kept
from .recording import NetworkCall, Recorder, batch_of, made_up
from .refusal import CannotProbe
from .shadow import Shadow, Stop
from .standing_in import StandIn, StepOutput

_KEPT_MOST = 64  # memories of calls


@dataclass(frozen=True)
class Place:
    """Where in a loop a state goes in.

    Attributes:
        iteration: k, counted from 0.
        index: of the iteration's time among those of the scheduler.
        t, sigma: in the place of the scheduler's own time and noise level there; None to leave both.
        scale: what ``scale_model_input`` multiplies by there; None for what the scheduler's own does.
    """

    iteration: int
    index: int
    t: float | None = None
    sigma: float | None = None
    scale: float | None = 1.0


@dataclass
class Memory:
    """What entries by the same arguments need not find out again.

    Attributes:
        before: the networks that are asked before the loop, such as image encoders, and what they gave, in order.
        first: number of the tensor operation that makes the loop's first state; None if not looked for yet.
    """

    before: list[tuple[Callable[..., Any], Any]] = field(default_factory=list)
    first: int | None = None


class Memories:
    """Memories by the calls that they belong to; the oldest are dropped."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, ...], Memory] = {}

    def __getitem__(self, calls: tuple[int, ...]) -> Memory:
        memory = self._of.pop(calls, None) or Memory()
        self._of[calls] = memory
        if len(self._of) > _KEPT_MOST:
            del self._of[next(iter(self._of))]
        return memory


class Entry(Shadow):
    """One call of a pipeline, until the model output of one iteration.

    Before that iteration the networks answer random numbers. Its state is ours, and its networks are real. What comes
    before is left without gradients; the iteration itself is in the caller's grad mode, whatever the pipeline asks for.

    Args:
        recorder: of the pipeline.
        answers: made-up answers of the networks, by name and number of rows; filled here.
        memory: of the same call.
        place: where ``state`` goes in.
        state: [rows, ...], in the pipeline's layout, units and dtype.
        scaled: what ``scale_model_input`` makes of it at ``place``; None where that is not known beforehand.
    """

    def __init__(
        self,
        recorder: Recorder,
        answers: dict[tuple[str, int], Any],
        memory: Memory,
        place: Place,
        state: torch.Tensor,
        scaled: torch.Tensor | None = None,
    ) -> None:
        self.scaled = scaled
        self.recorder, self.answers, self.memory, self.place, self.state = recorder, answers, memory, place, state
        self.grad = torch.is_grad_enabled()
        self.done = 0  # iterations
        self.inside = False  # whether the state is in
        self.output: torch.Tensor | None = None
        self.operations = _Operations(self._made)
        self._before = ExitStack()
        self._asked_before, self._in_texts = 0, False
        self._plain: dict[str, PlainState] = {}
        self._random = torch.Generator().manual_seed(1)
        super().__init__(recorder.pipe, recorder.modules, recorder.texts)

    def __call__(self, call: Mapping[str, Any]) -> torch.Tensor:
        """The model output [rows, ...] in the state's shape; the pipeline is afterwards as it was.

        Args:
            call: arguments of the pipeline's ``__call__``.

        Raises:
            CannotProbe: the loop does not come to the place.
            ValueError: gradients are asked for that checkpointing would get wrong.
            Exception: whatever the pipeline's own call raises.
        """
        # Containers of the caller's are copied: pipelines write into them.
        own = {name: copy.copy(value) if isinstance(value, (dict, list)) else value for name, value in call.items()}
        self._plain = {name: PlainState(self.modules[name]) for name in self.recorder.changes}
        with random_kept(), quiet(), torch.no_grad(), self._before:
            if self.place.iteration == 0:
                self._before.enter_context(self.operations)
            try:
                self.recorder.body(self.copied(), **own)
            except Stop:
                pass
            finally:
                for plain in self._plain.values():
                    plain.restore()
        if self.output is None:
            raise CannotProbe(f"its loop ends before iteration {self.place.iteration}")
        return self.output

    # ---- the copy ---------------------------------------------------------------------------------------------

    def _outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A network that is asked before the loop, once for all entries of the same call."""

        def called(*args: Any, **kwargs: Any) -> Any:
            if self.inside or self.done or self._in_texts:
                return function(*args, **kwargs)
            number, known = self._asked_before, self.memory.before
            self._asked_before += 1
            if number == len(known):
                with self.operations.ignored():
                    known.append((function, function(*args, **kwargs)))
            if known[number][0] != function:
                raise CannotProbe("it asks other networks before its loop than in the call before")
            return cloned(known[number][1])

        return called

    def _encode_prompt(self, shadow: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._in_texts = True  # which have a memory of their own
        try:
            with self.operations.ignored():
                return super()._encode_prompt(shadow, own, *args, **kwargs)
        finally:
            self._in_texts = False

    # ---- the state --------------------------------------------------------------------------------------------

    def _made(self, number: int, result: torch.Tensor) -> torch.Tensor:
        """What takes the place of the result of a tensor operation before the loop."""
        if self.inside or number != self.memory.first:
            return result
        self.inside = True
        torch.set_grad_enabled(self.grad)
        return self.state

    def _step(
        self,
        own: Callable[..., Any],
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> StepOutput:
        if self.done == self.place.iteration:
            self._finish(model_output, sample)
        self.done += 1
        if self.done < self.place.iteration:
            return StepOutput((sample, sample))
        self.inside = True
        # Holds until the pipeline's own torch.no_grad ends.
        torch.set_grad_enabled(self.grad)
        return StepOutput((self.state, self.state))

    def _finish(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        if not self.inside:
            raise CannotProbe("its first state cannot be given to it")
        self._check_checkpointing(model_output)
        self.output = cropped(model_output, self.state.shape[1:])
        raise Stop

    def _check_checkpointing(self, model_output: torch.Tensor) -> None:
        if not model_output.requires_grad:
            return
        for name, plain in self._plain.items():
            checkpointing = getattr(self.modules[name], "is_gradient_checkpointing", False)
            if checkpointing and (plain.changed() is not None or self._set_on(name)):
                raise ValueError(
                    f"{self.name} changes its {name} while it is called, so checkpointing would compute another one "
                    f"backwards: call pipe.{name}.disable_gradient_checkpointing()."
                )

    def _set_timesteps(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result, place = own(*args, **kwargs), self.place
        if place.t is None:
            return result
        scheduler = self.scheduler
        times = scheduler.timesteps.clone()
        if not times.is_floating_point() and place.t != int(place.t):
            times = times.to(torch.get_default_dtype())
        times[place.index] = place.t
        scheduler.timesteps = times
        if place.sigma is not None and isinstance(getattr(scheduler, "sigmas", None), torch.Tensor):
            scheduler.sigmas = scheduler.sigmas.clone()
            scheduler.sigmas[place.index] = place.sigma
        return result

    def _scale(self, own: Callable[..., Any], sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.done != self.place.iteration or self.place.scale == 1.0:
            return sample
        if self.place.scale is None:
            scaled: torch.Tensor = own(sample, *args, **kwargs)
            return scaled
        rows = len(sample) // len(self.state) if sample.ndim else 0
        if self.scaled is not None and rows and torch.equal(sample, torch.cat([self.state] * rows)):
            return torch.cat([self.scaled] * rows)  # without what multiplying rounds
        return sample * self.place.scale

    # ---- the networks -----------------------------------------------------------------------------------------

    def _answer(self, name: str, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        networks = self.recorder.networks
        if self.inside:
            self._before.close()
            # Some make their first state before they have asked everything that precedes the loop.
            return self._real(name, module, args, kwargs) if name in networks else module(*args, **kwargs)
        if self.done == 0 and (name not in networks or self.place.iteration == 0):
            return self._outside(module)(*args, **kwargs)
        call = NetworkCall(name, args, kwargs)
        key = (name, batch_of(call))
        if key not in self.answers:
            asked = self.recorder.asked
            if name not in asked:
                asked[name] = NetworkCall(name, kept(args), kept(kwargs), module(*args, **kwargs))
            self.answers[key] = made_up(call, asked[name], self._random)
        return kept(self.answers[key])

    def _real(self, name: str, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """The network itself, with the attributes that the pipeline has set on it."""
        attributes = self._set_on(name)
        if attributes and name not in self._plain:
            self._plain[name] = PlainState(module)
        for attribute, value in attributes.items():
            setattr(module, attribute, value)
        return module(*args, **kwargs)

    def _set_on(self, name: str) -> dict[str, Any]:
        stand_in = self.stand_ins[name]
        return {attribute: vars(stand_in)[attribute] for attribute in stand_in.attributes_set}

    def _decode(self, name: str, stand_in: StandIn, z: torch.Tensor, *_: Any, **__: Any) -> Any:
        raise Stop


class Searching(Entry):
    """Finds which tensor operation makes the first state.

    Attributes:
        candidates: numbers of operations whose result it was, the last one first.
        first_state: it.
    """

    candidates: tuple[int, ...] = ()
    first_state: torch.Tensor

    def __init__(self, recorder: Recorder, answers: dict[tuple[str, int], Any], memory: Memory) -> None:
        super().__init__(recorder, answers, memory, Place(0, 0), torch.empty(0))
        self._results: list[torch.Tensor] = []

    def _made(self, number: int, result: torch.Tensor) -> torch.Tensor:
        self._results.append(result)
        return result

    def _answer(self, name: str, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if name not in self.recorder.networks:
            return self._outside(module)(*args, **kwargs)
        with self.operations.ignored():
            return made_up(NetworkCall(name, args, kwargs), self.recorder.asked[name], self._random)

    def _finish(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        numbered = list(enumerate(self._results, 1))
        self.candidates = tuple(number for number, result in reversed(numbered) if result is sample)
        self.first_state = self.output = sample
        raise Stop


class _Operations(TorchFunctionMode):
    """Counts the tensor operations of a call; ``made`` may put another tensor in the place of a result."""

    def __init__(self, made: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._made, self._count, self._ignoring = made, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._ignoring or not isinstance(result, torch.Tensor):
            return result
        self._count += 1
        return self._made(self._count, result)

    def ignored(self) -> _Ignored:
        """What is done in here is not counted: it may be remembered the next time."""
        return _Ignored(self)


class _Ignored:
    def __init__(self, operations: _Operations) -> None:
        self.operations = operations

    def __enter__(self) -> None:
        self.operations._ignoring += 1

    def __exit__(self, *_: object) -> None:
        self.operations._ignoring -= 1
