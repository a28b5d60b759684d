"""What the tasks of ``SyncPipeline`` share: their common options, the run itself, and what they return."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch

from .canvases import Canvas
from .errors import check_choice, check_int, check_number, check_pair, shown
from .guidance import Guidance
from .metadata import recorded
from .methods import (
    Independent,
    Method,
    MultiDiffusion,
    StochSync,
    SyncDiffusion,
    SyncSDE,
    SyncTweedies,
    SyncVC,
)
from .priors import ByView, PipelinePrior, ViewRequest
from .priors.request import OPTIONS, check_names
from .sampler import SyncOutput, sample
from .sampling_checks import check_parts, merging
from .scheduling import Order
from .stats import Stats

METHODS: dict[str, type[Method]] = {
    "syncvc": SyncVC,
    "multidiffusion": MultiDiffusion,
    "synctweedies": SyncTweedies,
    "syncsde": SyncSDE,
    "syncdiffusion": SyncDiffusion,
    "stochsync": StochSync,
    "independent": Independent,
}
# A task's part of the conditions: from what the prior is told (cond, uncond) and the run's generator to all of it.
Conditioner = Callable[[Any, Any, torch.Generator], tuple[Any, Any]]
OutputType = Literal["pil", "np", "pt", "latent"]
StepCallback = Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any] | None]


class Options(TypedDict, total=False):
    """Keyword arguments of every task of :class:`fastsync.SyncPipeline`.

    Keys:
        method: ``"syncvc"`` (default), ``"multidiffusion"``, ``"synctweedies"``, ``"syncsde"``, ``"syncdiffusion"``,
            ``"stochsync"``, ``"independent"``, or a method object with your settings.
        preset: ``"quality"`` (default), ``"balanced"`` or ``"fast"``, of the method ``"syncvc"``
            (:meth:`fastsync.SyncVC.preset`).
        negative_prompt, num_inference_steps (50), eta (0), generator, output_type ("pil"): as in diffusers.
        guidance_scale: a number as in diffusers, or :class:`fastsync.Guidance`, which can rescale and has an interval;
            the pipeline's own if None.
        window: (height, width) of a view in pixels; the pipeline's own default size if None. Other sizes ask the model
            for pictures that it may not have been trained at.
        control_image: what a ControlNet is shown, a picture of the whole result: a file, PIL image, array [H, W(, C)]
            or tensor [(C,) H, W] in [0, 1]. It has the result's size; files and PIL images of the same proportions are
            resized. Each view sees its own part: windows are cropped out of it, cameras look at it (equirectangular,
            any size), views of an illusion transform it. One channel is depth, from 0 (background) to 1 (nearest).
        pipe_kwargs: whatever else the pipeline's own call takes, by name, such as ``{"clip_skip": 1}``;
            :class:`fastsync.ByView` where views differ. With embeddings among them (``prompt_embeds``) a task's prompts
            are None.
        latents: initial noise, of the canvas [1, C, H, W] or of each view [N, C, h, w], in the prior's cells.
        seed: makes the result repeatable (instead of ``generator``); drawn and recorded if neither is given.
        order, max_batch, canvas_device: as in :func:`fastsync.sample`, ``max_batch="auto"`` if not given.
        progress: show a progress bar (True).
        callback_on_step_end: ``f(pipe, step, t, {"latents": views}) -> {} or {"latents": views}``, as in diffusers.
        callback_on_step_end_tensor_inputs: what the callback wants to see, ``["latents"]`` by default; ``"x0"`` are the
            clean estimates.
    """

    method: str | Method
    preset: str | None
    negative_prompt: str | None
    num_inference_steps: int
    guidance_scale: float | Guidance | None
    window: tuple[int, int] | None
    control_image: Any
    pipe_kwargs: Mapping[str, Any] | None
    eta: float
    seed: int | None
    generator: torch.Generator | None
    latents: torch.Tensor | None
    order: Order | None
    max_batch: int | Literal["auto"] | None
    canvas_device: torch.device | str | None
    output_type: OutputType
    progress: bool
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]


@dataclass(frozen=True)
class SyncPipelineOutput:
    """What a task of :class:`SyncPipeline` returns.

    Attributes:
        images: as ``output_type`` says: PIL images, an array [n, H, W, 3] or tensor [n, 3, H, W] in [0, 1], or latents.
            The picture is the first (``illusion``: what each view shows follows).
        latents: the canvas [1, C, H/f, W/f]; in pixels [1, 3, H, W] where the method merges pictures.
        views: the final views [N, C, h, w], in the prior's cells, or in pixels likewise.
        canvas: the canvas object, which knows the views' places.
        stats: what the run spent.
        parameters: everything that is needed to make the picture again, ready for JSON.
    """

    images: Any
    latents: torch.Tensor
    views: torch.Tensor
    canvas: Any
    stats: Stats
    parameters: dict[str, Any]


def method_of(options: Options, **settings: Any) -> Method:
    """The method that the options name, as an object; ``settings`` are the task's own of SyncVC where it is named."""
    method, preset = options.get("method", "syncvc"), options.get("preset")
    if isinstance(method, str):
        check_choice("method", method, METHODS)
    if preset is not None and method != "syncvc":
        raise ValueError(
            f"preset={shown(preset)} is one of method='syncvc', got method={shown(method)}: leave one of them out, or "
            "pass SyncVC.preset(...) with your own settings as the method."
        )
    if method == "syncvc":
        return SyncVC.preset(preset or "quality", **settings)
    return METHODS[method]() if isinstance(method, str) else method


