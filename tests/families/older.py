"""Diffusion in pixels without text, class labels, latent diffusion of the first day, Kandinsky, and other odd ones."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel
from tiny_pipelines import WIDTH, make_unet, make_vae
from transformers import CLIPTextConfig, CLIPTextModel

from .newer import HEADS, embeds
from .parts import (
    loud,
    make_batch_norm_vae,
    make_byte_tokenizer,
    make_coarse_vae,
    make_flow,
    make_pipeline,
    make_qwen3,
    make_shifted_vae,
    shake,
)
from .registry import NEGATIVE, Draw, family
from .stable_diffusion import SD, choose


def make_plain_unet(**changes: Any) -> UNet2DModel:
    settings = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DModel(**{**settings, **changes}).eval()


def make_vq(**changes: Any) -> VQModel:
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "latent_channels": 4,
        "num_vq_embeddings": 16,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
        "scaling_factor": 0.5,
    }
    return VQModel(**{**settings, **changes}).eval()


@family("ddpm", lambda d: {}, why="no conditions, no size: the UNet's own; pixels", matters=(), latent=False)
def ddpm() -> Any:
    return diffusers.DDPMPipeline(unet=make_plain_unet(), scheduler=DDPMScheduler(clip_sample=False))


@family(
    "ddim",
    lambda d: {"eta": 0.0},
    matters=(),
    latent=False,
    curve="other",
    why="passes eta and use_clipped_model_output to step",
)
def ddim() -> Any:
    return diffusers.DDIMPipeline(unet=make_plain_unet(), scheduler=DDIMScheduler(clip_sample=False))


@family(
    "dit",
    lambda d: {"class_labels": [d.index], "guidance_scale": 3.0},
    needs="reentry",
    why="the state that is stepped holds both halves: twice as many rows as pictures; the conditional half first",
    matters=("class_labels",),
    latent=False,
)
def dit() -> Any:
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
        num_embeds_ada_norm=1000,
    )
    return diffusers.DiTPipeline(transformer=shake(net), vae=make_vae(), scheduler=DDIMScheduler(clip_sample=False))


@family(
    "consistency",
    lambda d: {"class_labels": [d.index]},
    curve="other",
    why="CMStochasticIterativeScheduler preconditions the state",
    matters=("class_labels",),
    latent=False,
)
def consistency() -> Any:
    unet = make_plain_unet(num_class_embeds=10)
    shake(unet.class_embedding, 1.0)
    return diffusers.ConsistencyModelPipeline(unet=unet, scheduler=diffusers.CMStochasticIterativeScheduler())


@family(
    "ldm",
    lambda d: {"prompt": d.prompt, "height": 64, "width": 64, "guidance_scale": 3.0},
    latent=False,
    why="the autoencoder is named vqvae and the text encoder bert; no scale_model_input",
)
def latent_diffusion() -> Any:
    tokenizer = make_byte_tokenizer(77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return diffusers.LDMTextToImagePipeline(
        vqvae=make_coarse_vae(),
        bert=loud(CLIPTextModel(config)),
        tokenizer=tokenizer,
        unet=make_unet().eval(),
        scheduler=DDIMScheduler(**SD, clip_sample=False),
    )


@family(
    "ldm-superresolution",
    lambda d: {"image": d.picture(8, 8) * 2 - 1},
    matters=("image",),
    latent=False,
    why="joins the small picture to the state BEFORE scale_model_input; no text; VQModel",
)
def latent_superresolution() -> Any:
    unet = make_plain_unet(sample_size=8, in_channels=6)
    return diffusers.LDMSuperResolutionPipeline(
        vqvae=make_vq(latent_channels=3), unet=unet, scheduler=DDIMScheduler(**SD, clip_sample=False)
    )


KANDINSKY = {
    "out_channels": 8,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
    "addition_embed_type": "image",
    "encoder_hid_dim": WIDTH,
    "encoder_hid_dim_type": "image_proj",
    "class_embed_type": None,
    "attention_head_dim": 4,
}


def kandinsky_embeds(draw: Draw, **more: Any) -> dict[str, Any]:
    states = {name: draw.randn(1, WIDTH) for name in ("image_embeds", "negative_image_embeds")}
    return {**states, "height": 32, "width": 32, **more}


def kandinsky_scheduler() -> Any:
    return DDPMScheduler(
        beta_schedule="linear", variance_type="learned_range", clip_sample=True, prediction_type="epsilon"
    )


@family(
    "kandinsky22",
    kandinsky_embeds,
    curve="other",
    why="the conditional half's variance channels are put behind the guided output, for DDPM's variance; movq decodes",
    matters=("image_embeds", "negative_image_embeds"),
)
def kandinsky22() -> Any:
    return diffusers.KandinskyV22Pipeline(
        unet=make_unet(**KANDINSKY), scheduler=kandinsky_scheduler(), movq=make_movq()
    )


def make_movq() -> VQModel:
    return make_vq(norm_type="spatial", vq_embed_dim=4, block_out_channels=(32, 32))  # its groups are 32


@family(
    "kandinsky22-controlnet",
    lambda d: kandinsky_embeds(d, hint=d.picture(128, 128)),
    curve="other",
    why="the hint is an added condition of the UNet itself",
    matters=("image_embeds", "hint"),
    latent=False,
)
def kandinsky22_controlnet() -> Any:
    unet = make_unet(**{**KANDINSKY, "in_channels": 8, "addition_embed_type": "image_hint"})
    shake(unet.add_embedding.input_hint_block, 0.12)
    return diffusers.KandinskyV22ControlnetPipeline(unet=unet, scheduler=kandinsky_scheduler(), movq=make_movq())


@family(
    "ideogram4",
    lambda d: {
        "prompt": d.prompt,
        "height": 16,
        "width": 16,
        "max_sequence_length": 48,
        "guidance_scale": 3.0,
        "guidance_schedule": None,
    },
    curve="other",
    why="the unconditional half is asked of another network, and of picture tokens alone; the other's "
    "state is padded in front with zeros for the text, and cut; negated; the time table is of the call's own making",
)
def ideogram4() -> Any:
    return ideogram()


@family(
    "ideogram4-schedule",
    lambda d: {
        "prompt": d.prompt,
        "height": 16,
        "width": 16,
        "max_sequence_length": 48,
        "guidance_schedule": (5.0, 5.0, 3.0, 3.0),
    },
    curve="other",
    needs="reentry",
    why="a guidance scale a step, as the pipeline has by default",
)
def ideogram4_schedule() -> Any:
    return ideogram()


def ideogram() -> Any:
    tokenizer, encoder = make_qwen3()
    nets = [
        diffusers.Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=1,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=WIDTH,
            mrope_section=(4, 2, 2),
            **HEADS,
        )
        for _ in range(2)
    ]
    pipe = diffusers.Ideogram4Pipeline(
        scheduler=make_flow(shift=1.0),
        vae=make_batch_norm_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shake(nets[0]),
        unconditional_transformer=shake(nets[1]),
    )
    # It taps thirteen of Qwen3-VL's 36 layers by number.
    pipe._get_text_encoder_hidden_states = last_states
    return pipe


def last_states(encoder: Any, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> list[torch.Tensor]:
    return [encoder(tokens, attention_mask=mask).last_hidden_state]


@family(
    "glm-image",
    lambda d: embeds(
        d,
        6,
        WIDTH,
        prior_token_ids=torch.randint(0, 8, (1, 16), generator=d.generator),
        crops_coords_top_left=(0, 4 * d.index),
    ),
    curve="other",
    why="token numbers of a prior are a condition, dropped in the unconditional call; two calls",
    matters=("prompt_embeds", "negative_prompt_embeds", "prior_token_ids", "crops_coords_top_left"),
)
def glm_image() -> Any:
    net = diffusers.GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=8,
        **HEADS,
    )
    return diffusers.GlmImagePipeline(
        tokenizer=None,
        processor=None,
        text_encoder=None,
        vision_language_encoder=None,
        vae=make_shifted_vae(latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 0.5, 1.5]),
        transformer=shake(net),
        scheduler=make_flow(shift=1.0, use_dynamic_shifting=True),
    )


@family(
    "gligen",
    lambda d: {
        "prompt": d.prompt,
        "negative_prompt": NEGATIVE,
        "height": 16,
        "width": 16,
        "gligen_phrases": ["cat"],
        "gligen_boxes": [[0.1, 0.1, 0.5 + 0.05 * d.index, 0.6]],
    },
    needs="reentry",
    why="grounding is switched off after the first 30 % of the steps, by attributes of the network's blocks",
    matters=("prompt", "gligen_boxes"),
)
def gligen() -> Any:
    unet = make_unet(attention_type="gated")
    shake(unet, 0.3, only=[unet.position_net])
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "alpha" in name:
                weight.fill_(1.0)
    return choose(diffusers.StableDiffusionGLIGENPipeline, make_pipeline(unet=unet).components)


@family(
    "controlnet-xs",
    lambda d: {"prompt": d.prompt, "negative_prompt": NEGATIVE, "image": d.picture(), "height": 16, "width": 16},
    why="control and UNet are one network (UNetControlNetXSModel) with a conditioning_scale",
    matters=("prompt", "image"),
)
def controlnet_xs() -> Any:
    base = make_pipeline(unet=make_unet(layers_per_block=2))  # as many as an adapter is made for
    adapter = diffusers.ControlNetXSAdapter.from_unet(
        base.unet, size_ratio=1, conditioning_embedding_out_channels=(4, 8), learn_time_embedding=True
    )
    shake(adapter, 0.2)
    return choose(diffusers.StableDiffusionControlNetXSPipeline, base.components, controlnet=adapter)
