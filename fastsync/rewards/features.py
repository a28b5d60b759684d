"""Networks that see: pictures [B, 3, H, W] in [0, 1] to feature maps, fine to coarse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..errors import shown

FeatureFunction = Callable[[torch.Tensor], "Sequence[torch.Tensor] | torch.Tensor"]

# torchvision's file of VGG16 weights, and the ends of its five blocks (relu1_2, 2_2, 3_3, 4_3, 5_3), LPIPS's choice.
_VGG_FILE = "vgg16-397923af.pth"
_VGG_ENDS = (3, 8, 15, 22, 29)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features:
    """Feature maps of pictures.

    Args:
        features: pictures [B, 3, H, W] in [0, 1] to maps [B, C, h, w] (a list, or one tensor), differentiable. None:
            torchvision's VGG16 where torchvision is installed and its weights have been downloaded before (nothing is
            downloaded here), else the embedded classifier of scenes.

    Attributes:
        source: ``"vgg16"``, ``"scenes-classifier"``, or ``"given"``.
    """

    def __init__(self, features: FeatureFunction | None = None) -> None:
        if features is not None and not callable(features):
            raise TypeError(
                f"features must be callable, pictures [B, 3, H, W] to a list of maps, got {shown(features)}."
            )
        self._module: Any = None
        self.source, self._function = "given", features
        if features is None:
            self.source, self._module, self._function = _vgg() or _classifier()

    def __call__(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Maps of pictures [B, 3, H, W]; an own network follows them to their device and dtype."""
        assert self._function is not None
        if self._module is not None:
            self._module.to(pictures.device, pictures.dtype)
        maps = self._function(pictures)
        maps = [maps] if isinstance(maps, torch.Tensor) else list(maps)
        if not maps or not all(isinstance(m, torch.Tensor) and m.ndim == 4 for m in maps):
            raise ValueError(f"features must return maps [B, C, h, w], got {shown(maps)}.")
        return maps


def _classifier() -> tuple[str, Any, FeatureFunction]:
    # The zoo is imported where it is needed: it brings the embedded pipelines' libraries along.
    from ..zoo.classifier import SceneClassifier

    network = SceneClassifier.load()
    return "scenes-classifier", network, network.features


def _vgg() -> tuple[str, Any, FeatureFunction] | None:
    file = Path(torch.hub.get_dir()) / "checkpoints" / _VGG_FILE
    if not file.is_file():
        return None
    try:
        torchvision = import_module("torchvision")
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    network = torchvision.models.vgg16(weights=None)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    layers = network.features[: _VGG_ENDS[-1] + 1].requires_grad_(False).eval()
    for layer in layers:
        if hasattr(layer, "inplace"):
            layer.inplace = False

    def features(pictures: torch.Tensor) -> list[torch.Tensor]:
        mean, std = (pictures.new_tensor(c)[:, None, None] for c in (_MEAN, _STD))
        x, maps = (pictures - mean) / std, []
        for n, layer in enumerate(layers):
            x = layer(x)
            if n in _VGG_ENDS:
                maps.append(x)
        return maps

    return "vgg16", layers, features
