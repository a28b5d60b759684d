"""Stable Diffusion 1 and 2 and what is built on them."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler, T2IAdapter
from peft import LoraConfig
from tiny_pipelines import SCALE, WIDTH, make_unet

from .parts import make_controlnet, make_depth_pipeline, make_image_encoder, make_pipeline, shake
from .registry import NEGATIVE, Draw, family

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LORA = {"r": 2, "lora_alpha": 2, "init_lora_weights": False}


def choose(kind: Any, parts: dict[str, Any], **more: Any) -> Any:
    """``kind`` of those ``parts`` that its constructor takes, without a safety checker."""
    names = inspect.signature(kind.__init__).parameters
    given = {**parts, **more}
    given.setdefault("requires_safety_checker", False)
    return kind(**{name: value for name, value in given.items() if name in names})


def variant(kind: Any, *, unet: dict[str, Any] | None = None, scheduler: Any = None, **more: Any) -> Any:
    """A pipeline of class ``kind`` around the parts of Stable Diffusion."""
    base = make_pipeline(unet=make_unet(**unet) if unet else None, scheduler=scheduler)
    return choose(kind, base.components, **more)


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "negative_prompt": NEGATIVE, "height": 16, "width": 16, **more}


def sizeless(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "negative_prompt": NEGATIVE, **more}


def euler(**changes: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**{**SD, **changes})


# ---- prompts only ----


@family("sd", text)
def sd() -> Any:
    return make_pipeline()


@family("sd-v", text)
def sd_v() -> Any:
    return make_pipeline(scheduler=euler(prediction_type="v_prediction"))


@family("sd-unguided", lambda d: text(d, guidance_scale=0.0))
def sd_unguided() -> Any:
    return make_pipeline(scheduler=euler(timestep_spacing="trailing"))


@family("sd-rescaled", lambda d: text(d, guidance_rescale=0.7))
def sd_rescaled() -> Any:
    return make_pipeline()


@family(
    "sd-freeu",
    text,
    why="enable_freeu sets s1, s2, b1, b2 on the UNet's up blocks: attributes that the network reads",
)
def sd_freeu() -> Any:
    pipe = make_pipeline(scheduler=euler())
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    return pipe


@family(
    "lcm",
    lambda d: {"prompt": d.prompt, "height": 16, "width": 16, "original_inference_steps": 50},
    why="guidance is an embedding, no negative prompt; the picture is the last `denoised`, not prev_sample",
)
def lcm() -> Any:
    pipe = variant(
        diffusers.LatentConsistencyModelPipeline, unet={"time_cond_proj_dim": 8}, scheduler=LCMScheduler(**SD)
    )
    shake(pipe.unet, 0.1, only=[pipe.unet.time_embedding])
    return pipe


@family(
    "sd-pag",
    lambda d: text(d, pag_scale=2.0),
    why="three thirds in one call; attention processors are set for the call",
)
def sd_pag() -> Any:
    return variant(diffusers.StableDiffusionPAGPipeline, pag_applied_layers=["mid"])


@family(
    "sd-pag-adaptive",
    lambda d: text(d, pag_scale=2.0, pag_adaptive_scale=0.002),
    needs="reentry",
    why="the third's weight falls with t",
)
def sd_pag_adaptive() -> Any:
    return variant(diffusers.StableDiffusionPAGPipeline, pag_applied_layers=["mid"])


@family(
    "sd-sag",
    text,
    needs="refusal",
    why="a second call on a state degraded by attention maps that a processor stores; reads alphas_cumprod",
)
def sd_sag() -> Any:
    return variant(diffusers.StableDiffusionSAGPipeline)


@family(
    "sd-semantic",
    lambda d: {"prompt": d.prompt, "height": 16, "width": 16},
    why="negative_prompt and editing prompts make three parts",
)
def sd_semantic() -> Any:
    return variant(diffusers.SemanticStableDiffusionPipeline)


@family(
    "sd-panorama",
    lambda d: text(d, width=32),
    needs="refusal",
    why="views inside the loop: several calls a step, scheduler.step on each window, its state set back to a copy",
)
def sd_panorama() -> Any:
    return variant(diffusers.StableDiffusionPanoramaPipeline)


# ---- pictures as a start ----


@family("sd-img2img", lambda d: sizeless(d, image=d.picture(), strength=0.8), steps=5, matters=("prompt", "image"))
def sd_img2img() -> Any:
    return variant(diffusers.StableDiffusionImg2ImgPipeline)


@family(
    "sd-inpaint-9",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), strength=1.0),
    why="mask and masked picture are extra channels of the state",
    matters=("prompt", "image", "mask_image"),
)
def sd_inpaint_9() -> Any:
    return variant(diffusers.StableDiffusionInpaintPipeline, unet={"in_channels": 9})


@family(
    "sd-inpaint-4",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), strength=1.0),
    needs="reentry",
    why="blended with the re-noised picture after each step",
    matters=("prompt", "image", "mask_image"),
)
def sd_inpaint_4() -> Any:
    return variant(diffusers.StableDiffusionInpaintPipeline)


@family(
    "sd-depth2img",
    lambda d: sizeless(d, image=d.picture(), depth_map=d.picture()[:, 0], strength=0.8),
    steps=5,
    why="depth is a fifth channel",
    matters=("prompt", "image", "depth_map"),
)
def sd_depth2img() -> Any:
    pipe = make_depth_pipeline()
    shake(pipe.unet, 0.05)  # whose own weights are always the same
    return pipe


@family(
    "sd-pix2pix",
    lambda d: sizeless(d, image=d.picture()),
    why="three thirds (text, picture, none) whose weights add up to one; the picture is extra channels, 0 in the last",
    matters=("prompt", "image"),
)
def sd_pix2pix() -> Any:
    return variant(diffusers.StableDiffusionInstructPix2PixPipeline, unet={"in_channels": 8})


@family(
    "sd-upscale",
    lambda d: sizeless(d, image=d.picture(8, 8), noise_level=20 + 200 * d.index),
    why="noise on the small picture is drawn from the generator before the latents; class_labels carry its level",
    matters=("prompt", "image", "noise_level"),
)
def sd_upscale() -> Any:
    pipe = variant(
        diffusers.StableDiffusionUpscalePipeline,
        unet={"in_channels": 7, "num_class_embeds": 1000},
        low_res_scheduler=diffusers.DDPMScheduler(**SD),
        watermarker=None,
    )
    return pipe


@family(
    "sd-latent-upscale",
    lambda d: sizeless(d, image=d.picture(8, 8)),
    curve="other",
    needs="reentry",
    why="preconditions as k-diffusion does: time is log(sigma) / 4, and the model output adds latents / (sigma^2 + 1): "
    "the state itself is a term of it; the last output channel is cut",
    matters=("prompt", "image"),
)
def sd_latent_upscale() -> Any:
    unet = {
        "in_channels": 8,
        "out_channels": 5,
        "time_cond_proj_dim": 128 + WIDTH,
        "timestep_post_act": None,
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
        "time_embedding_type": "fourier",
    }
    return variant(diffusers.StableDiffusionLatentUpscalePipeline, unet=unet, scheduler=euler(prediction_type="sample"))


@family(
    "sd-image-variation",
    lambda d: {"image": d.picture(), "height": 16, "width": 16},
    why="no prompt: one picture embedding",
    matters=("image",),
)
def sd_image_variation() -> Any:
    encoder, processor = make_image_encoder()
    return variant(
        diffusers.StableDiffusionImageVariationPipeline,
        image_encoder=encoder,
        feature_extractor=processor,
        safety_checker=None,
    )


# ---- controls and adapters ----


@family(
    "sd-controlnet",
    lambda d: text(d, image=d.picture(), controlnet_conditioning_scale=0.7),
    matters=("prompt", "image"),
)
def sd_controlnet() -> Any:
    base = make_pipeline(scheduler=euler())
    return choose(diffusers.StableDiffusionControlNetPipeline, base.components, controlnet=make_controlnet(base.unet))


def two_controls(draw: Draw, **more: Any) -> dict[str, Any]:
    return text(draw, image=[draw.picture(), draw.picture()], controlnet_conditioning_scale=[0.7, 0.4], **more)


@family("sd-controlnet-two", two_controls, matters=("prompt", "image"))
def sd_controlnet_two() -> Any:
    base = make_pipeline(scheduler=euler())
    nets = [make_controlnet(base.unet) for _ in range(2)]
    return choose(diffusers.StableDiffusionControlNetPipeline, base.components, controlnet=nets)


@family(
    "sd-controlnet-guess",
    lambda d: text(d, image=d.picture(), guess_mode=True, guidance_scale=3.0),
    needs="reentry",
    why="ControlNet sees the conditional half alone; its residuals are padded with zeros: no output of it",
    matters=("prompt", "image"),
)
def sd_controlnet_guess() -> Any:
    return sd_controlnet()


@family(
    "sd-controlnet-end",
    lambda d: text(d, image=d.picture(), control_guidance_end=0.5),
    needs="reentry",
    why="conditioning_scale becomes 0 halfway; the ControlNet is still called",
    matters=("prompt", "image"),
)
def sd_controlnet_end() -> Any:
    return sd_controlnet()


@family(
    "sd-controlnet-img2img",
    lambda d: text(d, image=d.picture(), control_image=d.picture(), strength=0.8),
    steps=5,
    matters=("prompt", "image", "control_image"),
)
def sd_controlnet_img2img() -> Any:
    return choose(diffusers.StableDiffusionControlNetImg2ImgPipeline, sd_controlnet().components)


@family(
    "sd-controlnet-inpaint",
    lambda d: text(d, image=d.picture(), mask_image=d.mask(), control_image=d.picture(), strength=1.0),
    needs="reentry",
    why="blended after each step",
    matters=("prompt", "image", "mask_image", "control_image"),
)
def sd_controlnet_inpaint() -> Any:
    return choose(diffusers.StableDiffusionControlNetInpaintPipeline, sd_controlnet().components)


@family(
    "sd-t2i-adapter",
    lambda d: text(d, image=d.picture()),
    why="residuals are cloned each step from one state",
    matters=("prompt", "image"),
)
def sd_t2i_adapter() -> Any:
    adapter = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=SCALE)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return variant(diffusers.StableDiffusionAdapterPipeline, unet=blocks, adapter=adapter)


def ip_adapter_weights(unet: Any, width: int) -> dict[str, Any]:
    """The state that ``load_ip_adapter`` reads, for one picture token set of four."""
    state: dict[str, Any] = {"image_proj": {}, "ip_adapter": {}}
    state["image_proj"] = {
        "proj.weight": torch.randn(4 * width, WIDTH),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for key, name in enumerate(names):
        block = unet.get_submodule(name.removesuffix(".processor"))
        for part, layer in {"to_k_ip": block.to_k, "to_v_ip": block.to_v}.items():
            state["ip_adapter"][f"{2 * key + 1}.{part}.weight"] = 0.5 * torch.randn_like(layer.weight)
    return state


def add_ip_adapter(pipe: Any, width: int) -> Any:
    """Load a made IP-Adapter at scale 0.6, with a picture encoder where the pipeline has none."""
    pipe.image_encoder, pipe.feature_extractor = make_image_encoder()
    pipe.unet._load_ip_adapter_weights([ip_adapter_weights(pipe.unet, width)])
    pipe.set_ip_adapter_scale(0.6)
    return pipe


@family(
    "sd-ip-adapter",
    lambda d: text(d, ip_adapter_image=d.picture()),
    why="added_cond_kwargs['image_embeds'] is a list of [rows, pictures, tokens, width]",
    matters=("prompt", "ip_adapter_image"),
)
def sd_ip_adapter() -> Any:
    return add_ip_adapter(make_pipeline(scheduler=euler()), WIDTH)


@family(
    "sd-lora",
    lambda d: text(d, cross_attention_kwargs={"scale": 0.6}),
    why="scale is set on the layers inside each network call and unset after it",
)
def sd_lora() -> Any:
    pipe = make_pipeline(scheduler=euler())
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "to_v"], **LORA), "made")
    pipe.unet.set_adapters(["made"], [0.8])
    return pipe
