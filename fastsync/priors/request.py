"""What a task asks a prior to be told of its views, and what the prior makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from ..conditions import Conditions
from ..errors import shown
from ..guidance import Guidance

T = TypeVar("T")

# Arguments of a pipeline's call that a task makes, and the options that are for them.
OPTIONS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "height": "window",
    "width": "window",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "eta": "eta",
    "generator": "generator",
    "latents": "latents",
    "output_type": "output_type",
    "num_images_per_prompt": "seed",
    "return_dict": "output_type",
    "callback_on_step_end": "callback_on_step_end",
    "callback_on_step_end_tensor_inputs": "callback_on_step_end_tensor_inputs",
}


def check_names(pipe_kwargs: Any) -> None:
    """TypeError for further arguments of a pipeline's call that are no mapping of names."""
    if not isinstance(pipe_kwargs, Mapping) or not all(isinstance(name, str) for name in pipe_kwargs):
        raise TypeError(
            f"pipe_kwargs must be a dictionary of arguments by name, got {shown(pipe_kwargs)}: pass e.g. "
            "{'clip_skip': 1}."
        )


class ByView(Generic[T]):
    """Values of one argument of a pipeline's call, one for each view, for ``pipe_kwargs``.

    ::

        sync.wide("a town", pipe_kwargs={"ip_adapter_image": fs.ByView([morning, noon, evening, night])})

    Args:
        values: item i is what the pipeline's call gets for view i, as that call takes it for one picture.
    """

    def __init__(self, values: Sequence[T]) -> None:
        if not isinstance(values, (list, tuple)) or not values:
            raise TypeError(f"ByView takes a list with one value a view, got {shown(values)}: pass a list.")
        self.values: tuple[T, ...] = tuple(values)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[T]:
        return iter(self.values)

    def __getitem__(self, view: int) -> T:
        return self.values[view]

    def __repr__(self) -> str:
        return f"ByView of {len(self.values)} values"


@dataclass(frozen=True)
class ViewRequest:
    """What a task wants N views to be told.

    Attributes:
        num_views: N.
        prompts: one for all views, or N; None where ``pipe_kwargs`` brings embeddings.
        negative_prompt: one for all views, or N; None for what the pipeline makes of none.
        guidance: the caller's; None for the pipeline's own.
        places: (y, x) of each view's first pixel where views are windows of one picture, else None.
        size: (height, width) of that picture in pixels, where there are places.
        control: float32 [N, 1 or 3, H, W], or [1, 1 or 3, H, W] for all views alike, in [0, 1]: what a ControlNet is
            shown of each view, at a view's size in pixels. Depth has one channel, from 0 (background) to 1 (nearest),
            linear in inverse depth. None: nothing.
        pipe_kwargs: further arguments of the pipeline's call, :class:`ByView` where views differ.
        seed: of what the pipeline's call itself draws, such as the latents of pictures that it encodes.
    """

    num_views: int
    prompts: Sequence[str] | None
    negative_prompt: str | Sequence[str] | None = None
    guidance: Guidance | None = None
    places: Sequence[tuple[int, int]] | None = None
    size: tuple[int, int] | None = None
    control: torch.Tensor | None = None
    pipe_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


class Told(NamedTuple):
    """Arguments of :func:`fastsync.sample` that a prior has made of a request.

    Attributes:
        cond, uncond: conditions of all views; ``uncond`` None where the network is not guided by one.
        guidance: how ``cond`` and ``uncond`` are combined; without ``uncond`` it has no effect on the run.
        start: clean views [N, C, h, w] that the run begins from, with the noise of its first time, where the pipeline
            begins so (image to image); else None.
        scale: the guidance scale in the terms of the pipeline's call, by which the run can be asked for again; None
            for what the call makes of none. Metadata record it.
    """

    cond: torch.Tensor | Conditions | None
    uncond: torch.Tensor | Conditions | None
    guidance: Guidance
    start: torch.Tensor | None = None
    scale: float | None = None
