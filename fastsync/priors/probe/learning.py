"""What was learnt of a pipeline's step, from recordings of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .apart import PICTURES
from .calling import FEW, Calling
from .comparing import templates
from .guidance import Combination, combination, distance, piece
from .keeping import random_kept
from .layout import PATTERNS, Layout, Tail, patterns, snapped, tail
from .nested import cloned, first, leaves, same
from .recipe import Half, Recipe, half
from .recording import Recorder, Recording, Step
from .refusal import CannotProbe
from .replaying import check_replay
from .template import CallTemplate, Fixed

_MOST = 64  # steps of a recording
_LEAST = 3  # steps that tell what changes
_ROUNDING, _ROUNDING_HALF = 5e-3, 0.05  # of a network asked in another batch, relative to its largest value


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

    def replay(self, recording: Recording) -> tuple[Half, Half | None]:
        """Recipes and rows of both halves, with which a replay repeats each step of a recording.

        Raises:
            CannotProbe: the recording is of another form than was learnt.
        """
        first_step = recording.steps[0]
        if [call.name for call in first_step.calls] != [template.network for template in self.templates]:
            raise CannotProbe("it asks its networks in another way for some views than for others")
        found = self.halves(first_step, recording.rows)
        stacked = [None if h is None else (h[0], {k: torch_rows(v) for k, v in h[1].items()}) for h in found]
        check_replay(self.templates, self.combination, stacked, recording, tolerance(first_step))
        return found


def tolerance(step: Step) -> float:
    """What rounding may change of a model output, relative."""
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(step.output.dtype, 2e-2)


def learn(recorder: Recorder, calling: Calling, call: Mapping[str, Any]) -> tuple[Learnt, Recording, Recording]:
    """What the pipeline's step is for one picture's arguments.

    Returns:
        What was learnt; the recording of few pictures, whose first step is real where it is the recorder's first; and
        that of PATTERNS pictures alike.

    Raises:
        CannotProbe: the step cannot be learnt.
    """
    steps = FEW
    few = _few(recorder, calling, call, steps)
    while len(few.steps) < _LEAST and steps < _MOST and "num_inference_steps" in calling.repeated(call, 1):
        steps *= 4
        few = _few(recorder, calling, call, steps)
    if len(few.steps) < _LEAST:
        raise CannotProbe(
            f"it stepped its scheduler {len(few.steps)} times, and at least {_LEAST} are needed to tell what changes"
        )
    if few.unscaled:
        raise CannotProbe("it does not ask its scheduler's scale_model_input, which its states need")
    for name in recorder.networks:
        if few.changed[name] is not None:
            raise CannotProbe(f"it changes {few.changed[name]} of its {name} while it runs")
    many = recorder.record(calling.repeated(call, PATTERNS, steps), PATTERNS, steps=len(few.steps), last_state=patterns)
    found = combination(many.steps, PATTERNS, tolerance(many.steps[0]))
    learnt = Learnt(templates(few, many), found, many.steps[0].sample.shape[1:], steps)
    learnt.replay(few)
    return learnt, few, many


def _few(recorder: Recorder, calling: Calling, call: Mapping[str, Any], steps: int, real: bool = False) -> Recording:
    """A recording of PICTURES pictures; of one where the pipeline cannot make more, or there is no memory for more."""
    try:
        return recorder.record(calling.repeated(call, PICTURES, steps), PICTURES, real=real)
    except CannotProbe as error:
        if error.__cause__ is None:
            raise
    return recorder.record(calling.repeated(call, 1, steps), 1, real=real)


def learn_tail(many: Recording, pipe: Any) -> Tail | None:
    """What becomes of the last state; None where it is a picture itself.

    Raises:
        CannotProbe: it is neither decoded nor a picture.
    """
    shape = many.steps[-1].sample.shape[1:]
    if many.decoded is not None:
        found = replace(tail(many.decoded, shape, many.decoder_dtype), decoding=many.decoding)
        rounded = many.decoded.dtype in (torch.float16, torch.bfloat16)
        return snapped(found, getattr(pipe, many.decoder).config, rounded)
    pictures = first(many.pictures)
    made = torch.as_tensor(pictures) if not isinstance(pictures, list) else None
    if made is not None and made.ndim == 4 and len(made) == PATTERNS:
        grey, white = (made[i].double() for i in (0, 1))
        if float((grey - 0.5).abs().max()) < 1e-3 and float((white - 1).abs().max()) < 1e-3 and len(shape) == 3:
            return None
    raise CannotProbe("its last state is neither decoded by an autoencoder nor a picture itself")


def clean_start(recording: Recording, layout: Layout) -> torch.Tensor | None:
    """Clean views [B, C, h, w] that a run begins from, B being 1 or the recording's rows; None where that is noise.

    Pipelines noise them before or after they pack them: what makes the noised ones the first state is done to them.

    Raises:
        CannotProbe: the noised ones are not the first state.
    """
    clean, noised, step = recording.start, recording.noised, recording.steps[0]
    if clean is None or noised is None:
        return None
    wanted = layout.unpacked(step.sample)
    forms: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
        layout.unpacked,
        lambda latents: latents.reshape(len(latents), *layout.view_shape),
    )
    for form in forms:
        if noised[0].numel() == wanted[0].numel() and distance(form(noised), wanted) <= tolerance(step):
            return form(clean)
    raise CannotProbe("it noises latents before its loop, but its first state is made of more than those")


def check(learnt: Learnt, recorder: Recorder, calling: Calling, call: Mapping[str, Any]) -> None:
    """Where it is in doubt whether a network's rows are apart: its own step, and its rows asked one by one.

    Raises:
        CannotProbe: the networks asked apart give another output.
    """
    if not recorder.doubted & recorder.networks:
        return
    recording = _few(recorder, calling, call, learnt.steps, real=True)
    step, rows = recording.steps[0], recording.rows
    t = torch.as_tensor(step.t, device=step.sample.device).reshape(1)
    shape, bound = step.sample.shape[1:], rounding(step)
    sources = learnt.combination.cond, learnt.combination.uncond
    for asked, source in zip(learnt.halves(step, rows), sources, strict=True):
        if asked is None or source is None:
            continue
        recipe, found = asked
        wanted = recipe.sign * piece(step.calls[source.call].output, source.part, rows, shape)
        for row in range(rows):
            state = step.scaled[row : row + 1].clone()
            own = {name: torch_rows([cloned(values[row])]) for name, values in found.items()}
            before = cloned([state, own])
            with torch.no_grad(), random_kept():
                got = recipe(recorder.pipe, state, t, own)
            if not same(before, [state, own]):
                raise CannotProbe("its network writes into what it is given")
            error = distance(got[0], wanted[row])
            if not error <= bound:
                raise CannotProbe(
                    f"its network asked apart differs from its own step by {error:.2g} (at most {bound:.2g})"
                )


def rounding(step: Step) -> float:
    """What another batch may change of a network's answer, relative to its largest value."""
    values = [v for call in step.calls for v in leaves([call.args, call.kwargs, call.output])]
    kinds = {v.dtype for v in values if isinstance(v, torch.Tensor)}
    return _ROUNDING_HALF if kinds & {torch.float16, torch.bfloat16} else _ROUNDING


