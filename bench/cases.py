"""Many independent cases in two processes of one thread each, resumed where they were stopped."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from bench.machine import describe, write_json

Case = TypeVar("Case")
Figures = dict[str, Any]
WORKERS = 2


def run_cases(
    path: Path,
    settings: Mapping[str, Any],
    cases: Mapping[str, Case],
    work: Callable[[Case], Figures],
    title: str,
) -> dict[str, Figures]:
    """`work` on every case that the file at `path` does not hold yet; returns the figures of all `cases` by name.

    The file is written after each case, with machine, versions, date and command. `work` and the cases must pickle.
    Ends with a sentence where the file was made with other `settings`: figures of two settings must not mix.
    """
    done = _load(path, settings)
    missing = {name: case for name, case in cases.items() if name not in done}
    # spawn: a forked child would inherit torch's thread pools in an undefined state.
    pool = ProcessPoolExecutor(WORKERS, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
    try:
        names = {pool.submit(work, case): name for name, case in missing.items()}
        for future in tqdm(as_completed(names), total=len(names), desc=title, disable=not names):
            done[names[future]] = future.result()
            write_json(path, {**describe(), "settings": dict(settings), "cases": done})
    finally:
        pool.shutdown(cancel_futures=True)
    return {name: done[name] for name in cases}


def add_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Puts `summary` at the end of a result file that `run_cases` has written."""
    write_json(path, {**json.loads(path.read_text()), "summary": dict(summary)})


def _load(path: Path, settings: Mapping[str, Any]) -> dict[str, Figures]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    if content["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings; move it away to start anew.")
    return dict(content["cases"])
