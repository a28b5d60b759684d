"""Stable Diffusion XL: a UNet that is told a pooled text, and the size of a picture and the place of its crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..conditions import Conditions
from ..diffusion import SolverChoice
from .codecs import VaeCodec
from .diffusers_unet import DiffusersPrior
from .registry import built_in
from .runtime import Runtime
from .shared_attention import NeighbourLists


@built_in("StableDiffusionXLPipeline")
class SDXLPrior(DiffusersPrior):
    """The prior inside a ``StableDiffusionXLPipeline`` (a base model), on its device, in its dtype.

    Conditions are ``text`` [N, L, D], ``pooled`` [N, P] and ``time_ids`` [N, 6]: original size, crop (top, left) and
    target size in pixels, (height, width) each (Podell 2023, section 2.2). ``encode_prompt`` gives those of a whole
    picture, as the pipeline does; ``with_places`` those of windows. A VAE that its config says overflows in float16
    (``force_upcast``) computes in float32 there; its own weights stay as they are.

    Args:
        pipe, window, runtime, solver, neighbours: as in :class:`fastsync.DiffusersPrior`.

    Raises:
        ValueError: for a pipeline of another class.
    """

    default_guidance = 5.0
    needed_conditions = known_conditions = ("text", "pooled", "time_ids")
    _takes: ClassVar[dict[str, str | None]] = {**DiffusersPrior._takes, "addition_embed_type": "text_time"}

    def __init__(
        self,
        pipe: Any,
        *,
        window: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        solver: SolverChoice = "auto",
        neighbours: NeighbourLists | None = None,
    ) -> None:
        super().__init__(pipe, window=window, runtime=runtime, solver=solver, neighbours=neighbours)
        self.codec = VaeCodec(pipe.vae, upcast=True)

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[Conditions, Conditions]:
        """Conditions of n prompts, each a whole picture of the window's size; one negative prompt serves all.

        None is a negative prompt of zeros, where the pipeline's config says so (``force_zeros_for_empty_prompt``).
        """
        text, text_uncond, pooled, pooled_uncond = self._encoded(prompt, negative_prompt)
        cond = Conditions({"text": text, "pooled": pooled, "time_ids": self._time_ids([(0, 0)], self.window_pixels)})
        return cond, cond.updated(text=text_uncond, pooled=pooled_uncond)

    def with_places(
        self, cond: Conditions, uncond: Conditions | None, origins: Sequence[tuple[int, int]], size: tuple[int, int]
    ) -> tuple[Conditions, Conditions | None]:
        """Conditions of windows of one picture: each is a crop of it, at its own place."""
        time_ids = self._time_ids(origins, size)
        return cond.updated(time_ids=time_ids), None if uncond is None else uncond.updated(time_ids=time_ids)

    def _time_ids(self, origins: Sequence[tuple[int, int]], size: tuple[int, int]) -> torch.Tensor:
        """float32 [n, 6] of crops at ``origins`` (y, x) of a picture of ``size``."""
        return torch.tensor([[*size, *origin, *self.window_pixels] for origin in origins], dtype=torch.float32).to(
            self.device
        )

    def _conditioned(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The UNet at noisy views x [B, C, h, w] with what it is told."""
        told = self.checked(cond)
        added = {"text_embeds": told["pooled"].to(self.dtype), "time_ids": told["time_ids"]}
        return self._unet(x, t, told["text"], added_cond_kwargs=added)
