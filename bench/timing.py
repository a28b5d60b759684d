"""Clocks, and whether the machine is quiet enough for them."""

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch


def cpu_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Wall clock of so many calls."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - began


def cuda_seconds(run: Callable[[], Any], repeats: int) -> float:
    """The GPU's own clock, from the first of its launches to the end of the last."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    for _ in range(repeats):
        run()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


def clock(device: str) -> Callable[[Callable[[], Any], int], float]:
    """The clock of a device."""
    return cuda_seconds if device == "cuda" else cpu_seconds


def disturbance(threads: int) -> float:
    """How many times as long as alone a thread takes for a copy of 1 MB that it shares with the others.

    At most about 1 on a quiet machine, hundreds where another program holds a core.
    """
    x = torch.rand(1 << 18)
    y = torch.empty_like(x)
    shared: list[float] = []
    alone: list[float] = []
    try:
        for _ in range(30):
            for count, times in ((1, alone), (threads, shared)):
                torch.set_num_threads(count)
                y.copy_(x)
                times.append(cpu_seconds(lambda: y.copy_(x), 1))
    finally:
        torch.set_num_threads(threads)
    return median(shared) / median(alone)


def spread(times: list[float]) -> float:
    """The interquartile range relative to the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = quantiles(times, n=4)
    return (high - low) / middle
