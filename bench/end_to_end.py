"""Times whole runs and condenses them to one small file for each device.

    python -m bench.end_to_end [--device cuda] [--only "SyncVC and scenes"] [--output FILE]

`bench/test_runs.py` times the races that `bench/runs.py` describes; `python -m bench.report` makes tables and plots.
Races that the file holds already and that are not run again stay in it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import RESULTS, describe, write_json
from bench.ops import DISTURBED, rounded
from bench.runs import RACES, named

SUITE = Path(__file__).with_name("test_runs.py")
LATE = 20  # seconds that a race under way may go on after --minutes


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="pytest's -k: only races whose names match.")] = "",
    rounds: Annotated[int, typer.Option(help="Timed runs of each variant.")] = 3,
    minutes: Annotated[
        float, typer.Option(help="Races that would begin later are left out, and one under way is stopped.")
    ] = 60.0,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch on the CPU.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Races all methods on one device and writes seconds, ratios and what was spent.

    CPU races that another program disturbed are left out, and the command then ends with status 1.
    """
    output = output or RESULTS / f"end_to_end_{device}.json"
    kept = _kept(output)
    with tempfile.TemporaryDirectory() as folder:
        # Each race is written once it is over: pytest-benchmark's own file comes at the end, which one that compiles
        # for minutes may not reach on a machine on loan.
        finished = Path(folder) / "finished.jsonl"
        command = [sys.executable, "-m", "pytest", str(SUITE), f"--finished={finished}", "--benchmark-quiet"]
        command += ["-k", f"{device} and ({only})" if only else device, "-p", "no:cacheprovider", "-v"]
        command += [f"--minutes={minutes}", f"--rounds={rounds}", f"--threads={threads}"]
        try:
            status = subprocess.run(command, timeout=60 * minutes + LATE).returncode
        except subprocess.TimeoutExpired:
            status = 1
            typer.echo("the race under way was stopped, as the time given by --minutes is over")
        # What was measured is worth keeping, also where one race failed.
        lines = finished.read_text().splitlines() if finished.exists() else []
    infos = {info["name"]: info for info in map(json.loads, lines)}
    disturbed = [name for name, info in infos.items() if device == "cpu" and info["disturbance"] > DISTURBED]
    measured = {name: condense(info) for name, info in infos.items() if name not in disturbed}
    if disturbed:
        typer.echo(f"left out, as another program held a core while they ran: {'; '.join(disturbed)}")
    if not measured:
        raise SystemExit(f"nothing was measured on {device}: pytest ended with {status}; see what it says above.")
    found = {**kept, **measured}
    races = {name: found[name] for name in named(RACES[device]) if name in found}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for race in measured.values():
        race["date"] = now
    settings = {"device": device, "threads": threads if device == "cpu" else None, "rounds": rounds}
    # Some races may have been run again by themselves: this makes all of them.
    anew = "python -m bench.end_to_end" + f" --device {device}" * (device != "cpu") + f" --rounds {rounds}"
    write_json(output, {**describe(), "command": anew, "settings": settings, "races": races})
    for name, race in measured.items():
        typer.echo(name)
        for variant, row in race["variants"].items():
            typer.echo(
                f"  {variant:22}{row['seconds']:9.3f} s {row['times_as_fast']:7.2f} x   outside {row['outside']}"
            )
    typer.echo(f"written to {output}")
    raise SystemExit(status or bool(disturbed))


def _kept(path: Path) -> dict[str, Any]:
    """The races that a file holds, which must have been run where and with what the new ones are."""
    if not path.exists():
        return {}
    content, here = json.loads(path.read_text()), describe()
    if any(content[key] != here[key] for key in ("machine", "versions")):
        raise SystemExit(f"{path} was made on another machine or with other versions; move it away to start anew.")
    return dict(content["races"])


def condense(info: Mapping[str, Any]) -> dict[str, Any]:
    """One race: its variants' figures, and how many times as fast each is as the first (the reference, if it runs).

    ``outside`` is the share of a run's time outside the network. ``compile_seconds`` is what the first run of a
    compiled variant took more than the others.
    """
    rows = info["variants"]
    baseline = next(iter(rows.values()))["seconds"]
    variants = {}
    for name, row in rows.items():
        compiled = name.endswith(("regional", "max"))
        variants[name] = {
            **{key: row[key] for key in ("rows", "gradients", "calls", "padded", "peak_memory")},
            "seconds": rounded(row["seconds"]),
            "spread": rounded(row["spread"]),
            "times_as_fast": rounded(baseline / row["seconds"]),
            "rows_per_second": rounded(row["rows"] / row["seconds"]),
            "outside": None if row["outside"] is None else rounded(row["outside"]),
            "difference": None if row["difference"] is None else rounded(row["difference"]),
            "compile_seconds": rounded(row["first_seconds"] - row["seconds"]) if compiled else None,
        }
    described = ("method", "model", "views", "width", "steps", "dtype", "figure")
    return {**{key: info[key] for key in described}, "variants": variants}


if __name__ == "__main__":
    typer.run(main)
