"""What the engine costs, this checkout beside another: whole runs, and a control's iteration outside of the network.

    python -m bench.engine [--against FOLDER] [--rounds 5] [--output FILE]

Each round starts one process of one thread for each checkout and group of cases; the two take every case in turns, one
run each. Compared are CPU seconds of the process, which other programs on the machine disturb less than the clock. A
round's ratio is the median over its turns, since where a process happens to have its memory shifts all of them by some
percent; the figure of a case is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Any

import torch
import typer
from tqdm import tqdm

from bench.machine import RESULTS, describe, write_json

Seconds = dict[str, list[float]]  # of each turn, by checkout
ROOT = Path(__file__).resolve().parent.parent
PICTURE = {"steps": 4, "views": 4}  # on the embedded prior `scenes`
BARE = {"steps": 20, "views": 8}  # of 4x64x64, on a network that is one multiplication
ITERATIONS = (3, 8)  # of the two runs whose difference is that of control iterations
BATCHES = 26  # of those runs in which there are controls: all fronts but the first, where nobody has a neighbour
LIMIT = 1.03  # what the engine may cost more than before
ITERATION = "a control iteration"
# glibc's allocator learns from what was freed whether memory goes back to the system, and then one of the two processes
# may spend a sixth of a case on page faults. With fixed thresholds neither gives memory back.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


def main(
    against: Annotated[Path | None, typer.Option(help="Another checkout, built; none: this one alone.")] = None,
    rounds: Annotated[int, typer.Option(help="Pairs of processes.")] = 5,
    only: Annotated[str, typer.Option(help="Only cases whose names hold this.")] = "",
    output: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "engine_cpu.json",
) -> None:
    """Runs every case in turns and writes medians and ratios."""
    checkouts = {"here": ROOT} | ({"before": against.resolve()} if against else {})
    chosen = {name: turns for name, turns in TURNS.items() if only in name}
    # What a picture leaves of the heap would decide how the bare cases find their memory.
    groups = [[name for name in chosen if name.startswith("scenes") == of_scenes] for of_scenes in (True, False)]
    measured: dict[str, list[Seconds]] = {name: [] for name in chosen}
    for count in tqdm(range(rounds), desc="engine"):
        for group in filter(None, groups):
            workers = {which: _Worker(folder) for which, folder in checkouts.items()}
            try:
                for name in group:
                    measured[name].append(_in_turns(workers, name, chosen[name], count))
            finally:
                for worker in workers.values():
                    worker.end()
    cases = {name: condense(found) for name, found in measured.items()}
    commits = {which: _commit(folder) for which, folder in checkouts.items()}
    settings = {"device": "cpu", "threads": 1, "rounds": rounds, "turns": chosen, "commits": commits}
    write_json(output, {**describe(), "settings": settings, "cases": cases})
    for name, row in cases.items():
        beside = f"{row['ratio']:8.3f} of before (rounds {row['rounds']})" if "ratio" in row else ""
        typer.echo(f"{name:42}{1e3 * row['seconds']['here']:12.4g} ms{beside}")
    typer.echo(f"written to {output}")
    raise SystemExit(any(row.get("ratio", 1.0) > LIMIT for row in cases.values()))


def _in_turns(workers: Mapping[str, _Worker], name: str, turns: int, count: int) -> Seconds:
    """A case's CPU seconds in one round, of each checkout."""
    seconds: Seconds = {which: [] for which in workers}
    for worker in workers.values():
        worker.seconds(name)  # caches and lazy imports
    for turn in range(turns):
        # Who begins takes turns as well.
        for which in sorted(workers, reverse=(count + turn) % 2 == 1):
            seconds[which].append(workers[which].seconds(name))
    return seconds


def condense(rounds: Sequence[Seconds]) -> dict[str, Any]:
    """One case: the median CPU seconds of each checkout, and the median of the rounds' ratios of this one to the other.

    ``rounds`` holds those ratios one by one.
    """
    medians = {which: median(median(found[which]) for found in rounds) for which in rounds[0]}
    row: dict[str, Any] = {"seconds": {which: float(f"{value:.4g}") for which, value in medians.items()}}
    if "before" in medians:
        ratios = [median(h / b for h, b in zip(found["here"], found["before"], strict=True)) for found in rounds]
        row |= {"ratio": round(median(ratios), 4), "rounds": [round(ratio, 4) for ratio in ratios]}
    return row


