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
    "ldm-superresolution": "for 2 pictures, where one row a picture is needed",
    "ddim": "pipe_kwargs has 'eta'",
    "kandinsky22": "variance_type='fixed_small'",
    "kandinsky22-controlnet": "variance_type='fixed_small'",
    "ideogram4": "One of `guidance_scale` and `guidance_schedule` must be set",
}
REPLAYED = [name for name, family in FAMILIES.items() if family.needs == "replay" and name not in UNKNOWN_RECIPES]
REFUSED = [name for name in FAMILIES if name not in REPLAYED]
# Awkward pipelines that are not probed (families.awkward): name -> words of the sentence.
AWKWARD_SAYS = {
    "no-scheduler": "has no scheduler to take steps by",
    **dict.fromkeys(("cached-first-block", "cached-attention"), "transformer of FluxPipeline caches from step to step"),
    "half-on-meta": "has its vae on cpu and its unet on meta",
    "interrupted": "stepped its scheduler 2 times",
    "always-interrupted": "decodes latents before its first step",
    "raising": "its own call raised RuntimeError: no more today",
    "own-steps": "takes no height and width",
    "global-noise": "draws from torch's global random generator",
    "global-start": "for 2 pictures, where one row a picture is needed",
    "dropout": "is in training, where dropout draws random numbers",
    "more-in-later-calls": "guidance mixes 4 outputs",
    **dict.fromkeys(
        ("other-second-step", "changing-guidance", "last-step-differs"), "guidance changes from step to step"
    ),
    **dict.fromkeys(("changed-state", "sd-inpaint-4"), "changes the state between two steps of its scheduler"),
    "step-input": "unet.encoder_hidden_states changes from step to step",
    "hidden-input": "changes gain of its unet while it runs",
    **dict.fromkeys(
        ("sd-controlnet-end", "flux-controlnet-end"), "controlnet.conditioning_scale changes from step to step"
    ),
    **dict.fromkeys(("permuted", "clamped", "batch-coupled"), "no guidance that is known"),
    "doubled": "multiplies its network's output by 2",
    "not-finite": "NaN or infinite",
    "left-scaled": "changes training of UNet2DConditionModel of its unet while it runs",
    "sets-attributes": "changes asked_last of its unet while it runs",
    "in-place": "writes into what it is given",
}
