"""The step table of a run, read for batches whose views may be at different steps."""

from __future__ import annotations

import torch

from ..diffusion import StepTable
from ..scheduling import Work
from ..transfer import to_device


class Timetable:
    """Per-step coefficients, gathered for a batch.

    Attributes:
        table: float64 columns [T] (``timesteps`` as the network takes them), on the run's device.
        host_times: ``timesteps`` on the CPU.
    """

    def __init__(self, table: StepTable, device: torch.device) -> None:
        self.host_times = table.timesteps.cpu()
        self.table, self._device = table.to(device), device
        self._batch: Work | None = None
        self._batch_steps = torch.zeros(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.table)

    def steps(self, work: Work) -> torch.Tensor:
        """The items' steps, int64 [B], on the run's device; sent there once for a batch."""
        if self._batch is not work:
            self._batch, self._batch_steps = work, to_device(torch.tensor([k for _, k in work]), self._device)
        return self._batch_steps

    def at(self, name: str, work: Work) -> torch.Tensor:
        """Column ``name`` of the table for each item of a batch, [B]."""
        column: torch.Tensor = getattr(self.table, name)
        return column[self.steps(work)]