class _Worker:
    """A process that imports fastsync from a checkout and runs cases on demand."""

    def __init__(self, folder: Path) -> None:
        # In the checkout's folder, of which `python -c` imports; this file itself is the same text for both.
        code = f"from runpy import run_path; run_path({str(Path(__file__).resolve())!r})['serve']()"
        environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to: IO[str] = self._process.stdin
        self._from: IO[str] = self._process.stdout
        home = Path(self._answer()["fastsync"]).resolve()
        if folder not in home.parents:
            self.end()
            raise SystemExit(f"{folder} is no checkout of fastsync: python imports {home} there.")

    def seconds(self, name: str) -> float:
        """CPU seconds of one run of a case."""
        self._to.write(name + "\n")
        self._to.flush()
        return float(self._answer()["seconds"])

    def end(self) -> None:
        """Close the process."""
        self._to.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._from.readline()
        if not line:
            raise SystemExit(f"the process of a checkout ended with status {self._process.wait()}; see above.")
        return dict(json.loads(line))


def serve() -> None:
    """In a process of its own: run the cases that are named on standard input, and answer with their seconds."""
    import fastsync

    torch.set_num_threads(1)
    print(json.dumps({"fastsync": fastsync.__file__}), flush=True)
    made: dict[str, Callable[[], float]] = {}
    for name in map(str.strip, sys.stdin):
        if name not in made:
            made[name] = _case(name)
        print(json.dumps({"seconds": made[name]()}), flush=True)


def _case(name: str) -> Callable[[], float]:
    """What runs a case once and tells its CPU seconds."""
    if name == ITERATION:
        few, many = (_bare("SyncVC", iterations=count) for count in ITERATIONS)
        more = BATCHES * (ITERATIONS[1] - ITERATIONS[0])
        return lambda: (_cpu_seconds(many) - _cpu_seconds(few)) / more
    prior, method = name.split(", ")
    run = _picture(method) if prior == "scenes" else _bare(method)
    return lambda: _cpu_seconds(run)


def _picture(method: str) -> Callable[[], Any]:
    """A wide picture of the embedded prior, as users make it."""
    import fastsync as fs

    sync = fs.SyncPipeline.from_zoo("scenes", device="cpu", dtype=torch.float32)
    height, width = sync.window_pixels
    overlap = width // (2 if method == "StochSync" else 4)
    settings = {"steps": 4, "start": 600, "stop": 300} if method == "StochSync" else {}
    wide = PICTURE["views"] * width - (PICTURE["views"] - 1) * overlap
    return lambda: sync.wide(
        "mountains", width=wide, height=height, overlap=overlap, method=getattr(fs, method)(**settings),
        num_inference_steps=PICTURE["steps"], seed=0, output_type="latent", progress=False,
    )  # fmt: skip


def _bare(method: str, iterations: int = ITERATIONS[0]) -> Callable[[], Any]:
    """A run in which the network takes nearly no time."""
    import diffusers

    import fastsync as fs

    shape, stride = (4, 64, 64), 48
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    prior = fs.FunctionPrior(lambda x, t, cond: 0.1 * x, scheduler, shape)
    canvas = fs.WideCanvas((64, 64 + (BARE["views"] - 1) * stride), (64, 64), stride)
    cond = torch.zeros(BARE["views"], 77, 64)
    z = torch.randn(1, 4, *canvas.size, generator=torch.Generator().manual_seed(0))
    settings = {"iterations": iterations} if method == "SyncVC" else {}
    return lambda: fs.sample(
        prior, canvas, getattr(fs, method)(**settings), cond=cond, uncond=cond[:1], num_inference_steps=BARE["steps"],
        latents=z,
    )  # fmt: skip


def _cpu_seconds(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _commit(folder: Path) -> str | None:
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or None


# Turns of each case a round: what is over soon is disturbed more.
TURNS = {
    **{f"scenes, {method}": 2 for method in ("SyncVC", "MultiDiffusion", "SyncTweedies", "SyncSDE", "StochSync")},
    **{f"bare, {method}": 15 for method in ("SyncVC", "MultiDiffusion")},
    ITERATION: 10,
}

if __name__ == "__main__":
    typer.run(main)