def check_options(task: str, options: Options) -> None:
    """TypeError for a keyword that no task knows, ValueError for values that do not fit, before anything is built."""
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise TypeError(
            f"{task}() got an unexpected keyword argument {unknown[0]!r}: it takes its own and "
            f"{', '.join(Options.__annotations__)}."
        )
    check_int("num_inference_steps", options.get("num_inference_steps", 50))
    check_number("eta", options.get("eta", 0.0), minimum=0.0, maximum=1.0)
    check_choice("output_type", options.get("output_type", "pil"), ("pil", "np", "pt", "latent"))
    callback, inputs = options.get("callback_on_step_end"), options.get("callback_on_step_end_tensor_inputs", [])
    if callback is not None and not callable(callback):
        raise TypeError(f"callback_on_step_end must be callable, got {shown(callback)}.")
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not set(inputs) <= {"latents", "x0"}:
        raise ValueError(f"callback_on_step_end_tensor_inputs must be of 'latents' and 'x0', got {shown(inputs)}.")
    if options.get("seed") is not None and options.get("generator") is not None:
        raise ValueError("seed and generator were both given: pass one of them.")
    seed, guidance = options.get("seed"), options.get("guidance_scale")
    if seed is not None and check_int("seed", seed, minimum=0) >= 2**64:
        raise ValueError(f"seed must be under 2**64, got {seed}: choose a smaller one.")
    if guidance is not None:
        Guidance.of(guidance)
    if options.get("window") is not None:
        check_pair("window", options["window"])
    _check_pipe_kwargs(options.get("pipe_kwargs"))
    method_of(options)


def _check_pipe_kwargs(given: Any) -> None:
    if given is None:
        return
    check_names(given)
    for name in given:
        if name in OPTIONS:
            raise ValueError(
                f"pipe_kwargs has {name!r}, which the task passes to the pipeline itself: use the task's own "
                f"{OPTIONS[name]}=."
            )


def brings_embeddings(options: Options) -> bool:
    """Whether the prompts are embedded already, among the arguments of the pipeline's own call."""
    return any(name.startswith(("prompt_embeds", "image_embeds")) for name in options.get("pipe_kwargs") or {})


def check_prompts(
    prompt: str | Sequence[str | None] | None, count: int, view: str, options: Options
) -> list[str] | None:
    """One prompt for all views, or one a view; ``view`` is what the task calls one. None: embeddings are given."""
    if prompt is None and brings_embeddings(options):
        return None
    if prompt is None:
        raise TypeError(
            "prompt must be a string or a list of strings, got None: only embeddings take its place, "
            "pipe_kwargs={'prompt_embeds': ...}."
        )
    texts = [prompt] if isinstance(prompt, str) else prompt
    found = [text for text in texts if isinstance(text, str)] if isinstance(texts, (list, tuple)) else None
    if found is None or len(found) < len(texts):
        raise TypeError(f"prompt must be a string or a list of strings, got {shown(prompt)}.")
    if len(texts) not in (1, count):
        raise ValueError(
            f"prompt must be one or {count} strings (one a {view}), got {len(texts)}: the picture has {count} {view}s."
        )
    return found


def example(prompts: Any, guidance_scale: float | Guidance | None, options: Options) -> ViewRequest | None:
    """The kind of request that a task is going to make, for one view; None where the arguments are not what they
    should be, which is refused later."""
    texts = [prompts] if isinstance(prompts, str) else prompts or []
    chosen, negative = options.get("guidance_scale"), options.get("negative_prompt")
    chosen = guidance_scale if chosen is None else chosen
    if not isinstance(texts, (list, tuple)) or any(not isinstance(text, (str, type(None))) for text in texts):
        return None
    told = next((text for text in texts if text), None)
    if told is None and not brings_embeddings(options):
        return None
    return ViewRequest(1, None if told is None else [told], negative, None if chosen is None else Guidance.of(chosen))


