"""The curve of speed against coherence: what is compared with what, and a plot whose labels can be read."""

import random
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from bench import report_tradeoff, tradeoff
from bench.drawing import sheet
from bench.strips import QUALITIES, Strip
from fastsync.methods.syncvc import PRESETS, SyncVC

OWN = Strip("the woods", "forest", 7, "syncvc", 4)


def test_all_settings_are_syncvc_s_and_the_presets_are_among_them():
    for method, settings in tradeoff.METHODS.values():
        if method == "syncvc":
            SyncVC(**settings)
    assert tradeoff.METHODS["quality"] == ("syncvc", {})
    assert {tradeoff.name_of(settings) for settings in PRESETS.values()} <= set(tradeoff.METHODS)


@pytest.fixture
def made(monkeypatch):
    """Strips whose latents are their number of iterations; returns what was made."""
    strips = []

    def make(strip):
        strips.append(strip)
        latents = torch.full((1, 2, 3, 4), float(strip.settings.get("iterations", 5)))
        return SimpleNamespace(latents=latents, stats=SimpleNamespace(gradients=1, shallow=0))

    monkeypatch.setattr(tradeoff, "make", make)
    monkeypatch.setattr(tradeoff, "judge", lambda strip, out: {"chi_square": 0.5})
    return strips


def test_errors_are_against_quality_s_own_picture(made, tmp_path):
    folder = tmp_path / "latents"
    own = tradeoff.compare(tradeoff.Comparison(OWN, folder))
    assert own == {"chi_square": 0.5, "gradients": 1, "shallow": 0, "error": 0.0}
    fewer = replace(OWN, settings={"iterations": 4})
    assert tradeoff.compare(tradeoff.Comparison(fewer, folder))["error"] == pytest.approx(0.2)
    assert made == [OWN, fewer]
    # Another seed has a picture of its own, which is made where it is missing.
    tradeoff.compare(tradeoff.Comparison(replace(fewer, seed=8), folder))
    assert made[2:] == [replace(fewer, seed=8), replace(OWN, seed=8)]


def test_times_are_relative_to_quality_in_the_same_rounds(made):
    strips = {"quality": OWN, "other": replace(OWN, settings={"iterations": 1})}
    threads = torch.get_num_threads()
    speed = tradeoff.race(strips, rounds=3, threads=1)
    assert len(made) == 1 + 3 * 2 and torch.get_num_threads() == threads
    assert speed["times_as_fast"]["quality"] == 1 and speed["times_as_fast"]["other"] > 0
    assert (speed["rounds"], speed["steps"], speed["threads"]) == (3, 4, 1)


def result(chi_square, times_as_fast):
    methods = {}
    for name, (method, settings) in tradeoff.METHODS.items():
        row = {"method": method, "settings": settings, "chi_square": chi_square(name), "disagreement": 0.03}
        row |= {f"{quality}_{suffix}": 1.0 for quality in QUALITIES for suffix in ("ratio", "ratio_first")}
        row |= {"evaluations": 1900, "gradients": 1500, "shallow": 80 if "reuse" in name else 0, "error": 0.5}
        methods[name] = row
    presets = {preset: tradeoff.name_of(settings) for preset, settings in PRESETS.items()}
    return {
        "machine": {"cpu": "a CPU", "gpus": []}, "versions": {"torch": "2"}, "date": "2026-01-01T00:00", "command": "c",
        "summary": {"methods": methods, "presets": presets},
        "speed": {"threads": 2, "times_as_fast": {name: times_as_fast(name) for name in methods}},
    }  # fmt: skip


def test_the_report_has_a_row_for_each_setting_and_a_plot(tmp_path):
    draw = random.Random(0)
    text = report_tradeoff.section(
        result(lambda name: 0.1 + draw.random(), lambda name: 1 + 9 * draw.random()), tmp_path
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(tradeoff.METHODS)
    assert sum("1,900 (80)" in row for row in rows) == sum("reuse" in name for name in tradeoff.METHODS)
    assert [sum(f"| {preset} |" in row for row in rows) for preset in PRESETS] == [1, 1, 1]
    assert (tmp_path / report_tradeoff.PLOT).stat().st_size > 1000


def test_labels_of_crowded_points_do_not_overlap():
    draw = random.Random(1)
    _, pen = sheet(report_tradeoff.WIDTH, report_tradeoff.HEIGHT)
    spots = [(400 + 60 * draw.random(), 300 + 40 * draw.random()) for _ in range(24)]
    taken = [report_tradeoff._around(*spot, 4, 4) for spot in spots]
    for spot in spots:
        report_tradeoff._label(pen, "K=3, 1000-300, reuse", spot, taken, (0, 0, 0))
    labels = taken[len(spots) :]
    assert not any(report_tradeoff._overlap(one, other) for one, other in combinations(labels, 2))
    assert not any(report_tradeoff._overlap(label, dot) for label in labels for dot in taken[: len(spots)])
