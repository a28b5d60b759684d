"""Textures in the benchmark: baselines compute what ours does, memory is linear, the report says what was found."""

import json
import tracemalloc

import numpy as np
import pytest
import torch

import fastsync as fs
from bench import mesh, mesh_scenes, report_mesh
from bench.memory import Tracker
from bench.mesh_scenes import BARE, FITS, OP, QUICK, SCATTER, SCENES, STEP, Scene, canvas_of, held
from bench.reference import GRID, Descent, TextureFit, TextureScatter, tuned

pytest.importorskip("embreex")
pytest.importorskip("scipy")

SCENE = Scene("a scene", "steps", 4, 24, 3, 40, 8)


@pytest.fixture(scope="module")
def canvas():
    return canvas_of(SCENE)


def test_the_mesh_is_closed_and_of_the_size_that_is_told():
    globe = mesh_scenes.globe(58)
    assert 40_000 <= len(globe.faces) <= 41_000
    # Normals point outwards, and the sides meet: as much flows in as out.
    middles = globe.vertices[globe.faces].mean(1)
    assert float((globe.normals * middles).sum(1).min()) > 0
    assert np.allclose(globe.crosses.sum(0), 0, atol=1e-9)
    assert fs.geometry.unwrap(globe) is globe  # its texture coordinates serve


def test_names_are_their_own():
    assert len({scene.name for scene in (*SCENES, *QUICK)}) == len(SCENES) + len(QUICK)
    assert report_mesh.LARGE in {scene.name for scene in SCENES}


def test_both_renderers_agree(canvas):
    views = mesh_scenes.views_of(canvas, 3)
    grid, foreground = mesh_scenes.grid_of(canvas), canvas.foreground
    z = torch.randn(1, 3, *canvas.size, generator=torch.Generator().manual_seed(1))
    expected = canvas.project(z).transpose(0, 1).flatten(1)[:, foreground.flatten()]
    for batches in (1, 3):
        fit = TextureFit(views, grid, foreground, canvas.size, GRID["SGD"][0], batches)
        torch.testing.assert_close(fit.render(z), expected, rtol=1e-4, atol=1e-4)
        error = ((canvas.project(z) - views) * foreground).square().sum() / (3 * foreground.sum())
        assert fit.residual(z) == pytest.approx(float(error), rel=1e-4)


def test_scattering_is_our_bake(canvas):
    views = mesh_scenes.views_of(canvas, 3)
    confidence = canvas.sight.cosine.clamp_min(0.1)[:, None] ** 4
    scatter = TextureScatter(mesh_scenes.grid_of(canvas), canvas.foreground, confidence, canvas.size)
    z, touched = scatter.bake(views), (canvas.coverage > 1e-4).expand(1, 3, -1, -1)
    torch.testing.assert_close(z[touched], canvas.merge(views)[touched], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scatter.render(z), canvas.project(z), rtol=1e-3, atol=1e-3)
    course = {v.name: v.run for v in mesh_scenes.course_of(SCENE, canvas, "cpu").variants}
    for mine, bare in zip(course[OP](), course[BARE](), strict=True):
        torch.testing.assert_close(mine, bare, rtol=1e-3, atol=1e-4)


def test_a_fit_comes_to_the_least_squares(canvas):
    views, grid = mesh_scenes.views_of(canvas, 3), mesh_scenes.grid_of(canvas)
    least = TextureFit(views, grid, canvas.foreground, canvas.size, GRID["SGD"][0])
    best = least.residual(canvas.merge(views, solver="cg", iterations=100))

    def make(descent):
        return TextureFit(views, grid, canvas.foreground, canvas.size, descent)

    for kind, grid_of_settings in GRID.items():
        descent, count = tuned(make, grid_of_settings, 1.05 * best, 500)
        assert descent.kind == kind and 1 < count < 500
        assert make(descent).iterations(1.05 * best, count) == count
        assert make(descent).iterations(1.05 * best, count - 1) is None
    # What blows up is not chosen, and what cannot be reached is said.
    assert tuned(make, [Descent("SGD", 100.0), Descent("SGD", 0.1)], 1.2 * best, 100)[0].lr == 0.1
    assert tuned(make, [Descent("SGD", 0.1)], 0.0, 5) == (Descent("SGD", 0.1), None)


SIZES = [(32, 64), (64, 128), (128, 256), (256, 512)]  # sides of views and texture


