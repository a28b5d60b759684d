"""The order of (view, step) work.

A view may be worked at step k once it has finished step k - 1 and the views it reads have finished step k. Views are
sorted into levels by their longest chain of such dependences; views of one level never wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal

Order = Literal["sequential", "batched", "wavefront"]
ORDERS: tuple[Order, ...] = ("sequential", "batched", "wavefront")
Work = list[tuple[int, int]]  # (view, step) pairs that run as one batch


def levels(sources: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Level of each view: 0 if it reads nobody, else one more than the highest level that it reads."""
    level = [0] * len(sources)
    for i in order:
        level[i] = 1 + max((level[j] for j in sources[i]), default=-1)
    return level


def plan(
    order: Order, views: Sequence[int], level: Sequence[int], steps: int, max_batch: int | None = None
) -> Iterator[Work]:
    """Batches of work, in an order that respects all dependences.

    - ``sequential``: one view after the other at each step, the published order; N T batches.
    - ``batched``: at each step the views of one level together; (number of levels) T batches.
    - ``wavefront``: a view of level l runs l steps behind one of level 0, so anti-diagonals of the (level, step) grid
      are batches; T + (number of levels) - 1 of them.

    Args:
        views: all views in work order.
        level: level of each view.
        steps: T.
        max_batch: split larger batches into pieces of at most this many views.
    """
    size = max_batch or len(views)
    depth = max(level) + 1
    by_level = [[i for i in views if level[i] == n] for n in range(depth)]
    if order == "sequential":
        for k in range(steps):
            for i in views:
                yield [(i, k)]
    elif order == "batched":
        for k in range(steps):
            for group in by_level:
                yield from pieces([(i, k) for i in group], size)
    else:
        for front in range(steps + depth - 1):
            ready = [(i, front - n) for n, group in enumerate(by_level) if 0 <= front - n < steps for i in group]
            yield from pieces(ready, size)


def lifetimes(order: Order, sources: Sequence[Sequence[int]], level: Sequence[int], keep: bool = False) -> list[int]:
    """How many consecutive states of each view have to be remembered at once.

    The state before a step and the one after it; in the wavefront also those that later levels have not read yet (with
    ``keep``: that some view has not reached yet).
    """
    if order != "wavefront":
        return [2] * len(level)
    last = [max(level)] * len(level) if keep else list(level)
    for i, read in enumerate(sources):
        for j in read:
            last[j] = max(last[j], level[i])
    return [2 + last[j] - level[j] for j in range(len(level))]


def pieces(work: Work, size: int) -> Iterator[Work]:
    """A batch in pieces of at most ``size`` items."""
    for start in range(0, len(work), size):
        yield work[start : start + size]


def bucket_sizes(batches: Iterable[int], waste: float = 0.08) -> list[int]:
    """The fewest sizes, ascending, to which batches can be padded by at most a share ``waste`` of all their rows.

    Args:
        batches: the size of each batch that there will be.
        waste: share of added rows, at least 0.
    """
    counts = Counter(size for size in batches if size > 0)
    sizes = sorted(counts)
    batches_to = [0, *accumulate(counts[size] for size in sizes)]
    rows_to = [0, *accumulate(size * counts[size] for size in sizes)]
    total = rows_to[-1]

    def padding(first: int, last: int) -> int:
        """Rows that are added where batches of the sizes from the first to the last get the last one's."""
        return sizes[last] * (batches_to[last + 1] - batches_to[first]) - (rows_to[last + 1] - rows_to[first])

    # best[n]: least padding of the sizes up to the n-th with one bucket more each round, and its buckets.
    best = [(padding(0, n), [size]) for n, size in enumerate(sizes)]
    while best and best[-1][0] > waste * total:
        best = [
            min([(best[m][0] + padding(m + 1, n), [*best[m][1], size]) for m in range(n)] + [best[n]])
            for n, size in enumerate(sizes)
        ]
    return best[-1][1] if best else []
