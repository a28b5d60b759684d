"""Small judges of pictures: which place, time of day and weather; which letter or digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from fastsync.zoo import glyphs, scenes

HEADS: dict[str, tuple[str, ...]] = {"place": scenes.PLACES, "time": scenes.TIMES, "weather": scenes.WEATHERS}
_WEIGHTS = Path(__file__).parent / "weights"
_Self = TypeVar("_Self", bound="Classifier")


class Classifier(nn.Module):
    """Pixels [B, 3, H, W] in [0, 1] to logits of every head.

    Trained on procedural pictures only, never on generated ones; its features serve perceptual measures.
    """

    prior: ClassVar[str]  # whose pictures it judges
    classes: ClassVar[dict[str, tuple[str, ...]]]  # of each head
    cells: ClassVar[tuple[int, int]]  # what is left of a picture before the heads: evidence has its place

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
        width = self.cells[0] * self.cells[1] * before
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(group)) for name, group in self.classes.items()})

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
        pooled = functional.adaptive_avg_pool2d(last, self.cells).flatten(1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, pixels: torch.Tensor, batch: int = 64) -> dict[str, torch.Tensor]:
        """Class numbers int64 [N] for each head, computed `batch` pictures at a time."""
        parts = [self(block) for block in pixels.split(batch)]
        return {name: torch.cat([part[name] for part in parts]).argmax(1) for name in self.classes}

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` (float16) into an existing folder."""
        folder = Path(folder)
        classes = {name: list(values) for name, values in self.classes.items()}
        config: dict[str, Any] = {"channels": list(self.channels), "classes": classes}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: value.to(torch.float16).contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    @classmethod
    def load(cls: type[_Self], folder: str | Path | None = None) -> _Self:
        """The classifier saved in `folder` (default: the package's own), float32, frozen, in evaluation mode."""
        folder = _WEIGHTS / f"{cls.prior}-classifier" if folder is None else Path(folder)
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"There is no classifier in {folder}; make one with "
                f"`python -m fastsync.zoo.train {cls.prior} --stage classifier` and `--stage export`."
            )
        config = json.loads((folder / "config.json").read_text())
        model = cls(tuple(config["channels"]))
        model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return model.requires_grad_(False).eval()


class SceneClassifier(Classifier):
    """Place, time and weather of a window of any size, best at 128 x 128."""

    prior = "scenes"
    classes = HEADS
    cells = (4, 1)  # bands: sky above and ground below


class GlyphClassifier(Classifier):
    """Which of the 36 characters a picture of 64 x 64 shows."""

    prior = "glyphs"
    classes: ClassVar[dict[str, tuple[str, ...]]] = {"character": glyphs.CHARACTERS}
    cells = (4, 4)
