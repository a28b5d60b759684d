"""Textures on the prior `scenes-depth`: do the views of a mesh show the same, and is the texture of them sharp?

    python -m bench.textures [--quick] [--device cuda] [--output FILE]

Goes on from what the result file holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import fastsync as fs
from bench.cases import add_summary, run_cases
from bench.machine import RESULTS
from bench.strips import pixels
from fastsync import zoo
from fastsync.geometry import Mesh
from fastsync.metrics import detail, view_disagreement
from fastsync.zoo.objects import shapes

# The prompts leave the colour open, and the places of bricks, veins and spots: that is what views have to agree on.
THINGS = (
    ("vase", "tiles"),
    ("house", "bricks"),
    ("blob", "scales"),
    ("knot", "marble"),
    ("mushroom", "camouflage"),
    ("castle", "stones"),
)
SHAPE_SEED = 2**40  # not one of the training's
SEEDS = range(1)
METHODS = ("independent", "stochsync", "synctweedies", "syncsde", "syncvc")
STEPS = 20


@dataclass(frozen=True)
class Texture:
    """A mesh to paint."""

    shape: str
    prompt: str
    seed: int
    method: str
    steps: int
    device: str = "cpu"


def measure(case: Texture) -> dict[str, Any]:
    """How far the views are apart on the surface, and how much detail the views and the texture of them have."""
    out = _sync(case.device).texture(
        _mesh(case.shape), case.prompt, method=case.method, num_inference_steps=case.steps, seed=case.seed,
        progress=False,
    )  # fmt: skip
    seen = {"mesh": out.textured.mesh, "cameras": out.canvas.cameras, "view_size": out.pictures[0].size}
    fine = fs.MeshCanvas(**seen, units="pixels")
    views = torch.stack([pixels(picture) for picture in out.pictures])
    texture = pixels(out.textured.texture)[None]
    whole = fs.MeshCanvas(**seen, texture_size=texture.shape[-1], units="pixels")
    shown = whole.project(texture)
    return {
        "evaluations": out.stats.evaluations,
        "seconds": round(out.stats.seconds, 1),
        "disagreement": round(view_disagreement(fine.sight, views), 5),
        "view_detail": round(detail(fine.sight, views), 5),
        "texture_detail": round(detail(fine.sight, shown), 5),
    }


def main(
    quick: Annotated[bool, typer.Option(help="One mesh, one seed, 6 steps: does it run?")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Paints every mesh and seed with every method."""
    things, seeds, steps = (THINGS[:1], SEEDS[:1], 6) if quick else (THINGS, SEEDS, STEPS)
    output = output or RESULTS / ("textures_quick.json" if quick else "textures_scenes-depth.json")
    settings = {"prior": "scenes-depth", "weights": zoo.fingerprint("scenes-depth"), "steps": steps, "device": device}
    cases = {
        f"{method} | {shape} {prompt} | {seed}": Texture(shape, prompt, seed, method, steps, device)
        for seed in seeds
        for shape, prompt in things
        for method in METHODS
    }
    done = run_cases(output, settings, cases, measure, "textures")
    summary = {method: means(done, method) for method in METHODS}
    add_summary(output, {"methods": summary})
    for method, row in summary.items():
        typer.echo(f"{method:15}" + "".join(f"{name}: {value:.4f}   " for name, value in row.items()))
    typer.echo(f"written to {output}")


def means(cases: Mapping[str, Mapping[str, Any]], method: str) -> dict[str, float]:
    """A method's means over meshes and seeds; detail is relative to that of views sampled alone."""
    rows = {name.split(" | ", 1)[1]: row for name, row in cases.items() if name.startswith(f"{method} | ")}
    alone = [cases[f"independent | {name}"]["view_detail"] for name in rows]

    def mean(values: list[float]) -> float:
        return round(sum(values) / len(values), 5)

    return {
        "disagreement": mean([row["disagreement"] for row in rows.values()]),
        "view_detail": mean([row["view_detail"] for row in rows.values()]) / mean(alone),
        "texture_detail": mean([row["texture_detail"] for row in rows.values()]) / mean(alone),
        "evaluations": mean([row["evaluations"] for row in rows.values()]),
    }


@cache
def _mesh(name: str) -> Mesh:
    return shapes.make(name, SHAPE_SEED)


@cache
def _sync(device: str) -> fs.SyncPipeline:
    return fs.SyncPipeline.from_zoo("scenes-depth", device=device)


if __name__ == "__main__":
    typer.run(main)
