"""Tiny autoencoders of diffusers' own classes, with random weights that hide no mistake."""

import torch
from diffusers import AutoencoderKL
from torch import nn


def make_vae(**changes):
    """What Stable Diffusion's has: four levels of several widths, attention in the middle, eight groups."""
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 16, 24, 24),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "sample_size": 32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(**{**settings, **changes}).eval()
        for module in vae.modules():
            if isinstance(module, nn.GroupNorm):  # 1 and 0 would hide a mistake
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return vae


def make_small_vae(levels=2, **changes):
    """As few layers as there can be, of two or three levels."""
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": (8, 16, 24)[:levels],
        "layers_per_block": 1,
    }
    return make_vae(**{**settings, **changes})


def latents(vae, batch, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, vae.config.latent_channels, height, width, generator=generator) * 2 + 0.5
