"""Scenes from masks: a background and regions, each with a prompt of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import check_tensor, shape_text
from .base import Neighbours, Whiteness


class MaskCanvas:
    """A picture of H x W cells of which every view shows all, and answers for a part.

    View 0 is the background, views 1 to K are the masks' foregrounds; each counts in ``merge`` as much as its mask says
    (the background as much as the masks leave). Methods that draw views to each other's noisy states (SyncSDE, SyncVC)
    are run on :meth:`chained`, which has one view more: the whole picture, drawn to the background's view and the
    foregrounds', which are themselves drawn to the background's outside their masks (Lee 2025, masked generation).

    Args:
        masks: [K, 1, H, W] in [0, 1] (or bool), in the prior's sample units; soft and overlapping ones are legal. Where
            masks overlap, later ones lie over earlier ones.

    Attributes:
        num_views, view_shape, size: K + 1 (chained: K + 2), (H, W), (H, W).
        masks: float32 [K, 1, H, W].
        regions: float32 [num_views, 1, H, W], how much each view counts; its sum over the views is positive everywhere.
        is_chained: whether the whole picture is the last view.
    """

    signs: torch.Tensor | None = None
    whiteness: Whiteness = "exact"
    foreground: torch.Tensor | None = None

    def __init__(self, masks: torch.Tensor) -> None:
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
        self.masks, self.is_chained = masks, False
        self.size = (int(masks.shape[2]), int(masks.shape[3]))
        self.view_shape: tuple[int, ...] = self.size
        self._build()

    def _build(self) -> None:
        background = 1 - self.masks.amax(0, keepdim=True)
        self.regions = torch.cat([background, self.masks])
        if self.is_chained:
            self.regions = torch.cat([torch.zeros_like(self.regions), torch.ones_like(background)])
        self.num_views = len(self.regions)

    def chained(self) -> MaskCanvas:
        """The same masks with the whole picture as one view more, which is the result."""
        canvas = MaskCanvas(self.masks)
        canvas.is_chained = True
        canvas._build()
        return canvas

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how much of all views counts in each cell (float32)."""
        return self.regions.sum(0, keepdim=True)

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """The picture [1, C, H, W] for every view, [N, C, H, W]."""
        if not isinstance(z, torch.Tensor) or z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != self.size:
            got = shape_text(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
            raise ValueError(f"z must be a picture [1, C, {self.size[0]}, {self.size[1]}], got {got}.")
        return z.repeat(self.num_views, 1, 1, 1)

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """As :meth:`project`: every view shows the picture's own cells, so noise stays white."""
        return self.project(z)

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i``: views [N, C, H, W] added up [1, C, H, W]."""
        return self._checked(views).sum(0, keepdim=True)

    def merge(
        self, views: torch.Tensor, weights: torch.Tensor | None = None, previous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean of the views, each weighted by its region.

        Args:
            views: [N, C, H, W].
            weights: non-negative, [H, W] (the same for all views) or [N, 1, H, W], multiplied with the regions.
            previous: [1, C, H, W], kept where no view has weight (0 if None).
        """
        self._checked(views)
        regions = self.regions.to(views)
        if weights is not None:
            if check_tensor("weights", weights).shape not in (self.size, regions.shape):
                raise ValueError(
                    f"weights must be {shape_text(self.size)} or {shape_text(regions.shape)}, got "
                    f"{shape_text(weights.shape)}."
                )
            regions = regions * weights.to(views)
        total = regions.sum(0, keepdim=True)
        kept = torch.zeros_like(views[:1]) if previous is None else previous
        return torch.where(total > 0, (regions * views).sum(0, keepdim=True) / total.where(total > 0, 1), kept)

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """The picture [1, C, H, W] with the regions of views [N, C, H, W] laid over one another in ``order``.

        The background lies under all, whatever its place in ``order``.
        """
        self._checked(views)
        if self.is_chained:
            return views[-1:].clone()
        z = views[:1].clone()
        for i in order:
            if i:
                z = torch.lerp(z, views[i : i + 1], self.masks[i - 1 : i].to(views))
        return z

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """Foregrounds read the background outside their masks, the whole reads the topmost view of each cell."""
        count, cells = self.num_views, torch.arange(self.size[0] * self.size[1]).reshape(self.size)
        owner = torch.full((count, *self.size), -1)
        weight = torch.zeros(count, *self.size)
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
        sources = [tuple(j for j in owner[i].unique().tolist() if j >= 0) for i in range(count)]
        shifts: list[tuple[int, int, int] | None] = [None if read else (-1, 0, 0) for read in sources]
        return Neighbours(sources, owner, cells.expand(count, *self.size), shifts, weight=weight)

    def _checked(self, views: Any) -> torch.Tensor:
        right = isinstance(views, torch.Tensor) and views.ndim == 4
        if not right or (len(views), *views.shape[2:]) != (self.num_views, *self.size):
            got = shape_text(views.shape) if isinstance(views, torch.Tensor) else type(views).__name__
            raise ValueError(f"views must be [{self.num_views}, C, {self.size[0]}, {self.size[1]}], got {got}.")
        return views
