"""What a run spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Stats:
    """What a run spent.

    Attributes:
        evaluations: view-evaluations of the network (rows of its batches; guidance's two halves counted as two).
        gradients: rows that were also differentiated backward to their input.
        shallow: those of ``evaluations`` in which only the network's outermost level was computed, gradient included
            (SyncVC's ``feature_reuse``).
        calls: batched network calls.
        padded: rows added only to keep batch shapes fixed (not in ``evaluations``).
        max_batch: the most views that were in one batch. Attempts that did not fit are not in this account.
        seconds: wall clock of the run; of a run that was stopped and resumed, all its parts together.
        peak_memory: bytes; the device's peak allocation during the run on CUDA, the process's peak so far on a CPU
            (None where the system does not tell). Of a resumed run, the largest of its parts.
    """

    evaluations: int = 0
    gradients: int = 0
    shallow: int = 0
    calls: int = 0
    padded: int = 0
    max_batch: int = 0
    seconds: float = 0.0
    peak_memory: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """All figures by name."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All figures as ``state_dict`` gave them, in this object."""
        for name, value in state.items():
            setattr(self, name, value)
