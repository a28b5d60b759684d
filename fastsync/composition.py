"""The task of a picture whose regions follow prompts of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from . import controls
from .canvases import MaskCanvas
from .guidance import Guidance
from .masks import read_masks
from .metadata import recorded
from .priors import PipelinePrior
from .task import Options, SyncPipelineOutput, brings_embeddings, check_prompts, method_of, run


def compose(
    make_prior: Callable[[], PipelinePrior],
    name: str,
    masks: Any,
    prompts: Sequence[str | None] | None,
    background: str,
    prompt: str | None,
    guidance_scale: float | Guidance | None,
    options: Options,
) -> SyncPipelineOutput:
    """As :meth:`fastsync.SyncPipeline.compose`.

    Args:
        make_prior: the pipeline's prior for the options' window.
        name: of the model, for the output's parameters.
    """
    embedded = brings_embeddings(options) and (prompts is None or all(text is None for text in prompts))
    counts = [None if listed is None else len(listed) for listed in (masks, prompts)]
    if not counts[0] or (counts[0] != counts[1] and not embedded):
        raise ValueError(
            f"masks and prompts must be equally many, one or more, got {counts[0]} masks and {counts[1]} prompts: "
            "pass regions=[(mask, prompt), ...]."
        )
    prior, method = make_prior(), method_of(options)
    canvas = MaskCanvas(read_masks(masks, prior.window))
    texts = check_prompts(None if embedded else [background, *(prompts or [])], canvas.num_views, "region", options)
    if texts is not None and method.noise_use == "read":
        texts.append(", ".join(text for text in texts if text) if prompt is None else prompt)
    image = options.get("control_image")
    return run(
        prior,
        canvas,
        method,
        texts,
        lambda out: prior.decode(out.canvas),
        {
            "task": "compose",
            "model": name,
            "prompt": prompt,
            "background": background,
            "prompts": recorded(prompts),
            "masks": [str(mask) if isinstance(mask, (str, os.PathLike)) else None for mask in masks],
            "height": prior.window_pixels[0],
            "width": prior.window_pixels[1],
        },
        guidance_scale,
        options,
        control=None if image is None else controls.read_control(image, prior.window_pixels),
    )
