"""What becomes of each family when it is probed."""

from __future__ import annotations

from .registry import FAMILIES

# Families whose every step is the same recipe, and one that the probe does not know: name -> words of the sentence.
UNKNOWN_RECIPES = {
    **dict.fromkeys(
        ("sd-pag", "sdxl-pag", "sd3-pag", "sana-pag", "pixart-sigma-pag", "hunyuan-dit-pag"),
        "changes processor of Attention",
    ),
    **dict.fromkeys(("sd-pix2pix", "sdxl-pix2pix"), "guidance mixes 3 outputs"),
    "sd-controlnet-guess": "down_block_additional_residuals.0 changes from step to step",
    "sdxl-denoising-end": "steps at other times than those that its scheduler has set",
    "cogview3": "scheduler CogVideoXDDIMScheduler is not supported",
    "consistency": "scheduler CMStochasticIterativeScheduler is not supported",
    "ddpm": "no num_images_per_prompt and no prompt",
    "ldm-superresolution": "no num_images_per_prompt and no prompt",
    "ddim": "pipe_kwargs has 'eta'",
    "kandinsky22": "variance_type='fixed_small'",
    "kandinsky22-controlnet": "variance_type='fixed_small'",
    "ideogram4": "One of `guidance_scale` and `guidance_schedule` must be set",
}
REPLAYED = [name for name, family in FAMILIES.items() if family.needs == "replay" and name not in UNKNOWN_RECIPES]
REFUSED = [name for name in FAMILIES if name not in REPLAYED]
