"""What was learnt of a pipeline's step, from recordings of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .calling import FEW, Calling
from .comparing import templates
from .guidance import Combination, combination, model_output
from .layout import PATTERNS, Tail, patterns, snapped, tail
from .nested import first, leaves, mapped, same
from .recipe import Half, half
from .recording import Recorder, Recording, Step
from .refusal import CannotProbe
from .template import CallTemplate

_MOST = 64  # steps of a recording
_LEAST = 3  # steps that tell what changes


@dataclass(frozen=True)
class Learnt:
    """A pipeline's step, as its recordings have it.

    Attributes:
        templates: how the networks are called.
        combination: what becomes of their outputs.
        state_shape: of one state.
        steps: of the recordings.
    """

    templates: tuple[CallTemplate, ...]
    combination: Combination
    state_shape: torch.Size
    steps: int

    def halves(self, step: Step, rows: int) -> tuple[Half, Half | None]:
        """Recipe and rows of the conditional half and, with guidance, of the other."""
        found = self.combination
        cond, uncond = (
            None if source is None else half(self.templates, step.calls, source, found.sign, rows)
            for source in (found.cond, found.uncond)
        )
        assert cond is not None
        return cond, uncond


def tolerance(step: Step) -> float:
    """What rounding may change of a model output, relative."""
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(step.output.dtype, 2e-2)


def learn(recorder: Recorder, calling: Calling, call: Mapping[str, Any]) -> tuple[Learnt, Recording, Recording]:
    """What the pipeline's step is for one picture's arguments.

    Returns:
        What was learnt; the recording of one picture, whose first step is real where it is the recorder's first; and
        that of PATTERNS pictures alike.

    Raises:
        CannotProbe: the step cannot be learnt.
    """
    steps = FEW
    one = recorder.record(calling.repeated(call, 1, steps), 1)
    while len(one.steps) < _LEAST and steps < _MOST and "num_inference_steps" in calling.repeated(call, 1):
        steps *= 4
        one = recorder.record(calling.repeated(call, 1, steps), 1, real=True)
    if len(one.steps) < _LEAST:
        raise CannotProbe(
            f"it stepped its scheduler {len(one.steps)} times, and at least {_LEAST} are needed to tell what changes"
        )
    for name in recorder.networks:
        if one.changed[name] is not None:
            raise CannotProbe(f"it changes {one.changed[name]} of its {name} while it runs")
    many = recorder.record(calling.repeated(call, PATTERNS, steps), PATTERNS, steps=len(one.steps), last_state=patterns)
    found = combination(many.steps, PATTERNS, tolerance(many.steps[0]))
    learnt = Learnt(templates(one, many), found, many.steps[0].sample.shape[1:], steps)
    return learnt, one, many


def learn_tail(many: Recording, pipe: Any) -> Tail | None:
    """What becomes of the last state; None where it is a picture itself.

    Raises:
        CannotProbe: it is neither decoded nor a picture.
    """
    shape = many.steps[-1].sample.shape[1:]
    if many.decoded is not None:
        found = tail(many.decoded, shape, many.decoder_dtype)
        return snapped(found, getattr(pipe, many.decoder).config)
    pictures = first(many.pictures)
    made = torch.as_tensor(pictures) if not isinstance(pictures, list) else None
    if made is not None and made.ndim == 4 and len(made) == PATTERNS:
        grey, white = (made[i].double() for i in (0, 1))
        if float((grey - 0.5).abs().max()) < 1e-3 and float((white - 1).abs().max()) < 1e-3 and len(shape) == 3:
            return None
    raise CannotProbe("its last state is neither decoded by an autoencoder nor a picture itself")


def check(learnt: Learnt, pipe: Any, one: Recording) -> None:
    """Replay the real first step of a recording: the same arguments, and the same model output.

    Raises:
        CannotProbe: the networks asked apart give another output.
    """
    step = one.steps[0]
    t = torch.as_tensor(step.t, device=step.sample.device).reshape(1)
    outputs: list[torch.Tensor | None] = []
    for asked in learnt.halves(step, 1):
        if asked is None:
            outputs.append(None)
            continue
        recipe, found = asked
        state, rows = step.scaled.clone(), {name: torch_rows(values) for name, values in found.items()}
        before = mapped(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, [state, rows])
        with torch.no_grad():
            outputs.append(recipe(pipe, state, t, rows))
        if not same(before, [state, rows]):
            raise CannotProbe("its network writes into what it is given")
    assert outputs[0] is not None
    check_outcome(learnt.combination(outputs[0], outputs[1]), step, "its network asked apart")


def check_outcome(got: torch.Tensor, step: Step, what: str) -> None:
    """CannotProbe, with ``what`` as its subject, where a model output is not that of a recorded step."""
    wanted = model_output(step)
    error = float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-12))
    bound = 50 * max(tolerance(step), _rounding(step))
    if not error <= bound:
        raise CannotProbe(f"{what} differs from its own step by {error:.2g} (at most {bound:.2g})")


def _rounding(step: Step) -> float:
    """Of what the networks compute in."""
    kinds = {v.dtype for call in step.calls for v in leaves(call.output) if isinstance(v, torch.Tensor)}
    return 1e-3 if kinds & {torch.float16, torch.bfloat16} else 1e-4


def torch_rows(values: Sequence[Any]) -> Any:
    """Rows as one tensor where they can be stacked."""
    if all(isinstance(v, torch.Tensor) for v in values) and len({(v.shape, v.dtype) for v in values}) == 1:
        return torch.stack(list(values))
    return list(values)
