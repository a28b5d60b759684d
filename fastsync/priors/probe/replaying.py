"""What was learnt, held against a recording: replayed, it hands the networks the recorded arguments, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .guidance import Combination, Source, close, model_output
from .recipe import Half, needed_calls
from .recording import NetworkCall, Recording, batch_of, listed
from .refusal import CannotProbe
from .template import CallTemplate


def check_replay(
    templates: Sequence[CallTemplate],
    combination: Combination,
    halves: Sequence[Half | None],
    recording: Recording,
    tolerance: float,
) -> None:
    """Replay each step of a recording with recorded answers in the place of the networks.

    Args:
        templates: of a step's calls.
        combination: of their answers.
        halves: the conditional one and the other, or None: recipes and rows of the first step.
        recording: of any length.
        tolerance: relative, of the model outputs.

    Raises:
        CannotProbe: a network is given, or the scheduler gets, something else than was recorded.
    """
    names = [template.network for template in templates]
    rows = recording.rows
    for step in recording.steps:
        if [call.name for call in step.calls] != names:
            raise CannotProbe(
                f"it asks its networks differently in some calls or steps ({_listing(names)}, then "
                f"{_listing([call.name for call in step.calls])})"
            )
        t = torch.as_tensor(step.t, device=step.sample.device).reshape(1).expand(rows)
        answers: list[torch.Tensor | None] = []
        for half, source in zip(halves, (combination.cond, combination.uncond), strict=True):
            if half is None or source is None:
                answers.append(None)
                continue
            recorded = [step.calls[call] for call in needed_calls(templates, source.call)]
            answers.append(half[0](_Recorded(recorded, source, rows), step.scaled, t, half[1]))
        assert answers[0] is not None
        if not close(combination(answers[0], answers[1]), model_output(step), 10 * tolerance):
            raise CannotProbe("its guidance changes from step to step, or from view to view")


def _listing(names: Sequence[str]) -> str:
    return " and ".join(names)


class _Recorded:
    """Stands for a pipeline whose networks are asked again: checks what they are given, and answers what was recorded.

    Args:
        calls: in the order in which they are asked.
        source: which part of their rows is asked.
        rows: pictures.
    """

    def __init__(self, calls: Sequence[NetworkCall], source: Source, rows: int) -> None:
        self._calls: Iterator[NetworkCall] = iter(calls)
        self._part, self._rows = source.part, rows

    def __getattr__(self, name: str) -> Any:
        return self._asked

    def _asked(self, *args: Any, **kwargs: Any) -> Any:
        call = next(self._calls)
        batch = batch_of(call)
        parts = batch // self._rows
        part = self._part if parts > 1 else 0
        keys = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
        recorded = {**{str(i): value for i, value in enumerate(call.args)}, **call.kwargs}
        if keys.keys() != recorded.keys():
            raise CannotProbe(f"the arguments of its {call.name} are not the same in all calls")
        for key, value in keys.items():
            if not _is_part(value, recorded[key], part, parts):
                raise CannotProbe(
                    f"{call.name}.{key} changes from step to step or from view to view in another way than the state "
                    "and the time do"
                )

        return self._own(call.output, part, batch, listed(call))

    def _own(self, answer: Any, part: int, batch: int, rows_in_lists: bool) -> Any:
        """The part's rows of what a network answered."""
        if isinstance(answer, dict):
            return type(answer)(**{k: self._own(v, part, batch, rows_in_lists) for k, v in answer.items()})
        rows = rows_in_lists and isinstance(answer, list) and len(answer) == batch
        if rows or (isinstance(answer, torch.Tensor) and answer.ndim and len(answer) == batch):
            return answer[part * self._rows : (part + 1) * self._rows]
        if type(answer) in (list, tuple):
            return type(answer)(self._own(value, part, batch, rows_in_lists) for value in answer)
        return answer


def _is_part(given: Any, recorded: Any, part: int, parts: int) -> bool:
    """Whether a value is the recorded one, or its rows of one part."""
    if given is recorded:
        return True
    if isinstance(given, torch.Tensor) and isinstance(recorded, torch.Tensor):
        return _is_part_of_tensor(given, recorded, part, parts)
    if isinstance(given, dict) and isinstance(recorded, dict):
        return given.keys() == recorded.keys() and all(_is_part(given[k], recorded[k], part, parts) for k in given)
    if isinstance(given, (list, tuple)) and type(given) is type(recorded):
        if len(given) != len(recorded):
            recorded = recorded[part * len(given) : (part + 1) * len(given)]
        pairs = zip(given, recorded, strict=False)
        return len(given) == len(recorded) and all(_is_part(a, b, part, parts) for a, b in pairs)
    if isinstance(given, float) and isinstance(recorded, (int, float)):
        return abs(given - recorded) <= 1e-6 * max(1.0, abs(given))
    return type(given) is type(recorded) and bool(given == recorded)


def _is_part_of_tensor(given: torch.Tensor, recorded: torch.Tensor, part: int, parts: int) -> bool:
    if given.dtype != recorded.dtype:
        return False
    if recorded.numel() == 1:  # a time, which a replay hands over for each row
        recorded = recorded.reshape(()).expand(given.shape)
    elif given.shape != recorded.shape:
        if given.ndim != recorded.ndim:
            return False
        axes = [axis for axis in range(given.ndim) if given.shape[axis] != recorded.shape[axis]]
        if len(axes) != 1 or recorded.shape[axes[0]] != parts * given.shape[axes[0]]:
            return False
        recorded = recorded.narrow(axes[0], part * given.shape[axes[0]], given.shape[axes[0]])
    if torch.equal(given, recorded):
        return True
    if given.ndim > 1 or not given.is_floating_point():
        return bool(((given == recorded) | ((given != given) & (recorded != recorded))).all())
    # Times may be rounded otherwise than the pipeline does.
    bound = 8 * torch.finfo(given.dtype).eps * recorded.abs().clamp_min(1)
    return bool(((given - recorded).abs() <= bound).all())
