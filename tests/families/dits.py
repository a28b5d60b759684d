"""Transformers with a text encoder of their own: SANA, PixArt, Lumina, Qwen-Image and Z-Image."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import (
    EulerDiscreteScheduler,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    PixArtTransformer2DModel,
    QwenImageControlNetModel,
    QwenImageTransformer2DModel,
    SanaControlNetModel,
    SanaTransformer2DModel,
    ZImageTransformer2DModel,
)
from tiny_pipelines import WIDTH, make_vae

from .parts import (
    make_coarse_vae,
    make_dc,
    make_flow,
    make_gemma,
    make_qwen3,
    make_qwen_vl,
    make_shifted_vae,
    make_t5,
    make_video_vae,
    shake,
)
from .registry import NEGATIVE, Draw, family


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "negative_prompt": NEGATIVE, "height": 16, "width": 16, **more}


def coarse(draw: Draw, **more: Any) -> dict[str, Any]:
    """For pipelines that take eight pixels a cell for granted."""
    return text(draw, **{"height": 64, "width": 64, **more})


# ---- SANA ----


def sana_text(draw: Draw, **more: Any) -> dict[str, Any]:
    plain = {"use_resolution_binning": False, "max_sequence_length": 16, "complex_human_instruction": None}
    return text(draw, **plain, **{"height": 32, "width": 32, **more})


def sana_sizes(**changes: Any) -> dict[str, Any]:
    settings = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "sample_size": 8,
    }
    return {**settings, **changes}


def sana_variant(kind: Any, *, scheduler: Any = None, transformer: dict[str, Any] | None = None, **more: Any) -> Any:
    tokenizer, encoder = make_gemma()
    net = SanaTransformer2DModel(**sana_sizes(**(transformer or {})))
    return kind(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=make_dc(),
        transformer=shake(net),
        scheduler=make_flow() if scheduler is None else scheduler,
        **more,
    )


@family("sana", sana_text, curve="flow", why="the autoencoder is AutoencoderDC: no distribution, no shift")
def sana() -> Any:
    return sana_variant(diffusers.SanaPipeline)


@family(
    "sana-sprint",
    lambda d: {k: v for k, v in sana_text(d).items() if k != "negative_prompt"} | {"intermediate_timesteps": None},
    curve="other",
    needs="reentry",
    why="TrigFlow: the network's input and output are mixed with the state by sin(t) and cos(t); SCM scheduler; "
    "the picture is the last `denoised`",
)
def sana_sprint() -> Any:
    return sana_variant(
        diffusers.SanaSprintPipeline,
        scheduler=diffusers.SCMScheduler(),
        transformer={"guidance_embeds": True},
    )


@family("sana-pag", lambda d: sana_text(d, pag_scale=2.0), curve="flow")
def sana_pag() -> Any:
    return sana_variant(diffusers.SanaPAGPipeline, pag_applied_layers=["transformer_blocks.0"])


@family(
    "sana-controlnet",
    lambda d: sana_text(d, control_image=d.picture(32, 32)),
    curve="flow",
    matters=("prompt", "control_image"),
)
def sana_controlnet() -> Any:
    net = shake(SanaControlNetModel(**sana_sizes()))
    # Residuals come in from the second block on.
    return sana_variant(diffusers.SanaControlNetPipeline, controlnet=net, transformer={"num_layers": 2})


# ---- PixArt ----


def pixart_variant(kind: Any, *, norm: bool = False, **more: Any) -> Any:
    tokenizer, encoder = make_t5()
    net = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,  # together a multiple of three, for PixArt-Alpha's three sizes
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=24,
        sample_size=128 if norm else 8,  # which says whether the pipeline passes them
        caption_channels=WIDTH,
        norm_num_groups=4,
        use_additional_conditions=norm,
    )
    return kind(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=make_vae(),
        transformer=shake(net),
        scheduler=EulerDiscreteScheduler(beta_schedule="linear"),
        **more,
    )


def pixart_text(draw: Draw, **more: Any) -> dict[str, Any]:
    plain = {"use_resolution_binning": False, "max_sequence_length": 12, "clean_caption": False}
    return text(draw, **plain, **more)


@family("pixart-sigma", pixart_text, why="four variance channels are cut off; has no callback_on_step_end")
def pixart_sigma() -> Any:
    return pixart_variant(diffusers.PixArtSigmaPipeline)


@family("pixart-alpha", pixart_text, why="resolution and aspect ratio are conditions")
def pixart_alpha() -> Any:
    return pixart_variant(diffusers.PixArtAlphaPipeline, norm=True)


@family("pixart-sigma-pag", lambda d: pixart_text(d, pag_scale=2.0))
def pixart_sigma_pag() -> Any:
    return pixart_variant(diffusers.PixArtSigmaPAGPipeline, pag_applied_layers=["transformer_blocks.0"])


# ---- Lumina ----


@family(
    "lumina",
    lambda d: coarse(d, max_sequence_length=16, clean_caption=False),
    curve="flow",
    needs="reentry",
    why="guides the first three channels alone (the fourth is the conditional's), negated, the conditional half first; "
    "cuts variance channels; no scale_model_input",
)
def lumina() -> Any:
    tokenizer, encoder = make_gemma()
    net = LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=WIDTH,
    )
    return diffusers.LuminaPipeline(
        transformer=shake(net),
        scheduler=make_flow(shift=1.0),
        vae=make_coarse_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


def lumina_2() -> Any:
    tokenizer, encoder = make_gemma()
    net = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(64, 16, 16),
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=shake(net),
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True),
        vae=make_coarse_vae(shift_factor=0.11),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


def lumina_2_text(draw: Draw, **more: Any) -> dict[str, Any]:
    return coarse(draw, max_sequence_length=32, system_prompt="Do", **more)


@family(
    "lumina2",
    lumina_2_text,
    curve="flow",
    why="negated; rescaled by norms of the last axis; 1 - t / 1000; padded masks",
)
def lumina2() -> Any:
    return lumina_2()


@family("lumina2-linear", lambda d: lumina_2_text(d, cfg_normalization=False), curve="flow")
def lumina2_linear() -> Any:
    return lumina_2()


@family(
    "lumina2-truncated",
    lambda d: lumina_2_text(d, cfg_trunc_ratio=0.5),
    curve="flow",
    needs="reentry",
    why="guided in the first half of the steps only: fewer network calls later",
)
def lumina2_truncated() -> Any:
    return lumina_2()


# ---- Qwen-Image ----


def qwen_sizes(**changes: Any) -> dict[str, Any]:
    settings = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (4, 4, 8),
    }
    return {**settings, **changes}


def qwen_variant(kind: Any, **more: Any) -> Any:
    tokenizer, encoder = make_qwen_vl()
    pipe = kind(
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True, shift_terminal=0.02),
        vae=make_video_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shake(QwenImageTransformer2DModel(**qwen_sizes())),
        **more,
    )
    # The instruction around each prompt would be hundreds of these tokens.
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "<|im_start|>{}", 1
    return pipe


def qwen_text(draw: Draw, **more: Any) -> dict[str, Any]:
    return text(draw, true_cfg_scale=3.0, max_sequence_length=32, **more)


@family(
    "qwen-image",
    qwen_text,
    curve="flow",
    why="5-D autoencoder with mean and deviation a channel; img_shapes is a list of rows; rescaled by norms of the "
    "last axis; the text length of a batch is its longest",
)
def qwen_image() -> Any:
    return qwen_variant(diffusers.QwenImagePipeline)


@family(
    "qwen-image-img2img",
    lambda d: qwen_text(d, image=d.picture(), strength=0.8),
    curve="flow",
    steps=5,
    matters=("prompt", "image"),
)
def qwen_image_img2img() -> Any:
    return qwen_variant(diffusers.QwenImageImg2ImgPipeline)


@family(
    "qwen-image-inpaint",
    lambda d: qwen_text(d, image=d.picture(), mask_image=d.mask(), strength=0.99),
    curve="flow",
    steps=5,
    needs="reentry",
    why="blended after each step",
    matters=("prompt", "image", "mask_image"),
)
def qwen_image_inpaint() -> Any:
    return qwen_variant(diffusers.QwenImageInpaintPipeline)


@family(
    "qwen-image-controlnet",
    lambda d: qwen_text(d, control_image=d.picture()),
    curve="flow",
    matters=("prompt", "control_image"),
)
def qwen_image_controlnet() -> Any:
    net = shake(QwenImageControlNetModel(**qwen_sizes()))
    return qwen_variant(diffusers.QwenImageControlNetPipeline, controlnet=net)


# ---- Z-Image ----


def z_text(draw: Draw, **more: Any) -> dict[str, Any]:
    return text(draw, max_sequence_length=32, **more)


def z_variant(kind: Any = diffusers.ZImagePipeline, **more: Any) -> Any:
    tokenizer, encoder = make_qwen3()
    net = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 4, 8],
        axes_lens=[128, 16, 16],
    )
    return kind(
        scheduler=make_flow(),
        vae=make_shifted_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shake(net, 0.05),
        **more,
    )


@family(
    "z-image",
    z_text,
    curve="flow",
    why="the state goes in as a list of [C, 1, h, w], texts as a list of unequal lengths, the conditional half first; "
    "negated, and guided as cond + g (cond - uncond)",
)
def z_image() -> Any:
    return z_variant()


@family(
    "z-image-normalised",
    lambda d: z_text(d, cfg_normalization=1.0),
    curve="flow",
    why="norm of the whole sample, bounded",
)
def z_image_normalised() -> Any:
    return z_variant()


@family(
    "z-image-truncated",
    lambda d: z_text(d, cfg_truncation=0.5),
    curve="flow",
    needs="reentry",
    why="guided while 1 - t / 1000 is under 0.5 only: half as many rows later",
)
def z_image_truncated() -> Any:
    return z_variant()


@family(
    "z-image-img2img",
    lambda d: z_text(d, image=d.picture(), strength=0.8),
    curve="flow",
    steps=5,
    matters=("prompt", "image"),
)
def z_image_img2img() -> Any:
    return z_variant(diffusers.ZImageImg2ImgPipeline)
