"""Runs the op benchmarks and condenses them to one small file for each device.

    python -m bench.ops [--device cuda] [--only "merge or splat"] [--output FILE]

`bench/test_ops.py` times the groups that `bench/workloads.py` builds; `python -m bench.report` makes the tables.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from bench.machine import RESULTS, describe, write_json
from bench.workloads import names

SUITE = Path(__file__).with_name("test_ops.py")
# From which on figures mean nothing: `disturbance` of bench/test_ops.py, and the median of the variants' spreads.
DISTURBED, SPREAD = 2.0, 0.4


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="pytest's -k: only groups whose names match.")] = "",
    minutes: Annotated[float, typer.Option(help="Groups that would begin later than this are left out.")] = 60.0,
    seconds: Annotated[float, typer.Option(help="Time measured for each group.")] = 2.0,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch on the CPU.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Measures every op on one device and writes medians, ratios and bandwidths.

    CPU groups that another program disturbed are left out, and the command then ends with status 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.json"
        command = [sys.executable, "-m", "pytest", str(SUITE), f"--benchmark-json={full}", "--benchmark-quiet"]
        command += ["-k", f"{device} and ({only})" if only else device]
        command += [
            "-p",
            "no:cacheprovider",
            "-v",
            f"--minutes={minutes}",
            f"--seconds={seconds}",
            f"--threads={threads}",
        ]
        status = subprocess.run(command).returncode
        # What was measured is worth keeping, also where one group failed.
        entries = json.loads(full.read_text())["benchmarks"] if full.exists() and full.stat().st_size else []
    if not entries:
        raise SystemExit(f"nothing was measured on {device}: pytest ended with {status}; see what it says above.")
    measured = {(entry["extra_info"]["op"], entry["extra_info"]["size"]): entry["extra_info"] for entry in entries}
    infos = {" | ".join(name): measured[name] for name in names(device) if name in measured}
    disturbed = [name for name, info in infos.items() if device == "cpu" and is_disturbed(info)]
    groups = {name: condense(info) for name, info in infos.items() if name not in disturbed}
    if disturbed:
        typer.echo(f"left out, as another program held a core while they ran: {'; '.join(disturbed)}")
    if not groups:
        raise SystemExit("nothing is written: run this on a quiet machine.")
    output = output or RESULTS / f"ops_{device}.json"
    source = describe()
    source["versions"]["triton"] = _version("triton")
    settings = {"device": device, "threads": threads if device == "cpu" else None, "seconds": seconds}
    write_json(output, {**source, "settings": settings, "groups": groups})
    for name, group in groups.items():
        ratios = ", ".join(f"{other} {row['ratio']:.2f}" for other, row in group["variants"].items())
        typer.echo(f"{name:45} {ratios}")
    typer.echo(f"written to {output}")
    raise SystemExit(status or bool(disturbed))


def is_disturbed(info: Mapping[str, Any]) -> bool:
    """Whether another program used the processor while a group ran; the ratios have no say in this."""
    return info["disturbance"] > DISTURBED or median(info["spread"].values()) > SPREAD


def condense(info: Mapping[str, Any]) -> dict[str, Any]:
    """One group: for each variant its median, its ratio to ours and the bandwidth that the bytes it must move make.

    Ours is the variant that dispatch prefers. ``of_copy`` is the bandwidth as a share of what copying the same number
    of bytes reached in the same rounds; ``spread`` is the interquartile range relative to the median.
    """
    seconds, moved = info["seconds"], info["bytes"]
    ours = next(iter(seconds))
    rows = {
        name: {
            "microseconds": rounded(1e6 * value),
            "ratio": rounded(value / seconds[ours]),
            "gigabytes_per_second": rounded(moved / value / 1e9),
            "of_copy": rounded(seconds["copy"] / value),
            "spread": rounded(info["spread"][name]),
            **({"launches": info["launches"][name]} if "launches" in info else {}),
        }
        for name, value in seconds.items()
    }
    failed = {"failed": info["failed"]} if info["failed"] else {}
    return {"op": info["op"], "size": info["size"], "bytes": moved, "ours": ours, "variants": rows, **failed}


def rounded(value: float) -> float:
    """Four digits: the rest is noise."""
    return float(f"{value:.4g}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    typer.run(main)
