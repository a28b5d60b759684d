"""Whether a pipeline's loop can be entered: made-up answers go in, and must come out as in its own run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .entering import Entry, Memory, Place, Searching
from .guidance import distance, model_output
from .learning import tolerance
from .nested import kept, mapped, same
from .recording import NetworkCall, Recorder, Recording, Step, batch_of, listed, made_up
from .refusal import CannotProbe

Answers = dict[tuple[str, int], Any]


def find_first(recorder: Recorder, answers: Answers, memory: Memory, call: Callable[[], Mapping[str, Any]]) -> None:
    """Find out which tensor operation makes the loop's first state, for ``memory``.

    Args:
        call: makes the arguments of the pipeline's call, with new generators.

    Raises:
        CannotProbe: none does.
    """
    search = Searching(recorder, answers, memory)
    search(call())
    for number in search.candidates:
        memory.first = number
        trial = _Trial(recorder, answers, memory, torch.ones_like(search.first_state))
        try:
            trial(call())
        except CannotProbe:
            continue
        if trial.intact:
            return
    raise CannotProbe("its first state is not made before its loop, so none can be given to it")


class _Trial(Entry):
    """Whether a state that goes in before the loop is what the first step gets; the networks are not asked."""

    def __init__(self, recorder: Recorder, answers: Answers, memory: Memory, state: torch.Tensor) -> None:
        super().__init__(recorder, answers, memory, Place(0, 0), state)
        self._as_given = state.clone()
        self.intact = False

    def _answer(self, name: str, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if name not in self.recorder.networks:
            return self._outside(module)(*args, **kwargs)
        self._before.close()
        return made_up(NetworkCall(name, args, kwargs), self.recorder.asked[name], self._random)

    def _finish(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        self.intact = sample is self.state and torch.equal(sample, self._as_given)
        super()._finish(model_output, sample)


class Playback(Entry):
    """The networks answer at the place what they did in a recorded step, if they are asked the same."""

    def __init__(self, recorder: Recorder, answers: Answers, memory: Memory, place: Place, step: Step) -> None:
        super().__init__(recorder, answers, memory, place, step.sample)
        self._left = list(step.calls)

    def _real(self, name: str, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        call = self._left.pop(0) if self._left else None
        if call is None or call.name != name or not same([kept(args), kept(kwargs)], [call.args, call.kwargs]):
            raise CannotProbe("what it asks its networks in one step depends on those before")
        return kept(call.output)

    def _finish(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        if self._left:
            raise CannotProbe("it does not ask its networks as often in one call as in the one before")
        super()._finish(model_output, sample)


def check_steps(
    recorder: Recorder, answers: Answers, memory: Memory, call: Callable[[], Mapping[str, Any]], one: Recording
) -> None:
    """Enter the loop at each of its steps, by what was recorded there.

    Args:
        call: as in :func:`find_first`.
        one: a recording of the same call.

    Raises:
        CannotProbe: another model output comes of it than the recorded one.
    """
    offset = len(one.scheduler.timesteps) - len(one.steps)
    for k, step in enumerate(one.steps):
        # The recording's own first state is the only one that its scheduler has scaled.
        place = Place(k, offset + k, scale=None if k == 0 else 1.0)
        got = Playback(recorder, answers, memory, place, step)(call())
        if not same(got, model_output(step)):
            raise CannotProbe("what it makes of its networks' answers in one step depends on those before")


def check_real(
    recorder: Recorder, answers: Answers, memory: Memory, call: Callable[[], Mapping[str, Any]], one: Recording
) -> None:
    """Enter the loop at its first step, whose networks were real in a recording, with the real networks.

    Raises:
        CannotProbe: the model output is another one.
    """
    step, offset = one.steps[0], len(one.scheduler.timesteps) - len(one.steps)
    with torch.no_grad():
        got = Entry(recorder, answers, memory, Place(0, offset, scale=None), step.sample)(call())
    error = distance(got, model_output(step))
    bound = 100 * tolerance(step)
    if not error <= bound:
        raise CannotProbe(f"its first step made twice differs by {error:.2g} (at most {bound:.2g})")


class Toy(Entry):
    """Networks whose answer for a row depends on that row's arguments alone."""

    def _real(self, name: str, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        call, asked = NetworkCall(name, args, kwargs), self.recorder.asked[name]
        rows, then = batch_of(call), batch_of(asked)
        factors = torch.ones(rows)
        for value in (*args, *kwargs.values()):
            if _has_rows(value, rows, listed(call)):
                factors += torch.stack([_number(row) for row in value])

        def times(tree: Any, factor: torch.Tensor) -> Any:
            return mapped(lambda value: value * factor.to(value) if isinstance(value, torch.Tensor) else value, tree)

        def answered(tree: Any) -> Any:
            """All rows are the first one, by different factors."""
            if isinstance(tree, torch.Tensor) and tree.ndim and len(tree) == then and not listed(call):
                return torch.stack([times(tree[0], factor) for factor in factors])
            if isinstance(tree, list) and len(tree) == then and listed(call):
                return [times(tree[0], factor) for factor in factors]
            if isinstance(tree, dict):
                return type(tree)(**{key: answered(value) for key, value in tree.items()})
            return type(tree)(map(answered, tree)) if type(tree) in (list, tuple) else tree

        return answered(made_up(asked, asked, torch.Generator().manual_seed(0)))


def _number(row: torch.Tensor) -> torch.Tensor:
    """Of a row's values; not their mean, which norms make the same."""
    values = row.detach().flatten().float().cpu()
    return (values * torch.linspace(-1, 1, len(values))).mean()


def _has_rows(value: Any, rows: int, in_lists: bool) -> bool:
    if in_lists:
        return isinstance(value, list) and len(value) == rows and all(isinstance(row, torch.Tensor) for row in value)
    return isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == rows and value.is_floating_point()


def rows_stay_apart(
    recorder: Recorder,
    answers: Answers,
    call: Callable[[int], Mapping[str, Any]],
    one: Recording,
) -> bool:
    """Whether a call for two pictures makes of each what it makes of it alone.

    Args:
        call: makes the arguments of the pipeline's call for so many pictures.
        one: a recording for one.
    """
    sample, offset = one.steps[0].sample, len(one.scheduler.timesteps) - len(one.steps)
    random = torch.Generator().manual_seed(0)
    states = torch.randn((2, *sample.shape[1:]), generator=random).to(sample)
    memories = Memory(), Memory()
    try:
        for rows in (1, 2):
            find_first(recorder, answers, memories[rows - 1], lambda rows=rows: call(rows))  # type: ignore[misc]
        for k in range(len(one.steps)):
            together, *alone = (
                Toy(recorder, answers, memories[len(part) - 1], Place(k, offset + k), part)(call(len(part)))
                for part in (states, states[:1], states[1:])
            )
            apart = torch.cat(alone)
            if together.shape != apart.shape or not torch.allclose(together, apart, rtol=1e-4, atol=1e-5):
                return False
    except Exception:  # whatever a pipeline that makes one picture at a time raises
        return False
    return True
