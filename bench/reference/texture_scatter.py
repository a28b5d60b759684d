"""Views to texture and back by ``scatter_add_`` and gathers, as one writes it in PyTorch, its index tensors at hand."""

from __future__ import annotations

import torch
from torch import Tensor


class TextureScatter:
    """The four texels around each pixel that sees the mesh, their weights, and their sums.

    Args:
        grid: [N, h, w, 2], where the pixels read the texture, as ``grid_sample`` has it: -1 to 1, (x, y).
        foreground: bool [N, 1, h, w], the pixels that see the mesh.
        confidence: [N, 1, h, w], how much each pixel counts; it does not change, so the texels' sums are formed here.
        size: (H, W).
    """

    def __init__(self, grid: Tensor, foreground: Tensor, confidence: Tensor, size: tuple[int, int]) -> None:
        self.size, self.shape = size, tuple(foreground.shape)
        self.pixel = foreground.flatten().nonzero()[:, 0]
        x, y = ((grid.reshape(-1, 2)[self.pixel] + 1) / 2 * grid.new_tensor([size[1], size[0]]) - 0.5).unbind(-1)
        left, top = x.floor(), y.floor()
        texel, weight = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                row, column = (top + dy).clamp(0, size[0] - 1), (left + dx).clamp(0, size[1] - 1)
                texel.append((row * size[1] + column).long())
                weight.append((1 - (y - top - dy).abs()) * (1 - (x - left - dx).abs()))
        self.texel, self.weight = torch.stack(texel, -1), torch.stack(weight, -1).float()  # [M, 4]
        self.flat = self.texel.flatten()
        self.trusted = self.weight * confidence.flatten()[self.pixel][:, None]
        total = scattered(self.trusted.reshape(1, -1), self.flat, size)
        self.total = total.where(total > 0, 1)

    def products(self, views: Tensor) -> Tensor:
        """Weighted colours [C, 4 M] of views [N, C, h, w]."""
        colours = views.transpose(0, 1).flatten(1)[:, self.pixel]
        return (colours[..., None] * self.trusted).flatten(1)

    def bake(self, views: Tensor) -> Tensor:
        """The normalised splat [1, C, H, W] of views [N, C, h, w]."""
        return scattered(self.products(views), self.flat, self.size) / self.total

    def render(self, z: Tensor) -> Tensor:
        """What the views [N, C, h, w] show of a texture [1, C, H, W]; 0 beside the mesh."""
        seen = (z[0].flatten(1)[:, self.flat].unflatten(1, (-1, 4)) * self.weight).sum(-1)
        count, _, h, w = self.shape
        views = z.new_zeros(z.shape[1], count * h * w)
        views[:, self.pixel] = seen
        return views.reshape(-1, count, h, w).transpose(0, 1)


def scattered(products: Tensor, flat: Tensor, size: tuple[int, int]) -> Tensor:
    """``scatter_add_`` alone: products [C, taps] to the texels ``flat`` [taps] of a texture [1, C, H, W]."""
    texture = products.new_zeros(len(products), size[0] * size[1])
    return texture.scatter_add_(1, flat.expand_as(products), products).reshape(1, -1, *size)
