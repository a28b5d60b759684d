"""A texture fitted to its views by gradient descent through a differentiable renderer, as texture papers bake.

What is not the descent is given to it: where each pixel reads the texture is known (no rasterisation is timed), only
pixels that see the mesh are rendered, all views in one call, and the settings are the best of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


@dataclass(frozen=True)
class Descent:
    """An optimiser's settings; betas and epsilon of Adam are PyTorch's."""

    kind: str  # "SGD" or "Adam"
    lr: float
    momentum: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}, lr {self.lr:g}" + (f", momentum {self.momentum:g}" if self.momentum else "")

    def optimizer(self, texture: Tensor) -> torch.optim.Optimizer:
        """PyTorch's, for a texture."""
        if self.kind == "Adam":
            return torch.optim.Adam([texture], self.lr)
        return torch.optim.SGD([texture], self.lr, momentum=self.momentum)


# The loss is a sum of squares, whose curvature along a texel is at most twice the weights that land on it: some units
# where texels are as large as pixels. So the largest rates of SGD that hold lie below 1.
GRID = {
    "SGD": [Descent("SGD", lr, m) for m in (0.0, 0.3, 0.5, 0.9) for lr in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)],
    "Adam": [Descent("Adam", lr) for lr in (0.01, 0.03, 0.1, 0.3)],
}


class TextureFit:
    """A texture [1, C, H, W], 0 at first, that is fitted to views.

    Args:
        views: [N, C, h, w].
        grid: [N, h, w, 2], where the pixels read the texture, as ``grid_sample`` has it: -1 to 1, (x, y).
        foreground: bool [N, 1, h, w], the pixels that count.
        size: (H, W).
        batches: parts into which the pixels are cut, since ``grid_sample`` on a CPU gives each thread one; each part
            costs a gradient of the texture's size.
    """

    def __init__(
        self, views: Tensor, grid: Tensor, foreground: Tensor, size: tuple[int, int], descent: Descent, batches: int = 1
    ) -> None:
        seen = foreground.flatten()
        self.pixels = views.transpose(0, 1).flatten(1)[:, seen]  # [C, M]
        places = grid.reshape(-1, 2)[seen]
        missing = -len(places) % batches
        places = torch.cat([places, places[:1].expand(missing, 2)])
        self.places = places.reshape(batches, 1, -1, 2)
        self.texture = views.new_zeros(1, views.shape[1], *size).requires_grad_()
        self.optimizer = descent.optimizer(self.texture)

    def render(self, texture: Tensor) -> Tensor:
        """What the pixels that count see of a texture, [C, M], bilinear; beyond the texture its border goes on."""
        wide = texture.expand(len(self.places), -1, -1, -1)
        seen = grid_sample(wide, self.places, padding_mode="border", align_corners=False)[:, :, 0]
        return seen.transpose(0, 1).flatten(1)[:, : self.pixels.shape[1]]

    def residual(self, texture: Tensor) -> float:
        """Mean squared error of a texture."""
        with torch.no_grad():
            return float((self.render(texture) - self.pixels).square().mean())

    def step(self) -> None:
        """One iteration."""
        loss = (self.render(self.texture) - self.pixels).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def iterations(self, target: float, cap: int) -> int | None:
        """Iterations until the residual is at most ``target``; None: more than ``cap``."""
        for count in range(cap + 1):
            if self.residual(self.texture) <= target:
                return count
            if count < cap:
                self.step()
        return None


def tuned(
    make: Callable[[Descent], TextureFit], grid: Iterable[Descent], target: float, cap: int
) -> tuple[Descent, int | None]:
    """The settings of a grid that need the fewest iterations, and how many; None: all of them more than ``cap``."""
    best: tuple[Descent, int | None] | None = None
    for descent in grid:
        count = make(descent).iterations(target, cap)
        if best is None or count is not None:
            best = descent, count
        if count is not None:
            cap = max(0, count - 1)  # only what needs fewer is of interest
    assert best is not None, "there must be settings to choose from"
    return best
