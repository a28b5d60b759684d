"""Stable-Diffusion-class pipelines: a UNet2DConditionModel, an AutoencoderKL and a CLIP text encoder."""

from __future__ import annotations

from typing import Any

import torch

from .compiling import Compiler
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

    Raises:
        ValueError: for a pipeline of another class, with what it lacks or has too much of.
    """

    units = "latent cells"

    def __init__(self, pipe: Any, *, window: tuple[int, int] | None = None, compiler: Compiler | None = None) -> None:
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
        if getattr(pipe, "controlnet", None) is not None:
            needs.append("a ControlNet")
        if needs:
            raise ValueError(
                f"the UNet of {type(pipe).__name__} needs conditions beside the prompt ({', '.join(needs)}), which is "
                "not supported yet: pass an SD 1.x or 2.x pipeline, or wrap the network with fastsync.FunctionPrior."
            )
        if unet.config.in_channels != vae.config.latent_channels:
            raise ValueError(
                f"the UNet takes {unet.config.in_channels} channels and the VAE gives {vae.config.latent_channels} "
                "(an inpainting or depth model): pass a text-to-image pipeline."
            )
        super().__init__(pipe, window, compiler)

    @property
    def scale(self) -> int:
        """Pixels a latent cell."""
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to latents (the posterior's mean), differentiable."""
        vae = self.pipe.vae
        return vae.encode(pixels.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] to pixels [B, 3, H, W], about [-1, 1], differentiable."""
        vae = self.pipe.vae
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
