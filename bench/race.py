"""Variants timed in turn, in a new order each round."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.timing import clock
from bench.workloads import Variant

LEAST = 1e-3  # seconds a measurement must last: short ops are repeated
ROUNDS = (7, 60)


class Race:
    """Times variants in turn, each round in another order."""

    def __init__(self, variants: Sequence[Variant], device: str) -> None:
        self.variants, self.times = variants, {v.name: list[float]() for v in variants}
        self.clock = clock(device)
        self.order = random.Random(0)
        self.once: dict[str, float] = {}
        for variant in variants:
            with forced(variant):
                self.clock(variant.run, 3)
                self.once[variant.name] = min(self.clock(variant.run, 1) for _ in range(3))
        self.repeats = {name: max(1, min(1000, round(LEAST / once))) for name, once in self.once.items()}

    def rounds(self, seconds: float) -> int:
        """How many rounds fit in a time."""
        a_round = sum(self.repeats[name] * once for name, once in self.once.items())
        return max(ROUNDS[0], min(ROUNDS[1], int(seconds / a_round)))

    def run(self) -> None:
        """One round."""
        for variant in self.order.sample(self.variants, len(self.variants)):
            repeats = self.repeats[variant.name]
            with forced(variant):
                self.clock(variant.run, 1)  # caches and heap are not as the variant before it left them
                self.times[variant.name].append(self.clock(variant.run, repeats) / repeats)


@contextmanager
def forced(variant: Variant) -> Iterator[None]:
    """Forces a variant's backend; dispatch asks the environment at every call."""
    before = os.environ.get("FASTSYNC_BACKEND")
    if variant.backend:
        os.environ["FASTSYNC_BACKEND"] = variant.backend
    try:
        yield
    finally:
        os.environ.pop("FASTSYNC_BACKEND", None)
        if before is not None:
            os.environ["FASTSYNC_BACKEND"] = before
