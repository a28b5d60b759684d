"""FLUX.1, FLUX.2 and their kin: packed latents, two lists of positions."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from diffusers import Flux2Transformer2DModel, FluxControlNetModel
from peft import LoraConfig
from tiny_pipelines import WIDTH

from .parts import make_batch_norm_vae, make_flow, make_flux_pipeline, make_qwen3, shake
from .registry import NEGATIVE, Draw, family
from .stable_diffusion import LORA


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "height": 16, "width": 16, "max_sequence_length": 12, **more}


def variant(kind: Any = None, *, channels: int = 16, guidance: bool = True, control: Any = None, **parts: Any) -> Any:
    """A FLUX pipeline of class ``kind`` with shaken weights; ``control`` maps its transformer to a ControlNet."""
    changes = {"in_channels": channels, "out_channels": 16}
    pipe = make_flux_pipeline(guidance_embeds=guidance, **changes)
    shake(pipe.transformer)
    if kind is None:
        return pipe
    names = inspect.signature(kind.__init__).parameters
    if control is not None:
        parts["controlnet"] = control(pipe.transformer)
    return kind(**{name: part for name, part in {**pipe.components, **parts}.items() if name in names})


def controlnet(transformer: Any, **changes: Any) -> FluxControlNetModel:
    config = transformer.config
    names = (
        "patch_size",
        "in_channels",
        "num_layers",
        "num_single_layers",
        "attention_head_dim",
        "num_attention_heads",
    )
    names += ("joint_attention_dim", "pooled_projection_dim", "guidance_embeds", "axes_dims_rope")
    return shake(FluxControlNetModel(**{name: config[name] for name in names}, **changes))


@family(
    "flux",
    lambda d: text(d, guidance_scale=3.0),
    curve="flow",
    why="guidance is an embedding; positions have no batch axis; times are t / 1000",
)
def flux() -> Any:
    return variant()


@family("flux-schnell", text, curve="flow")
def flux_schnell() -> Any:
    pipe = variant(guidance=False)
    pipe.scheduler = make_flow(shift=1.0)
    return pipe


@family(
    "flux-cfg",
    lambda d: text(d, negative_prompt=NEGATIVE, true_cfg_scale=3.0),
    curve="flow",
    why="two calls a step, the conditional one first; both rewrite one dictionary (_joint_attention_kwargs)",
)
def flux_cfg() -> Any:
    return variant()


@family(
    "flux-embeds",
    lambda d: {
        "prompt_embeds": d.randn(1, 5, WIDTH),
        "pooled_prompt_embeds": d.randn(1, WIDTH),
        "height": 16,
        "width": 16,
    },
    curve="flow",
    matters=("prompt_embeds", "pooled_prompt_embeds"),
)
def flux_embeds() -> Any:
    return variant()


@family(
    "flux-kontext",
    lambda d: text(d, image=d.picture(), _auto_resize=False, max_area=256),
    curve="flow",
    why="the picture's tokens are joined behind the state's, and cut off the output",
    matters=("prompt", "image"),
)
def flux_kontext() -> Any:
    return variant(diffusers.FluxKontextPipeline)


@family(
    "flux-fill",
    lambda d: text(d, image=d.picture(), mask_image=d.mask()),
    curve="flow",
    why="masked picture and mask are extra channels of each token",
    matters=("prompt", "image", "mask_image"),
)
def flux_fill() -> Any:
    return variant(diffusers.FluxFillPipeline, channels=48)


@family("flux-control", lambda d: text(d, control_image=d.picture()), curve="flow", matters=("prompt", "control_image"))
def flux_control() -> Any:
    return variant(diffusers.FluxControlPipeline, channels=32)


@family(
    "flux-img2img",
    lambda d: text(d, image=d.picture(), strength=0.8),
    curve="flow",
    steps=5,
    matters=("prompt", "image"),
)
def flux_img2img() -> Any:
    return variant(diffusers.FluxImg2ImgPipeline)


@family(
    "flux-inpaint",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), strength=0.99),
    curve="flow",
    steps=5,
    needs="reentry",
    why="blended after each step",
    matters=("prompt", "image", "mask_image"),
)
def flux_inpaint() -> Any:
    return variant(diffusers.FluxInpaintPipeline)


@family(
    "flux-controlnet",
    lambda d: text(d, control_image=d.picture(), controlnet_conditioning_scale=0.7),
    curve="flow",
    matters=("prompt", "control_image"),
)
def flux_controlnet() -> Any:
    return variant(diffusers.FluxControlNetPipeline, control=controlnet)


@family(
    "flux-controlnet-union",
    lambda d: text(d, control_image=d.picture(), controlnet_conditioning_scale=0.7, control_mode=d.index % 3),
    curve="flow",
    why="control_mode is a row of its own",
    matters=("prompt", "control_image", "control_mode"),
)
def flux_controlnet_union() -> Any:
    return variant(diffusers.FluxControlNetPipeline, control=lambda t: controlnet(t, num_mode=3))


@family(
    "flux-controlnet-two",
    lambda d: text(d, control_image=[d.picture(), d.picture()], controlnet_conditioning_scale=[0.7, 0.3]),
    curve="flow",
    matters=("prompt", "control_image"),
)
def flux_controlnet_two() -> Any:
    return variant(diffusers.FluxControlNetPipeline, control=lambda t: [controlnet(t), controlnet(t)])


@family(
    "flux-controlnet-cfg",
    lambda d: text(d, control_image=d.picture(), negative_prompt=NEGATIVE, true_cfg_scale=3.0),
    curve="flow",
    why="one ControlNet call, two transformer calls",
    matters=("prompt", "control_image"),
)
def flux_controlnet_cfg() -> Any:
    return flux_controlnet()


@family(
    "flux-controlnet-end",
    lambda d: text(d, control_image=d.picture(), control_guidance_end=0.5),
    curve="flow",
    needs="reentry",
    why="conditioning_scale becomes 0 halfway",
    matters=("prompt", "control_image"),
)
def flux_controlnet_end() -> Any:
    return flux_controlnet()


@family(
    "flux-lora",
    lambda d: text(d, joint_attention_kwargs={"scale": 0.6}),
    curve="flow",
    why="scale is set on the layers inside each network call and unset after it",
)
def flux_lora() -> Any:
    pipe = variant()
    pipe.transformer.add_adapter(LoraConfig(target_modules=["to_q", "to_v", "to_k"], **LORA), "made")
    return pipe


# ---- FLUX.2 ----


def transformer_2(guidance: bool) -> Flux2Transformer2DModel:
    return shake(
        Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance,
        ),
        0.1,
    )


@family(
    "flux2",
    lambda d: {"prompt_embeds": d.randn(1, 6, 3 * WIDTH), "height": 16, "width": 16},
    curve="flow",
    why="batch-norm latents; ids have four axes; the schedule's shift depends on tokens and steps",
    matters=("prompt_embeds",),
)
def flux2() -> Any:
    return diffusers.Flux2Pipeline(
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True),
        vae=make_batch_norm_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer_2(True),
    )


@family(
    "flux2-klein",
    lambda d: {
        "prompt": d.prompt,
        "height": 16,
        "width": 16,
        "max_sequence_length": 16,
        "text_encoder_out_layers": (1, 2, 3),
        "guidance_scale": 4.0,
    },
    curve="flow",
    latent=False,
    why="two calls; the negative prompt is the empty one",
)
def flux2_klein() -> Any:
    tokenizer, encoder = make_qwen3(layers=3)
    return diffusers.Flux2KleinPipeline(
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True),
        vae=make_batch_norm_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=transformer_2(False),
    )
