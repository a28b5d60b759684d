"""``SyncPipeline``: the drop-in wrapper of a diffusers pipeline."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from . import zoo
from .canvases import WideCanvas
from .errors import check_choice, check_device, check_int, check_number, shown
from .methods import Independent, Method, MultiDiffusion, SyncSDE, SyncTweedies, SyncVC
from .priors import DiffusersPrior
from .run import Stats
from .sampler import sample
from .scheduling import Order

METHODS: dict[str, type[Method]] = {
    "syncvc": SyncVC,
    "multidiffusion": MultiDiffusion,
    "synctweedies": SyncTweedies,
    "syncsde": SyncSDE,
    "independent": Independent,
}
OutputType = Literal["pil", "np", "pt", "latent"]


@dataclass(frozen=True)
class SyncPipelineOutput:
    """What a task of :class:`SyncPipeline` returns.

    Attributes:
        images: as ``output_type`` says: PIL images, an array [1, H, W, 3] or tensor [1, 3, H, W] in [0, 1], or latents.
        latents: the canvas [1, C, H/f, W/f].
        views: the final views [N, C, h, w], in latent cells.
        canvas: the canvas object, which knows the views' places.
        stats: what the run spent.
        parameters: everything that is needed to make the picture again, ready for JSON.
    """

    images: Any
    latents: torch.Tensor
    views: torch.Tensor
    canvas: WideCanvas
    stats: Stats
    parameters: dict[str, Any]


class SyncPipeline:
    """Synchronised sampling around a diffusers pipeline that you already have.

    Args:
        pipe: a ``StableDiffusionPipeline``, on its device, in its dtype, with its scheduler (which is run by DDIM with
            the scheduler's own times and betas). The pipeline itself is not changed, and its safety checker is not run.
        guidance_scale: default of the tasks' argument of this name.

    Raises:
        ValueError: the pipeline is of a kind that is not supported (says what it lacks).
    """

    def __init__(self, pipe: Any, *, guidance_scale: float = 7.5) -> None:
        self.pipe = pipe
        self.guidance_scale = check_number("guidance_scale", guidance_scale)
        self.name = str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
        DiffusersPrior(pipe)  # refuses early what no task could use

    @classmethod
    def from_zoo(
        cls, name: str = "scenes", *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> SyncPipeline:
        """An embedded prior: no network needed. ``device`` and ``dtype`` as in :meth:`from_pretrained`."""
        sync = cls.from_pretrained(zoo.path(name), device=device, dtype=dtype)
        sync.guidance_scale, sync.name = zoo.guidance_scale(name), f"zoo:{name}"
        return sync

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> SyncPipeline:
        """Load a diffusers pipeline from a folder or from the hub.

        Args:
            name_or_path: a folder in diffusers' format, or a model's name on the hub.
            device: CUDA where there is one, else the CPU, if None.
            dtype: float16 on CUDA, float32 on the CPU, if None.

        Raises:
            ValueError: the model is neither a folder nor to be had from the hub, or its pipeline is not supported.
        """
        import diffusers

        if not isinstance(name_or_path, (str, os.PathLike)):
            raise TypeError(f"name_or_path must be a folder or a model's name, got {shown(name_or_path)}.")
        model = os.fspath(name_or_path)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = check_device("device", device)
        if dtype is None:
            dtype = torch.float16 if device.type == "cuda" else torch.float32
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {shown(dtype)}: pass torch.float32.")
        # diffusers renamed the argument; 0.42 is known to have the new name, and warns of the old one.
        release = tuple(int(n) for n in re.findall(r"\d+", diffusers.__version__)[:2])
        keyword = "dtype" if release >= (0, 42) else "torch_dtype"
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(model, **{keyword: dtype})
        except (OSError, ValueError, AttributeError, ImportError) as error:
            # The libraries' own messages run over many sentences (all of them stay in the chained error).
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason if len(reason) <= 120 else reason[:117] + "..."
            folder = os.path.isdir(model)
            kind = "the folder holds no complete pipeline" if folder else "it is no folder, nor to be had from the hub"
            raise ValueError(
                f"model {shown(model)} could not be loaded, {kind} ({reason}): check the name, or use "
                "SyncPipeline.from_zoo()."
            ) from error
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe.to(device))

    @property
    def window_pixels(self) -> tuple[int, int]:
        """(height, width) of one view in pixels: the size that the model was trained at."""
        prior = DiffusersPrior(self.pipe)
        return prior.window[0] * prior.scale, prior.window[1] * prior.scale

    def wide(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        overlap: int | None = None,
        loop: bool = False,
        method: str | Method = "syncvc",
        negative_prompt: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 0.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        order: Order | None = None,
        max_batch: int | None = None,
        output_type: OutputType = "pil",
        progress: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> SyncPipelineOutput:
        """A picture of any size from overlapping windows of the model's own size.

        Args:
            prompt: one for all windows, or one a window (row-major).
            height, width: of the picture in pixels, at least the window's; by default one window high and four wide.
                Any size: the last window is flush with the border, and pixels that do not fill a latent cell are cut
                (with ``loop`` the width must fill its cells, or the cut would be seen).
            overlap: pixels that neighbouring windows share, a quarter of the window if None.
            loop: close the picture in x, so that its right border continues on its left.
            method: ``"syncvc"``, ``"multidiffusion"``, ``"independent"``, or a method object with your settings.
            negative_prompt, num_inference_steps, guidance_scale, eta, generator, latents, output_type: as in diffusers;
                ``latents`` is [1, C, H/f, W/f] or one for each window, [N, C, h, w].
            seed: makes the picture repeatable (instead of ``generator``); drawn and recorded if neither is given.
            order, max_batch: as in :func:`fastsync.sample`.
            progress: show a progress bar.
            callback_on_step_end: ``f(pipe, step, t, {"latents": views}) -> {} or {"latents": views}``, as in diffusers.
            callback_on_step_end_tensor_inputs: what the callback wants to see; there is only ``"latents"``.
        """
        prior = DiffusersPrior(self.pipe)
        scale, (h, w) = prior.scale, prior.window
        steps = check_int("num_inference_steps", num_inference_steps)
        eta = check_number("eta", eta, minimum=0.0, maximum=1.0)
        guidance = check_number("guidance_scale", self.guidance_scale if guidance_scale is None else guidance_scale)
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise TypeError(f"callback_on_step_end must be callable, got {shown(callback_on_step_end)}.")
        if list(callback_on_step_end_tensor_inputs) not in ([], ["latents"]):
            raise ValueError(
                "callback_on_step_end_tensor_inputs must be ['latents'], got "
                f"{shown(callback_on_step_end_tensor_inputs)}."
            )
        height = h * scale if height is None else check_int("height", height)
        width = 4 * w * scale if width is None else check_int("width", width)
        for name, side, cells in (("height", height, h), ("width", width, w)):
            if side < cells * scale:
                raise ValueError(
                    f"{name} must be at least the model's window of {cells * scale} pixels, got {side}: ask for a "
                    "larger picture and crop it."
                )
        overlap = min(h, w) * scale // 4 if overlap is None else check_int("overlap", overlap, minimum=0)
        cells = -(-overlap // scale)
        if cells >= min(h, w):
            raise ValueError(
                f"overlap must be at most {(min(h, w) - 1) * scale} pixels (the model's window of {min(h, w) * scale} "
                f"less one latent cell), got {overlap}: choose less."
            )
        if loop and width % scale:
            raise ValueError(
                f"width must be a multiple of {scale} pixels (a latent cell) with loop=True, got {width}: use "
                f"{width - width % scale} or {width - width % scale + scale}."
            )
        canvas = WideCanvas(
            (-(-height // scale), -(-width // scale)), window=(h, w), stride=(h - cells, w - cells), loop=loop
        )
        check_choice("output_type", output_type, ("pil", "np", "pt", "latent"))
        if isinstance(method, str):
            method = METHODS[check_choice("method", method, METHODS)]()
        if seed is not None and generator is not None:
            raise ValueError("seed and generator were both given: pass one of them.")
        if generator is None:
            seed = secrets.randbelow(2**32) if seed is None else check_int("seed", seed, minimum=0)
            if seed >= 2**64:
                raise ValueError(f"seed must be under 2**64, got {seed}: choose a smaller one.")
            generator = torch.Generator().manual_seed(seed)
        if isinstance(prompt, Sequence) and not isinstance(prompt, str) and len(prompt) not in (1, canvas.num_views):
            raise ValueError(
                f"prompt must be one or {canvas.num_views} strings (one a window), got {len(prompt)}: the picture has "
                f"{canvas.num_views} windows."
            )
        cond, uncond = prior.encode_prompt(prompt, negative_prompt)
        out = sample(
            prior,
            canvas,
            method,
            cond=cond,
            # diffusers' rule: guidance is on above 1.
            uncond=uncond if guidance > 1 else None,
            guidance_scale=guidance,
            num_inference_steps=steps,
            eta=eta,
            latents=latents,
            generator=generator,
            order=order,
            max_batch=max_batch,
            progress=progress,
            callback=None if callback_on_step_end is None else _Callback(self.pipe, callback_on_step_end),
        )
        images = out.canvas
        if output_type != "latent":
            with torch.no_grad():
                pixels = _decode(prior, out.canvas, loop)[..., :height, :width]
            images = self.pipe.image_processor.postprocess(pixels.float(), output_type=output_type)
        self.pipe.maybe_free_model_hooks()  # models offloaded by accelerate go back to where they wait
        parameters = {
            "task": "wide",
            "model": self.name,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "negative_prompt": negative_prompt,
            "height": height,
            "width": width,
            "overlap": overlap,
            "loop": loop,
            "method": next((k for k, v in METHODS.items() if type(method) is v), type(method).__name__),
            "method_settings": _settings(method),
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "eta": eta,
            "scheduler": type(self.pipe.scheduler).__name__,
            "seed": seed,
            "dtype": str(prior.dtype).removeprefix("torch."),
        }
        return SyncPipelineOutput(images, out.canvas, out.views, canvas, out.stats, parameters)


class _Callback:
    """Speaks diffusers' convention on one side and ``sample``'s on the other."""

    def __init__(self, pipe: Any, function: Callable[..., Any]) -> None:
        self.pipe, self.function = pipe, function

    def __call__(self, step: int, t: torch.Tensor, state: Mapping[str, torch.Tensor]) -> Any:
        return self.function(self.pipe, step, t, dict(state))


def _decode(prior: DiffusersPrior, latents: torch.Tensor, loop: bool) -> torch.Tensor:
    """Canvas latents [1, C, H, W] to pixels; a closed canvas is decoded with its own other side as surroundings."""
    if not loop:
        return prior.decode(latents)
    margin = min(latents.shape[-1], prior.window[1])
    wrapped = torch.cat([latents[..., -margin:], latents, latents[..., :margin]], dim=-1)
    edge = margin * prior.scale
    return prior.decode(wrapped)[..., edge:-edge]


def _settings(method: Method) -> dict[str, Any]:
    """A method's settings as JSON can hold them; functions and the like by their repr."""

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value if isinstance(value, (int, float, str, type(None))) else repr(value)

    return {name.removeprefix("_"): plain(value) for name, value in vars(method).items()}
