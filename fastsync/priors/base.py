"""What a prior is: the one base class, with working defaults for everything but the network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch

from .. import ops
from ..conditions import ANONYMOUS, Conditions, joined
from ..diffusion import NoiseSchedule, StepTable
from ..errors import shape_text, shown
from ..guidance import Guidance, rescaled
from .codecs import OPEN, PIXELS, Codec
from .request import Told, ViewRequest
from .reuse import DeepFeatures
from .runtime import Runtime, dtype_of, networks_of


class Prediction(NamedTuple):
    """A prior's two estimates at one noisy view, [B, C, h, w] each: ``x = a x0 + b eps``."""

    x0: torch.Tensor
    eps: torch.Tensor


class Prior:
    """A pretrained diffusion model as the sampler sees it.

    A subclass sets ``schedule``, gives ``view_shape`` and overrides :meth:`network`. One that has no raw output of a
    known prediction type overrides :meth:`predict` instead; SyncVC's gradients then pass through the whole prediction.
    Everything else has a default: float32 on the CPU, views in pixels, nothing to prepare, nothing to switch.

    Attributes:
        schedule: times, coefficients and solver.
        codec: between the prior's sample units and pixels; by default they are the same.
        runtime: what is switched for the length of a run: freezing, compiling, attention, memory layout, offload.
        condition_name: the name under which :meth:`network` finds a bare tensor passed as condition.
    """

    schedule: NoiseSchedule
    codec: Codec = PIXELS
    runtime: Runtime = Runtime()
    condition_name: str = ANONYMOUS

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in the prior's sample units (latent cells for latent priors)."""
        raise NotImplementedError(f"{type(self).__name__} must give view_shape, (C, h, w) of a view.")

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return torch.float32

    @property
    def scale(self) -> int:
        """Pixels along a side of one cell of a view."""
        return self.codec.scale

    @property
    def memory_key(self) -> object:
        """What decides how many views fit at once; batch sizes that fitted are remembered under it."""
        return self

    @property
    def has_network(self) -> bool:
        """Whether the prior hands out its network's own output, and not only estimates by a ``predict`` of its own."""
        return type(self).predict is Prior.predict

    @property
    def mixes_linearly(self) -> bool:
        """Whether guidance by this prior is linear in the network's two halves."""
        return True

    # ---- the network ------------------------------------------------------------------------------------------

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """Raw output [B, C, h, w] in the schedule's prediction type.

        Args:
            x: noisy views [B, C, h, w], guidance's unconditional half first where both are in the batch.
            t: [B], times as the scheduler has them.
            cond: the rows' conditions; None if none were given.
        """
        raise NotImplementedError(f"{type(self).__name__} must override network() or predict().")

    def settled(
        self, raw: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, cond: Conditions | None
    ) -> torch.Tensor:
        """The network's output [B, C, h, w] as it counts; priors that know parts of the answer put them in here.

        Args:
            raw: what :meth:`network` gave for noisy views x [B, C, h, w] and ``cond``.
            a, b: [B], float64, coefficients at the rows' times.
        """
        return raw

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        cond: Any = None,
        uncond: Any = None,
        guidance_scale: float | torch.Tensor | Guidance = 7.5,
    ) -> Prediction:
        """Guided estimates at noisy views; differentiable in x.

        Args:
            x: [B, C, h, w].
            t: [B] or [1], times as the scheduler has them.
            cond, uncond: conditions of B views or of one, as in :func:`fastsync.sample`; with ``uncond`` both halves
                run in one batch of 2 B rows.
            guidance_scale: s, one number or [B], or guidance without an interval; used only with ``uncond``.
        """
        rescale = 0.0
        if isinstance(guidance_scale, Guidance):
            if guidance_scale.interval != (0.0, 1.0):
                raise ValueError(
                    f"predict() knows no run that guidance's interval={guidance_scale.interval} could be a part of: "
                    "pass guidance without an interval."
                )
            rescale, guidance_scale = guidance_scale.rescale, guidance_scale.scale
        a, b = self.schedule.coefficients(t.expand(len(x)))
        return self.estimates(self.raw(x, t, cond, uncond), x, a, b, guidance_scale, rescale)

    def raw(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None, uncond: Any = None) -> torch.Tensor:
        """The settled network output [B, C, h, w], arguments as of :meth:`predict`.

        With ``uncond`` it is [2 B, C, h, w], the unconditional half first.
        """
        views, t = list(range(len(x))), t.expand(len(x))
        told, told_uncond = (
            None if c is None else Conditions.of(c, self.condition_name).select(views) for c in (cond, uncond)
        )
        if told_uncond is not None:
            if told is None:
                raise ValueError("uncond was given without cond: guidance needs both, so pass cond as well.")
            x, t, told = torch.cat([x, x]), torch.cat([t, t]), joined(told_uncond, told)
        return self.rows(x, t, told, *self.schedule.coefficients(t))

    def rows(
        self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None, a: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        """The settled network output for every row; warns where autograd does not see that it depends on x."""
        raw = self.network(x, t, cond)
        if x.requires_grad and torch.is_grad_enabled() and not raw.requires_grad:
            warnings.warn(
                "the network's output does not depend on x as far as autograd can see, so controls take it for a "
                "constant: remove torch.no_grad, detach or inference_mode from the network if it is not.",
                stacklevel=2,
            )
        return self.settled(raw, x, a, b, cond)

    def estimates(
        self,
        raw: torch.Tensor,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        guidance_scale: torch.Tensor | float,
        rescale: float = 0.0,
    ) -> Prediction:
        """Guided, rescaled and clipped estimates from the output of ``rows`` [B or 2 B, C, h, w] at x [B, C, h, w]."""
        uncond, cond = raw.chunk(2) if len(raw) == 2 * len(x) else (None, raw)
        if rescale and uncond is not None:
            s = torch.as_tensor(guidance_scale).to(x).expand(len(x))[:, None, None, None]
            halves = uncond.to(x.dtype), cond.to(x.dtype)
            mixed = rescaled(torch.lerp(*halves, s), halves[1], rescale)
            # Outside of guidance's interval (s = 1) nothing is rescaled.
            uncond, cond = None, torch.where(s == 1.0, halves[1], mixed)
        x0, eps = ops.cfg_tweedie(cond, uncond, x, a, b, guidance_scale, self.schedule.prediction_type)
        return Prediction(*self.schedule.clip_prediction(x0, eps, x, a, b))

    # ---- around the network -----------------------------------------------------------------------------------

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> StepTable:
        """The run's step table; families whose pipelines set the times in their own way override it."""
        return self.schedule.steps(num_inference_steps, eta)

    def encode(self, pixels: torch.Tensor, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to the prior's sample units [B, C, h, w], differentiable.

        ``closed``: whether the picture closes vertically, and horizontally.
        """
        return self.codec.encode(pixels, self.device, closed)

    def decode(self, latents: torch.Tensor, closed: tuple[bool, bool] = OPEN) -> torch.Tensor:
        """The prior's sample units [B, C, h, w] to pixels [B, 3, H, W], about [-1, 1], differentiable.

        ``closed``: whether the picture closes vertically, and horizontally.
        """
        return self.codec.decode(latents, self.device, closed)

    def prepare_conditions(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Called once a run, inside of ``sampling()``: the conditions of all views as :meth:`network` gets them.

        What depends on conditions alone, and on no noisy view or time, is computed here.
        """
        return cond, uncond

    def deep_features(self) -> DeepFeatures:
        """A new, empty store of the network's deep features for one batch of views.

        Raises:
            ValueError: the prior's network has none that are known.
        """
        raise ValueError(
            f"feature_reuse=True needs a prior whose network's levels are known (a pipeline with a UNet), and "
            f"{type(self).__name__} is none: use feature_reuse=False."
        )

    def sampling(self) -> AbstractContextManager[None]:
        """Entered for the length of a run; what ``runtime`` switches is as before afterwards, whatever happens."""
        return self.runtime.on(self.device)


class PipelinePrior(Prior):
    """A prior inside a diffusers pipeline, which is never changed.

    Attributes:
        pipe: the pipeline.
        window: (h, w) of a view in the prior's sample units.
        window_multiple: what a window's sides should be multiples of, in those units.
        compiled: whether the network runs compiled while it samples, for which batches should have few sizes.
        default_guidance: the pipeline's own ``guidance_scale`` where the caller gives none.
        takes_control: whether the network is shown a picture of each view, as a ControlNet is.
        way: how the pipeline is asked, in a word, for records of a run: by an adapter of its class, or otherwise.
        needed_conditions, known_conditions: names of the conditions that a call must have, and of all that it may have.
    """

    pipe: Any
    window: tuple[int, int]
    window_multiple: int = 1
    condition_name = "text"
    default_guidance: ClassVar[float] = 7.5
    takes_control: bool = False
    way: ClassVar[str] = "adapter"
    needed_conditions: tuple[str, ...] = ("text",)
    known_conditions: tuple[str, ...] = ("text",)

    @property
    def device(self) -> torch.device:
        """Where the network computes (accelerate's execution device if the pipeline is offloaded)."""
        return getattr(self.pipe, "_execution_device", self.pipe.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        network = next(iter(networks_of(self.pipe)), None)
        return torch.float32 if network is None else dtype_of(network)

    @property
    def memory_key(self) -> object:
        """The network, which stays when a task makes a prior of its own around it."""
        return next(iter(networks_of(self.pipe)), self)

    @property
    def compiled(self) -> bool:
        return self.runtime.compile != "off"

    @property
    def window_pixels(self) -> tuple[int, int]:
        """(height, width) of a view in pixels."""
        return self.window[0] * self.scale, self.window[1] * self.scale

    def told(self, request: ViewRequest) -> Told:
        """What the network is told of all views of a task, and how it is guided.

        The one way in which a task gets conditions. By default they are made by :meth:`encode_prompt`,
        :meth:`with_control`, :meth:`with_places` and :meth:`guided`, in this order.

        Raises:
            ValueError: the request asks for something that this prior cannot tell its network, or leaves out what the
                network needs.
        """
        name = type(self.pipe).__name__
        if request.pipe_kwargs:
            raise ValueError(
                f"pipe_kwargs has {', '.join(map(repr, request.pipe_kwargs))}, but {type(self).__name__} does not make "
                f"the call of {name} and has no use for them: leave pipe_kwargs out."
            )
        if request.prompts is None:
            raise ValueError(
                f"prompt must be a string or a list of strings, got None: {type(self).__name__} has nothing else to "
                f"tell {name}."
            )
        if self.takes_control and request.control is None:
            raise ValueError(
                f"{name} is shown a picture of each view beside the prompt, got none: pass control_image=, or "
                "load the model without its ControlNet."
            )
        cond, uncond = self.encode_prompt(list(request.prompts), request.negative_prompt)
        if request.control is not None:
            cond, uncond = self.with_control(cond, uncond, request.control.to(self.device))
        if request.places is not None:
            size = self.window_pixels if request.size is None else request.size
            cond, uncond = self.with_places(cond, uncond, request.places, size)
        guidance = Guidance(self.default_guidance) if request.guidance is None else request.guidance
        return Told(*self.guided(cond, uncond, guidance), scale=guidance.scale)

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[Any, Any]:
        """Conditions ``(cond, uncond)`` of prompts, as :func:`fastsync.sample` takes them."""
        raise NotImplementedError(f"{type(self).__name__} must override encode_prompt().")

    def with_control(self, cond: Any, uncond: Any, control: torch.Tensor) -> tuple[Any, Any]:
        """Conditions with the pictures that the network is shown of the views, where ``takes_control``.

        Args:
            cond, uncond: what ``encode_prompt`` gave; ``uncond`` None without guidance.
            control: :attr:`ViewRequest.control <fastsync.priors.ViewRequest>`.

        Raises:
            ValueError: the network is shown none.
        """
        if self.takes_control:
            raise NotImplementedError(f"{type(self).__name__} must override with_control().")
        raise ValueError(
            f"{type(self.pipe).__name__} is shown no picture of its views, got a control image: leave it out, or pass "
            "a pipeline with a ControlNet."
        )

    def with_places(
        self, cond: Any, uncond: Any, origins: Sequence[tuple[int, int]], size: tuple[int, int]
    ) -> tuple[Any, Any]:
        """Conditions of views that are windows of one picture; the same where the network is not told of places.

        Args:
            cond, uncond: what ``encode_prompt`` gave.
            origins: (y, x) of each view's first pixel in the picture.
            size: (height, width) of the picture in pixels.
        """
        return cond, uncond

    def guided(self, cond: Any, uncond: Any, guidance: Guidance) -> tuple[Any, Any, Guidance]:
        """What a pipeline's call makes of its ``guidance_scale``: ``cond``, ``uncond`` and guidance of :class:`Told`.

        By diffusers' rule guidance is on above 1.
        """
        return cond, uncond if guidance.scale > 1 else None, guidance

    def checked(self, cond: Conditions | None, need: str = ": pass prior.encode_prompt(prompt)[0]") -> Conditions:
        """The conditions of a call, if they are all that the network needs, and nothing beside that would be left out.

        ``need`` ends the sentence.
        """
        given = set() if cond is None else set(cond)
        if cond is None or not given.issuperset(self.needed_conditions) or not given.issubset(self.known_conditions):
            names = "text embeddings" if self.needed_conditions == ("text",) else ", ".join(self.needed_conditions)
            raise ValueError(f"cond is {cond!r}, but this pipeline's network needs {names}{need}.")
        return cond

    def __repr__(self) -> str:
        """What is known of the pipeline, a line each."""
        lines = self._known()
        head = f"{type(self).__name__} of {type(self.pipe).__name__}"
        return "\n".join([head, *(f"  {name:<11} {text}" for name, text in lines.items())])

    def _known(self) -> dict[str, str]:
        """What is known of the pipeline, by subject."""
        height, width = self.window_pixels
        return {
            "asked by": self.way,
            "window": f"{height} x {width} pixels, views {shape_text(self.view_shape)}",
            "scheduler": f"{self.schedule.scheduler_name}, run as {self.schedule.solver}",
            "network": f"{self.dtype} on {self.device}".removeprefix("torch."),
            "conditions": ", ".join(self.needed_conditions),
            "guidance": f"{self.default_guidance:g} by default",
            "control": "a picture of each view" if self.takes_control else "none",
        }


def strings(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    """Prompts, and as many negative ones (or None), checked; a single negative prompt serves all."""
    prompts = _strings("prompt", prompt)
    negatives = None if negative_prompt is None else _strings("negative_prompt", negative_prompt)
    if negatives is not None and len(negatives) == 1:
        negatives = negatives * len(prompts)
    if negatives is not None and len(negatives) != len(prompts):
        raise ValueError(f"negative_prompt must be one or {len(prompts)} strings, got {len(negatives)}.")
    return prompts, negatives


def _strings(name: str, value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not found or not all(isinstance(s, str) for s in found):
        raise TypeError(f"{name} must be a string or a list of strings, got {shown(value)}.")
    return found
