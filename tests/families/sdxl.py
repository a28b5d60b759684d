"""Stable Diffusion XL and what is built on it."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from diffusers import ControlNetUnionModel, T2IAdapter
from peft import LoraConfig
from tiny_families import make_xl_scheduler
from tiny_pipelines import SCALE, WIDTH

from .parts import make_controlnet, make_pixel_pipeline, make_xl_pipeline, shake
from .registry import NEGATIVE, Draw, family
from .stable_diffusion import LORA, add_ip_adapter, choose, two_controls


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "negative_prompt": NEGATIVE, "height": 16, "width": 16, **more}


def variant(kind: Any, *, unet: dict[str, Any] | None = None, scheduler: Any = None, **more: Any) -> Any:
    parts = make_xl_pipeline(scheduler=scheduler, **(unet or {})).components
    return choose(kind, parts, add_watermarker=False, **more)


@family(
    "sdxl",
    lambda d: text(d, original_size=(32, 24 + 8 * d.index), crops_coords_top_left=(0, 4 * d.index)),
    why="time ids (sizes, crop) are a condition",
    matters=("prompt", "original_size", "crops_coords_top_left"),
)
def sdxl() -> Any:
    pipe = make_xl_pipeline()
    shake(pipe.unet, 0.2, only=[pipe.unet.add_embedding])
    return pipe


@family("sdxl-v", text)
def sdxl_v() -> Any:
    zero_snr = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return make_xl_pipeline(scheduler=make_xl_scheduler(**zero_snr))


@family("sdxl-turbo", lambda d: {"prompt": d.prompt, "height": 16, "width": 16, "guidance_scale": 0.0}, why="one half")
def sdxl_turbo() -> Any:
    return make_xl_pipeline(
        scheduler=make_xl_scheduler(diffusers.EulerAncestralDiscreteScheduler, timestep_spacing="trailing")
    )


@family(
    "sdxl-denoising-end",
    lambda d: text(d, denoising_end=0.7),
    why="the loop runs over the first of the times only, and the picture is no clean one",
)
def sdxl_denoising_end() -> Any:
    return make_xl_pipeline()


@family(
    "sdxl-img2img",
    lambda d: {"prompt": d.prompt, "image": d.picture(), "strength": 0.8},
    steps=5,
    matters=("prompt", "image"),
)
def sdxl_img2img() -> Any:
    return variant(diffusers.StableDiffusionXLImg2ImgPipeline)


@family(
    "sdxl-refiner",
    lambda d: {"prompt": d.prompt, "image": d.picture(), "strength": 0.8, "aesthetic_score": 6.0 - d.index},
    steps=5,
    why="one text encoder (the second); an aesthetic score among the time ids",
    matters=("prompt", "image", "aesthetic_score"),
)
def sdxl_refiner() -> Any:
    unet = {"cross_attention_dim": WIDTH, "projection_class_embeddings_input_dim": 5 * 4 + WIDTH}
    pipe = variant(
        diffusers.StableDiffusionXLImg2ImgPipeline,
        unet=unet,
        requires_aesthetics_score=True,
        text_encoder=None,
        tokenizer=None,
    )
    shake(pipe.unet, 0.3, only=[pipe.unet.add_embedding])
    return pipe


@family(
    "sdxl-inpaint-9",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), strength=0.99),
    steps=5,
    matters=("prompt", "image", "mask_image"),
)
def sdxl_inpaint_9() -> Any:
    return variant(diffusers.StableDiffusionXLInpaintPipeline, unet={"in_channels": 9})


@family(
    "sdxl-inpaint-4",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), strength=0.99),
    steps=5,
    needs="reentry",
    why="blended after each step",
    matters=("prompt", "image", "mask_image"),
)
def sdxl_inpaint_4() -> Any:
    return variant(diffusers.StableDiffusionXLInpaintPipeline)


@family(
    "sdxl-pix2pix",
    lambda d: text(d, image=d.picture()),
    why="three thirds; the time ids of all of them",
    matters=("prompt", "image"),
)
def sdxl_pix2pix() -> Any:
    return variant(diffusers.StableDiffusionXLInstructPix2PixPipeline, unet={"in_channels": 8})


@family(
    "sdxl-controlnet",
    lambda d: text(d, image=d.picture(), controlnet_conditioning_scale=0.7),
    matters=("prompt", "image"),
)
def sdxl_controlnet() -> Any:
    base = make_xl_pipeline()
    return choose(
        diffusers.StableDiffusionXLControlNetPipeline,
        base.components,
        controlnet=make_controlnet(base.unet),
        add_watermarker=False,
    )


@family("sdxl-controlnet-two", two_controls, matters=("prompt", "image"))
def sdxl_controlnet_two() -> Any:
    base = make_xl_pipeline()
    nets = [make_controlnet(base.unet) for _ in range(2)]
    return choose(
        diffusers.StableDiffusionXLControlNetPipeline, base.components, controlnet=nets, add_watermarker=False
    )


@family(
    "sdxl-controlnet-img2img",
    lambda d: text(d, image=d.picture(), control_image=d.picture(), strength=0.8),
    steps=5,
    matters=("prompt", "image", "control_image"),
)
def sdxl_controlnet_img2img() -> Any:
    kind = diffusers.StableDiffusionXLControlNetImg2ImgPipeline
    return choose(kind, sdxl_controlnet().components, add_watermarker=False)


@family(
    "sdxl-controlnet-union",
    lambda d: text(d, control_image=[d.picture()], control_mode=[d.index % 6]),
    why="control_type rows of zeros and ones, a control_type_idx list, and conditions in a list",
    matters=("prompt", "control_image", "control_mode"),
)
def sdxl_controlnet_union() -> Any:
    base = make_xl_pipeline()
    sizes = {
        "conditioning_embedding_out_channels": (4, 8),
        "num_trans_channel": 8,
        "num_trans_head": 2,
        "num_proj_channel": 8,
    }
    names = inspect.signature(ControlNetUnionModel.__init__).parameters
    config = {name: value for name, value in base.unet.config.items() if name in names}
    net = shake(ControlNetUnionModel(**{**config, **sizes}))
    return choose(
        diffusers.StableDiffusionXLControlNetUnionPipeline, base.components, controlnet=net, add_watermarker=False
    )


@family(
    "sdxl-t2i-adapter",
    lambda d: text(d, image=d.picture(), adapter_conditioning_factor=1.0),
    matters=("prompt", "image"),
)
def sdxl_t2i_adapter() -> Any:
    adapter = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=SCALE)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return variant(diffusers.StableDiffusionXLAdapterPipeline, unet=blocks, adapter=adapter)


@family(
    "sdxl-t2i-adapter-half",
    lambda d: text(d, image=d.picture(), adapter_conditioning_factor=0.5),
    needs="reentry",
    why="the residuals are passed in the first half of the steps only",
    matters=("prompt", "image"),
)
def sdxl_t2i_adapter_half() -> Any:
    return sdxl_t2i_adapter()


@family("sdxl-ip-adapter", lambda d: text(d, ip_adapter_image=d.picture()), matters=("prompt", "ip_adapter_image"))
def sdxl_ip_adapter() -> Any:
    return add_ip_adapter(make_xl_pipeline(), 2 * WIDTH)


@family("sdxl-lora", lambda d: text(d, cross_attention_kwargs={"scale": 0.6}))
def sdxl_lora() -> Any:
    pipe = make_xl_pipeline()
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "to_v"], **LORA), "made")
    return pipe


@family("sdxl-pag", lambda d: text(d, pag_scale=2.0))
def sdxl_pag() -> Any:
    return variant(diffusers.StableDiffusionXLPAGPipeline, pag_applied_layers=["mid"])


@family(
    "sdxl-embeds",
    lambda d: {
        "prompt_embeds": d.randn(1, 8, 2 * WIDTH),
        "pooled_prompt_embeds": d.randn(1, WIDTH),
        "negative_prompt_embeds": d.randn(1, 8, 2 * WIDTH),
        "negative_pooled_prompt_embeds": d.randn(1, WIDTH),
        "height": 16,
        "width": 16,
    },
    matters=("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds"),
)
def sdxl_embeds() -> Any:
    pipe = make_xl_pipeline()
    shake(pipe.unet, 0.2, only=[pipe.unet.add_embedding])
    return pipe


# ---- pixels ----


@family(
    "if",
    lambda d: {"prompt": d.prompt, "negative_prompt": NEGATIVE, "height": 16, "width": 16},
    why="samples pixels; the network's variance channels are put behind the guided output for DDPM's step",
    latent=False,
)
def deepfloyd() -> Any:
    return make_pixel_pipeline()


@family(
    "if-img2img",
    lambda d: {"prompt": d.prompt, "negative_prompt": NEGATIVE, "image": d.picture() * 2 - 1, "strength": 0.7},
    steps=6,
    latent=False,
    matters=("prompt", "image"),
)
def deepfloyd_img2img() -> Any:
    return choose(diffusers.IFImg2ImgPipeline, deepfloyd().components, watermarker=None)


@family(
    "if-superresolution",
    lambda d: {
        "prompt": d.prompt,
        "image": d.picture(8, 8) * 2 - 1,
        "height": 16,
        "width": 16,
        "noise_level": 100 + 100 * d.index,
    },
    latent=False,
    why="the upscaled, noised small picture is extra channels; class_labels carry its noise level",
    matters=("prompt", "image", "noise_level"),
)
def deepfloyd_superresolution() -> Any:
    base = deepfloyd()
    config = {k: v for k, v in base.unet.config.items() if not k.startswith("_")}
    unet = diffusers.UNet2DConditionModel(**{**config, "in_channels": 6, "class_embed_type": "timestep"}).eval()
    parts = {**base.components, "unet": unet, "image_noising_scheduler": diffusers.DDPMScheduler()}
    return choose(diffusers.IFSuperResolutionPipeline, parts, watermarker=None)
