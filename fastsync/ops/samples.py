"""What draws the random arguments that an op's declaration offers to tests, self-tests and benchmarks.

State tensors are drawn in the dtype asked for, per-sample coefficients in float64, as the sampler has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

LAYOUTS = ("contiguous", "channels_last", "strided")
SHAPES = ((3, 4, 16, 16), (2, 3, 7, 13), (1, 1, 1, 1), (2, 4, 24, 37))  # (B, C, h, w)
# Window (C, h, w), canvas (H, W), origins: a loop over both borders, one window, a row, a grid with gaps.
WINDOWS = (
    ((2, 8, 8), (13, 17), [(0, 0), (11, 4), (7, 14), (12, 16), (0, 9)]),
    ((1, 1, 1), (1, 1), [(0, 0)]),
    ((4, 16, 16), (16, 40), [(0, 0), (0, 12), (0, 24)]),
    ((3, 7, 5), (19, 23), [(0, 0), (0, 3), (5, 1), (12, 18), (9, 9)]),
    ((2, 24, 37), (24, 37), [(0, 0), (5, 30), (23, 36)]),
)
# Views, window (h, w), canvas (H, W), taps a pixel, channels.
TABLES = (
    (3, (7, 5), (6, 11), 4, 3),
    (1, (1, 1), (1, 1), 1, 1),
    (2, (16, 16), (9, 31), 4, 4),
    (2, (13, 24), (40, 40), 1, 3),
    (5, (8, 8), (2, 2), 4, 2),
)

Shape = tuple[int, int, int, int]
Windows = tuple[tuple[int, int, int], tuple[int, int], list[tuple[int, int]]]
Table = tuple[int, tuple[int, int], tuple[int, int], int, int]


class Draw:
    """Random tensors of one seed: the same numbers for every dtype and device, up to rounding.

    Attributes:
        dtype, device: of the tensors.
        generator: on the CPU.
        shapes, windows, tables: the sizes for which ops on views, on windows and on taps offer samples.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        device: torch.device | str,
        seed: int,
        shapes: Sequence[Shape] = SHAPES,
        windows: Sequence[Windows] = WINDOWS,
        tables: Sequence[Table] = TABLES,
    ) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)
        self.shapes, self.windows, self.tables = shapes, windows, tables

    def normal(self, *shape: int, layout: str = "contiguous") -> torch.Tensor:
        """Standard normal, in one of :data:`LAYOUTS` (strided: every second column of a wider tensor)."""
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)
        return lay_out(drawn, layout)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Float64, for per-sample coefficients."""
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * drawn).to(self.device)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """Int64 from low to high - 1."""
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)

    def mask(self, *shape: int) -> torch.Tensor:
        """Weights in [0, 1], a third of them 0 and a third of them 1."""
        return self.uniform(*shape, low=-1.0, high=2.0).clamp(0, 1).to(self.dtype)


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values [B, C, h, w] in another memory layout; what a strided one skips holds NaN."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan")).to(tensor)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor
