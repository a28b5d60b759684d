"""Windows of a plane, cut out and put back by slices, as one writes it by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Windows:
    """Windows (h, w) of a plane at ``origins`` (y, x), none of which wraps.

    Where one reads another they stand in a row, and each sees the one before it.
    """

    def __init__(self, origins: Sequence[tuple[int, int]], window: tuple[int, int], size: tuple[int, int]) -> None:
        self.origins, self.window, self.size = list(origins), window, size

    def __len__(self) -> int:
        return len(self.origins)

    def view(self, z: Tensor, i: int) -> Tensor:
        """Window i [1, C, h, w] of a canvas [1, C, H, W], in place."""
        (y, x), (h, w) = self.origins[i], self.window
        return z[..., y : y + h, x : x + w]

    def average(self, found: Mapping[int, Tensor], like: Tensor) -> Tensor:
        """Some windows [1, C, h, w] by number, put back and averaged on a canvas like ``like``, 0 beside them."""
        value, count = torch.zeros_like(like), torch.zeros_like(like)
        for i, window in found.items():
            self.view(value, i)[...] += window
            self.view(count, i)[...] += 1
        return torch.where(count > 0, value / count, value)

    def seen(self, i: int, earlier: Sequence[int]) -> Any:
        """The cells of window i that the window before it shows, as an index of [1, C, h, w]; None: there is none."""
        return (..., slice(0, self.window[1] - self._shift(i))) if i else None

    def shown(self, i: int, states: Mapping[int, Tensor], earlier: Sequence[int]) -> Tensor:
        """What the window before shows there, [1, C, h, shared]."""
        return states[i - 1][..., self._shift(i) :]

    def painted(self, states: Mapping[int, Tensor], order: Sequence[int]) -> Tensor:
        """The canvas [1, C, H, W] with windows pasted in order, later ones over earlier ones."""
        z = states[order[0]].new_zeros(1, states[order[0]].shape[1], *self.size)
        for i in order:
            self.view(z, i)[...] = states[i]
        return z

    def _shift(self, i: int) -> int:
        return self.origins[i][1] - self.origins[i - 1][1]
