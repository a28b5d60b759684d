"""Baking and rendering textures against what users write: `python -m bench.mesh`, or pytest on this file.

One test is one scene of `bench/mesh_scenes.py`. Its canvas is built, with a progress bar, and then all variants are
timed in turn, in a new order each round. Of a texture that is fitted by descent one iteration is timed; how many it
takes was counted before.
"""

import re
import time
from dataclasses import asdict
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import mesh_scenes
from bench.mesh_scenes import QUICK, SCENES, Scene
from bench.race import Race
from bench.timing import disturbance, spread

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
ENTRIES = [(device, scene) for device in DEVICES for scene in (*SCENES, *QUICK)]
IDS = [
    "-".join([device, "quick" if scene in QUICK else "full", *re.findall(r"\w+", scene.name)])
    for device, scene in ENTRIES
]
BUILDS = 3
BEGAN = time.monotonic()


@pytest.mark.parametrize("device, scene", ENTRIES, ids=IDS)
def test_scene(device: str, scene: Scene, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """Builds a scene's canvas, checks that the variants agree, and times them."""
    if time.monotonic() - BEGAN > 60 * request.config.getoption("--minutes"):
        pytest.skip("the time given by --minutes is over")
    threads = request.config.getoption("--threads")
    torch.set_num_threads(threads)
    before = disturbance(threads)
    builds = mesh_scenes.build_seconds(scene, BUILDS)
    canvas = mesh_scenes.canvas_of(scene)
    course = mesh_scenes.course_of(scene, canvas, device)
    expected = course.variants[0].run()
    for variant in course.variants:
        if variant.name == mesh_scenes.SCATTER:
            # Where texels are fine some have hardly any weight, which single precision forms in its own order.
            assert float(((variant.run() - expected).abs() > 1e-3).float().mean()) < 1e-4
    race = Race(course.variants, device)
    benchmark.group = f"{scene.name}, {device}"
    benchmark.pedantic(race.run, rounds=race.rounds(request.config.getoption("--seconds")))
    rows: dict[str, dict[str, Any]] = {}
    for name, times in race.times.items():
        rows[name] = {"seconds": median(times), "spread": spread(times)}
        if fit := course.fitted.get(name):
            rows[name]["seconds"] *= fit.iterations
            rows[name].update(asdict(fit))
    benchmark.extra_info.update(
        device=device,
        name=scene.name,
        figure=scene.figure,
        views=scene.views,
        view=[scene.view, scene.view],
        channels=scene.channels,
        texture=list(canvas.size),
        faces=len(canvas.mesh.faces),
        build=median(builds),
        stages=mesh_scenes.stages(scene),
        held=mesh_scenes.held(canvas),
        residual=course.residual,
        variants=rows,
        disturbance=max(before, disturbance(threads)),
    )
