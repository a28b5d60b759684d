"""Stable-Diffusion-class pipelines: a UNet2DConditionModel, an AutoencoderKL and a CLIP text encoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ..conditions import Conditions
from ..diffusion import SolverChoice
from .codecs import VaeCodec
from .registry import Unfit, built_in
from .runtime import Runtime
from .shared_attention import VIEW_LABELS, NeighbourLists, SharedAttention
from .unet import UNetPrior


@built_in("StableDiffusionPipeline")
class DiffusersPrior(UNetPrior):
    """The prior inside a diffusers Stable Diffusion pipeline, on its device, in its dtype.

    Args:
        pipe: a ``StableDiffusionPipeline`` (SD 1.x, 2.x and fine-tunes), epsilon, v or sample prediction.
        window: view size (h, w) in latent cells; the UNet's own ``sample_size`` if None.
        runtime: how the networks run while they sample; made of the pipeline if None.
        solver: ``"auto"``, the scheduler's own, or ``"ddim"``; see :class:`fastsync.diffusion.NoiseSchedule`.
        neighbours: for each view the views that its self-attention sees beside itself while it samples, e.g.
            ``fastsync.priors.view_ring(8)``; all views then have to be in each network call. None: each sees itself.

    Raises:
        ValueError: for a pipeline of another class, with what it lacks or has too much of.
    """

    units = "latent cells"
    # What the UNet takes beside a noisy latent, a time and a text, as its config has it.
    _takes: ClassVar[dict[str, str | None]] = {
        "addition_embed_type": None,
        "class_embed_type": None,
        "num_class_embeds": None,
        "encoder_hid_dim_type": None,
        "time_cond_proj_dim": None,
    }
    _extra_channels: ClassVar[int] = 0  # of the UNet's input, beside the latents'
    _has_controlnet: ClassVar[bool] = False

    def __init__(
        self,
        pipe: Any,
        *,
        window: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        solver: SolverChoice = "auto",
        neighbours: NeighbourLists | None = None,
    ) -> None:
        unet: Any = getattr(pipe, "unet", None)
        vae: Any = getattr(pipe, "vae", None)
        if type(unet).__name__ == "OptimizedModule":
            unet = unet._orig_mod
        if type(unet).__name__ != "UNet2DConditionModel" or vae is None or getattr(pipe, "text_encoder", None) is None:
            raise Unfit(
                f"{type(pipe).__name__} is not a Stable-Diffusion-class pipeline (UNet2DConditionModel, VAE and text "
                "encoder): pass a StableDiffusionPipeline, or wrap your network with fastsync.FunctionPrior."
            )
        others = {key: unet.config.get(key) for key, taken in self._takes.items() if unet.config.get(key) != taken}
        if others:
            raise Unfit(
                f"the UNet of {type(pipe).__name__} takes other conditions than {type(self).__name__} gives it "
                f"({', '.join(f'{key}={value!r}' for key, value in others.items())}): register an adapter of your own "
                "with fastsync.priors.register, or pass a pipeline that fastsync.priors.wrap knows."
            )
        if (getattr(pipe, "controlnet", None) is not None) != self._has_controlnet:
            raise Unfit(
                f"{type(pipe).__name__} has {'no' if self._has_controlnet else 'a'} ControlNet, which "
                f"{type(self).__name__} {'needs' if self._has_controlnet else 'would leave out'}: pass the pipeline to "
                "fastsync.priors.wrap, which chooses."
            )
        if unet.config.in_channels != vae.config.latent_channels + self._extra_channels:
            raise Unfit(
                f"the UNet takes {unet.config.in_channels} channels and the VAE gives {vae.config.latent_channels}, "
                f"where {type(self).__name__} adds {self._extra_channels} (inpainting takes 5 more and depth 1): pass "
                "a text-to-image or depth pipeline to fastsync.priors.wrap, which chooses."
            )
        super().__init__(pipe, window, runtime, solver)
        self.codec = VaeCodec(vae)
        self.sharing = None if neighbours is None else SharedAttention(unet, neighbours)
        if self.sharing is not None:
            self.runtime = self.runtime.also(self.sharing)  # entered last: on top of what `attention` has set

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The network at noisy views x [B, C, h, w], times t [B], text embeddings ``text`` [B, L, D]."""
        if self.sharing is None or not self.sharing.active:
            return self._conditioned(x, t, cond)
        order = self.sharing.row_order(cond)
        assert cond is not None  # row_order() has looked
        rest = cond.without(VIEW_LABELS)
        ordered = None if rest is None else rest.map(lambda rows: rows[order])
        return self._conditioned(x[order], t[order], ordered)[order.argsort()]

    def _conditioned(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The network by its own conditions, whatever the rows' order."""
        return super().network(x, t, cond)

    def prepare_conditions(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Where self-attention is shared, conditions with the labels of their views."""
        return (cond, uncond) if self.sharing is None else self.sharing.labelled(cond, uncond, num_views)
