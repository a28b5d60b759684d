"""What the pipelines of diffusers with a UNet2DConditionModel and a text encoder share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..conditions import Conditions
from ..diffusion import NoiseSchedule, SolverChoice
from ..errors import check_pair
from .base import PipelinePrior, strings
from .registry import Unfit
from .reuse import DeepFeatures
from .runtime import Runtime


class UNetPrior(PipelinePrior):
    """A pipeline's UNet, on its device, in its dtype.

    Args:
        pipe: checked by the family's own adapter.
        window: view size (h, w) in ``units``; the UNet's own ``sample_size`` if None.
        runtime: how the networks run while they sample; made of the pipeline if None.
        solver: ``"auto"``, the scheduler's own, or ``"ddim"``; see :class:`fastsync.diffusion.NoiseSchedule`.
    """

    units: ClassVar[str]  # of windows and views

    def __init__(
        self, pipe: Any, window: tuple[int, int] | None, runtime: Runtime | None, solver: SolverChoice
    ) -> None:
        self.pipe, self.runtime = pipe, Runtime.of(pipe) if runtime is None else runtime
        self.schedule = NoiseSchedule(pipe.scheduler, solver)
        # A cell of the UNet's coarsest level, each being half of the one before.
        self.window_multiple = 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        size = pipe.unet.config.sample_size
        if window is None and size is None:
            raise Unfit(f"the UNet's config has no sample_size: pass window=(h, w) in {self.units}.")
        default = (size, size) if isinstance(size, int) else size
        self.window = check_pair("window", default if window is None else window)

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in ``units``."""
        return (self.pipe.unet.config.in_channels, *self.window)

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The UNet at noisy views x [B, C, h, w], times t [B], text embeddings ``text`` [B, L, D]."""
        return self._unet(x, t, self.checked(cond)["text"])

    def _unet(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, **further: Any) -> torch.Tensor:
        """The UNet in its own dtype; ``further`` is what else it is given, such as a ControlNet's residuals."""
        dtype = self.dtype  # asked once, because a model looks through its weights for it
        told = {"encoder_hidden_states": text.to(dtype), **further}
        return self.pipe.unet(x.to(dtype), t, return_dict=False, **told)[0]

    def deep_features(self) -> DeepFeatures:
        """A new, empty store of the UNet's deep features, for one batch of views.

        Raises:
            ValueError: the UNet has a single level, or is compiled as a whole.
        """
        return DeepFeatures.of(self.pipe.unet, self.runtime.compile)

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[Any, Any]:
        """Text embeddings ``(cond, uncond)``, [n, L, D] each, n the number of prompts.

        A single negative prompt serves all prompts; None means the empty one.
        """
        cond, uncond = self._encoded(prompt, negative_prompt)
        return cond, uncond

    @property
    def _encoding(self) -> dict[str, Any]:
        """Further arguments of the pipeline's ``encode_prompt``."""
        return {}

    def _encoded(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None
    ) -> tuple[torch.Tensor, ...]:
        """What the pipeline's own ``encode_prompt`` gives for both halves."""
        prompts, negatives = strings(prompt, negative_prompt)
        # By name: the families order them differently.
        settings = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
        settings |= self._encoding
        with torch.no_grad():
            encoded: tuple[torch.Tensor, ...] = self.pipe.encode_prompt(prompts, negative_prompt=negatives, **settings)
        return encoded
