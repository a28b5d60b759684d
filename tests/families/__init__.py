"""Tiny random pipelines of diffusers' own classes, for tests of code that knows none of them."""

from . import dits, flux, newer, sd3, sdxl, stable_diffusion  # noqa: F401  (registers)
from .registry import FAMILIES, NEGATIVE, PROMPTS, Draw, Family

__all__ = ["FAMILIES", "NEGATIVE", "PROMPTS", "Draw", "Family"]
