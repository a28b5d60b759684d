"""What a prior is, and what all priors share: guidance in one batch, conversion, clipping."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from .. import conditions, ops
from ..conditions import Condition
from ..diffusion import NoiseSchedule
from ..errors import shown


class Prediction(NamedTuple):
    """A prior's two estimates at one noisy view, [B, C, h, w] each: ``x = a x0 + b eps``."""

    x0: torch.Tensor
    eps: torch.Tensor


class Prior(Protocol):
    """A pretrained diffusion model as the sampler sees it.

    Attributes:
        schedule: its times and coefficients.
        view_shape: (C, h, w) of a view in the prior's own units (latent cells for latent priors).
        device, dtype: where and in what the network computes.
    """

    schedule: NoiseSchedule

    @property
    def view_shape(self) -> tuple[int, int, int]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        cond: Condition | None,
        uncond: Condition | None,
        guidance_scale: float,
    ) -> Prediction:
        """Guided estimates at noisy views x [B, C, h, w] and times t [B]; differentiable in x."""
        ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to the prior's sample units."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The prior's sample units to pixels [B, 3, H, W] in [-1, 1], differentiable."""
        ...


@runtime_checkable
class DepthConditioned(Prior, Protocol):
    """A prior whose network sees the depth of what it is to paint beside the prompt.

    Attributes:
        window: (h, w) of a view in the prior's own units.
        scale: pixels of a view for each of them.
    """

    window: tuple[int, int]

    @property
    def scale(self) -> int: ...

    def with_control(
        self, cond: torch.Tensor, uncond: torch.Tensor | None, depth: torch.Tensor
    ) -> tuple[Condition, Condition | None]:
        """Text conditions with the views' depth, as ``sample`` takes them.

        Args:
            cond, uncond: what ``encode_prompt`` gave; ``uncond`` None without guidance.
            depth: [N, 1, H, W] or [1, 1, H, W], a view's size in pixels, from 0 (background) to 1 (nearest), linear in
                inverse depth.
        """
        ...


class NetworkPrior:
    """Shared by priors that call a raw network: runs guidance's two halves in one batch and converts the output."""

    schedule: NoiseSchedule

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None) -> torch.Tensor:
        """Raw output [B, C, h, w] at noisy views x and times t [B], in the schedule's prediction type."""
        raise NotImplementedError

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        cond: Condition | None,
        uncond: Condition | None,
        guidance_scale: float,
    ) -> Prediction:
        """Guided estimates at x [B, C, h, w], t [B]; with ``uncond`` both halves run in one batch of 2 B rows.

        A single time or condition serves all views.
        """
        a, b = self.schedule.coefficients(t.expand(len(x)))
        return self.convert(self.raw(x, t, cond, uncond), x, a, b, guidance_scale)

    def raw(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None, uncond: Condition | None) -> torch.Tensor:
        """The network's own output [B, C, h, w]; with ``uncond`` [2 B, C, h, w], the unconditional half first."""
        whole = conditions.both(lambda member: conditions.expand(member, len(x)), cond, uncond)
        t, cond = self.joined(t.expand(len(x)), *whole)
        return self.raw_rows(x if uncond is None else torch.cat([x, x]), t, cond)

    @staticmethod
    def joined(
        t: torch.Tensor, cond: Condition | None, uncond: Condition | None
    ) -> tuple[torch.Tensor, Condition | None]:
        """Times [B] and conditions [B, ...] of a batch as ``raw_rows`` takes them, both halves in one batch."""
        if uncond is None:
            return t, cond
        if cond is None:
            raise ValueError("uncond was given without cond: guidance needs both, so pass cond as well.")
        return torch.cat([t, t]), conditions.each(lambda *halves: torch.cat(halves), uncond, cond)

    def raw_rows(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None) -> torch.Tensor:
        """The network's own output for every row, times and conditions being as many as views."""
        raw = self.network(x, t, cond)
        if x.requires_grad and torch.is_grad_enabled() and not raw.requires_grad:
            warnings.warn(
                "the network's output does not depend on x as far as autograd can see, so controls take it for a "
                "constant: remove torch.no_grad, detach or inference_mode from the network if it is not.",
                stacklevel=2,
            )
        return raw

    def convert(
        self, raw: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, guidance: torch.Tensor | float
    ) -> Prediction:
        """Guided and clipped estimates from the output of ``raw`` at the same x, with its coefficients a, b [B]."""
        raw_uncond, raw_cond = raw.chunk(2) if len(raw) == 2 * len(x) else (None, raw)
        x0, eps = ops.cfg_tweedie(raw_cond, raw_uncond, x, a, b, guidance, self.schedule.prediction_type)
        return Prediction(self.schedule.clip(x0), eps)

    def prepare_conditions(
        self, cond: Condition | None, uncond: Condition | None, num_views: int
    ) -> tuple[Condition | None, Condition | None]:
        """Called once a run, inside of ``sampling()``: the conditions of all its views as ``network`` is to get them.

        What a prior computes from conditions alone, whatever views and times are, it computes here.
        """
        return cond, uncond

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Entered for the length of a run; priors with weights freeze them here and give them back as they were."""
        yield


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """The module without gradients for its weights; the flags that were set are set again afterwards."""
    # By name: accelerate's offload hooks put another parameter in a weight's place whenever they load it.
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    module.requires_grad_(False)
    try:
        yield
    finally:
        for name, p in module.named_parameters():
            p.requires_grad_(name in names)


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
