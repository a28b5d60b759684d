"""Tiny real Stable Diffusion pipelines, built in memory: random weights, milliseconds an evaluation."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    IFPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

from fastsync.zoo import pixel_models

CELLS = 8  # a window's side in latent cells
SCALE = 2  # pixels a latent cell
PIXELS = CELLS * SCALE
TOKENS = 8
WIDTH = 16  # of the text states


def make_tokenizer() -> CLIPTokenizer:
    """Every printable letter is a token, inside a word and at its end."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=TOKENS)


def make_unet(**changes: Any) -> UNet2DConditionModel:
    """Two levels, 8 and 16 channels, attention to the text on the coarse one."""
    settings = {
        "sample_size": CELLS,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": WIDTH,
    }
    return UNet2DConditionModel(**{**settings, **changes})


def make_scheduler(**changes: Any) -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.x."""
    settings = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**settings, **changes})


def make_pixel_pipeline(*, scheduler: Any = None, seed: int = 0) -> IFPipeline:
    """A first-stage pipeline of DeepFloyd IF's class, 16 x 16 pixels, whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = pixel_models.make_tokenizer(["cat", "dog"])
        text_encoder = pixel_models.make_text_encoder(tokenizer, pixel_models.TINY).eval()
        unet = pixel_models.make_unet(pixel_models.TINY).eval()
        with torch.no_grad():
            text_encoder.get_input_embeddings().weight.mul_(20.0)  # make prompts matter
    pipe = pixel_models.make_pipeline(tokenizer, text_encoder, unet)
    if scheduler is not None:
        pipe.scheduler = scheduler
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_vae(**changes: Any) -> AutoencoderKL:
    """Two pixels a cell, four channels."""
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": PIXELS,
        "mid_block_add_attention": False,
        "scaling_factor": 0.5,
    }
    return AutoencoderKL(**{**settings, **changes}).eval()


def make_clip(tokenizer: Any, kind: Any = CLIPTextModel, *, layers: int = 1) -> Any:
    """A text encoder whose states depend on the prompt."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model = kind(config).eval()
    with torch.no_grad():
        # Fresh text states are nearly alike: make prompts matter, so that tests of conditions can fail.
        model.get_input_embeddings().weight.mul_(20.0)
    return model


def make_pipeline(
    *, scheduler: Any = None, unet: Any = None, seed: int = 0, dtype: torch.dtype = torch.float32, **parts: Any
) -> StableDiffusionPipeline:
    """A pipeline whose weights depend on ``seed`` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer()
        vae = make_vae()
        components = {
            "vae": vae,
            "text_encoder": make_clip(tokenizer),
            "tokenizer": tokenizer,
            "unet": make_unet() if unet is None else unet,
            "scheduler": make_scheduler() if scheduler is None else scheduler,
            "safety_checker": None,
            "feature_extractor": None,
        }
        pipe = StableDiffusionPipeline(**{**components, **parts}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae):
        part.eval()
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def make_controlnet(unet: UNet2DConditionModel, seed: int = 0, **changes: Any) -> ControlNetModel:
    """One for pictures of ``SCALE`` pixels a cell. Fresh ones are without effect, so this one is shaken."""
    settings = {"conditioning_embedding_out_channels": (4, 8), **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(unet, **settings).eval()
        with torch.no_grad():
            for part in (net.controlnet_cond_embedding, net.controlnet_down_blocks, net.controlnet_mid_block):
                for p in part.parameters():
                    p.add_(0.3 * torch.randn_like(p))
    return net


def make_control_pipeline(
    *, controlnet: Any = None, dtype: torch.dtype = torch.float32, **settings: Any
) -> StableDiffusionControlNetPipeline:
    """``make_pipeline``'s, with a ControlNet."""
    plain = make_pipeline(**settings)
    net = make_controlnet(plain.unet) if controlnet is None else controlnet
    pipe = StableDiffusionControlNetPipeline(**plain.components, controlnet=net, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def make_depth_pipeline(*, dtype: torch.dtype = torch.float32, **settings: Any) -> StableDiffusionDepth2ImgPipeline:
    """A pipeline whose UNet takes depth as a fifth channel, with a depth estimator that nobody asks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = make_unet(in_channels=5)
        estimator = DPTForDepthEstimation(
            DPTConfig(
                hidden_size=8,
                num_hidden_layers=4,
                num_attention_heads=2,
                intermediate_size=8,
                image_size=PIXELS,
                patch_size=8,
                backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[4, 4, 4, 4],
                fusion_hidden_size=4,
                reassemble_factors=[1, 1, 1, 0.5],
            )
        ).eval()
    parts = make_pipeline(unet=unet, **settings).components
    pipe = StableDiffusionDepth2ImgPipeline(
        **{k: parts[k] for k in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
        depth_estimator=estimator,
        feature_extractor=DPTImageProcessor(size={"height": PIXELS, "width": PIXELS}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)
