"""Stable-Diffusion-class pipelines: a UNet2DConditionModel, an AutoencoderKL and a CLIP text encoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch

from .. import conditions
from ..conditions import Condition
from . import tiling
from .attention import AttentionSwitch
from .compiling import Compiler
from .shared_attention import NeighbourLists, SharedAttention
from .unet import UNetPrior

# Settings of a UNet that takes more than a noisy latent, a time and a text.
_EXTRA_CONDITIONS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


class DiffusersPrior(UNetPrior):
    """The prior inside a diffusers Stable Diffusion pipeline, on its device, in its dtype.

    Args:
        pipe: a ``StableDiffusionPipeline`` (SD 1.x, 2.x and fine-tunes), epsilon, v or sample prediction.
        window: view size (h, w) in latent cells; the UNet's own ``sample_size`` if None.
        compiler: of the pipeline's UNet, which then runs compiled while it samples.
        attention: of the pipeline's UNet, which then computes its attention by it while it samples.
        neighbours: for each view the views that its self-attention sees beside itself while it samples, e.g.
            ``fastsync.priors.view_ring(8)``; all views then have to be in each network call. None: each sees itself.

    Raises:
        ValueError: for a pipeline of another class, with what it lacks or has too much of.
    """

    units = "latent cells"
    _extra_channels: ClassVar[int] = 0  # of the UNet's input, beside the latents'
    _has_controlnet: ClassVar[bool] = False

    def __init__(
        self,
        pipe: Any,
        *,
        window: tuple[int, int] | None = None,
        compiler: Compiler | None = None,
        attention: AttentionSwitch | None = None,
        neighbours: NeighbourLists | None = None,
    ) -> None:
        unet: Any = getattr(pipe, "unet", None)
        vae: Any = getattr(pipe, "vae", None)
        if type(unet).__name__ == "OptimizedModule":
            unet = unet._orig_mod
        if type(unet).__name__ != "UNet2DConditionModel" or vae is None or getattr(pipe, "text_encoder", None) is None:
            raise ValueError(
                f"{type(pipe).__name__} is not a Stable-Diffusion-class pipeline (UNet2DConditionModel, VAE and text "
                "encoder): pass a StableDiffusionPipeline, or wrap your network with fastsync.FunctionPrior."
            )
        needs = [f"{key}={unet.config[key]!r}" for key in _EXTRA_CONDITIONS if unet.config.get(key) is not None]
        if needs:
            raise ValueError(
                f"the UNet of {type(pipe).__name__} needs conditions beside the prompt ({', '.join(needs)}), which is "
                "not supported yet: pass an SD 1.x or 2.x pipeline, or wrap the network with fastsync.FunctionPrior."
            )
        if (getattr(pipe, "controlnet", None) is not None) != self._has_controlnet:
            raise ValueError(
                f"{type(pipe).__name__} has {'no' if self._has_controlnet else 'a'} ControlNet, which "
                f"{type(self).__name__} {'needs' if self._has_controlnet else 'would leave out'}: pass the pipeline to "
                "fastsync.priors.wrap, which chooses."
            )
        if unet.config.in_channels != vae.config.latent_channels + self._extra_channels:
            raise ValueError(
                f"the UNet takes {unet.config.in_channels} channels and the VAE gives {vae.config.latent_channels}, "
                f"where {type(self).__name__} adds {self._extra_channels} (inpainting takes 5 more and depth 1): pass "
                "a text-to-image or depth pipeline to fastsync.priors.wrap, which chooses."
            )
        super().__init__(pipe, window, compiler, attention)
        self.sharing = None if neighbours is None else SharedAttention(unet, neighbours)

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None) -> torch.Tensor:
        """The network at noisy views x [B, C, h, w], times t [B], text embeddings cond [B, L, D]."""
        if self.sharing is None or not self.sharing.active:
            return self._conditioned(x, t, cond)
        cond, order = self.sharing.ordered(cond)
        return self._conditioned(x[order], t[order], conditions.each(lambda c: c[order], cond))[order.argsort()]

    def _conditioned(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None) -> torch.Tensor:
        """The network by its own conditions, whatever the rows' order."""
        return super().network(x, t, cond)

    def prepare_conditions(
        self, cond: Condition | None, uncond: Condition | None, num_views: int
    ) -> tuple[Condition | None, Condition | None]:
        """Where self-attention is shared, conditions with the labels of their views."""
        return (cond, uncond) if self.sharing is None else self.sharing.labelled(cond, uncond, num_views)

    @property
    def scale(self) -> int:
        """Pixels a latent cell."""
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to latents (the posterior's mean), differentiable."""
        vae = self.pipe.vae
        return vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode() * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] to pixels [B, 3, H, W], about [-1, 1], differentiable.

        Where tiling is switched on (``pipe.vae.enable_tiling()``) and no gradient is asked for, it takes about half
        of the memory and gives the same numbers.
        """
        vae = self.pipe.vae
        latents = latents.to(self.device, vae.dtype) / vae.config.scaling_factor
        if getattr(vae, "use_tiling", False) and not (torch.is_grad_enabled() and latents.requires_grad):
            unknown = tiling.unknown_part(vae)
            if unknown is None:
                return tiling.decode(vae, latents)
            warnings.warn(
                f"the VAE has a part that fastsync cannot tile ({unknown}), so its own tiled decode is used, in which "
                "colours may differ from tile to tile: call vae.disable_tiling() where the memory suffices.",
                stacklevel=2,
            )
        return vae.decode(latents, return_dict=False)[0]

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """As every UNet's; besides, accelerate's offload of whole models leaves the UNet alone when the VAE is called.

        Methods and rewards that decode need both in turn, and a backward pass that comes through the VAE still needs
        the UNet's weights where they were.
        """
        hook: Any = getattr(self.pipe.vae, "_hf_hook", None)
        previous = getattr(hook, "prev_module_hook", None)
        if previous is not None:
            hook.prev_module_hook = None
        try:
            sharing = nullcontext() if self.sharing is None else self.sharing.on(self.device)
            # Inside: it goes on top of what `attention` has set.
            with super().sampling(), sharing:
                yield
        finally:
            if previous is not None:
                hook.prev_module_hook = previous
