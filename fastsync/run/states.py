"""What all views look like at which step: two pools of states that ops read in place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from ..canvases.base import Neighbours
from ..scheduling import Work
from ..transfer import to_device


@dataclass(frozen=True)
class Address:
    """Where a batch's views read their neighbours in a pool: ``place, index, mask, period`` of :mod:`fastsync.ops`."""

    place: torch.Tensor
    index: torch.Tensor | None
    mask: torch.Tensor | None
    period: tuple[int, int]

    def __iter__(self) -> Iterator[Any]:
        """The four in the order in which ops take them."""
        return iter((self.place, self.index, self.mask, self.period))

    def rows(self, rows: torch.Tensor) -> Address:
        """The address of some of the batch's items."""
        index, mask = (t if t is None else t[rows] for t in (self.index, self.mask))
        return Address(self.place[rows], index, mask, self.period)


class States:
    """Noisy states and clean estimates of N views, [S, C, h, w] each.

    View i owns ``lifetimes[i]`` slots, used in turn, so views may be at different steps. Where some views show the
    canvas's negative, a second half of the pools holds all states with the other sign.

    Args:
        view_shape: (C, h, w).
        lifetimes: how many consecutive states of each view are remembered, at least 2.
        keeps_clean: whether clean estimates are kept: somebody reads another view's, or the last step's.
        signed: whether some views show the canvas's negative.
        dtype, device: of all states.

    Attributes:
        noisy, clean: the pools. ``clean`` is empty unless clean estimates are kept.
    """

    def __init__(
        self,
        view_shape: tuple[int, int, int],
        lifetimes: Sequence[int],
        *,
        keeps_clean: bool,
        signed: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._lives = list(lifetimes)
        self._first = [end - lives for end, lives in zip(accumulate(self._lives), self._lives, strict=True)]
        self._slots, self._signed = sum(self._lives), signed
        self.count, self.dtype, self.device, self.keeps_clean = len(self._lives), dtype, device, keeps_clean
        shape = (self._slots * (2 if signed else 1), *view_shape)
        self.noisy = torch.zeros(shape, dtype=dtype, device=device)
        self.clean = self.noisy.new_zeros(shape if keeps_clean else (0, *view_shape))

    # ---- reading ----------------------------------------------------------------------------------------------

    def slots(self, views: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
        """Where the pools hold each view's state before a step, int64 [len(views)], on the CPU."""
        return self._host_slots(zip(views, steps, strict=True))

    def before(self, work: Work) -> torch.Tensor:
        """Noisy states [B, C, h, w] of a batch before its steps."""
        return self.noisy[self._index(work)]

    def after(self, step: int) -> torch.Tensor:
        """All views [N, C, h, w] after ``step``, once all have done it."""
        return self.before([(i, step + 1) for i in range(self.count)])

    def estimates(self, work: Work) -> torch.Tensor:
        """Clean estimates [B, C, h, w] at the batch's steps, once they have been done."""
        return self.clean[self._index(work)]

    def estimate(self, view: int, step: int) -> torch.Tensor:
        """Clean estimate [C, h, w] of one view at ``step``."""
        return self.clean[int(self.slots([view], [step]))]

    def address(self, work: Work, neighbours: Neighbours) -> Address:
        """Where the items read their neighbours' states of their own step, in either pool."""
        views, steps = zip(*work, strict=True)
        shifts = [neighbours.shift[i] for i in views]
        if None not in shifts:
            sources, dy, dx = torch.tensor(shifts).unbind(1)
            slots = torch.where(sources >= 0, self.slots(sources.clamp_min(0).tolist(), steps), sources)
            return Address(to_device(torch.stack([slots, dy, dx], 1), self.device), None, None, neighbours.period)
        rows = torch.tensor(views)
        owner, cell = neighbours.owner[rows], neighbours.cell[rows]
        # The slot of every view at every item's step: tables [B, N], looked up by the owner of each cell.
        slots = torch.tensor(self._first) + torch.tensor(steps)[:, None] % torch.tensor(self._lives)
        if neighbours.signs is not None:
            opposite = neighbours.signs * neighbours.signs[rows][:, None] < 0
            slots = slots + self._slots * opposite
        slot = slots.gather(1, owner.clamp_min(0).flatten(1)).reshape(owner.shape)
        index = torch.where(owner >= 0, slot * math.prod(owner.shape[1:]) + cell, owner)
        place = torch.zeros(len(work), 3, dtype=torch.long)
        mask = None
        if neighbours.weight is not None:
            mask = to_device(neighbours.weight[rows][:, None], self.device).to(self.dtype)
        return Address(to_device(place, self.device), to_device(index, self.device), mask, (0, 0))

    # ---- writing ----------------------------------------------------------------------------------------------

    def start(self, views: torch.Tensor) -> None:
        """Set the initial noisy views [N, C, h, w]."""
        self.replace_after(-1, views)

    def replace_after(self, step: int, views: torch.Tensor) -> None:
        """Overwrite all views [N, C, h, w] after ``step`` (methods that merge; callers that edit)."""
        self._store(self.noisy, [(i, step + 1) for i in range(self.count)], views)

    def store(self, work: Work, x_next: torch.Tensor, x0: torch.Tensor) -> None:
        """Store a batch's states after its steps and its clean estimates at them, [B, C, h, w] each."""
        self._store(self.noisy, [(i, k + 1) for i, k in work], x_next)
        if self.keeps_clean:
            self._store(self.clean, work, x0)

    def _store(self, pool: torch.Tensor, work: Iterable[tuple[int, int]], states: torch.Tensor) -> None:
        slots = self._index(work)
        pool[slots] = states
        if self._signed:
            pool[slots + self._slots] = -states

    # ---- slots ------------------------------------------------------------------------------------------------

    def _host_slots(self, work: Iterable[tuple[int, int]]) -> torch.Tensor:
        """Where the pools hold each item's state before its step, int64 [B], on the CPU."""
        return torch.tensor([self._first[i] + k % self._lives[i] for i, k in work])

    def _index(self, work: Iterable[tuple[int, int]]) -> torch.Tensor:
        """The same beside the pools.

        A slice, where the slots are evenly spaced, would be a little faster, but one run in a hundred then differed
        from the others in a last digit.
        """
        return to_device(self._host_slots(work), self.device)

    # ---- saving -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Both pools."""
        return {"noisy": self.noisy, "clean": self.clean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pools as ``state_dict`` gave them."""
        self.noisy.copy_(state["noisy"])
        self.clean.copy_(state["clean"])
