"""DeepFloyd-IF-class pipelines: pixel space, a UNet2DConditionModel and a T5 text encoder, no autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ..diffusion import NoiseSchedule
from ..errors import check_pair
from .base import NetworkPrior, frozen, strings
from .compiling import Compiler


class DeepFloydPrior(NetworkPrior):
    """The prior inside a diffusers ``IFPipeline`` (the first stage, 64 x 64 pixels), on its device, in its dtype.

    Views are pixels in [-1, 1]. The network's second half of channels, a learned variance, is not used: steps are
    DDIM's. The scheduler's dynamic thresholding is honoured.

    Args:
        pipe: an ``IFPipeline``, such as ``DeepFloyd/IF-I-M-v1.0`` or the zoo's ``glyphs``.
        window: view size (h, w) in pixels; the UNet's own ``sample_size`` if None.
        compiler: of the pipeline's UNet, which then runs compiled while it samples.

    Raises:
        ValueError: for a pipeline of another class or stage.
    """

    scale = 1  # pixels a cell

    def __init__(self, pipe: Any, *, window: tuple[int, int] | None = None, compiler: Compiler | None = None) -> None:
        unet: Any = getattr(pipe, "unet", None)
        if not is_deepfloyd(pipe) or unet is None or getattr(pipe, "text_encoder", None) is None:
            raise ValueError(
                f"{type(pipe).__name__} is not a first-stage IFPipeline with UNet and text encoder: pass one loaded by "
                "IFPipeline.from_pretrained(...)."
            )
        if unet.config.get("class_embed_type") is not None or unet.config.in_channels != 3:
            raise ValueError(
                "the UNet is one of IF's upscaling stages, which needs a small picture beside the prompt: pass the "
                "first stage, e.g. DeepFloyd/IF-I-M-v1.0."
            )
        self.pipe, self.compiler = pipe, compiler
        self.schedule = NoiseSchedule(pipe.scheduler)
        size = unet.config.sample_size
        self.window = check_pair(
            "window", ((size, size) if isinstance(size, int) else size) if window is None else window
        )

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(3, h, w) of a view in pixels."""
        return (3, *self.window)

    @property
    def device(self) -> torch.device:
        """Where the UNet computes (accelerate's execution device if the pipeline is offloaded)."""
        return getattr(self.pipe, "_execution_device", self.pipe.unet.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.pipe.unet.dtype

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        """The UNet at noisy pixels x [B, 3, h, w], times t [B], text embeddings cond [B, L, D]."""
        if cond is None:
            raise ValueError("cond is None, but the UNet needs text embeddings: pass prior.encode_prompt(prompt)[0].")
        raw = self.pipe.unet(x.to(self.dtype), t, encoder_hidden_states=cond.to(self.dtype), return_dict=False)[0]
        return raw[:, :3]

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings ``(cond, uncond)``, [n, L, D] each, n the number of prompts.

        A single negative prompt serves all prompts; None means the empty one.
        """
        prompts, negatives = strings(prompt, negative_prompt)
        with torch.no_grad():
            cond, uncond = self.pipe.encode_prompt(prompts, True, 1, self.device, negatives)
        return cond, uncond

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels are this prior's own units: returned as they are."""
        return pixels

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels are this prior's own units: returned as they are."""
        return latents

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Freeze the UNet: a backward pass to the input then costs about a forward. Let it run compiled if asked.

        Afterwards it is as it was.
        """
        with frozen(self.pipe.unet), nullcontext() if self.compiler is None else self.compiler.on():
            yield


def is_deepfloyd(pipe: Any) -> bool:
    """Whether a pipeline is of the class that this prior wraps."""
    return type(pipe).__name__ == "IFPipeline"
