"""Feature maps that are written and read by lines: in memory while they fit a budget, in temporary files beyond it.

A network that runs in strips needs whole maps between two of its layers, since a group normalisation has the statistics
of the whole picture. They are what grows with the picture. On a CPU those beyond the budget go to files that have no
name and vanish with the process; from a GPU they go to the host's memory.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

import torch

# Bytes of one picture's maps that stay where they are computed.
BUDGET = {"cpu": 2**26}
GPU_BUDGET = 2**31


class Cut(NamedTuple):
    """How a picture is cut.

    Attributes:
        axis: of [1, C, H, W], along which lines are counted: 2 (rows) or 3 (columns).
        closed: whether the picture closes vertically, and horizontally.
    """

    axis: int
    closed: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, size: Sequence[int], closed: tuple[bool, bool]) -> Cut:
        """The cut of a picture of (height, width) across its longer side, which makes the shorter lines."""
        return cls(2 if size[0] > size[1] else 3, closed)

    @property
    def across(self) -> int:
        """The axis that lines lie along."""
        return 5 - self.axis

    def closes(self, axis: int) -> bool:
        return self.closed[axis - 2]


class Store(Protocol):
    """Where a map's lines are. Lines start, ..., stop - 1 are a tensor [1, C, H, W] that is as long along the axis."""

    def read(self, start: int, stop: int) -> torch.Tensor: ...

    def write(self, start: int, cells: torch.Tensor) -> None: ...

    def close(self) -> None: ...


