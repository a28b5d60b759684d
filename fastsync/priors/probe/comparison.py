"""A prior by somebody's adapter, held against its pipeline's own first step."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from ...conditions import Conditions
from ...guidance import rescaled
from ..base import PipelinePrior
from ..request import ViewRequest
from .calling import ANYTHING, FEW, Calling
from .guidance import distance, model_output
from .layout import PATTERNS, Layout, patterns
from .learning import learn_tail, tolerance
from .recording import Recorder, Recording

# Adapters that have been compared, by the pipeline that they were made of.
_COMPARED: WeakKeyDictionary[Any, set[tuple[object, object]]] = WeakKeyDictionary()


def check_adapter(prior: PipelinePrior, adapter: object) -> None:
    """ValueError where a prior's network is not what its pipeline asks; once for each pipeline and window.

    Where the pipeline's own step cannot be recorded, or its views are not the prior's, there is nothing to compare.

    Args:
        prior: of a pipeline, by ``adapter``.
        adapter: what made it.
    """
    done = _COMPARED.setdefault(prior.pipe, set())
    key = (adapter, prior.window)
    if key in done:
        return
    recorded = _recorded(prior)
    if recorded is not None:
        _compare(prior, *recorded)
    done.add(key)


def _recorded(prior: PipelinePrior) -> tuple[Recording, Layout] | None:
    """The pipeline's own first step for a view, and how its states lie in views; None where it cannot be had."""
    try:
        recorder = Recorder(prior.pipe)
        calling = Calling(recorder, prior.window_pixels, {}, None)
        call = calling.plain()
        one = recorder.record(calling.repeated(call, 1, FEW), 1)
        many = recorder.record(
            calling.repeated(call, PATTERNS, FEW), PATTERNS, steps=len(one.steps), last_state=patterns
        )
        tail = learn_tail(many, prior.pipe)
    except ValueError:  # what cannot be probed is what adapters are for
        return None
    shape = tuple(one.steps[0].sample.shape[1:])
    layout = tail.layout if tail is not None else Layout(prior.view_shape, shape)
    return (one, layout) if layout.view_shape == tuple(prior.view_shape) else None


def _compare(prior: PipelinePrior, one: Recording, layout: Layout) -> None:
    step = one.steps[0]
    told = prior.told(ViewRequest(1, [ANYTHING]))
    x, t = layout.unpacked(step.scaled), torch.as_tensor(step.t, device=step.scaled.device).reshape(1)
    with torch.no_grad(), prior.sampling():
        prepared = prior.prepare_conditions(_named(prior, told.cond), _named(prior, told.uncond), 1)
        raw = prior.raw(x, t, *prepared)
    got = raw
    if told.uncond is not None:
        uncond, cond = raw.chunk(2)
        got = uncond + told.guidance.scale * (cond - uncond)
        if told.guidance.rescale:
            got = rescaled(got, cond, told.guidance.rescale)
    wanted = layout.unpacked(model_output(step))
    error = distance(got, wanted)
    bound = 50 * tolerance(step)
    if not error <= bound:
        raise ValueError(
            f"{type(prior).__name__}, the adapter registered for {type(prior.pipe).__name__}, differs from that "
            f"pipeline's own first step by {error:.2g} (at most {bound:.2g}): mend its network(), its conditions or "
            "its default_guidance."
        )


def _named(prior: PipelinePrior, cond: Any) -> Conditions | None:
    return None if cond is None else Conditions.of(cond, prior.condition_name).to(prior.device)