def halves_alike(a: tuple[Half, Half | None], b: tuple[Half, Half | None], bound: float) -> bool:
    """Whether both ask the networks alike, but for rounding of rows."""
    recipes = all(x is None or y is None or same(_plain(x[0]), _plain(y[0])) for x, y in zip(a, b, strict=True))
    return recipes and rows_alike(a, b, bound)


def _plain(recipe: Recipe) -> list[Any]:
    """A recipe's constants that can be compared; objects that each call makes anew cannot."""
    nodes = [node for call in recipe.calls for node in call.nodes if isinstance(node, Fixed)]
    return [node.value for node in nodes if isinstance(node.value, (torch.Tensor, int, float, str))]


def rows_alike(a: tuple[Half, Half | None], b: tuple[Half, Half | None], bound: float) -> bool:
    """Whether the first rows of two recordings of a picture are the same but for rounding, where they are as long."""
    for x, y in zip(a, b, strict=True):
        if x is None or y is None:
            continue
        for name in x[1].keys() & y[1].keys():
            one, other = x[1][name][0], y[1][name][0]
            if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.shape != other.shape:
                continue
            if one.numel() and not same(one, other) and not distance(one, other) <= bound:
                return False
    return True


def stackable(values: Sequence[Any]) -> bool:
    """Whether rows can be one tensor."""
    return all(isinstance(v, torch.Tensor) for v in values) and len({(v.shape, v.dtype) for v in values}) == 1


def torch_rows(values: Sequence[Any]) -> Any:
    """Rows as one tensor where they can be."""
    return torch.stack(list(values)) if stackable(values) else list(values)
