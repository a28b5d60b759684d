"""A small judge of windows: which place, which time of day, which weather."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from fastsync.zoo import scenes

HEADS: dict[str, tuple[str, ...]] = {"place": scenes.PLACES, "time": scenes.TIMES, "weather": scenes.WEATHERS}
_WEIGHTS = Path(__file__).parent / "weights" / "scenes-classifier"


class SceneClassifier(nn.Module):
    """Pixels [B, 3, H, W] in [0, 1] to logits of every head of `HEADS`; any size, best at 128 x 128.

    Trained on procedural windows only, never on generated ones; its features serve perceptual measures.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.blocks = nn.ModuleList()
        before = 3
        for level, width in enumerate(self.channels):
            first = nn.Conv2d(before, width, 5 if level == 0 else 3, stride=2, padding=2 if level == 0 else 1)
            second = nn.Conv2d(width, width, 3, padding=1)
            self.blocks.append(
                nn.Sequential(first, nn.GroupNorm(2, width), nn.SiLU(), second, nn.GroupNorm(2, width), nn.SiLU())
            )
            before = width
        # Bands, not one mean: sky above and ground below are different evidence.
        self.heads = nn.ModuleDict({name: nn.Linear(4 * before, len(classes)) for name, classes in HEADS.items()})

    def features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps, fine to coarse, differentiable: float [B, C, H / 2^k, W / 2^k] for k = 1, 2, ..."""
        x = pixels * 2.0 - 1.0
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [B, classes] for each head."""
        last = self.features(pixels)[-1]
        pooled = functional.adaptive_avg_pool2d(last, (4, 1)).flatten(1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, pixels: torch.Tensor, batch: int = 64) -> dict[str, torch.Tensor]:
        """Class numbers int64 [N] for each head, computed `batch` windows at a time."""
        parts = [self(block) for block in pixels.split(batch)]
        return {name: torch.cat([part[name] for part in parts]).argmax(1) for name in HEADS}

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` (float16) into an existing folder."""
        folder = Path(folder)
        classes = {name: list(values) for name, values in HEADS.items()}
        config: dict[str, Any] = {"channels": list(self.channels), "classes": classes}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: value.to(torch.float16).contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: str | Path | None = None) -> SceneClassifier:
        """The classifier saved in `folder` (default: the package's own), float32, frozen, in evaluation mode."""
        folder = _WEIGHTS if folder is None else Path(folder)
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"There is no classifier in {folder}; make one with "
                "`python -m fastsync.zoo.train scenes --stage classifier` and `--stage export`."
            )
        config = json.loads((folder / "config.json").read_text())
        model = cls(tuple(config["channels"]))
        model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return model.requires_grad_(False).eval()
