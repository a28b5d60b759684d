"""The command `fastsync texture`, on a pipeline too small to have learnt anything."""

import numpy as np
import pytest
import tiny_pipelines as tiny
import trimesh
from PIL import Image
from test_cli import assert_one_sentence, run

from fastsync.pictures import read_metadata

FEW = ["--steps", 2, "--seed", 3, "--device", "cpu", "--cameras", 3, "--texture-size", 64]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny.make_control_pipeline().save_pretrained(folder / "control")
    tiny.make_pipeline().save_pretrained(folder / "plain")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to write to, with a mesh beside it."""
    trimesh.creation.box().export(tmp_path / "box.stl")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_it_writes_the_mesh_its_texture_its_views_a_turntable_and_a_page(models, here):
    result = run("texture", "../box.stl", "bricks", "--model", models / "control", *FEW, "--report", "-o", "a.glb")
    assert result.exit_code == 0, result.output
    assert {path.name for path in here.iterdir()} == {"a.glb", "a_texture.png", "a_views.png", "a.gif", "a.html"}
    scene = trimesh.load_scene("a.glb")
    part = scene.dump()[0]
    assert len(part.faces) == 12 and np.array(part.visual.material.baseColorTexture).shape == (64, 64, 3)
    metadata = read_metadata("a_texture.png")
    assert metadata["task"] == "texture" and metadata["prompt"] == "bricks" and metadata["seed"] == 3
    assert len(metadata["cameras"]) == 3 and metadata["mesh"] == "../box.stl"
    with Image.open("a.gif") as turning:
        assert turning.n_frames > 20
    assert "bricks" in (here / "a.html").read_text()
    for name in here.iterdir():
        assert name.name in result.output


def test_a_seed_paints_the_same_again_into_an_obj(models, here):
    arguments = ["texture", "../box.stl", "bricks", "--model", models / "control", "--method", "synctweedies", *FEW]
    assert run(*arguments, "-o", "a.obj").exit_code == 0 and run(*arguments, "-o", "b.obj").exit_code == 0
    assert {p.name for p in here.iterdir()} >= {"a.obj", "a.mtl", "a.png", "a_texture.png"}
    first, second = (np.array(Image.open(name)) for name in ("a_texture.png", "b_texture.png"))
    assert np.array_equal(first, second) and np.array_equal(first, np.array(Image.open("a.png")))


def test_the_mesh_may_take_its_sources_place(models, here):
    trimesh.creation.box().export("box.glb")
    result = run("texture", "box.glb", "bricks", "--model", models / "control", *FEW, "--report", "-o", "box.glb")
    assert result.exit_code == 0, result.output
    assert {path.name for path in here.iterdir()} == {
        "box.glb",
        "box_texture.png",
        "box_views.png",
        "box.gif",
        "box.html",
    }


def test_a_controlnet_beside_a_plain_model(models, here):
    arguments = ["texture", "../box.stl", "bricks", "--model", models / "plain", *FEW]
    assert_one_sentence(run(*arguments, "-o", "a.glb"), here, "needs a model that is shown the mesh's depth")
    result = run(*arguments, "--controlnet", models / "control" / "controlnet", "-o", "a.glb")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["no.glb", "x", "-o", "a.glb"], ["there is no mesh file no.glb"]),
        (["../box.stl", "x", "-o", "a.fbx"], ["a.fbx", ".glb"]),
        (["../box.stl", "x", "-o", "a.png"], ["a.png", ".glb or .obj"]),
        (["../box.stl", "x", "--cameras", 0], ["cameras must be at least 1"]),
        (["../box.stl", "x", "--elevation", 40], ["--elevation was given without --cameras"]),
        (["../box.stl", "x", "--texture-size", 3], ["texture_size must be at least 16"]),
        (["../box.stl", "x", "--method", "multidiffusion"], ["MultiDiffusion merges noisy states"]),
        (["../box.stl", "x", "--controlnet", "nowhere"], ["controlnet", "nowhere"]),
    ],
)
def test_bad_input_is_one_sentence(models, here, monkeypatch, arguments, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ["--model", models / "control"]
    assert_one_sentence(run("texture", *model, "--steps", 2, *arguments), here, *words)
