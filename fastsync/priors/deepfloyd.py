"""DeepFloyd-IF-class pipelines: pixel space, a UNet2DConditionModel and a T5 text encoder, no autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils import is_bs4_available, is_ftfy_available

from ..conditions import Conditions
from ..diffusion import SolverChoice
from .registry import Unfit, built_in
from .runtime import Runtime
from .unet import UNetPrior


@built_in("IFPipeline")
class DeepFloydPrior(UNetPrior):
    """The prior inside a diffusers ``IFPipeline`` (the first stage, 64 x 64 pixels), on its device, in its dtype.

    Views are pixels in [-1, 1]. The network's second half of channels, a learned variance, is not used; schedulers
    that need it are refused unless ``solver="ddim"``. The scheduler's dynamic thresholding is honoured.

    Args:
        pipe: an ``IFPipeline``, such as ``DeepFloyd/IF-I-M-v1.0`` or the zoo's ``glyphs``.
        window: view size (h, w) in pixels; the UNet's own ``sample_size`` if None.
        runtime, solver: as in :class:`fastsync.DiffusersPrior`.

    Raises:
        ValueError: for a pipeline of another class or stage.
    """

    units = "pixels"
    default_guidance = 7.0

    def __init__(
        self,
        pipe: Any,
        *,
        window: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        solver: SolverChoice = "auto",
    ) -> None:
        unet: Any = getattr(pipe, "unet", None)
        if not is_deepfloyd(pipe) or unet is None or getattr(pipe, "text_encoder", None) is None:
            raise Unfit(
                f"{type(pipe).__name__} is not a first-stage IFPipeline with UNet and text encoder: pass one loaded by "
                "IFPipeline.from_pretrained(...)."
            )
        if unet.config.get("class_embed_type") is not None or unet.config.in_channels != 3:
            raise Unfit(
                "the UNet is one of IF's upscaling stages, which needs a small picture beside the prompt: pass the "
                "first stage, e.g. DeepFloyd/IF-I-M-v1.0."
            )
        super().__init__(pipe, window, runtime, solver)

    @property
    def _encoding(self) -> dict[str, Any]:
        """As the pipeline's own call, which cleans prompts where it finds what it needs for that."""
        return {"clean_caption": is_bs4_available() and is_ftfy_available()}

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """As every UNet's, without the variance."""
        return super().network(x, t, cond)[:, :3]


def is_deepfloyd(pipe: Any) -> bool:
    """Whether a pipeline is of the class that this prior wraps."""
    return type(pipe).__name__ == "IFPipeline"
