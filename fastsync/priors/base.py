"""What a prior is, and what all priors share: guidance in one batch, conversion, clipping."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch

from .. import ops
from ..diffusion import NoiseSchedule


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
        cond: torch.Tensor | None,
        uncond: torch.Tensor | None,
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


class NetworkPrior:
    """Shared by priors that call a raw network: runs guidance's two halves in one batch and converts the output."""

    schedule: NoiseSchedule

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        """Raw output [B, C, h, w] at noisy views x and times t [B], in the schedule's prediction type."""
        raise NotImplementedError

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        cond: torch.Tensor | None,
        uncond: torch.Tensor | None,
        guidance_scale: float,
    ) -> Prediction:
        """Guided estimates at x [B, C, h, w], t [B]; with ``uncond`` both halves run in one batch of 2 B rows.

        A single time or condition serves all views.
        """
        t = t.expand(len(x))
        cond, uncond = (c if c is None else c.expand(len(x), *c.shape[1:]) for c in (cond, uncond))
        a, b = self.schedule.coefficients(t)
        if uncond is None:
            raw, raw_uncond = self.network(x, t, cond), None
        elif cond is None:
            raise ValueError("uncond was given without cond: guidance needs both, so pass cond as well.")
        else:
            both = self.network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([uncond, cond]))
            raw_uncond, raw = both.chunk(2)
        if x.requires_grad and torch.is_grad_enabled() and not raw.requires_grad:
            warnings.warn(
                "the network's output does not depend on x as far as autograd can see, so controls take it for a "
                "constant: remove torch.no_grad, detach or inference_mode from the network if it is not.",
                stacklevel=2,
            )
        x0, eps = ops.cfg_tweedie(raw, raw_uncond, x, a, b, guidance_scale, self.schedule.prediction_type)
        return Prediction(self.schedule.clip(x0), eps)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Entered for the length of a run; priors with weights freeze them here and give them back as they were."""
        yield
