"""The networks that whole runs are timed with: the prior `scenes`, and public models at real size with random weights.

Timing does not depend on weights, and no weights can be downloaded where this suite runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import fastsync as fs

# The published configurations, as far as they differ from the defaults of diffusers' classes.
_SD15 = {"sample_size": 64, "cross_attention_dim": 768}
_SD21 = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

SD3 = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
FLUX = {"guidance_embeds": True}


@dataclass
class Network:
    """A frozen network with what it is asked: one prompt for all views. Called as ``FunctionPrior`` calls a network."""

    module: nn.Module
    scheduler: Any
    view_shape: tuple[int, int, int]
    cond: Tensor
    uncond: Tensor
    guidance_scale: float
    extra: Callable[[int], dict[str, Any]] = field(default=lambda rows: {})
    decode: Callable[[Tensor], Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The network's output [B, C, h, w] for x, times [B] and text states [B, L, D]."""
        given = {"encoder_hidden_states": cond.to(self.dtype), "return_dict": False, **self.extra(len(x))}
        raw: Tensor = self.module(x.to(self.dtype), timestep=t, **given)[0]
        return raw

    def prior(self) -> fs.FunctionPrior:
        """As the sampler sees it."""
        return fs.FunctionPrior(self, self.scheduler, self.view_shape, device=self.device, dtype=self.dtype)


def load(name: str, device: str, dtype: torch.dtype) -> Network:
    """One of ``MODELS`` on a device, in a precision."""
    torch.manual_seed(0)
    network = MODELS[name](torch.device(device), dtype)
    network.module.requires_grad_(False).eval()
    return network


@contextmanager
def born(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Modules that are made in here have their weights on a device in a precision from the beginning."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def empty(name: str) -> nn.Module:
    """The network of one of ``BUILDERS`` without memory for its weights."""
    with torch.device("meta"):
        return BUILDERS[name]()


def _scenes(device: torch.device, dtype: torch.dtype) -> Network:
    sync = fs.SyncPipeline.from_zoo("scenes", device=device, dtype=dtype)
    prior = fs.DiffusersPrior(sync.pipe)
    cond, uncond = prior.encode_prompt("mountains")
    scheduler = diffusers.DDIMScheduler.from_config(sync.pipe.scheduler.config)
    return Network(
        sync.pipe.unet,
        scheduler,
        prior.view_shape,
        cond,
        uncond,
        fs.Guidance.of(sync.guidance_scale).scale,
        decode=prior.decode,
    )


def _nothing(device: torch.device, dtype: torch.dtype) -> Callable[[int], dict[str, Any]]:
    """Conditions of a network that is told its prompt alone."""
    return lambda rows: {}


def _random(
    name: str,
    scheduler: Callable[[], Any],
    view_shape: tuple[int, int, int],
    text: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    extra: Callable[[torch.device, torch.dtype], Callable[[int], dict[str, Any]]] = _nothing,
) -> Network:
    with born(device, dtype):
        module = BUILDERS[name]()
        cond, uncond = torch.randn(2, 1, *text)
    module.to(dtype)  # tables, which are made in float32
    return Network(
        module,
        scheduler(),
        view_shape,
        cond,
        uncond,
        7.5,
        extra=extra(device, dtype),
    )


def _sdxl_conditions(device: torch.device, dtype: torch.dtype) -> Callable[[int], dict[str, Any]]:
    """The pooled text and the sizes that SDXL is told, by rows; made once, since the host waits for a copy to a GPU."""
    pooled = torch.zeros(1, 1280, device=device, dtype=dtype)
    sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]], device=device, dtype=dtype)
    return lambda rows: {
        "added_cond_kwargs": {"text_embeds": pooled.expand(rows, -1), "time_ids": sizes.expand(rows, -1)}
    }


def _ddim() -> Any:
    """Stable Diffusion's own times and betas."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "SD 1.5": lambda: diffusers.UNet2DConditionModel(**_SD15),
    "SD 2.1": lambda: diffusers.UNet2DConditionModel(**_SD21),
    "SDXL": lambda: diffusers.UNet2DConditionModel(**SDXL),
    "SD3 medium": lambda: diffusers.SD3Transformer2DModel(**SD3),
    "FLUX.1": lambda: diffusers.FluxTransformer2DModel(**FLUX),
    "SANA 1.6B": diffusers.SanaTransformer2DModel,
}
MODELS: dict[str, Callable[[torch.device, torch.dtype], Network]] = {
    "scenes": _scenes,
    "SD 1.5": partial(_random, "SD 1.5", _ddim, (4, 64, 64), (77, 768)),
    "SD 2.1": partial(_random, "SD 2.1", _ddim, (4, 64, 64), (77, 1024)),
    "SDXL": partial(_random, "SDXL", _ddim, (4, 128, 128), (77, 2048), extra=_sdxl_conditions),
    "SANA 1.6B": partial(_random, "SANA 1.6B", diffusers.FlowMatchEulerDiscreteScheduler, (32, 32, 32), (300, 2304)),
}
