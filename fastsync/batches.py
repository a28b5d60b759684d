"""How many views go through the network at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from .methods.base import Method
from .priors.base import Prior
from .run import Run
from .scheduling import Work

# The most views that a network has had room for, by what decides how much they take.
_FITTED: WeakKeyDictionary[object, dict[tuple[object, ...], int]] = WeakKeyDictionary()


class Batches:
    """Work in batches that fit: with ``adapt`` they are halved when memory is too small.

    What fitted is remembered for the rest of the run, and for further ones of the same network, method and view size.
    """

    def __init__(self, adapt: bool, prior: Prior, method: Method) -> None:
        self._adapt = adapt
        # A task makes a prior of its own around the network that stays.
        network = getattr(getattr(prior, "pipe", None), "unet", prior)
        try:
            self._fitted = _FITTED.setdefault(network, {}) if adapt else {}
        except TypeError:  # a prior that cannot be a key is remembered for one run only
            self._fitted = {}
        self._key = (type(prior), type(method), tuple(prior.view_shape), prior.dtype)

    @property
    def most(self) -> int | None:
        """The most views that are known to fit; None while all have."""
        return self._fitted.get(self._key)

    def advance(self, method: Method, run: Run, work: Work) -> Iterator[Work]:
        """Let the method take ``work`` one step on, whose items do not wait for each other; yields what is done.

        Raises:
            torch.OutOfMemoryError: not even one view fits.
        """
        while work:
            batch, spent = work[: self.most], replace(run.stats)
            if not self._fits(method, run, batch):
                # Out here no frame of the failed attempt holds its tensors any more.
                most = (len(batch) + 1) // 2
                run.stats, self._fitted[self._key] = spent, most
                if run.buckets is not None:  # else the half would be padded to what did not fit
                    run.buckets = [*(size for size in run.buckets if size < most), most]
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
