"""Tokenizers, text encoders, autoencoders and adapters of a few thousand weights, made in memory."""

from __future__ import annotations

import functools
from typing import Any

import tiny_families
import tiny_pipelines
import torch
from diffusers import AutoencoderDC, AutoencoderKLFlux2, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from tiny_pipelines import WIDTH, make_vae
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
)

from fastsync.zoo import pixel_models

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{{ m['content'][0]['text'] }}{% endif %}<|im_end|>\n{% endfor %}"
)


def seeded(make: Any) -> Any:
    """``make`` with a seed drawn from the global generator where it is given none."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("seed", int(torch.randint(2**31, ())))
        return make(*args, **kwargs)

    return made


make_pipeline = seeded(tiny_pipelines.make_pipeline)
make_controlnet = seeded(tiny_pipelines.make_controlnet)
make_depth_pipeline = seeded(tiny_pipelines.make_depth_pipeline)
make_pixel_pipeline = seeded(tiny_pipelines.make_pixel_pipeline)
make_xl_pipeline = seeded(tiny_families.make_xl_pipeline)
make_flux_pipeline = seeded(tiny_families.make_flux_pipeline)


def shake(module: Any, scale: float = 0.15, only: Any = None) -> Any:
    """Move every weight: fresh networks have zeros where times, conditions and controls come in."""
    with torch.no_grad():
        for part in [module] if only is None else only:
            for weight in part.parameters():
                weight.add_(scale * torch.randn_like(weight))
    return module.eval()


def make_byte_tokenizer(length: int = 32, side: str = "right") -> PreTrainedTokenizerFast:
    """One token a byte, with a chat template: stands in for Gemma's and Qwen's."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    vocab = {piece: i for i, piece in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=special[4:],
        model_max_length=length,
        padding_side=side,
        chat_template=CHAT,
    )


def loud(encoder: Any) -> Any:
    """Make prompts matter: fresh text states are nearly alike."""
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(20.0)
    return encoder.eval()


def make_t5() -> tuple[Any, Any]:
    """Tokenizer and T5 encoder, ``WIDTH`` wide."""
    tokenizer = pixel_models.make_tokenizer(["cat", "dog"])
    return tokenizer, loud(pixel_models.make_text_encoder(tokenizer, pixel_models.TINY))


def language_config(vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def make_gemma(length: int = 32) -> tuple[Any, Any]:
    tokenizer = make_byte_tokenizer(length)
    return tokenizer, loud(Gemma2Model(Gemma2Config(**language_config(len(tokenizer)), query_pre_attn_scalar=8)))


def make_qwen3(layers: int = 2) -> tuple[Any, Any]:
    tokenizer = make_byte_tokenizer()
    config = Qwen3Config(**{**language_config(len(tokenizer)), "num_hidden_layers": layers})
    return tokenizer, loud(Qwen3Model(config))


def make_qwen_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL, whose vision tower of one block nobody asks."""
    tokenizer = make_byte_tokenizer(length=512)
    config = Qwen2_5_VLConfig(
        text_config={
            **language_config(len(tokenizer)),
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    return tokenizer, loud(Qwen2_5_VLForConditionalGeneration(config))


def make_image_encoder() -> tuple[Any, Any]:
    """CLIP's picture encoder for 16 x 16 pixels, and its processor."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=WIDTH,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return shake(CLIPVisionModelWithProjection(config), 0.3), processor


def make_flow(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **changes})


def make_shifted_vae(channels: int = 4, **changes: Any) -> Any:
    """As FLUX and SD3 have it: scale and shift, no quantisation layers."""
    settings = {
        "latent_channels": channels,
        "scaling_factor": 0.36,
        "shift_factor": 0.11,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return make_vae(**{**settings, **changes})


def make_coarse_vae(**changes: Any) -> Any:
    """Eight pixels a cell."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4, 4, 4, 4),
    }
    return make_vae(**{**blocks, **changes})


def make_dc() -> AutoencoderDC:
    """Two pixels a cell, no attention."""
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.41,
    ).eval()


def make_video_vae(levels: int = 2) -> AutoencoderKLQwenImage:
    """Latents ``[B, 4, frames, h, w]`` with a mean and a deviation a channel, ``2 ** (levels - 1)`` pixels a cell."""
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=[False] * (levels - 1),
        latents_mean=[0.1, -0.2, 0.3, 0.4],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    ).eval()


def make_batch_norm_vae() -> AutoencoderKLFlux2:
    """FLUX.2's: latents of 2 x 2 cells are normalised by a batch norm's running statistics."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
    ).eval()
    vae.bn.running_mean.copy_(0.3 * torch.randn(16))
    vae.bn.running_var.copy_(0.5 + torch.rand(16))
    return vae
