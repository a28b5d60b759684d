"""Transformers that nobody asked for: AuraFlow, Chroma, CogView, HiDream, Bria, PRX, Ovis, LongCat, Krea, ..."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tiny_pipelines import WIDTH, make_vae

from .parts import (
    make_batch_norm_vae,
    make_flow,
    make_qwen3,
    make_qwen_vl,
    make_shifted_vae,
    make_t5,
    make_video_vae,
    shake,
)
from .registry import NEGATIVE, Draw, family

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
ROPE = {"axes_dims_rope": (4, 4, 8)}


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "negative_prompt": NEGATIVE, **{"height": 16, "width": 16, **more}}


def embeds(
    draw: Draw, *shape: int, names: tuple[str, ...] = ("prompt_embeds", "negative_prompt_embeds"), **more: Any
) -> dict[str, Any]:
    return {**{name: draw.randn(1, *shape) for name in names}, "height": 16, "width": 16, **more}


EMBEDS = {"matters": ("prompt_embeds", "negative_prompt_embeds")}


@family("aura-flow", lambda d: text(d, max_sequence_length=12), curve="flow", why="times are t / 1000")
def aura_flow() -> Any:
    tokenizer, encoder = make_t5()
    net = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=make_vae(),
        transformer=shake(net),
        scheduler=make_flow(shift=1.7),
    )


@family(
    "chroma",
    lambda d: text(d, max_sequence_length=12),
    curve="flow",
    why="the attention mask spans text and picture tokens; two calls",
)
def chroma() -> Any:
    tokenizer, encoder = make_t5()
    net = diffusers.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **HEADS,
        **ROPE,
    )
    return diffusers.ChromaPipeline(
        scheduler=make_flow(shift=1.0),
        vae=make_shifted_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shake(net, 0.1),
    )


def cogview(kind: Any, net: Any, scheduler: Any, **vae: Any) -> Any:
    tokenizer, encoder = make_t5()
    return kind(
        tokenizer=tokenizer, text_encoder=encoder, vae=make_vae(**vae), transformer=shake(net), scheduler=scheduler
    )


COGVIEW = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "text_embed_dim": WIDTH,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "sample_size": 8,
}


@family(
    "cogview3",
    lambda d: text(d, max_sequence_length=224, crops_coords_top_left=(0, 4 * d.index)),
    curve="vp",
    why="CogVideoX' DDIM or DPM scheduler whose step takes and gives the last x0",
    matters=("prompt", "crops_coords_top_left"),
)
def cogview3() -> Any:
    net = diffusers.CogView3PlusTransformer2DModel(**COGVIEW, pos_embed_max_size=64)
    scheduler = diffusers.CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    return cogview(diffusers.CogView3PlusPipeline, net, scheduler)


@family(
    "cogview4",
    lambda d: embeds(d, 6, WIDTH, crops_coords_top_left=(0, 4 * d.index)),
    curve="flow",
    why="sizes and crops are conditions; two calls; passes timesteps as well as sigmas to set_timesteps",
    matters=("prompt_embeds", "negative_prompt_embeds", "crops_coords_top_left"),
)
def cogview4() -> Any:
    net = diffusers.CogView4Transformer2DModel(**COGVIEW, pos_embed_max_size=64, rope_axes_dim=(16, 16))
    return cogview(diffusers.CogView4Pipeline, net, make_flow(shift=1.0, use_dynamic_shifting=True))


@family(
    "hidream",
    lambda d: {
        "prompt_embeds_t5": d.randn(1, 5, WIDTH),
        "negative_prompt_embeds_t5": d.randn(1, 5, WIDTH),
        "prompt_embeds_llama3": d.randn(2, 1, 5, WIDTH),
        "negative_prompt_embeds_llama3": d.randn(2, 1, 5, WIDTH),
        "pooled_prompt_embeds": d.randn(1, 2 * WIDTH),
        "negative_pooled_prompt_embeds": d.randn(1, 2 * WIDTH),
        "height": 16,
        "width": 16,
    },
    curve="flow",
    why="Llama's states are [layers, rows, tokens, width]: their batch axis is the second; negated; experts are "
    "chosen by token; height and width are scaled to a fixed area",
    matters=("prompt_embeds_t5", "prompt_embeds_llama3", "pooled_prompt_embeds"),
)
def hidream() -> Any:
    net = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1],
        force_inference_output=True,
    )
    names = [f"{part}{suffix}" for part in ("text_encoder", "tokenizer") for suffix in ("", "_2", "_3", "_4")]
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=make_flow(), vae=make_shifted_vae(), transformer=shake(net), **dict.fromkeys(names)
    )
    pipe.default_sample_size = 8  # which the pipeline fixes at 128
    return pipe


def bria_variant() -> Any:
    tokenizer, encoder = make_t5()
    net = diffusers.BriaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH, axes_dims_rope=[4, 4, 8], **HEADS
    )
    return diffusers.BriaPipeline(
        transformer=shake(net),
        scheduler=make_flow(),
        vae=make_shifted_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


@family(
    "bria",
    lambda d: text(d, max_sequence_length=12),
    curve="flow",
    why="sets self.attention_kwargs (no underscore) on the pipeline; times are not scaled",
)
def bria() -> Any:
    return bria_variant()


@family(
    "bria-clipped",
    lambda d: text(d, max_sequence_length=12, normalize=True, clip_value=1.5),
    curve="flow",
    needs="reentry",
    why="the guided output is mixed with itself rescaled by the standard deviations of the WHOLE batch, then clipped",
)
def bria_clipped() -> Any:
    return bria_variant()


@family(
    "bria-fibo",
    lambda d: text(d, max_sequence_length=16, height=128, width=128),
    curve="flow",
    why="a list of text states, one a block; not packed into 2 x 2 patches; 5-D autoencoder",
)
def bria_fibo() -> Any:
    tokenizer, encoder = make_qwen3()
    encoder.resize_token_embeddings(128_001)  # its empty text is token 128,000 whatever the tokenizer knows
    net = diffusers.BriaFiboTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=2 * WIDTH,
        text_encoder_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        **HEADS,
    )
    return diffusers.BriaFiboPipeline(
        transformer=shake(net),
        scheduler=make_flow(use_dynamic_shifting=True),
        vae=make_video_vae(levels=5),  # sixteen pixels a cell, which the pipeline takes for granted
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


@family("ovis", lambda d: embeds(d, 6, WIDTH, negative_prompt=None), curve="flow", **EMBEDS)
def ovis() -> Any:
    net = diffusers.OvisImageTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH, **HEADS, **ROPE
    )
    return diffusers.OvisImagePipeline(
        scheduler=make_flow(), vae=make_shifted_vae(), text_encoder=None, tokenizer=None, transformer=shake(net)
    )


@family(
    "longcat",
    lambda d: text(d, enable_prompt_rewrite=False),
    curve="flow",
    why="rescaled by the norm of the last axis, clamped between cfg_renorm_min and 1",
)
def longcat() -> Any:
    tokenizer, encoder = make_qwen_vl()
    net = diffusers.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        **HEADS,
    )
    pipe = diffusers.LongCatImagePipeline(
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True),
        vae=make_shifted_vae(16),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_processor=None,
        transformer=shake(net),
    )
    pipe.tokenizer_max_length = 16  # which the pipeline fixes at 512
    return pipe


@family(
    "ernie",
    text,
    curve="flow",
    why="text lengths go in beside padded texts; times as a full row of t.item(); batch-norm latents; calls "
    "set_timesteps with sigmas as a tensor",
)
def ernie() -> Any:
    tokenizer, encoder = make_qwen3()
    net = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=WIDTH,
        rope_axes_dim=(4, 4, 8),
    )
    return diffusers.ErnieImagePipeline(
        transformer=shake(net),
        vae=make_batch_norm_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=make_flow(),
    )


@family(
    "krea2",
    lambda d: embeds(
        d,
        6,
        3,
        WIDTH,
        prompt_embeds_mask=torch.ones(1, 6, dtype=torch.bool),
        negative_prompt_embeds_mask=torch.ones(1, 6, dtype=torch.bool),
    ),
    curve="flow",
    why="guided as cond + g (cond - uncond); text states of several layers; 5-D autoencoder",
    **EMBEDS,
)
def krea2() -> Any:
    net = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
        **HEADS,
    )
    return diffusers.Krea2Pipeline(
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True),
        vae=make_video_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=shake(net),
        text_encoder_select_layers=(0, 1, 2),
    )


@family(
    "nucleus",
    lambda d: embeds(
        d,
        6,
        WIDTH,
        prompt_embeds_mask=torch.ones(1, 6, dtype=torch.bool),
        negative_prompt_embeds_mask=torch.ones(1, 6, dtype=torch.bool),
    ),
    curve="flow",
    why="experts choose tokens up to a capacity of each row; a mask of ones becomes None; negated; norms of last axis",
    **EMBEDS,
)
def nucleus() -> Any:
    net = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=4,
        joint_attention_dim=WIDTH,
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=1.0,
        **HEADS,
        **ROPE,
    )
    return diffusers.NucleusMoEImagePipeline(
        transformer=shake(net, 0.1),
        scheduler=make_flow(use_dynamic_shifting=True),
        vae=make_video_vae(),
        text_encoder=None,
        processor=None,
    )


def prx_net(channels: int) -> Any:
    return shake(
        diffusers.PRXTransformer2DModel(
            in_channels=channels,
            context_in_dim=WIDTH,
            hidden_size=32,
            num_heads=2,
            depth=1,
            axes_dim=[8, 8],
            mlp_ratio=2.0,
        )
    )


def prx_embeds(draw: Draw) -> dict[str, Any]:
    masks = ("prompt_attention_mask", "negative_prompt_attention_mask")
    ones = {name: torch.ones(1, 6, dtype=torch.bool) for name in masks}
    return embeds(draw, 6, WIDTH, use_resolution_binning=False, **ones)


@family("prx", prx_embeds, curve="flow", **EMBEDS)
def prx() -> Any:
    return diffusers.PRXPipeline(
        transformer=prx_net(4),
        scheduler=make_flow(),
        text_encoder=None,
        tokenizer=None,
        vae=make_shifted_vae(),
        default_sample_size=8,
    )


@family(
    "prx-pixel",
    prx_embeds,
    curve="flow",
    needs="reentry",
    why="the network predicts x0 and the loop makes (x - x0) / max(t, 0.05) of it: state and time enter",
    latent=False,
    **EMBEDS,
)
def prx_pixel() -> Any:
    return diffusers.PRXPixelPipeline(
        transformer=prx_net(3), scheduler=make_flow(), text_encoder=None, tokenizer=None, default_sample_size=16
    )