class Map:
    """One picture's feature map, with the moments of its channels as they were written.

    Attributes:
        shape: (1, C, H, W).
        cut: how it is cut.
        dtype, device: of its cells.
    """

    def __init__(self, shape: Sequence[int], like: torch.Tensor, cut: Cut, store: Store) -> None:
        self.shape, self.cut, self.dtype, self.device = tuple(shape), cut, like.dtype, like.device
        self._store = store
        # Kept up to date in place: small tensors that stay would pin the heap between the strips' large ones.
        wide = torch.promote_types(self.dtype, torch.float32)
        self._count = 0
        self._mean, self._variance = torch.zeros(2, self.shape[1], dtype=wide, device=self.device)

    @classmethod
    def of(cls, tensor: torch.Tensor, cut: Cut) -> Map:
        """A tensor [1, C, H, W] as a map that shares its memory; its moments are not known."""
        return cls(tensor.shape, tensor, cut, Memory(tensor, cut.axis))

    @property
    def lines(self) -> int:
        return self.shape[self.cut.axis]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Lines as a tensor [1, C, H, W], which may share the map's memory."""
        return self._store.read(start, stop)

    def whole(self) -> torch.Tensor:
        return self.read(0, self.lines)

    def put(self, start: int, cells: torch.Tensor) -> None:
        """Put lines [1, C, H, W] in from ``start`` on, which no normalisation follows."""
        self._store.write(start, cells)

    def write(self, start: int, cells: torch.Tensor) -> None:
        """Put lines [1, C, H, W] in from ``start`` on. Each line is written once, or once after :meth:`restart`."""
        self._store.write(start, cells)
        # Of what is kept, and at least in float32, as group normalisation itself.
        variance, mean = torch.var_mean(cells.to(self.dtype).to(self._mean.dtype), (0, 2, 3), correction=0)
        self._count += cells.shape[self.cut.axis]
        share = cells.shape[self.cut.axis] / self._count
        mean -= self._mean
        self._variance.lerp_(variance, share).add_(mean**2, alpha=share * (1 - share))
        self._mean.add_(mean, alpha=share)

    def restart(self) -> None:
        """Forget the moments: from here on the map is written anew."""
        self._count = 0

    def moments(self, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance [groups] of all lines, where channels are in that many groups."""
        means = self._mean.reshape(groups, -1)
        mean = means.mean(1)
        return mean, (self._variance.reshape(groups, -1) + (means - mean[:, None]) ** 2).mean(1)

    def close(self) -> None:
        """Give its memory or file back."""
        self._store.close()


class Maps:
    """Makes the maps of one picture, and closes them all when it is left, whatever happens.

    Args:
        like: a tensor on the device and in the dtype that the network computes in.
        cut: how the picture is cut.
        budget: bytes of maps that stay on that device; more go to files (CPU) or to the host's memory.
    """

    def __init__(self, like: torch.Tensor, cut: Cut, budget: int | None = None) -> None:
        self.like, self.cut = like.new_empty(0), cut
        self.budget = BUDGET.get(like.device.type, GPU_BUDGET) if budget is None else budget
        self._held: dict[Map, int] = {}  # bytes of the open maps that stay on the device
        self._open: list[Map] = []

    def new(self, channels: int, size: Sequence[int]) -> Map:
        """A map [1, channels, height, width] without contents."""
        shape = (1, channels, *size)
        count = self.size_of(shape)
        stays = self.fits(count)
        made = Map(shape, self.like, self.cut, self._memory(shape) if stays else self.outside(shape))
        self._open.append(made)
        if stays:
            self._held[made] = count
        return made

    def filled(self, tensor: torch.Tensor) -> Map:
        """A map [1, C, H, W] with a tensor's contents."""
        made = self.new(tensor.shape[1], tensor.shape[2:])
        made.write(0, tensor)
        return made

    def close(self, *maps: Map) -> None:
        """Close maps that are no longer needed."""
        for each in maps:
            each.close()
            self._held.pop(each, None)
            if each in self._open:
                self._open.remove(each)

    def fits(self, count: int) -> bool:
        """Whether so many bytes more may stay on the device."""
        return sum(self._held.values()) + count <= self.budget

    def size_of(self, shape: Sequence[int]) -> int:
        """Bytes of a map."""
        count = self.like.element_size()
        for side in shape:
            count *= side
        return count

    def outside(self, shape: Sequence[int]) -> Store:
        """The place of a map that does not stay on the device."""
        if self.like.device.type == "cpu":
            return File(shape, self.like.dtype, self.cut.axis)
        return Memory(torch.empty(shape, dtype=self.like.dtype), self.cut.axis, self.like.device)

    def _memory(self, shape: Sequence[int]) -> Store:
        return Memory(self.like.new_empty(shape), self.cut.axis)

    def __enter__(self) -> Maps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(*list(self._open))


class Memory:
    """Lines in a tensor [1, C, H, W]; read onto ``device`` if given."""

    def __init__(self, tensor: torch.Tensor, axis: int, device: torch.device | None = None) -> None:
        self._tensor, self._axis, self._device = tensor, axis, device

    def read(self, start: int, stop: int) -> torch.Tensor:
        lines = self._tensor.narrow(self._axis, start, stop - start)
        return lines if self._device is None else lines.to(self._device)

    def write(self, start: int, cells: torch.Tensor) -> None:
        self._tensor.narrow(self._axis, start, cells.shape[self._axis]).copy_(cells)

    def close(self) -> None:
        self._tensor = self._tensor.new_empty(0)


class File:
    """Lines in a temporary file, one after the other. It is read and written, not mapped, so no page of it counts as
    the process's memory."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, axis: int) -> None:
        self._dtype, self._axis = dtype, axis
        self._line = (shape[1], shape[5 - axis])
        self._step = shape[1] * shape[5 - axis] * dtype.itemsize
        self._file = tempfile.TemporaryFile(buffering=0, prefix="fastsync-")  # noqa: SIM115, closed by close()

    def read(self, start: int, stop: int) -> torch.Tensor:
        lines = torch.empty((stop - start, *self._line), dtype=self._dtype)
        rest = lines.flatten().view(torch.uint8).numpy().data
        self._file.seek(start * self._step)
        while rest:
            count = self._file.readinto(rest)
            if not count:
                raise OSError(
                    errno.EIO, f"a temporary file in {tempfile.gettempdir()} is shorter than what was written"
                )
            rest = rest[count:]
        return lines.movedim(0, self._axis - 1)[None]

    def write(self, start: int, cells: torch.Tensor) -> None:
        lines = cells[0].movedim(self._axis - 1, 0).to(self._dtype).contiguous()
        rest = lines.flatten().view(torch.uint8).numpy().data
        try:
            self._file.seek(start * self._step)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                errno.ENOSPC,
                f"{tempfile.gettempdir()} is full, where the maps of a large picture are kept while it is encoded or "
                "decoded: make room there, or set TMPDIR to a folder with more",
            ) from error

    def close(self) -> None:
        self._file.close()
