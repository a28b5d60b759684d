"""Presets of SyncVC: by name everywhere, recorded, with settings of one's own on top."""

import pytest
from tiny_pipelines import make_pipeline

import fastsync as fs
from fastsync.methods.syncvc import PRESETS


@pytest.fixture(scope="module")
def sync():
    return fs.SyncPipeline(make_pipeline())


def picture(sync, **options):
    return sync.wide("a cat", width=40, num_inference_steps=4, seed=0, output_type="latent", progress=False, **options)


def test_quality_is_the_defaults():
    assert list(PRESETS) == ["quality", "balanced", "fast"]
    assert vars(fs.SyncVC.preset("quality")) == vars(fs.SyncVC())


@pytest.mark.parametrize("name", PRESETS)
def test_settings_of_ones_own_lie_on_top(name):
    method = fs.SyncVC.preset(name, iterations=7, tolerance=0.5, kl_weight=2.0)
    assert vars(method) == vars(fs.SyncVC(**{**PRESETS[name], "iterations": 7, "tolerance": 0.5, "kl_weight": 2.0}))


@pytest.mark.parametrize("name", PRESETS)
def test_a_task_takes_the_name_and_records_it(sync, name):
    named, built = picture(sync, preset=name), picture(sync, method=fs.SyncVC(**PRESETS[name]))
    assert named.latents.equal(built.latents)
    assert named.parameters["preset"] == name and named.parameters["method"] == "syncvc"
    assert built.parameters["preset"] is None
    assert named.parameters["method_settings"] == built.parameters["method_settings"]


@pytest.mark.parametrize("name", ["balanced", "fast"])
def test_faster_presets_compute_less(sync, name):
    whole, less = picture(sync, preset="quality").stats, picture(sync, preset=name).stats
    assert less.evaluations + less.gradients - less.shallow < whole.evaluations + whole.gradients


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda sync: fs.SyncVC.preset("quick"), "preset must be one of 'quality', 'balanced', 'fast', got 'quick'"),
        (lambda sync: picture(sync, preset="quick"), "preset must be one of 'quality', 'balanced', 'fast'"),
        (lambda sync: picture(sync, preset="fast", method="syncsde"), "preset='fast' is one of method='syncvc'"),
        (lambda sync: picture(sync, preset="fast", method=fs.SyncVC()), r"pass SyncVC.preset\(...\)"),
    ],
)
def test_bad_presets_are_refused_in_a_sentence(sync, make, words):
    with pytest.raises(ValueError, match=words):
        make(sync)
