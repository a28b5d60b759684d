"""The perceptual distance against the formula, its gradient, and where its features come from."""

import sys
import types

import pytest
import torch
from exact_priors import randn
from torch import nn

from fastsync.rewards import Perceptual
from fastsync.zoo.classifier import SceneClassifier


def two_layers(pictures):
    fine = torch.tanh(pictures.roll(1, -1) - 0.5 * pictures + 0.2)
    return [fine, torch.cat([fine, fine.square()], 1)[..., ::2, ::2]]


def pictures(*shape, seed=0):
    return torch.sigmoid(randn(*shape, seed=seed))


def test_by_hand():
    a, b = pictures(2, 3, 4, 6), pictures(2, 3, 4, 6, seed=1)
    expected = torch.zeros(2, dtype=torch.float64)
    for f, g in zip(two_layers(a), two_layers(b), strict=True):
        f, g = (m / m.norm(dim=1, keepdim=True) for m in (f, g))
        expected += (f - g).square().sum(1).mean((1, 2))
    assert torch.allclose(Perceptual(two_layers).distance(a, b), expected, rtol=1e-7)
    assert float(Perceptual(two_layers).distance(a, a).max()) == 0


def test_against_whom():
    x, *earlier = pictures(4, 3, 4, 6)
    first, mean = Perceptual(two_layers, 2.0), Perceptual(two_layers, 2.0, against="mean")
    each = [float(first.distance(x[None], e[None])) for e in earlier]
    assert float(first(x, earlier, 3)) == pytest.approx(-2.0 * each[0])
    assert float(mean(x, earlier, 3)) == pytest.approx(-2.0 * sum(each) / 3)
    assert float(first(x, [], 0)) == 0
    assert first.pixels and first.reads_earlier and not first.scores_first_view


@pytest.mark.parametrize("features", [two_layers, None], ids=["given", "embedded"])
def test_gradient(features):
    x, *earlier = pictures(3, 3, 8, 8)
    reward = Perceptual(features, against="mean")
    assert torch.autograd.gradcheck(lambda p: reward(p, earlier, 2), x.requires_grad_(), fast_mode=True)


def test_flat_features_have_a_finite_gradient():
    x = torch.zeros(3, 4, 4, requires_grad=True)
    Perceptual(lambda p: [p])(x, [torch.zeros(3, 4, 4)], 1).backward()
    assert torch.isfinite(x.grad).all()


def test_the_embedded_features(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    reward = Perceptual()
    assert reward.source == "scenes-classifier"
    a, b = pictures(2, 1, 3, 32, 32).float()
    expected = Perceptual(SceneClassifier.load().features).distance(a, b)
    assert torch.equal(reward.distance(a, b), expected) and float(expected) > 0
    assert reward.distance(a.double(), b.double()).dtype == torch.float64


class TinyVgg(nn.Module):
    """VGG16's layers with two channels."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for convolutions in (2, 2, 3, 3, 3):
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, 2, 3, padding=1), nn.ReLU(inplace=True)]
                channels = 2
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)


def test_vgg_where_it_is_there(monkeypatch, tmp_path):
    made = []
    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.SimpleNamespace(vgg16=lambda weights: made.append(TinyVgg()) or made[-1])
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert Perceptual().source == "scenes-classifier"  # nothing is downloaded
    (tmp_path / "checkpoints").mkdir()
    saved = TinyVgg()
    torch.save(saved.state_dict(), tmp_path / "checkpoints" / "vgg16-397923af.pth")
    reward = Perceptual()
    assert reward.source == "vgg16"
    a, b = pictures(2, 1, 3, 32, 32).float()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def blocks(p):
        x, maps = (p - mean[:, None, None]) / std[:, None, None], []
        for layer in saved.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x.clone())
            x = layer(x)
        return maps

    assert torch.allclose(reward.distance(a, b), Perceptual(blocks).distance(a, b), rtol=1e-5)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert Perceptual().source == "scenes-classifier"  # weights without torchvision


def test_settings_are_checked():
    with pytest.raises(TypeError, match="features must be callable"):
        Perceptual(3)
    with pytest.raises(ValueError, match="against must be one of 'first', 'mean'"):
        Perceptual(two_layers, against="last")
    with pytest.raises(ValueError, match="weight must be at least 0"):
        Perceptual(two_layers, weight=-1)
    with pytest.raises(ValueError, match="features must return maps"):
        Perceptual(lambda p: p.mean((2, 3))).distance(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
