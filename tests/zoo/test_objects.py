"""Painted objects: the generator, the captions, the training stages at a tiny size, and the shipped prior."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from fastsync import zoo
from fastsync.geometry import Camera
from fastsync.zoo import objects
from fastsync.zoo.models import TINY
from fastsync.zoo.objects import shapes
from fastsync.zoo.train import DEPTH_STAGES, Stage, train_objects
from fastsync.zoo.training import objects as training
from fastsync.zoo.training.run import Run

shipped = pytest.mark.skipif("scenes-depth" not in zoo.names(), reason="the weights of `scenes-depth` are not there")


def sampled(count, seed=0):
    rng = np.random.default_rng(seed)
    return [objects.sample_thing(rng) for _ in range(count)]


# ---- the generator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", objects.SHAPES)
def test_shapes_differ_by_seed_and_look_outward(name):
    first, again, other = (shapes.make(name, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.vertices, again.vertices)
    assert first.vertices.shape != other.vertices.shape or not np.allclose(first.vertices, other.vertices)
    # Of closed surfaces whose faces run counter-clockwise seen from outside the volume is positive.
    corners = first.vertices[first.faces]
    assert np.einsum("fd,fd->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) > 0


@pytest.mark.parametrize("material", objects.MATERIALS)
def test_every_palette_is_a_picture_of_its_own(material):
    thing = replace(sampled(1)[0], shape="sphere", material=material)
    pictures = []
    for palette in objects.MATERIALS[material].palettes:
        picture, depth = objects.render(replace(thing, palette=palette), 48)
        assert np.array_equal(picture, objects.render(replace(thing, palette=palette), 48)[0])
        pictures.append(picture[depth > 0].astype(float).mean(0))
    for i, one in enumerate(pictures):
        assert all(np.abs(one - other).max() > 8 for other in pictures[:i])


def test_a_material_is_the_same_from_every_side():
    """What two cameras see of one point has one colour: the texture is on the surface, light included."""
    from fastsync.geometry import see

    thing = replace(sampled(1)[0], shape="cube", shape_seed=3, material="camouflage", palette="green", elevation=10.0)
    views = [replace(thing, azimuth=angle) for angle in (20.0, 60.0)]
    pictures = [objects.render(view, 96)[0].astype(float) for view in views]
    sight = see(shapes.make("cube", 3), [view.camera for view in views], (96, 96))
    seen = sight.foreground[0] & ~sight.beside_edges(2)[0]
    pixel = sight.nearest(1, sight.points[0][seen], sight.normal[0][seen])
    shared = (pixel >= 0).numpy()
    difference = pictures[0][seen.numpy()][shared] - pictures[1].reshape(-1, 3)[pixel.numpy()[shared]]
    assert shared.sum() > 300 and np.median(np.abs(difference)) < 4


def test_depth_is_near_one_far_a_tenth_background_nothing():
    picture, depth = objects.render(replace(sampled(1)[0], shape="sphere", ground=(1.0, 0.0, 0.0)), 64)
    assert depth.dtype == np.uint8 and depth.max() == 255 and depth[depth > 0].min() in (25, 26)
    assert (depth[0] == 0).all() and np.array_equal(picture[0, 0], [255, 0, 0])
    assert np.unravel_index(depth.argmax(), depth.shape)[0] in range(20, 44)


def test_captions_name_the_material_and_only_what_is_there():
    rng = np.random.default_rng(0)
    vocabulary = set(objects.vocabulary())
    coloured = sided = 0
    for thing in sampled(400, seed=3):
        text = objects.caption(thing, rng)
        assert set(text.replace(",", " , ").split()) <= vocabulary
        assert any(word.removeprefix("a ") in text for word in objects.MATERIALS[thing.material].words)
        coloured += thing.palette in text
        sided += f"{thing.camera.side} view" in text
    assert 160 < coloured < 320 and 100 < sided < 220


def test_sides_are_named_as_cameras_stand():
    named = {
        (0, 0): "front",
        (350, 30): "front",
        (90, 0): "side",
        (-90, 0): "side",
        (180, -20): "back",
        (30, 80): "top",
    }
    assert {key: Camera(*key).side for key in named} == named and Camera(0, -80).side == "bottom"


# ---- the stages ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    run = Run(folder / "work", size=TINY, steps=3, batch=4, progress=False)
    training.paint(run, 6, workers=1)
    train_objects(run, Stage.all, 6, folder / "weights")
    return run, folder / "weights"


def test_the_export_loads_and_generates_under_depth(trained):
    run, weights = trained
    pipeline = DiffusionPipeline.from_pretrained(weights / "scenes-depth")
    assert type(pipeline).__name__ == "StableDiffusionControlNetPipeline" and pipeline.safety_checker is None
    pipeline.set_progress_bar_config(disable=True)
    control = training.Pictures(run).controls(np.array([0]))
    images = pipeline("red bricks", image=control, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 32, 32, 3) and np.isfinite(images).all()
    assert {p.name for p in weights.iterdir()} == {"scenes-depth"}


def test_the_control_was_trained_too(trained):
    run, _ = trained
    average = torch.load(run.work / "unet.pt", weights_only=True)["modules"]["controlnet"]
    assert any(bool(average[name].any()) for name in average if "controlnet_down_blocks" in name)


def test_mirrored_rows_are_mirror_images(trained):
    pictures = training.Pictures(trained[0])
    count = len(pictures.things)
    assert len(pictures) == 2 * count
    for read in (pictures.pixels, pictures.controls):
        assert torch.equal(read(np.array([1 + count]))[0], read(np.array([1]))[0].flip(-1))
    assert pictures.pixels(np.array([0])).abs().max() <= 1 and pictures.controls(np.array([0])).max() == 1


def test_stages_that_ended_are_not_run_again_and_can_be_gone_on_with(trained, tmp_path):
    run, weights = trained
    before = {p.name: p.stat().st_mtime_ns for p in run.work.iterdir()}
    for stage in DEPTH_STAGES[:-1]:
        if stage is not Stage.unet:
            train_objects(run, stage, 6)
    after = {p.name: p.stat().st_mtime_ns for p in run.work.iterdir()}
    assert {name: after[name] for name in ("pictures.npy", "latents.npy")} == {
        name: before[name] for name in ("pictures.npy", "latents.npy")
    }
    other = replace(run, work=tmp_path, steps=1)
    for name in ("pictures.npy", "depths.npy", "things.json", "latents.npy"):
        (tmp_path / name).symlink_to(run.work / name)
    training.adopt(other, weights)
    start = torch.load(tmp_path / "unet.pt", weights_only=True)["modules"]["controlnet"]
    shipped = torch.load(run.work / "unet.pt", weights_only=True)["average"]["controlnet"]
    torch.testing.assert_close(start["conv_in.weight"], shipped["conv_in.weight"], atol=1e-3, rtol=1e-3)
    training.train_denoiser(other)
    assert torch.load(tmp_path / "unet.pt", weights_only=True)["step"] == 1
    with pytest.raises(FileExistsError, match="is there already"):
        training.adopt(other, weights)


def test_nothing_to_export_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to export"):
        training.export(Run(tmp_path, progress=False), tmp_path / "weights")


# ---- the shipped prior --------------------------------------------------------------------------------------------


@shipped
def test_the_shipped_prior_is_small_and_in_diffusers_format():
    folder = Path(zoo.path("scenes-depth"))
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 24_000_000
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionControlNetPipeline"
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert {pipeline.unet.dtype, pipeline.controlnet.dtype, pipeline.text_encoder.dtype} == {torch.float32}
