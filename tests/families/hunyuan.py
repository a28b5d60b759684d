"""HunyuanDiT and HunyuanImage: two text encoders, guiders as components, and a time of the next step."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tiny_pipelines import WIDTH
from transformers import BertConfig, BertModel

from .newer import HEADS, embeds, text
from .parts import loud, make_byte_tokenizer, make_coarse_vae, make_flow, make_t5, shake
from .registry import Draw, family


def make_bert() -> tuple[Any, Any]:
    tokenizer = make_byte_tokenizer(77)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=80,
    )
    return tokenizer, loud(BertModel(config))


def hunyuan_dit_variant(kind: Any, **more: Any) -> Any:
    (tokenizer, encoder), (tokenizer_2, encoder_2) = make_bert(), make_t5()
    net = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        mlp_ratio=2.0,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        text_len=77,
        text_len_t5=256,
    )
    return kind(
        vae=make_coarse_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=shake(net),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="scaled_linear", beta_end=0.018, prediction_type="v_prediction", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )


def hunyuan_dit_text(draw: Draw, **more: Any) -> dict[str, Any]:
    return text(draw, **{"height": 64, "width": 64, "use_resolution_binning": False, **more})


@family("hunyuan-dit", hunyuan_dit_text, why="positions, sizes, style beside two text states; cuts variance channels")
def hunyuan_dit() -> Any:
    return hunyuan_dit_variant(diffusers.HunyuanDiTPipeline)


@family("hunyuan-dit-pag", lambda d: hunyuan_dit_text(d, pag_scale=2.0))
def hunyuan_dit_pag() -> Any:
    return hunyuan_dit_variant(diffusers.HunyuanDiTPAGPipeline, pag_applied_layers=["1"])


def hunyuan_image_variant(*, guider: Any = None, **transformer: Any) -> Any:
    settings = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": WIDTH,
        "text_embed_2_dim": WIDTH,
        "rope_axes_dim": (8, 8),
        **HEADS,
    }
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.75,
    )
    return diffusers.HunyuanImagePipeline(
        scheduler=make_flow(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=shake(diffusers.HunyuanImageTransformer2DModel(**{**settings, **transformer}), 0.1),
        guider=guider,
    )


def hunyuan_image_embeds(draw: Draw, **more: Any) -> dict[str, Any]:
    mask = torch.ones(1, 6, dtype=torch.int64)
    states = embeds(draw, 6, WIDTH)
    second = {f"{name}_2": draw.randn(1, 6, WIDTH) for name in ("prompt_embeds", "negative_prompt_embeds")}
    names = (
        "prompt_embeds_mask",
        "negative_prompt_embeds_mask",
        "prompt_embeds_mask_2",
        "negative_prompt_embeds_mask_2",
    )
    return {**states, **second, **{name: mask.clone() for name in names}, **more}


@family(
    "hunyuan-image-distilled",
    lambda d: hunyuan_image_embeds(d, distilled_guidance_scale=3.0),
    curve="flow",
    matters=("prompt_embeds", "prompt_embeds_2"),
)
def hunyuan_image_distilled() -> Any:
    return hunyuan_image_variant(guidance_embeds=True)


@family(
    "hunyuan-image-guider",
    hunyuan_image_embeds,
    curve="flow",
    why="a guider component combines: prepare_inputs, prepare_models and cleanup_models round each call, guider(state)",
    matters=("prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds"),
)
def hunyuan_image_guider() -> Any:
    return hunyuan_image_variant(guider=diffusers.ClassifierFreeGuidance(guidance_scale=3.0))


@family(
    "hunyuan-image-apg",
    hunyuan_image_embeds,
    curve="flow",
    needs="reentry",
    why="the guider projects on the conditional prediction and keeps a momentum over the steps: stateful guidance",
    matters=("prompt_embeds", "prompt_embeds_2"),
)
def hunyuan_image_apg() -> Any:
    guider = diffusers.AdaptiveProjectedMixGuidance(
        adaptive_projected_guidance_momentum=-0.5, adaptive_projected_guidance_start_step=0
    )
    return hunyuan_image_variant(guider=guider)


@family(
    "hunyuan-image-meanflow",
    hunyuan_image_embeds,
    curve="flow",
    needs="reentry",
    why="timestep_r is the NEXT step's time: an input that depends on the step",
    matters=("prompt_embeds", "prompt_embeds_2"),
)
def hunyuan_image_meanflow() -> Any:
    return hunyuan_image_variant(use_meanflow=True)
