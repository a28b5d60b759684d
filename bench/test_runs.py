"""Whole runs on every method, order and compile mode, in turn: `python -m bench.end_to_end`, or pytest on this file.

One test is one race. Its variants run in another order each round, so that a disturbance of the machine meets them
alike; pytest-benchmark's own figure is the whole round, and its JSON holds the variants under ``extra_info``. Before
any timing the variants' pictures are compared. The first run of a variant, which compiles, is timed apart.
"""

import json
import random
import re
import time
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.runs import RACES, Course, Figures, Race, difference
from bench.timing import disturbance, spread

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
ENTRIES = [(device, race) for device in DEVICES for race in RACES[device]]
IDS = [f"{device}-" + "-".join(re.findall(r"[\w.]+", race.name)) for device, race in ENTRIES]
BEGAN = time.monotonic()
# Differences of float32 grow from step to step, since Adam moves as far for a gradient that rounding made as for any
# other: pictures of twenty steps are some hundredths apart, other pictures 1. Short runs are held equal by the tests.
# Half precision is not compared.
ALIKE = 0.1


@pytest.mark.parametrize("device, race", ENTRIES, ids=IDS)
def test_run(device: str, race: Race, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """Compares the pictures of a race's variants, then times them."""
    ends = BEGAN + 60 * request.config.getoption("--minutes")
    if time.monotonic() > ends:
        pytest.skip("the time given by --minutes is over")
    threads = request.config.getoption("--threads")
    torch.set_num_threads(threads)
    torch.compiler.reset()
    course = Course(race, device)
    first: dict[str, float] = {}
    figures: dict[str, Figures] = {}
    pictures: dict[str, torch.Tensor] = {}
    for variant in race.variants:
        if time.monotonic() > ends and first:
            break
        first[variant], figures[variant], picture = _timed(course, variant, device)
        if picture is not None:
            pictures[variant] = picture
    right = next(iter(pictures.values()))
    apart = {variant: difference(picture, right) for variant, picture in pictures.items()}
    if race.dtype == torch.float32:
        assert max(apart.values()) < ALIKE, f"these are not the same picture: {apart}"

    times: dict[str, list[float]] = {variant: [] for variant in first}
    shares: dict[str, list[float]] = {variant: [] for variant in first}
    memory: dict[str, int] = {}
    order = random.Random(0)

    def turn() -> None:
        for variant in order.sample(list(first), len(first)):
            if time.monotonic() > ends and times[variant]:
                continue
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds, spent, _ = _timed(course, variant, device)
            times[variant].append(seconds)
            if spent.network_seconds is not None:
                shares[variant].append(1 - spent.network_seconds / seconds)
            if device == "cuda":
                memory[variant] = torch.cuda.max_memory_allocated()

    before = disturbance(threads) if device == "cpu" else 0.0
    benchmark.group = f"{race.name}, {device}"
    benchmark.pedantic(turn, rounds=request.config.getoption("--rounds"))
    rows: dict[str, dict[str, Any]] = {
        variant: {
            "seconds": median(times[variant]),
            "first_seconds": first[variant],
            "spread": spread(times[variant]),
            "rows": figures[variant].rows,
            "gradients": figures[variant].gradients,
            "calls": figures[variant].calls,
            "padded": figures[variant].padded,
            "outside": median(shares[variant]) if shares[variant] else None,
            "peak_memory": memory.get(variant),
            "difference": apart.get(variant),
        }
        for variant in first
    }
    benchmark.extra_info.update(
        device=device,
        name=race.name,
        method=race.method,
        model=race.model,
        views=race.views,
        width=course.canvas.size[1],
        steps=race.steps,
        figure=race.figure,
        dtype=str(race.dtype),
        variants=rows,
        disturbance=max(before, disturbance(threads)) if device == "cpu" else 0.0,
    )
    if finished := request.config.getoption("--finished"):
        with open(finished, "a") as file:
            file.write(json.dumps(benchmark.extra_info) + "\n")


def _timed(course: Course, variant: str, device: str) -> tuple[float, Figures, torch.Tensor | None]:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    picture, figures = course.run(variant)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, figures, picture
