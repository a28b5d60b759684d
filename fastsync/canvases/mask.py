"""Scenes from masks: a background and regions, each with a prompt of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from ..errors import check_tensor, shape_text
from .base import LinearCanvas, Units, Whiteness


class MaskCanvas(LinearCanvas):
    """A picture of H x W cells of which every view shows all, and answers for a part.

    View 0 is the background, views 1 to K are the masks' foregrounds; each counts in ``merge`` as much as its mask says
    (the background as much as the masks leave). Methods that draw views to each other's noisy states (SyncSDE, SyncVC)
    are run on :meth:`chained`, which has one view more: the whole picture, drawn to the background's view and the
    foregrounds', which are themselves drawn to the background's outside their masks (Lee 2025, masked generation).

    Args:
        masks: [K, 1, H, W] in [0, 1] (or bool); soft and overlapping ones are legal. Where masks overlap, later ones
            lie over earlier ones.
        units: of the masks, ``"cells"`` or ``"pixels"`` (:class:`fastsync.Canvas`).

    Attributes:
        num_views, view_shape, size, units: K + 1 (chained: K + 2), (H, W), (H, W), and as given.
        masks: float32 [K, 1, H, W].
        regions: float32 [num_views, 1, H, W], how much each view counts; its sum over the views is positive everywhere.
        is_chained: whether the whole picture is the last view.
    """

    whiteness: Whiteness = "exact"
    regions: torch.Tensor

    def __init__(self, masks: torch.Tensor, *, units: Units = "cells") -> None:
        if not isinstance(masks, torch.Tensor) or masks.ndim != 4 or masks.shape[1] != 1 or not masks.numel():
            got = shape_text(masks.shape) if isinstance(masks, torch.Tensor) else type(masks).__name__
            raise ValueError(f"masks must be a tensor [K, 1, H, W] with one mask or more, got {got}.")
        masks = check_tensor("masks", masks.float() if masks.dtype == torch.bool else masks).float().cpu()
        if float(masks.min()) < 0 or float(masks.max()) > 1:
            raise ValueError(
                f"masks must lie in [0, 1], got values from {float(masks.min()):g} to {float(masks.max()):g}: divide "
                "bytes by 255."
            )
        empty = (masks.flatten(1).amax(1) == 0).nonzero()[:, 0].tolist()
        if empty:
            raise ValueError(
                f"mask {empty[0]} is empty: give every foreground some cells (thin shapes may vanish when a mask is "
                "scaled down to latent cells)."
            )
        background = 1 - masks.amax(0, keepdim=True)
        self.masks, self.regions, self.is_chained = masks, torch.cat([background, masks]), False
        size = (int(masks.shape[2]), int(masks.shape[3]))
        super().__init__(size, size, len(self.regions), units=units)

    def chained(self) -> MaskCanvas:
        """The same masks with the whole picture as one view more, which is the result."""
        if self.is_chained:
            return self
        chained = copy.copy(self)
        chained.regions = torch.cat([torch.zeros_like(self.regions), torch.ones_like(self.regions[:1])])
        chained.num_views, chained.is_chained = len(chained.regions), True
        return chained

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how much of all views counts in each cell (float32)."""
        return self.regions.sum(0, keepdim=True)

    def cells(self, view: int) -> torch.Tensor:
        """The picture's own cells, int64 [H, W], in every view."""
        return torch.arange(self.size[0] * self.size[1]).reshape(self.size)

    def _project(self, z: torch.Tensor) -> torch.Tensor:
        return z.repeat(self.num_views, 1, 1, 1)

    def _adjoint(self, views: torch.Tensor) -> torch.Tensor:
        return views.sum(0, keepdim=True)

    def _sums(self, views: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each view counts as its region says."""
        weights = weights * self.regions.to(views)
        return (weights * views).sum(0, keepdim=True), weights.sum(0, keepdim=True)

    def _composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """The regions laid over one another; the background lies under all, whatever its place in ``order``."""
        if self.is_chained:
            return views[-1:].clone()
        z = views[:1].clone()
        for i in order:
            if i:
                z = torch.lerp(z, views[i : i + 1], self.masks[i - 1 : i].to(views))
        return z

    def _beneath(self, order: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Foregrounds read the background outside their masks, the whole reads the topmost view of each cell."""
        owner = torch.full((self.num_views, *self.size), -1)
        weight = torch.zeros(self.num_views, *self.size)
        foregrounds = range(1, len(self.masks) + 1)
        for position, i in enumerate(order):
            earlier = set(order[:position])
            if i in foregrounds and 0 in earlier:
                owner[i], weight[i] = 0, 1 - self.masks[i - 1, 0]
            elif i > len(self.masks):
                # What the regions laid over one another show; a soft cell is drawn as hard as its view has it.
                left = torch.ones(self.size)
                for j in sorted(earlier, reverse=True):
                    part = left * (self.masks[j - 1, 0] if j else 1.0)
                    left = left - part
                    owner[i][part > weight[i]] = j
                    weight[i] = torch.maximum(weight[i], part)
        owner[weight == 0] = -1
        return owner, self.cells(0).expand(owner.shape), weight
