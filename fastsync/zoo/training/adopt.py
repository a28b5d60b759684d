"""The adopt stage: the shipped weights as checkpoints, to be trained further on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from fastsync.files import replacing
from fastsync.zoo.training.export import WEIGHTS
from fastsync.zoo.training.run import Run


def adopt(run: Run, source: Path | None = None) -> None:
    """Puts the weights of `source/scenes` into the run's folder as `vae.pt` and `unet.pt`, at step 0.

    Go on with the stages `data`, `latents`, `unet` and `export`. Refuses to replace checkpoints that are there.
    """
    folder = (source or WEIGHTS) / "scenes"
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for stage, modules in (("vae", {"vae": vae}), ("unet", {"unet": unet, "text_encoder": text_encoder})):
        write_checkpoint(run, stage, modules)


def write_checkpoint(run: Run, stage: str, modules: Mapping[str, torch.nn.Module]) -> None:
    """`STAGE.pt` in the run's folder as a training at step 0 has it. Refuses to replace one that is there."""
    path = run.work / f"{stage}.pt"
    if path.exists():
        raise FileExistsError(f"{path} is there already; give another folder with --work, or move it away.")
    weights = {name: module.float().state_dict() for name, module in modules.items()}
    state: dict[str, Any] = {"modules": weights, "average": weights, "step": 0, "spent": 0.0}
    with replacing(path) as temporary:
        torch.save(state, temporary)
