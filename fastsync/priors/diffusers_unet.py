"""Stable-Diffusion-class pipelines: a UNet2DConditionModel, an AutoencoderKL and a CLIP text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ..diffusion import NoiseSchedule
from ..errors import check_pair
from .base import NetworkPrior, frozen, strings
from .compiling import Compiler

# Settings of a UNet that takes more than a noisy latent, a time and a text.
_EXTRA_CONDITIONS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


class DiffusersPrior(NetworkPrior):
    """The prior inside a diffusers Stable Diffusion pipeline, on its device, in its dtype.

    Args:
        pipe: a ``StableDiffusionPipeline`` (SD 1.x, 2.x and fine-tunes), epsilon, v or sample prediction.
        window: view size (h, w) in latent cells; the UNet's own ``sample_size`` if None.
        compiler: of the pipeline's UNet, which then runs compiled while it samples.

    Raises:
        ValueError: for a pipeline of another class, with what it lacks or has too much of.
    """

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
        self.pipe, self.compiler = pipe, compiler
        self.schedule = NoiseSchedule(pipe.scheduler)
        size = unet.config.sample_size
        if window is None and size is None:
            raise ValueError("the UNet's config has no sample_size: pass window=(h, w) in latent cells.")
        default = (size, size) if isinstance(size, int) else size
        self.window = check_pair("window", default if window is None else window)

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in latent cells."""
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
    def scale(self) -> int:
        """Pixels a latent cell."""
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        """The UNet at noisy latents x [B, C, h, w], times t [B], text embeddings cond [B, L, D]."""
        if cond is None:
            raise ValueError("cond is None, but the UNet needs text embeddings: pass prior.encode_prompt(prompt)[0].")
        return self.pipe.unet(x.to(self.dtype), t, encoder_hidden_states=cond.to(self.dtype), return_dict=False)[0]

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings ``(cond, uncond)``, [n, L, D] each, n the number of prompts.

        A single negative prompt serves all prompts; None means the empty one.
        """
        prompts, negatives = strings(prompt, negative_prompt)
        with torch.no_grad():
            cond, uncond = self.pipe.encode_prompt(prompts, self.device, 1, True, negatives)
        return cond, uncond

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to latents (the posterior's mean), differentiable."""
        vae = self.pipe.vae
        return vae.encode(pixels.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] to pixels [B, 3, H, W], about [-1, 1], differentiable."""
        vae = self.pipe.vae
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Freeze the UNet: a backward pass to the input then costs about a forward. Let it run compiled if asked.

        Afterwards it is as it was.
        """
        with frozen(self.pipe.unet), nullcontext() if self.compiler is None else self.compiler.on():
            yield
