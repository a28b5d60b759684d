"""How many views go through the network at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .methods.base import Bound, Method
from .priors.base import Prior
from .run import Run
from .scheduling import Work

# The most views that a network has had room for, by what decides how much they take.
_FITTED: WeakKeyDictionary[object, dict[tuple[object, ...], int]] = WeakKeyDictionary()


class Batches:
    """Work in batches that fit: with ``adapt`` they are halved when memory is too small.

    What fitted is remembered for the rest of the run, and for further ones of the same network, method and view size.

    Attributes:
        most: the most views that are known to fit; None while all have.
    """

    def __init__(self, adapt: bool, prior: Prior, method: Method) -> None:
        self._adapt = adapt
        try:
            self._fitted = _FITTED.setdefault(prior.memory_key, {}) if adapt else {}
        except TypeError:  # a prior that cannot be a key is remembered for one run only
            self._fitted = {}
        self._key = (type(prior), type(method), tuple(prior.view_shape), prior.dtype)
        self.most = self._fitted.get(self._key)

    def advance(self, bound: Bound[Any], run: Run, work: Work) -> Iterator[Work]:
        """Let the method take ``work`` one step on, whose items do not wait for each other; yields what is done.

        Raises:
            torch.OutOfMemoryError: not even one view fits.
        """
        while work:
            batch, spent = work[: self.most], run.stats.state_dict()
            if not self._fits(bound, batch):
                # Out here no frame of the failed attempt holds its tensors any more.
                self.most = self._fitted[self._key] = (len(batch) + 1) // 2
                run.stats.load_state_dict(spent)
                run.network.limit(self.most)
                gc.collect()
                if run.prior.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            run.stats.max_batch = max(run.stats.max_batch, len(batch))
            work = work[len(batch) :]
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How many views the run has found to fit."""
        return {"most": self.most}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Split batches as the run would have split them."""
        self.most = state["most"]

    def _fits(self, bound: Bound[Any], batch: Work) -> bool:
        try:
            bound.advance(batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not self._adapt or len(batch) == 1 or not _is_out_of_memory(error):
                raise
            return False
        return True


def _is_out_of_memory(error: BaseException) -> bool:
    """CUDA raises an error of its own; the CPU's allocator is recognised by its message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
