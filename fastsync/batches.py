"""How many views go through the network at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import torch

from .methods.base import Method
from .run import Run
from .scheduling import Work


class Batches:
    """Work in batches that fit: with ``adapt`` they are halved, for the rest of the run, when memory is too small."""

    def __init__(self, adapt: bool) -> None:
        self._most: int | None = None
        self._adapt = adapt

    def advance(self, method: Method, run: Run, work: Work) -> Iterator[Work]:
        """Let the method take ``work`` one step on, whose items do not wait for each other; yields what is done.

        Raises:
            torch.OutOfMemoryError: not even one view fits.
        """
        while work:
            batch, spent = work[: self._most], replace(run.stats)
            if not self._fits(method, run, batch):
                # Out here no frame of the failed attempt holds its tensors any more.
                run.stats, self._most = spent, (len(batch) + 1) // 2
                if run.buckets is not None:  # else the half would be padded to what did not fit
                    run.buckets = [*(size for size in run.buckets if size < self._most), self._most]
                gc.collect()
                if run.prior.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            run.stats.max_batch = max(run.stats.max_batch, len(batch))
            work = work[len(batch) :]
            yield batch

    def _fits(self, method: Method, run: Run, batch: Work) -> bool:
        try:
            method.advance(run, batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not self._adapt or len(batch) == 1 or not _is_out_of_memory(error):
                raise
            return False
        return True


def _is_out_of_memory(error: BaseException) -> bool:
    """CUDA has an error of its own; the CPU's allocator says so in words."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
