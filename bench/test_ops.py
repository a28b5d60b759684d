"""Every op at every size against what users write: `python -m bench.ops`, or pytest on this file.

One test is one group. It times all variants in turn, in a new order each round, so that a disturbance of the machine
meets them alike and ratios of medians hold on a busy one; pytest-benchmark's own figure is the whole round, and its
JSON holds the variants under ``extra_info``. Before any timing the variants' results are compared.

Turns do not help where another program holds a core: with two threads each parallel region then waits for a slice of
the scheduler, 4 or 8 ms, and a ratio counts regions instead of work. ``disturbance`` shows that.
"""

import json
import re
import time
from pathlib import Path
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.profiler import ProfilerActivity, profile

from bench import workloads
from bench.race import Race, forced
from bench.timing import disturbance, spread
from bench.workloads import Variant, Workload

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
# The most telling groups come first, for runs that --minutes cuts short.
FIRST = ("64 MB", "SD 1.5, 25 views", "texture 1024, 8 views")
GROUPS = [(device, *name) for device in DEVICES for name in workloads.names(device)]
GROUPS.sort(key=lambda group: group[2] not in FIRST)
IDS = ["-".join(re.findall(r"[\w.]+", " ".join(group))) for group in GROUPS]
BEGAN = time.monotonic()


@pytest.mark.parametrize("device, op, size", GROUPS, ids=IDS)
def test_op(
    device: str, op: str, size: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Compares the variants of one op at one size, then times them."""
    if time.monotonic() - BEGAN > 60 * request.config.getoption("--minutes"):
        pytest.skip("the time given by --minutes is over")
    threads = request.config.getoption("--threads")
    torch.set_num_threads(threads)
    torch.compiler.reset()
    workload = workloads.build(op, size, device)
    failed = _compare(workload)
    variants = [v for v in workload.variants if v.name not in failed]
    race = Race(variants, device)
    rounds = race.rounds(request.config.getoption("--seconds"))
    benchmark.group = f"{op}, {size}, {device}"
    benchmark.extra_info.update(device=device, op=op, size=size, bytes=workload.moved, failed=failed)
    before = disturbance(threads)
    benchmark.pedantic(race.run, rounds=rounds)
    benchmark.extra_info["disturbance"] = max(before, disturbance(threads))
    benchmark.extra_info["seconds"] = {name: median(times) for name, times in race.times.items()}
    benchmark.extra_info["spread"] = {name: spread(times) for name, times in race.times.items()}
    if device == "cuda":
        benchmark.extra_info["launches"] = {v.name: _launches(v, tmp_path / "trace.json") for v in variants}


def _compare(workload: Workload) -> dict[str, str]:
    """Calls each variant once and compares all with the eager reference; returns why optional ones fail."""
    results, failed = {}, {}
    for variant in workload.variants:
        try:
            with forced(variant):
                out = variant.run()
        except Exception as error:
            if not variant.optional:
                raise
            failed[variant.name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
            continue
        results[variant.name] = (out,) if isinstance(out, torch.Tensor) else tuple(out)
    del results["copy"]
    for name, outputs in results.items():
        for mine, right in zip(outputs, results["eager"], strict=True):
            scale = float(right.abs().max())
            torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-4 * scale, msg=f"{name} is not eager")
    return failed


def _launches(variant: Variant, trace: Path) -> int:
    """Kernels, copies and fills that one call puts on the GPU."""
    torch.cuda.synchronize()
    with forced(variant), profile(activities=[ProfilerActivity.CUDA]) as watched:
        variant.run()
        torch.cuda.synchronize()
    watched.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return sum(event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") for event in events)
