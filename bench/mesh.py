"""Times the textures of meshes and condenses them to one small file for each device.

    python -m bench.mesh [--device cuda] [--only "512"] [--output FILE]

`bench/test_mesh.py` times the scenes that `bench/mesh_scenes.py` describes; `python -m bench.report` makes the tables
and the plot.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import RESULTS, describe, write_json
from bench.ops import is_disturbed, rounded

SUITE = Path(__file__).with_name("test_mesh.py")


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="pytest's -k: only scenes whose names match.")] = "",
    minutes: Annotated[float, typer.Option(help="Scenes that would begin later than this are left out.")] = 60.0,
    seconds: Annotated[float, typer.Option(help="Time measured for each scene.")] = 4.0,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch on the CPU.")] = 2,
    quick: Annotated[bool, typer.Option(help="Tiny scenes, to see that it runs.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Builds canvases, and times baking and rendering against descent and scattering.

    CPU scenes that another program disturbed are left out, and the command then ends with status 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.json"
        command = [sys.executable, "-m", "pytest", str(SUITE), f"--benchmark-json={full}", "--benchmark-quiet"]
        wanted = f"{device} and {'quick' if quick else 'full'}"
        command += ["-k", f"{wanted} and ({only})" if only else wanted, "-p", "no:cacheprovider", "-v"]
        command += [f"--minutes={minutes}", f"--seconds={seconds}", f"--threads={threads}"]
        status = subprocess.run(command).returncode
        # What was measured is worth keeping, also where one scene failed.
        entries = json.loads(full.read_text())["benchmarks"] if full.exists() and full.stat().st_size else []
    infos = {entry["extra_info"]["name"]: entry["extra_info"] for entry in entries}
    disturbed = [name for name, info in infos.items() if device == "cpu" and not quick and _is_disturbed(info)]
    scenes = {name: condense(info) for name, info in infos.items() if name not in disturbed}
    if disturbed:
        typer.echo(f"left out, as another program held a core while they ran: {'; '.join(disturbed)}")
    if not scenes:
        raise SystemExit(f"nothing was measured on {device}: pytest ended with {status}; see what it says above.")
    output = output or RESULTS / f"mesh_{device}.json"
    settings = {"device": device, "threads": threads if device == "cpu" else None, "seconds": seconds}
    write_json(output, {**describe(), "settings": settings, "scenes": scenes})
    for name, scene in scenes.items():
        ratios = ", ".join(f"{other} {row['ratio']:.2f}" for other, row in scene["variants"].items())
        typer.echo(f"{name:32} built in {scene['build']:.2f} s; {ratios}")
    typer.echo(f"written to {output}")
    raise SystemExit(status or bool(disturbed))


def _is_disturbed(info: Mapping[str, Any]) -> bool:
    return is_disturbed({**info, "spread": {name: row["spread"] for name, row in info["variants"].items()}})


def condense(info: Mapping[str, Any]) -> dict[str, Any]:
    """One scene: the figures in four digits, and how many times as long each variant takes as a step of ours.

    ``seconds`` of a fit are those of all its iterations; ``reached`` is False where so many were not enough.
    """
    step = next(iter(info["variants"].values()))["seconds"]
    variants = {
        name: {
            **row,
            "seconds": rounded(row["seconds"]),
            "spread": rounded(row["spread"]),
            "ratio": rounded(row["seconds"] / step),
        }
        for name, row in info["variants"].items()
    }
    kept = ("figure", "views", "view", "channels", "texture", "faces", "held")
    return {
        **{key: info[key] for key in kept},
        "build": rounded(info["build"]),
        "stages": {stage: rounded(seconds) for stage, seconds in info["stages"].items()},
        "residual": rounded(info["residual"]),
        "variants": variants,
    }


if __name__ == "__main__":
    typer.run(main)