def run(
    prior: PipelinePrior,
    canvas: Canvas,
    method: Method,
    prompts: Sequence[str] | None,
    paint: Callable[[SyncOutput], torch.Tensor],
    parameters: Mapping[str, Any],
    guidance_scale: float | Guidance | None,
    options: Options,
    *,
    places: Sequence[tuple[int, int]] | None = None,
    size: tuple[int, int] | None = None,
    control: torch.Tensor | None = None,
    view: str = "view",
    conditioner: Conditioner | None = None,
) -> SyncPipelineOutput:
    """Sample ``canvas`` and paint the result.

    Args:
        prompts: one for all views, or one a view; None where ``pipe_kwargs`` brings embeddings.
        paint: makes the pictures [n, 3, H, W], about [-1, 1], of the sampled output.
        parameters: of the task itself; those of the options are added.
        guidance_scale: where the options give none; None for the pipeline's own.
        places, size, control: of :class:`fastsync.priors.ViewRequest`.
        view: what the task calls one.
        conditioner: adds to the conditions what else the prior is told; draws from the generator before the sampler
            does.
    """
    seed, generator = options.get("seed"), options.get("generator")
    if generator is None:
        seed = secrets.randbelow(2**32) if seed is None else int(seed)
        generator = torch.Generator().manual_seed(seed)
    chosen = options.get("guidance_scale")
    chosen = guidance_scale if chosen is None else chosen
    steps, eta = int(options.get("num_inference_steps", 50)), float(options.get("eta", 0.0))
    negative, callback = options.get("negative_prompt"), options.get("callback_on_step_end")
    output_type = options.get("output_type", "pil")
    pipe_kwargs = options.get("pipe_kwargs") or {}
    check_parts(prior, canvas, method)
    num_views = merging(canvas, method).num_views
    for name, value in pipe_kwargs.items():
        if isinstance(value, ByView) and len(value) != num_views:
            raise ValueError(
                f"pipe_kwargs[{name!r}] must have one value a {view}, got {len(value)} by view: the picture has "
                f"{num_views} {view}s."
            )
    request = ViewRequest(
        num_views=num_views,
        prompts=prompts,
        negative_prompt=negative,
        guidance=None if chosen is None else Guidance.of(chosen),
        places=places,
        size=size,
        control=control,
        pipe_kwargs=pipe_kwargs,
        seed=generator.initial_seed() if isinstance(generator, torch.Generator) else 0,
    )
    try:
        told = prior.told(request)
        cond, uncond = told.cond, told.uncond
        if conditioner is not None:
            cond, uncond = conditioner(cond, uncond, generator)
        out = sample(
            prior,
            canvas,
            method,
            cond=cond,
            uncond=uncond,
            guidance_scale=told.guidance,
            num_inference_steps=steps,
            eta=eta,
            latents=options.get("latents"),
            start=told.start,
            generator=generator,
            order=options.get("order"),
            max_batch=options.get("max_batch", "auto"),
            fixed_batches=prior.compiled,
            canvas_device=options.get("canvas_device"),
            progress=options.get("progress", True),
            callback=None if callback is None else _Callback(prior.pipe, callback, options),
        )
        images: Any = out.canvas
        if output_type != "latent":
            from diffusers.image_processor import VaeImageProcessor

            with torch.no_grad():
                pixels = paint(out)
            images = VaeImageProcessor().postprocess(pixels.float(), output_type=output_type)
    finally:
        prior.pipe.maybe_free_model_hooks()  # models offloaded by accelerate go back to where they wait
    parameters = {
        **parameters,
        "negative_prompt": negative,
        "method": next((k for k, v in METHODS.items() if type(method) is v), type(method).__name__),
        "preset": options.get("preset"),
        "method_settings": method.recorded(repr),
        "num_inference_steps": steps,
        "guidance_scale": told.scale,
        "guidance_rescale": told.guidance.rescale,
        "guidance_interval": list(told.guidance.interval),
        "eta": eta,
        "window": list(prior.window_pixels),
        "control_image": recorded(options.get("control_image")),
        "pipe_kwargs": recorded(pipe_kwargs),
        "prior": prior.way,
        "scheduler": prior.schedule.scheduler_name,
        "solver": out.solver,
        "seed": seed,
        "dtype": str(prior.dtype).removeprefix("torch."),
    }
    return SyncPipelineOutput(images, out.canvas, out.views, canvas, out.stats, dict(parameters))


class _Callback:
    """Speaks diffusers' convention on one side and ``sample``'s on the other."""

    def __init__(self, pipe: Any, function: Callable[..., Any], options: Options) -> None:
        self.pipe, self.function = pipe, function
        self.names = options.get("callback_on_step_end_tensor_inputs", ["latents"]) or ["latents"]

    def __call__(self, step: int, t: torch.Tensor, state: Mapping[str, torch.Tensor]) -> Any:
        return self.function(self.pipe, step, t, {name: state[name] for name in self.names})
