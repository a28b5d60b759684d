"""Views of any canvas of cells, by index tensors: grids, windows that wrap, permutations, negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Cells:
    """View i shows ``signs[i] * canvas[rows, columns]`` with ``maps[i] = (rows, columns)``, int64 [h, w] each.

    A view sees, cell by cell, what the latest earlier view that covers the cell shows there.
    """

    def __init__(
        self, maps: Sequence[tuple[Tensor, Tensor]], size: tuple[int, int], signs: Sequence[float] | None = None
    ) -> None:
        self.maps, self.size = list(maps), size
        self.signs = [1.0] * len(maps) if signs is None else list(signs)

    @classmethod
    def of_windows(cls, origins: Sequence[tuple[int, int]], window: tuple[int, int], size: tuple[int, int]) -> Cells:
        """Windows (h, w) at origins (y, x), which wrap around the canvas's borders."""
        maps = []
        for y, x in origins:
            rows, columns = torch.arange(y, y + window[0]) % size[0], torch.arange(x, x + window[1]) % size[1]
            maps.append((rows[:, None].expand(window), columns[None, :].expand(window)))
        return cls(maps, size)

    def view(self, z: Tensor, i: int) -> Tensor:
        """View i [1, C, h, w] of a canvas [1, C, H, W]."""
        rows, columns = self.maps[i]
        return self.signs[i] * z[..., rows, columns]

    def seen(self, i: int, earlier: Sequence[int]) -> Any:
        """The cells of view i that earlier views show, as an index of [1, C, h, w]; None: there are none."""
        covered = torch.zeros(self.size, dtype=torch.bool)
        for j in earlier:
            covered[self.maps[j]] = True
        cells = covered[self.maps[i]]
        return (..., cells) if bool(cells.any()) else None

    def shown(self, i: int, states: Mapping[int, Tensor], earlier: Sequence[int]) -> Tensor:
        """What earlier views show there, [1, C, number of cells]."""
        shown: Tensor = self.view(self.painted(states, earlier), i)[self.seen(i, earlier)]
        return shown

    def painted(self, states: Mapping[int, Tensor], order: Sequence[int]) -> Tensor:
        """The canvas [1, C, H, W] with views painted in order, later ones over earlier ones; NaN beside them."""
        picture = states[order[0]].new_full((1, states[order[0]].shape[1], *self.size), float("nan"))
        for i in order:
            rows, columns = self.maps[i]
            picture[..., rows, columns] = self.signs[i] * states[i]
        return picture
