"""Tiny real pipelines of further families, built in memory as those of ``tiny_pipelines``."""

from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
)
from tiny_pipelines import CELLS, WIDTH, make_clip, make_tokenizer, make_unet, make_vae
from transformers import CLIPTextModelWithProjection

from fastsync.zoo import pixel_models


def make_xl_scheduler(kind: Any = EulerDiscreteScheduler, **changes: Any) -> Any:
    """SDXL's schedule."""
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
    return kind(**{**settings, **changes})


def make_xl_pipeline(
    *, scheduler: Any = None, dtype: torch.dtype = torch.float32, seed: int = 0, **unet: Any
) -> StableDiffusionXLPipeline:
    """A Stable Diffusion XL pipeline whose weights depend on ``seed`` alone; ``unet`` are changes to its config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer()
        settings = {
            "cross_attention_dim": 2 * WIDTH,  # of both text encoders
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + WIDTH,
        }
        pipe = StableDiffusionXLPipeline(
            vae=make_vae(),
            text_encoder=make_clip(tokenizer, layers=2),
            text_encoder_2=make_clip(tokenizer, CLIPTextModelWithProjection, layers=2),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=make_unet(**{**settings, **unet}).eval(),
            scheduler=make_xl_scheduler() if scheduler is None else scheduler,
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def make_flux_pipeline(
    *,
    scheduler: Any = None,
    guidance_embeds: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **transformer: Any,
) -> FluxPipeline:
    """A FLUX pipeline whose weights depend on ``seed`` alone, dev's kind or schnell's, for windows of ``CELLS``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, pieces = make_tokenizer(), pixel_models.make_tokenizer(["cat", "dog"])
        text_encoder = pixel_models.make_text_encoder(pieces, pixel_models.TINY).eval()
        with torch.no_grad():
            text_encoder.get_input_embeddings().weight.mul_(20.0)
        settings = {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": pixel_models.TINY.text_width,
            "pooled_projection_dim": WIDTH,
            "axes_dims_rope": (2, 2, 4),
        }
        pipe = FluxPipeline(
            scheduler=make_flux_scheduler() if scheduler is None else scheduler,
            vae=make_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=make_clip(tokenizer, layers=2),
            tokenizer=tokenizer,
            text_encoder_2=text_encoder,
            tokenizer_2=pieces,
            transformer=FluxTransformer2DModel(guidance_embeds=guidance_embeds, **{**settings, **transformer}).eval(),
        )
    pipe.default_sample_size = CELLS  # which the pipeline fixes at 128
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def make_flux_scheduler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's: shifted by the number of tokens."""
    settings = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    return FlowMatchEulerDiscreteScheduler(**{**settings, **changes})
