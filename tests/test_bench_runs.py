"""Whole runs: the variants of a race make the same picture, and the report says what its file holds."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import end_to_end, models, report_runs
from bench.runs import ALONE, RACES, Course, NetworkWatch, Race, difference, named

PARAMETERS = {"SD 1.5": 859.5, "SD 2.1": 865.9, "SDXL": 2567.5, "SANA 1.6B": 1604.5}  # millions, as published


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_published_size(name):
    count = sum(parameter.numel() for parameter in models.empty(name).parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=0.1)
    assert name in models.MODELS


def test_races_have_names_of_their_own_and_known_networks():
    for races in RACES.values():
        assert len(named(races)) == len(races)
        assert all(race.model in models.MODELS for race in races)


def test_goals_speak_of_races_that_are_run():
    for device, goals in report_runs.GOALS.items():
        for goal in goals:
            assert all(variant in named(RACES[device])[race].variants for race, variant in goal.needs)


@pytest.mark.parametrize(
    "method", ["SyncVC", "MultiDiffusion", "SyncTweedies", "SyncSDE", "SyncDiffusion", "StochSync"]
)
def test_ours_and_the_reference_make_the_same_picture(method):
    ours = "wavefront" if method == "SyncVC" else "batched"
    race = Race(method, "scenes", 3, 2, ("reference", ours, ALONE), overlap=0.5)
    course = Course(race, "cpu")
    picture, spent = course.run("reference")
    mine, figures = course.run(ours)
    assert difference(mine, picture) < 1e-3
    # The anchor's prediction is made once a step, not twice.
    assert spent.rows - figures.rows == (4 if method == "SyncDiffusion" else 0)
    if method in ("SyncVC", "MultiDiffusion"):
        _, alone = course.run(ALONE)
        assert (alone.rows, alone.gradients, alone.calls) == (figures.rows, figures.gradients, figures.calls)


def test_the_networks_time_is_that_of_its_calls():
    course = Course(Race("SyncVC", "scenes", 2, 1, ("wavefront",)), "cpu")
    prior, watch, asked = course.network.prior(), NetworkWatch("cpu"), []
    call = prior.eps_fn
    prior.eps_fn = lambda *arguments: asked.append(1) or call(*arguments)
    grad = torch.autograd.grad
    course._sample(prior, "wavefront", 1, watch=watch)
    # Two views, the second with five controls: seven calls forward, five back.
    assert len(asked) == 7 and len(watch._spans) == 12 and watch.seconds() > 0
    assert torch.autograd.grad is grad


def info(seconds):
    row = {"rows": 100, "gradients": 40, "calls": 5, "padded": 0, "peak_memory": None, "spread": 0.01, "outside": 0.02}
    rows = {name: {**row, "seconds": s, "first_seconds": s + 7, "difference": 0.0} for name, s in seconds.items()}
    described = {"method": "SyncVC", "model": "scenes", "views": 8, "width": 100, "steps": 10, "dtype": "torch.float32"}
    return {**described, "figure": "methods", "variants": rows}


def test_races_that_are_over_are_kept_where_the_time_ends_in_another(tmp_path, monkeypatch):
    name = "SyncVC | scenes, 8 windows | float32"
    line = json.dumps({**info({"reference": 6.0, "wavefront": 3.0}), "name": name, "disturbance": 0.0})

    def run(command, timeout):
        path = next(word.partition("=")[2] for word in command if word.startswith("--finished="))
        Path(path).write_text(line + "\n")
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(end_to_end, "subprocess", SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired))
    with pytest.raises(SystemExit) as ended:
        end_to_end.main("cpu", "", 1, 1.0, 2, tmp_path / "races.json")
    assert ended.value.code == 1
    assert list(json.loads((tmp_path / "races.json").read_text())["races"]) == [name]


def test_the_report_says_what_was_measured(tmp_path):
    name = "SyncVC | scenes, 8 windows | float32"
    races = {name: end_to_end.condense(info({"reference": 6.0, "wavefront": 3.0, "wavefront, regional": 2.0}))}
    races[f"{name}, compiled"] = races[name]
    assert races[name]["variants"]["wavefront"]["times_as_fast"] == 2.0
    assert races[name]["variants"]["wavefront, regional"]["compile_seconds"] == 7.0
    assert races[name]["variants"]["wavefront"]["compile_seconds"] is None
    result = {
        "races": races, "machine": {"cpu": "a CPU", "gpus": []}, "versions": {"torch": "2"}, "date": "2026-01-01T00",
        "command": "python", "settings": {"device": "cpu", "threads": 2},
    }  # fmt: skip
    parts = report_runs.sections(json.loads(json.dumps(result)), "cpu", tmp_path)
    assert "| at least 1.3 | 2 | yes |" in parts["runs_goals_cpu"] and "| 3 | yes |" in parts["runs_goals_cpu"]
    # Seven seconds of compiling, five saved a picture of 50 steps.
    assert "pays from 2 pictures on" in parts["runs_summary_cpu"]
    assert not list(tmp_path.iterdir())
    races |= {f"{n}": {**races[name], "views": n, "figure": "scaling"} for n in (1, 4)}
    report_runs.sections(result, "cpu", tmp_path)
    assert (tmp_path / "scaling_cpu.png").stat().st_size > 1000
    missing = report_runs.goals_table({**result, "races": {}}, "cpu")
    assert missing.count("not measured") == len(report_runs.GOALS["cpu"])
