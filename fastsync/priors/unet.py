"""What the pipelines of diffusers with a UNet2DConditionModel and a text encoder share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch

from ..conditions import Condition
from ..diffusion import NoiseSchedule
from ..errors import check_pair
from .attention import AttentionSwitch
from .base import NetworkPrior, frozen, strings
from .compiling import Compiler
from .reuse import DeepFeatures


class UNetPrior(NetworkPrior):
    """A pipeline's UNet, on its device, in its dtype.

    Args:
        pipe: checked by the family's own adapter.
        window: view size (h, w) in ``units``; the UNet's own ``sample_size`` if None.
        compiler: of the pipeline's UNet, which then runs compiled while it samples.
        attention: of the pipeline's UNet, which then computes its attention by it while it samples.
    """

    units: ClassVar[str]  # of windows and views

    def __init__(
        self,
        pipe: Any,
        window: tuple[int, int] | None,
        compiler: Compiler | None,
        attention: AttentionSwitch | None,
    ) -> None:
        self.pipe, self.compiler, self.attention = pipe, compiler, attention
        self.schedule = NoiseSchedule(pipe.scheduler)
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

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None) -> torch.Tensor:
        """The UNet at noisy views x [B, C, h, w], times t [B], text embeddings cond [B, L, D]."""
        if not isinstance(cond, torch.Tensor):
            got = "None" if cond is None else f"a tuple of {len(cond)} tensors"
            raise ValueError(
                f"cond is {got}, but the UNet needs text embeddings alone: pass prior.encode_prompt(prompt)[0]."
            )
        return self._unet(x, t, cond)

    def _unet(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, **residuals: Any) -> torch.Tensor:
        """The UNet in its own dtype; ``residuals`` are what a ControlNet adds to it."""
        text = text.to(self.dtype)
        return self.pipe.unet(x.to(self.dtype), t, encoder_hidden_states=text, return_dict=False, **residuals)[0]

    def deep_features(self) -> DeepFeatures:
        """A new, empty keeper of the UNet's deep features, for one batch of views.

        Raises:
            ValueError: the UNet has a single level, or is compiled as a whole.
        """
        unet, compiler = self.pipe.unet, self.compiler
        # By us; as a compiled copy; or in place.
        ours = compiler is not None and compiler.mode == "max"
        if ours or type(unet).__name__ == "OptimizedModule" or unet._compiled_call_impl is not None:
            raise ValueError(
                "feature_reuse=True leaves out blocks of the network, and this one is compiled as a whole: use "
                "compile='regional' or 'off', or feature_reuse=False."
            )
        return DeepFeatures(unet)

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings ``(cond, uncond)``, [n, L, D] each, n the number of prompts.

        A single negative prompt serves all prompts; None means the empty one.
        """
        prompts, negatives = strings(prompt, negative_prompt)
        # By name: the families order them differently.
        settings = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
        with torch.no_grad():
            cond, uncond = self.pipe.encode_prompt(prompts, negative_prompt=negatives, **settings)
        return cond, uncond

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Freeze the UNet: a backward pass to the input then costs about a forward. Let it run compiled if asked.

        Afterwards it is as it was, its attention too.
        """
        attention = nullcontext() if self.attention is None else self.attention.on(self.device)
        compiled = nullcontext() if self.compiler is None else self.compiler.on()
        with frozen(self.pipe.unet), attention, compiled:
            yield
