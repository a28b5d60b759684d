"""The arguments by which a pipeline is called: which of its names say what."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...guidance import Guidance
from ..request import OPTIONS, ByView, ViewRequest, check_names
from ..runtime import CONTROLS, networks_of
from .nested import same
from .recording import Recorder

_NOTHING = "b"  # a negative prompt in the same case, which is not to make both halves alike
ANYTHING = "a"  # a prompt where none is known yet; some tokenizers make nothing of an empty one
FEW = 4  # steps: as many as tell what changes from one to the next

_GUIDANCE = ("guidance_scale", "true_cfg_scale")
_COUNTS = ("num_images_per_prompt", "batch_size")
_TEXTS = ("prompt", "negative_prompt")
_CONTROLS = ("control_image", "image")


class Calling:
    """Makes the arguments of a pipeline's calls.

    Args:
        recorder: of the pipeline.
        window: (height, width) of a view in pixels; None for the pipeline's own.
        pipe_kwargs: further arguments from the user.
        conditioning_scale: of a ControlNet; None for the pipeline's own.

    Raises:
        ValueError: an argument that the pipeline's call does not take, or that has an option of its own.
    """

    def __init__(
        self,
        recorder: Recorder,
        window: tuple[int, int] | None,
        pipe_kwargs: Mapping[str, Any],
        conditioning_scale: float | None,
    ) -> None:
        self.name, self._takes = type(recorder.pipe).__name__, recorder.takes
        self._pipe = recorder.pipe
        check_names(pipe_kwargs)
        known = _names_of_call(type(recorder.pipe))
        for argument in pipe_kwargs:
            if argument in OPTIONS:
                raise ValueError(
                    f"pipe_kwargs has {argument!r}, which fastsync sets itself: leave it out (the option "
                    f"{OPTIONS[argument]} is for it)."
                )
            if known and argument not in known:
                names = ", ".join(name for name in known if name not in OPTIONS)
                raise ValueError(
                    f"pipe_kwargs has {argument!r}, which the call of {self.name} does not take: it takes {names}."
                )
        if window is not None and not (self.takes("height") and self.takes("width")):
            raise ValueError(
                f"the call of {self.name} takes no height and width, so window={window} cannot be asked of it: leave "
                "window out, and give the size by what the call takes, such as an image of that size."
            )
        self.given = dict(pipe_kwargs)
        if window is None and self.control is not None:
            window = self._own_window()
        self._fixed: dict[str, Any] = {} if window is None else {"height": window[0], "width": window[1]}
        self._set("use_resolution_binning", False)  # pictures of the size that is asked for, and no other
        self._set("output_type", "np")
        if conditioning_scale is not None:
            self._set("controlnet_conditioning_scale", conditioning_scale)
        self.extra: dict[str, Any] = {}
        self._seed = 0

    def takes(self, argument: str) -> bool:
        """Whether the pipeline's call has an argument of this name."""
        return argument in self._takes

    def default(self, argument: str) -> Any:
        """The default of an argument of the pipeline's call; None where it has none."""
        found = self._takes[argument].default if self.takes(argument) else None
        return None if found is inspect.Parameter.empty else found

    def seed(self, seed: int) -> None:
        """Seed what the pipeline itself draws, such as the latents of pictures that it encodes."""
        self._seed = seed

    def _set(self, argument: str, value: Any) -> None:
        if self.takes(argument) and argument not in self.given:
            self._fixed[argument] = value

    @property
    def control(self) -> str | None:
        """The name of the argument that takes what a ControlNet sees; None without one."""
        if not any(getattr(self._pipe, name, None) is not None for name in CONTROLS):
            return None
        return next((name for name in _CONTROLS if self.takes(name) and name not in self.given), None)

    def _own_window(self) -> tuple[int, int] | None:
        """The size that the model was made for, where the pipeline's call would take that of the control's picture."""
        cell = getattr(self._pipe, "vae_scale_factor", None)
        size = getattr(self._pipe, "default_sample_size", None)
        for network in networks_of(self._pipe):
            size = size or getattr(getattr(network, "config", None), "sample_size", None)
        if not size or not cell or not (self.takes("height") and self.takes("width")):
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return height * cell, width * cell

    @property
    def has_embeddings(self) -> bool:
        """Whether the user's arguments bring the prompt as embeddings."""
        return any(name.startswith("prompt_embeds") for name in self.given)

    # ---- one picture ------------------------------------------------------------------------------------------

    def plain(self, negative: bool = False) -> dict[str, Any]:
        """Arguments of one picture that nobody has asked for yet; what a ControlNet sees is grey.

        ``negative``: with a negative prompt that is not the empty one, of which some make no finite numbers.
        """
        prompts = None if self.has_embeddings or not self.takes("prompt") else [ANYTHING]
        text = _NOTHING if negative and prompts is not None and self.takes("negative_prompt") else None
        return self.of_view(ViewRequest(1, prompts, text), 0)

    def of_view(self, request: ViewRequest, view: int) -> dict[str, Any]:
        """Arguments of one view, but for the random numbers."""
        call: dict[str, Any] = {**self._fixed}
        for argument, value in self.given.items():
            call[argument] = value[view] if isinstance(value, ByView) else value
        if request.prompts is not None:
            call["prompt"] = request.prompts[view if len(request.prompts) > 1 else 0]
        if request.negative_prompt is not None:
            negative = request.negative_prompt
            call["negative_prompt"] = negative if isinstance(negative, str) else negative[view]
        elif self.takes("negative_prompt") and "negative_prompt_embeds" in self.given:
            call["negative_prompt"] = None  # which some calls take for the empty one else
        if request.guidance is not None and "guidance_scale" not in self.extra and self.takes("guidance_scale"):
            call["guidance_scale"] = request.guidance.scale
        call.update({name: value for name, value in self.extra.items() if value is not None})
        if request.places is not None and self.takes("crops_coords_top_left"):
            for argument, value in (("crops_coords_top_left", request.places[view]), ("original_size", request.size)):
                if argument not in self.given:
                    call[argument] = value
        if self.control is not None:
            call[self.control] = self._control(request.control, view)
        return call

    def _control(self, control: torch.Tensor | None, view: int) -> Any:
        if control is None:
            pixels = (self._fixed.get("height", 64), self._fixed.get("width", 64))
            picture = torch.full((1, 3, *pixels), 0.5)
        else:
            picture = control[view if len(control) > 1 else 0][None].expand(-1, 3, -1, -1).float()
        nets = getattr(getattr(self._pipe, "controlnet", None), "nets", None)
        return picture if nets is None else [picture] * len(nets)

    # ---- several pictures ----------------------------------------------------------------------------------

    def repeated(self, call: Mapping[str, Any], rows: int, steps: int = FEW) -> dict[str, Any]:
        """The call of one picture, for ``rows`` pictures alike."""
        return self._several([call] * rows, steps)

    def joined(self, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The calls of pictures that differ in their texts alone, as one; a single one where they are all alike."""
        if len(calls) == 1:
            return self.repeated(calls[0], 1)
        return self._several(calls, FEW)

    def apart(self, calls: Sequence[Mapping[str, Any]], steps: int = FEW, seed: int | None = None) -> dict[str, Any]:
        """As ``joined``, of calls that may be alike; what is drawn for a picture is as if it were alone."""
        texts = calls[0].get("prompt") is not None
        whole = self._several([dict(call) for call in calls] if texts else calls, steps)
        if "generator" in whole:
            seeds = [self._seed if seed is None else seed] * len(calls)
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            whole["generator"] = generators[0] if len(calls) == 1 else generators
        return whole

    def _several(self, calls: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
        whole, rows = {**calls[0]}, len(calls)
        if "sigmas" not in whole and "timesteps" not in whole and self.takes("num_inference_steps"):
            whole["num_inference_steps"] = steps
        if self.takes("generator"):
            whole["generator"] = torch.Generator().manual_seed(self._seed)
        if rows == 1:
            return whole
        alike = all(call is calls[0] for call in calls)
        if alike and self.has_embeddings:
            # Not by num_images_per_prompt, which some pipelines forget to repeat embeddings for.
            return {name: _rows(name, value, rows) for name, value in whole.items()}
        count = next((name for name in _COUNTS if alike and self.takes(name)), None)
        if count is not None:
            return {**whole, count: rows}
        if "prompt" not in whole:
            # Labels and pictures, one each.
            return {n: v * rows if n in self.given and isinstance(v, list) else v for n, v in whole.items()}
        texts = [name for name in _TEXTS if whole.get(name) is not None]
        return {**whole, **{name: [call[name] for call in calls] for name in texts}}

    def check(self, request: ViewRequest) -> None:
        """ValueError where the pipeline's call cannot say what is asked for."""
        if request.prompts is not None and not self.takes("prompt"):
            raise ValueError(
                f"the call of {self.name} takes no prompt: use prompt=None, and pipe_kwargs for what it takes."
            )
        if request.prompts is None and self.takes("prompt") and not self.has_embeddings:
            raise ValueError(
                f"prompt is None, and pipe_kwargs brings no prompt_embeds to {self.name}: pass one of the two."
            )
        if request.prompts is not None and self.has_embeddings:
            raise ValueError("prompt and prompt_embeds were both given: use prompt=None with embeddings.")
        if request.negative_prompt is not None and not self.takes("negative_prompt"):
            raise ValueError(f"the call of {self.name} takes no negative_prompt: leave it out.")
        if request.guidance is not None and not (self.takes("guidance_scale") or self.takes("true_cfg_scale")):
            raise ValueError(f"the call of {self.name} takes no guidance_scale: leave it out.")
        if request.control is None and self.control is not None:
            raise ValueError(
                f"{self.name} is shown a picture of each view beside the prompt, got none: pass control_image=, or "
                "load the model without its ControlNet."
            )
        if request.control is not None and self.control is None:
            raise ValueError(
                f"{self.name} has no ControlNet to show pictures of the views to: leave them out, or give the "
                "pipeline one."
            )
        for argument, value in self.given.items():
            if isinstance(value, ByView) and len(value) != request.num_views:
                raise ValueError(
                    f"pipe_kwargs[{argument!r}] has values for {len(value)} views, and there are {request.num_views}: "
                    "give one a view."
                )


def _names_of_call(kind: type) -> list[str]:
    """The arguments of a pipeline class's call; none where it takes any name.

    What a class hands on by ``**kwargs`` its base classes name. Pipelines of diffusers' own have them for deprecated
    arguments only, and drop all others.
    """
    names: list[str] = []
    for owner in (c for c in kind.__mro__ if "__call__" in vars(c)):
        parameters = list(inspect.signature(owner.__call__).parameters.values())[1:]
        further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not further or owner.__module__.startswith("diffusers."):
            return list(dict.fromkeys(names))
    return []


def _rows(name: str, value: Any, rows: int) -> Any:
    """An argument for so many pictures: embeddings and masks of prompts are repeated."""
    if "prompt" not in name or not isinstance(value, (torch.Tensor, list)) or len(value) != 1:
        return value
    return torch.cat([value] * rows) if isinstance(value, torch.Tensor) else value * rows


def groups(calls: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Views whose calls differ in their texts alone, together."""
    found: list[list[int]] = []
    for view, call in enumerate(calls):
        group = next((g for g in found if same(_without_texts(call), _without_texts(calls[g[0]]))), None)
        if group is None:
            found.append(group := [])
        group.append(view)
    return found


def group_numbers(calls: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each call the number of its group, as of ``groups``."""
    numbers = {call: number for number, group in enumerate(groups(calls)) for call in group}
    return [numbers[call] for call in range(len(calls))]


def _without_texts(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name not in _TEXTS}


def guidance_argument(recorder: Recorder, calling: Calling, request: ViewRequest) -> dict[str, Any]:
    """How the caller's guidance scale is told: an argument that has an effect.

    Raises:
        ValueError: none has.
    """
    if request.guidance is None:
        return {}
    scale = request.guidance.scale
    for argument in _GUIDANCE:
        if not calling.takes(argument) or argument in calling.given:
            continue
        found = []
        for value in (scale, max(scale, 1.0) + 2.0):
            calling.extra = {"guidance_scale": None, argument: value}
            call = calling.repeated(calling.of_view(request, 0), 1)
            recording = recorder.record(call, 1, stop_after=1 if recorder.steps_alike else None)
            found.append([(step.output, [(c.args, c.kwargs) for c in step.calls]) for step in recording.steps])
        if not same(found[0], found[1]):
            return {"guidance_scale": None, argument: scale}
    raise ValueError(
        f"guidance_scale={scale:g} has no effect on {type(recorder.pipe).__name__}: leave it out, or give what its "
        "guidance needs beside it, such as a negative prompt."
    )


def own_scale(calling: Calling, request: ViewRequest, guidance: Guidance, guided: bool) -> float | None:
    """The guidance scale in the terms of the pipeline's call: the caller's, or the call's own default."""
    if request.guidance is not None:
        return request.guidance.scale
    defaults = {name: calling.default(name) for name in _GUIDANCE if name not in calling.given}
    numbers = [float(value) for value in defaults.values() if isinstance(value, (int, float))]
    if not guided:
        return next(iter(numbers), None)
    return next((number for number in numbers if guidance.scale in (number, 1.0 + number)), None)
