"""Tiny random pipelines of diffusers' own classes, for tests of code that knows none of them."""

from . import dits, flux, hunyuan, newer, older, sd3, sdxl, stable_diffusion  # noqa: F401  (registers)
from .registry import FAMILIES, NEGATIVE, PROMPTS, Draw, Family

__all__ = ["FAMILIES", "NEGATIVE", "NOT_BUILT", "PROMPTS", "Draw", "Family"]

# What is not here, and why.
NOT_BUILT = {
    "Kolors": "diffusers offers it only where sentencepiece is installed",
    "OmniGen": "its processor of pictures needs torchvision",
    "QwenImageEdit, QwenImageLayered, JoyImageEdit, Flux2 with prompts": "their processors are loaded from files",
    "StableDiffusionLDM3D": "its pictures are pairs of colour and depth, and it has no output_type 'pt'",
    "StableUnCLIP, Kandinsky (1), StableCascade, VisualCloze, UniDiffuser": "two models sampled one after the other",
    "Kandinsky 3 and 5": "fixed sizes of hundreds of cells a side, or networks of no tiny form",
    "LEDITS++, DiffEdit, Attend-and-Excite, Marigold": "inversion, gradients or ensembles instead of one sampled state",
    "clip_skip": "diffusers 0.42 asks CLIPTextModel for text_model, which transformers 5 no longer has",
    "LoRA on text encoders": "transformers 5.24 asks for peft 0.22",
    "videos, sound, proteins": "not pictures",
}
