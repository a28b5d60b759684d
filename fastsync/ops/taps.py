"""Tables of resampling maps: which cells of a canvas each pixel of each view reads, and with which weight."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from . import _ext

Tables = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class Taps:
    """A linear map from a canvas [1, C, H, W] to views [N, C, h, w], K taps a pixel.

    ``x[n, :, y, x] = sum_k weight[n, y, x, k] z[0, :, index[n, y, x, k]]``

    Attributes:
        index: int32 [N, h, w, K], flat cells of the canvas; below 0: no tap.
        weight: float [N, h, w, K].
        size: canvas (H, W).
        start, pixel, sorted_weight: the same taps sorted by cell (CSR): cell c has the taps ``start[c]`` to
            ``start[c + 1]``, each with its flat pixel (int32) and weight. None until :meth:`sort`.

    Raises:
        ValueError: shapes that do not fit, or an index outside the canvas. Kernels trust the table, so this is checked
            here, once, and the host waits for it.
    """

    index: torch.Tensor
    weight: torch.Tensor
    size: tuple[int, int]
    start: torch.Tensor | None = None
    pixel: torch.Tensor | None = None
    sorted_weight: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.index.ndim != 4 or self.index.dtype != torch.int32 or self.weight.shape != self.index.shape:
            raise ValueError(
                f"taps: index must be int32 [N, h, w, K] and weight of its shape, got {self.index.dtype} "
                f"{list(self.index.shape)} and {list(self.weight.shape)}."
            )
        cells = self.size[0] * self.size[1]
        if self.index.numel() and int(self.index.max()) >= cells:
            raise ValueError(
                f"taps: index reaches {int(self.index.max())}, but a canvas of {tuple(self.size)} has {cells} cells: "
                "build the table for this canvas."
            )
        if self.start is not None and not self._is_sorted(self.start, cells):
            raise ValueError("taps: start, pixel and sorted_weight are no sorted form of index: leave them to sort().")

    def _is_sorted(self, start: torch.Tensor, cells: int) -> bool:
        pixel, weight, count = self.pixel, self.sorted_weight, int((self.index >= 0).sum())
        if pixel is None or weight is None or start.shape != (cells + 1,) or start.dtype != torch.int64:
            return False
        if pixel.shape != (count,) or weight.shape != (count,) or pixel.dtype != torch.int32:
            return False
        pixels = self.index.shape[0] * self.index.shape[1] * self.index.shape[2]
        bounds = bool((start.diff() >= 0).all()) and int(start[0]) == 0 and int(start[-1]) == count
        return bounds and (count == 0 or (int(pixel.min()) >= 0 and int(pixel.max()) < pixels))

    def sort(self) -> Taps:
        """With the taps sorted by cell as well: results then have the same bits in every run, and come fastest."""
        if self.start is not None:
            return self
        native = _ext.load() if self.index.device.type == "cpu" and self.weight.dtype.itemsize >= 4 else None
        rule = sort_reference if native is None else native.sort_taps
        start, pixel, weight = rule(self.index, self.weight, self.size[0] * self.size[1])
        return replace(self, start=start, pixel=pixel, sorted_weight=weight)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Taps:
        """On a device, with weights in ``dtype`` (unchanged if None)."""
        moved = {name: getattr(self, name) for name in ("index", "weight", "start", "pixel", "sorted_weight")}
        for name, tensor in moved.items():
            if tensor is not None:
                moved[name] = tensor.to(device, dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        return replace(self, **moved)

    def tables(self, dtype: torch.dtype) -> Tables:
        """``(index, weight, start, pixel, sorted_weight)`` for images of a dtype: weights in it, in float32 at least.

        A table that was moved :meth:`to` that dtype is handed out as it is.
        """
        wide = torch.promote_types(dtype, torch.float32)
        sorted_weight = None if self.sorted_weight is None else self.sorted_weight.to(wide)
        return self.index, self.weight.to(wide), self.start, self.pixel, sorted_weight


def sort_reference(
    index: torch.Tensor, weight: torch.Tensor, cells: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(start int64 [cells + 1], pixel int32 [M], weight [M])`` of taps in stable order by cell."""
    flat = index.flatten().long()
    order = torch.sort(flat, stable=True).indices[int((flat < 0).sum()) :]
    count = torch.bincount(flat[order], minlength=cells)
    start = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return start, (order // index.shape[3]).int(), weight.flatten()[order]
