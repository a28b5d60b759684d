"""Stable Diffusion 3 and what is built on it."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from peft import LoraConfig
from tiny_pipelines import WIDTH, make_clip, make_tokenizer
from transformers import CLIPTextModelWithProjection

from .parts import make_flow, make_shifted_vae, shake
from .registry import NEGATIVE, Draw, family
from .stable_diffusion import LORA

SIZES = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 2 * WIDTH,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 2 * WIDTH,
    "pos_embed_max_size": 12,
}


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {
        "prompt": draw.prompt,
        "negative_prompt": NEGATIVE,
        "height": 16,
        "width": 16,
        "max_sequence_length": 8,
        **more,
    }


def variant(kind: Any = diffusers.StableDiffusion3Pipeline, *, control: Any = None, **transformer: Any) -> Any:
    tokenizer = make_tokenizer()
    parts = {
        "transformer": shake(SD3Transformer2DModel(**{**SIZES, **transformer})),
        "scheduler": make_flow(),
        "vae": make_shifted_vae(transformer.get("in_channels", 4)),
        "text_encoder": make_clip(tokenizer, CLIPTextModelWithProjection, layers=2),
        "text_encoder_2": make_clip(tokenizer, CLIPTextModelWithProjection, layers=2),
        "text_encoder_3": None,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "tokenizer_3": None,
    }
    names = inspect.signature(kind.__init__).parameters
    if control is not None:
        parts["controlnet"] = control()
    return kind(**{name: part for name, part in parts.items() if name in names})


def controlnet(**changes: Any) -> SD3ControlNetModel:
    return shake(
        SD3ControlNetModel(**{**SIZES, "num_layers": 1, "force_zeros_for_pooled_projection": False, **changes})
    )


@family("sd3", text, curve="flow")
def sd3() -> Any:
    return variant()


@family(
    "sd3-embeds",
    lambda d: {
        "prompt_embeds": d.randn(1, 5, 2 * WIDTH),
        "negative_prompt_embeds": d.randn(1, 5, 2 * WIDTH),
        "pooled_prompt_embeds": d.randn(1, 2 * WIDTH),
        "negative_pooled_prompt_embeds": d.randn(1, 2 * WIDTH),
        "height": 16,
        "width": 16,
    },
    curve="flow",
    matters=("prompt_embeds", "pooled_prompt_embeds"),
)
def sd3_embeds() -> Any:
    return variant()


@family(
    "sd3-skip-layers",
    lambda d: text(d, skip_guidance_layers=[1], skip_layer_guidance_stop=0.5),
    curve="flow",
    needs="reentry",
    why="a second, conditional-only call with layers left out, in some steps only",
)
def sd3_skip_layers() -> Any:
    return variant()


@family(
    "sd3-img2img",
    lambda d: text(d, image=d.picture(), strength=0.8),
    curve="flow",
    steps=5,
    matters=("prompt", "image"),
)
def sd3_img2img() -> Any:
    return variant(diffusers.StableDiffusion3Img2ImgPipeline)


@family(
    "sd3-inpaint",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), strength=0.99),
    curve="flow",
    steps=5,
    needs="reentry",
    why="blended after each step",
    matters=("prompt", "image", "mask_image"),
)
def sd3_inpaint() -> Any:
    return variant(diffusers.StableDiffusion3InpaintPipeline, in_channels=16, out_channels=16)


@family(
    "sd3-controlnet",
    lambda d: text(d, control_image=d.picture(), controlnet_conditioning_scale=0.7),
    curve="flow",
    matters=("prompt", "control_image"),
)
def sd3_controlnet() -> Any:
    return variant(diffusers.StableDiffusion3ControlNetPipeline, control=controlnet)


@family(
    "sd3-controlnet-two",
    lambda d: text(d, control_image=[d.picture(), d.picture()], controlnet_conditioning_scale=[0.7, 0.3]),
    curve="flow",
    matters=("prompt", "control_image"),
)
def sd3_controlnet_two() -> Any:
    return variant(diffusers.StableDiffusion3ControlNetPipeline, control=lambda: [controlnet(), controlnet()])


@family("sd3-pag", lambda d: text(d, pag_scale=2.0), curve="flow")
def sd3_pag() -> Any:
    return variant(diffusers.StableDiffusion3PAGPipeline)


@family("sd3-lora", lambda d: text(d, joint_attention_kwargs={"scale": 0.6}), curve="flow")
def sd3_lora() -> Any:
    pipe = variant()
    pipe.transformer.add_adapter(LoraConfig(target_modules=["to_q", "to_v"], **LORA), "made")
    return pipe
