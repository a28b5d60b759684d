"""The evaluation, and the shipped prior that it is about."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from typer import Typer
from typer.testing import CliRunner

from fastsync import zoo
from fastsync.zoo import evaluate, scenes
from fastsync.zoo.classifier import SceneClassifier

shipped = pytest.mark.skipif("scenes" not in zoo.names(), reason="the weights of `scenes` are not there yet")


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(zoo.path("scenes"))


def test_prompts_name_every_pair_of_place_and_time():
    texts, drawn = evaluate.named_prompts(48, seed=1)
    assert len({(scene.place, scene.time) for scene in drawn}) == 24
    assert all(evaluate.names_time(text, scene.time) for text, scene in zip(texts, drawn, strict=True))
    assert evaluate.named_prompts(48, seed=1)[0] == texts


def test_a_caption_without_a_time_names_none():
    assert not any(evaluate.names_time("a photo of foggy hills in winter", moment) for moment in scenes.TIMES)
    assert evaluate.names_time("dunes at night", "night")


def test_judging_counts_hits_and_confusions():
    class Stub:
        classes = SceneClassifier.classes

        def classify(self, pixels):
            n = len(pixels)
            return {name: torch.zeros(n, dtype=torch.int64) for name in ("place", "time", "weather")}

    labels = np.array([[0, 0, 0], [1, 0, 0]])
    report = evaluate.judge(Stub(), np.zeros((2, 8, 8, 3), np.float32), labels)
    assert (report["place"], report["time"]) == (0.5, 1.0)
    assert report["place_confusions"] == {f"{scenes.PLACES[1]} seen as {scenes.PLACES[0]}": 1}


def test_the_sheet_keeps_the_windows_in_order():
    images = np.stack([np.full((4, 4, 3), k / 10, np.float32) for k in range(5)])
    pixels = np.asarray(evaluate.sheet(images, columns=3))
    assert pixels.shape == (8, 12, 3)
    assert pixels[0, 5, 0] == round(0.1 * 255) or abs(int(pixels[0, 5, 0]) - 26) <= 1
    assert pixels[5, 5, 0] == 102 and pixels[5, 9, 0] == 0


def test_unknown_names_are_one_sentence():
    with pytest.raises(ValueError, match="The zoo has no prior 'nosuch'"):
        zoo.path("nosuch")


@shipped
def test_the_shipped_prior_is_small_and_half_precision():
    folder = Path(zoo.path("scenes"))
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 24_000_000
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["safety_checker"] == [None, None]


@shipped
def test_the_shipped_prior_loads_in_one_dtype(pipeline):
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.vae_scale_factor == 8 and pipeline.unet.config.sample_size == 16


@shipped
def test_the_shipped_prior_shows_what_prompts_name(pipeline):
    report, images = evaluate.evaluate(
        pipeline, SceneClassifier.load(), windows=24, steps=10, guidance=3.0, real=32, progress=False
    )
    assert images.shape == (24, 128, 128, 3)
    assert report["generated"]["time"] >= 0.8 and report["generated"]["place"] >= 0.7


@shipped
def test_the_command_writes_report_and_sheet(tmp_path):
    app = Typer()
    app.command()(evaluate.main)
    arguments = ["--windows", "2", "--real", "4", "--steps", "2", "-o", str(tmp_path / "r.json")]
    result = CliRunner().invoke(app, [*arguments, "--sheet", str(tmp_path / "s.png")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["windows"] == 2
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_command_refuses_a_missing_folder(tmp_path):
    app = Typer()
    app.command()(evaluate.main)
    result = CliRunner().invoke(app, ["--sheet", str(tmp_path / "nosuch" / "s.png")])
    assert result.exit_code != 0 and "there is no folder" in " ".join(result.output.split())
