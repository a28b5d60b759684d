"""What the pipelines of diffusers with a UNet2DConditionModel and a text encoder share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..conditions import Conditions
from ..diffusion import NoiseSchedule, SolverChoice
from ..errors import check_pair
from .base import PipelinePrior, strings
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
    known_conditions: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(
        self, pipe: Any, window: tuple[int, int] | None, runtime: Runtime | None, solver: SolverChoice
    ) -> None:
        self.pipe, self.runtime = pipe, Runtime.of(pipe) if runtime is None else runtime
        self.schedule = NoiseSchedule(pipe.scheduler, solver)
        size = pipe.unet.config.sample_size
        if window is None and size is None:
            raise ValueError(f"the UNet's config has no sample_size: pass window=(h, w) in {self.units}.")
        default = (size, size) if isinstance(size, int) else size
        self.window = check_pair("window", default if window is None else window)

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in ``units``."""
        return (self.pipe.unet.config.in_channels, *self.window)

    @property
    def device(self) -> torch.device:
        """Where the UNet computes (accelerate's execution device if the pipeline is offloaded)."""
        return getattr(self.pipe, "_execution_device", self.pipe.unet.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.pipe.unet.dtype

    @property
    def memory_key(self) -> object:
        """The UNet, which stays when a task makes a prior of its own around it."""
        return self.pipe.unet

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The UNet at noisy views x [B, C, h, w], times t [B], text embeddings ``text`` [B, L, D]."""
        return self._unet(x, t, self._text(cond))

    def _text(self, cond: Conditions | None, need: str = ": pass prior.encode_prompt(prompt)[0]") -> torch.Tensor:
        """The text embeddings of a call; refuses conditions that would be left out. ``need`` ends the sentence."""
        unknown = [] if cond is None else [name for name in cond if name not in self.known_conditions]
        if cond is None or "text" not in cond or unknown:
            raise ValueError(f"cond is {cond!r}, but this pipeline's network needs text embeddings{need}.")
        text: torch.Tensor = cond["text"]
        return text

    def _unet(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, **residuals: Any) -> torch.Tensor:
        """The UNet in its own dtype; ``residuals`` are what a ControlNet adds to it."""
        text = text.to(self.dtype)
        return self.pipe.unet(x.to(self.dtype), t, encoder_hidden_states=text, return_dict=False, **residuals)[0]

    def deep_features(self) -> DeepFeatures:
        """A new, empty store of the UNet's deep features, for one batch of views.

        Raises:
            ValueError: the UNet has a single level, or is compiled as a whole.
        """
        unet = self.pipe.unet
        # By us; as a compiled copy; or in place.
        ours = self.runtime.compile == "max"
        if ours or type(unet).__name__ == "OptimizedModule" or unet._compiled_call_impl is not None:
            raise ValueError(
                "feature_reuse=True leaves out blocks of the network, and this one is compiled as a whole: use "
                "compile='regional' or 'off', or feature_reuse=False."
            )
        return DeepFeatures(unet)

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[Any, Any]:
        """Text embeddings ``(cond, uncond)``, [n, L, D] each, n the number of prompts.

        A single negative prompt serves all prompts; None means the empty one.
        """
        prompts, negatives = strings(prompt, negative_prompt)
        # By name: the families order them differently.
        settings = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
        with torch.no_grad():
            cond, uncond = self.pipe.encode_prompt(prompts, negative_prompt=negatives, **settings)
        return cond, uncond
