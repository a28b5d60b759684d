"""Views of a surface agree in their pictures, where what a latent cell holds depends on how it is turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..canvases.base import LinearCanvas
from ..errors import check_int, check_number, shape_text
from ..geometry import Sight
from ..geometry.sight import normals
from .base import Reward


class SurfaceOverlap(Reward):
    """``-weight |M (x0_i - T x0')|^2`` in pixels, summed over a view.

    This is SyncVC's reward for meshes (docs/mathematics.md, "SyncVC") on decoded views.

    A latent stands for a patch of pixels as they lie in its view. From another side the patch is turned and stretched,
    which the latent is not when it is read there: views that agree in latents then show debris. Pictures can be
    compared at any angle. ``T x0'`` is what the earlier view that looks at a point most straight shows of it,
    bilinear; M leaves out pixels within ``margin`` of an edge, whose colours the decoder mixed with others.

    Args:
        sight: what the views' pixels see, e.g. ``MeshCanvas(..., view_size=pixels).sight``.
        weight: at least 0.
        margin: pixels, at least 1.
    """

    pixels = True
    scores_first_view = False

    def __init__(self, sight: Sight, weight: float = 1.0, margin: int = 2) -> None:
        self.weight = check_number("weight", weight, minimum=0.0)
        self.margin = check_int("margin", margin)
        self._sight = sight
        self._order: list[int] = []
        self._tables: dict[int, _Table] = {}

    def begin(self, canvas: LinearCanvas, order: Sequence[int]) -> SurfaceOverlap:
        """One that knows who comes before whom.

        Raises:
            ValueError: the canvas has another number of views.
        """
        if canvas.num_views != len(self._sight.face):
            raise ValueError(
                f"SurfaceOverlap knows what {len(self._sight.face)} views see, and the canvas has {canvas.num_views}: "
                "give it the sight of the same cameras."
            )
        bound = SurfaceOverlap(self._sight, self.weight, self.margin)
        clear = self._sight.foreground & ~self._sight.beside_edges(self.margin)
        bound._order = list(order)
        bound._tables = {i: _table(self._sight, clear, i, order[:n]) for n, i in enumerate(order)}
        return bound

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """The score of picture i [3, H, W]; ``earlier`` in work order. RuntimeError before ``begin(canvas, order)``."""
        if not self._order:
            raise RuntimeError("SurfaceOverlap does not know the order of views: ask the one that begin() returns.")
        if tuple(x0.shape[1:]) != self._sight.size:
            raise ValueError(
                f"pictures must be {shape_text(self._sight.size)} as SurfaceOverlap's sight, got "
                f"{shape_text(x0.shape[1:])}: make the sight at the size of decoded views."
            )
        if not earlier:
            return x0.new_zeros(())
        table = self._tables[i].to(x0)
        stacked = torch.stack(list(earlier), 1).flatten(1)  # [3, views H W]
        target = (stacked[:, table.index] * table.weight).sum(-1)
        return -self.weight * (x0.flatten(1)[:, table.pixel] - target).square().sum()


class _Table:
    """Which pixels int64 [M] of a view earlier ones show, and the pixels int64 [M, 4] of those, weighted [M, 4]."""

    def __init__(self, pixel: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> None:
        self.pixel, self.index, self.weight = pixel, index, weight

    def to(self, like: torch.Tensor) -> _Table:
        """Where a tensor is, in its precision; moved once."""
        if self.weight.device != like.device or self.weight.dtype != like.dtype:
            self.pixel, self.index = self.pixel.to(like.device), self.index.to(like.device)
            self.weight = self.weight.to(like)
        return self


def _table(sight: Sight, clear: torch.Tensor, i: int, earlier: Sequence[int]) -> _Table:
    """Where view i reads the earlier ones; ``clear`` bool [N, h, w] are the pixels that may be compared."""
    pixel = clear[i].flatten().nonzero()[:, 0]
    at = sight.points[i].flatten(0, 1)[pixel]
    normal = normals(sight.mesh, sight.face[i].flatten()[pixel])
    owner, around, weight = sight.read(earlier, at, normal, straightest=True, clear=clear)
    seen = owner >= 0
    place = torch.full((len(clear),), -1)
    place[list(earlier)] = torch.arange(len(earlier))
    return _Table(pixel[seen], (around + place[owner][:, None] * clear[i].numel())[seen], weight[seen])