def test_memory_is_linear_in_pixels_and_texels(monkeypatch):
    """What a canvas keeps, and what is alive at once while it is built, all counted in bytes."""
    # The look for charts that overlap works on a raster of a fixed size, whatever the canvas.
    monkeypatch.setattr("fastsync.canvases.mesh.unwrap", lambda mesh, progress: mesh)
    kept, peaks, elements = [], [], []
    for view, texture in SIZES:
        globe = mesh_scenes.globe(12)
        tracemalloc.start()
        with Tracker() as tracker:
            canvas = canvas_of(Scene("", "steps", 4, view, 1, texture), globe)
        # NumPy's and torch's peaks may be at different times: their sum is the most that both can have been.
        peaks.append(tracker.peak + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        kept.append(held(canvas))
        elements.append(4 * view**2 + texture**2)
    for pixels_and_texels, bytes_kept, peak in zip(elements, kept, peaks, strict=True):
        assert 70 * pixels_and_texels < bytes_kept < 80 * pixels_and_texels
        assert peak < 250 * pixels_and_texels + 1e6  # a little is the mesh's and Python's own
    for few, many in zip(kept, kept[1:], strict=False):
        assert 3.9 < many / few < 4.1


def test_more_views_take_memory_in_proportion():
    kept = [held(canvas_of(Scene("", "views", n, 64, 1, 64, 12))) for n in (4, 8, 16)]
    assert kept[2] - kept[1] == pytest.approx(2 * (kept[1] - kept[0]), rel=0.1)


@pytest.mark.slow
def test_the_command_measures_and_the_report_tells(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # with which pytest-benchmark would measure nothing
    output = tmp_path / "mesh.json"
    with pytest.raises(SystemExit) as ended:
        mesh.main("cpu", "", 10.0, 0.05, 1, True, output)
    assert not ended.value.code
    result = json.loads(output.read_text())
    assert list(result["scenes"]) == [scene.name for scene in QUICK]
    first = result["scenes"][QUICK[0].name]
    assert first["variants"][STEP]["ratio"] == 1 and set(FITS) <= set(first["variants"])
    assert sum(first["stages"].values()) > 0 and first["build"] > 0 and first["held"] > 0
    parts = report_mesh.sections(result, "cpu", tmp_path)
    assert parts["mesh_goals_cpu"].count("at least 20.0") == 4
    assert all(scene.name in parts["mesh_cpu"] for scene in QUICK)
    assert (tmp_path / "mesh_cpu.png").stat().st_size > 1000


def test_the_report_marks_what_did_not_arrive(tmp_path):
    rows = {STEP: 0.01, SCATTER: 0.05, OP: 0.004, BARE: 0.01}
    variants = {name: {"seconds": seconds, "ratio": seconds / 0.01, "spread": 0.1} for name, seconds in rows.items()}
    fit = {"descent": "SGD, lr 0.1", "iterations": 500, "spread": 0.1}
    variants |= {
        "fitted, SGD": {**fit, "seconds": 0.5, "ratio": 50.0, "reached": False},
        "fitted, Adam": {**fit, "seconds": 0.9, "ratio": 90.0, "reached": True},
        "fitted, SGD, rasterising": {**fit, "seconds": 2.5, "ratio": 250.0, "reached": False},
        "fitted, Adam, rasterising": {**fit, "seconds": 2.9, "ratio": 290.0, "reached": True},
    }
    scene = {"figure": "steps", "views": 10, "build": 1.2, "stages": {"rays cast": 0.5}, "variants": variants}
    result = {
        "machine": {"cpu": "a CPU", "gpus": []}, "versions": {"torch": "2"}, "date": "2026-01-01T00", "command": "c",
        "scenes": {report_mesh.LARGE: scene},
    }  # fmt: skip
    parts = report_mesh.sections(result, "cpu", tmp_path)
    assert "at least 50.0x" in parts["mesh_cpu"] and "500 iterations, not there yet" in parts["mesh_cpu"]
    assert "| at least 20.0 | 50.0 | yes |" in parts["mesh_goals_cpu"]
    assert "| at least 20.0 | 250 | yes |" in parts["mesh_goals_cpu"]
    assert "| at most 3 | 1.2 | yes |" in parts["mesh_goals_cpu"]
    assert not list(tmp_path.iterdir())
