"""Stable Diffusion pipelines whose UNet takes a map of depth as one more channel of its input."""

from __future__ import annotations

import torch

from ..conditions import Conditions
from .controlled import ControlledPrior
from .registry import built_in


@built_in("StableDiffusionDepth2ImgPipeline")
class DepthPrior(ControlledPrior):
    """The prior inside a ``StableDiffusionDepth2ImgPipeline``, such as ``stabilityai/stable-diffusion-2-depth``.

    Conditions are ``text`` [N, L, D] and ``control`` [N, 1, h, w], the depth of each view in latent cells, from -1 (its
    farthest point) to 1 (its nearest), linear in inverse depth; ``with_control`` makes it. Arguments and the rest are
    those of :class:`fastsync.DiffusersPrior`. The pipeline's depth estimator is not used, and may be None.
    """

    _extra_channels = 1

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in latent cells, without the depth."""
        return (self.pipe.vae.config.latent_channels, *self.window)

    @property
    def control_shape(self) -> tuple[int, int, int]:
        """(1, h, w)."""
        return (1, *self.window)

    def _control(self, control: torch.Tensor) -> torch.Tensor:
        """As diffusers' ``prepare_depth_map``; a view of constant depth is all background."""
        control = control.to(torch.promote_types(control.dtype, torch.float32))
        cells = torch.nn.functional.interpolate(control, self.window, mode="bicubic", align_corners=False)
        low, high = cells.amin((1, 2, 3), keepdim=True), cells.amax((1, 2, 3), keepdim=True)
        return torch.where(high > low, 2 * (cells - low) / (high - low) - 1, -1.0)

    def _conditioned(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The UNet at noisy views x [B, C, h, w] and their depth."""
        text, depth = self._parts(cond)
        return self._unet(torch.cat([x, depth.to(x)], 1), t, text)
