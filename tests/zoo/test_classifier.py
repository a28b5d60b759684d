"""The judge of windows: shapes, gradients, saving; and what the shipped one knows."""

import pytest
import torch

from fastsync.zoo import classifier, scenes
from fastsync.zoo.classifier import HEADS, SceneClassifier

shipped = pytest.mark.skipif(
    not (classifier._WEIGHTS / "scenes-classifier" / "model.safetensors").is_file(),
    reason="the classifier's weights are not there yet",
)


@pytest.mark.parametrize("size", [(128, 128), (64, 64), (96, 200)])
def test_logits_and_features_of_any_size(size):
    model = SceneClassifier()
    x = torch.rand(2, 3, *size)
    logits = model(x)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "place": (2, len(scenes.PLACES)),
        "time": (2, len(scenes.TIMES)),
        "weather": (2, len(scenes.WEATHERS)),
    }
    maps = model.features(x)
    assert [m.shape[1] for m in maps] == list(model.channels)
    assert maps[0].shape[2] == size[0] // 2 and maps[-1].shape[2] < maps[0].shape[2]


def test_features_have_gradients_in_the_pixels():
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    sum(m.square().mean() for m in SceneClassifier().features(x)).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_saved_classifier_loads_frozen(tmp_path):
    model = SceneClassifier()
    model.save(tmp_path)
    loaded = SceneClassifier.load(tmp_path)
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    x = torch.rand(2, 3, 64, 64)
    for name in HEADS:
        torch.testing.assert_close(loaded(x)[name], model(x)[name], atol=2e-3, rtol=0)  # stored as float16


def test_a_missing_classifier_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no classifier in"):
        SceneClassifier.load(tmp_path)


@shipped
def test_the_shipped_classifier_knows_held_out_windows():
    from fastsync.zoo.training.data import held_out_windows

    images, labels, _ = held_out_windows(300, 123)
    found = SceneClassifier.load().classify(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0)
    for column, name in enumerate(("place", "time")):
        assert (found[name].numpy() == labels[:, column]).mean() >= 0.98, name


@shipped
@pytest.mark.parametrize("name", ["scenes", "glyphs"])
def test_the_shipped_classifier_is_small(name):
    folder = classifier._WEIGHTS / f"{name}-classifier"
    assert 0 < sum(p.stat().st_size for p in folder.iterdir()) < 1.5 * 2**20
