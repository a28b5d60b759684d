"""The overlap as a reward: by hand, on crops and on views with signs, and inside SyncVC."""

import pytest
import torch
from exact_priors import ddim, nonlinear, randn, relative

import fastsync as fs
from fastsync.rewards import Overlap


def test_by_hand():
    canvas = fs.WideCanvas((4, 10), (4, 6), 4)
    a, b = randn(2, 3, 4, 6)
    reward = Overlap(2.5).begin(canvas, [0, 1])
    assert float(reward(b, [a], 1)) == pytest.approx(-2.5 * float((b[..., :2] - a[..., 4:]).square().sum()))
    assert float(reward(a, [], 0)) == 0
    other = Overlap().begin(canvas, [1, 0])
    assert float(other(a, [b], 0)) == pytest.approx(-float((b[..., :2] - a[..., 4:]).square().sum()))


def test_views_with_signs():
    canvas = fs.IllusionCanvas(["identity", "negate", "rotate_180"], shape=(3, 4, 4))
    z = randn(1, 3, 4, 4)
    views = canvas.project(z)
    reward = Overlap().begin(canvas, [0, 1, 2])
    assert float(reward(views[1], [views[0]], 1)) == pytest.approx(0, abs=1e-20)
    # The latest earlier view covers everything: view 2 is compared with view 1 alone.
    expected = -float((views[2] - (-views[1].flip(-1, -2) + 1)).square().sum())
    assert float(reward(views[2], [views[0], views[1] - 1], 2)) == pytest.approx(expected)


def test_gradient():
    reward = Overlap(0.7).begin(fs.WideCanvas((3, 8), (3, 5), 3), [0, 1])
    a, b = randn(2, 2, 3, 5)
    assert torch.autograd.gradcheck(lambda x: reward(x, [a], 1), b.requires_grad_())


@pytest.mark.parametrize("name", ["chain", "loop"])
def test_it_is_what_syncvc_has_built_in(name):
    canvas = fs.WideCanvas((4, 12), (4, 6), 4, loop=name == "loop")
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 4, 6), dtype=torch.float64)
    count = canvas.num_views
    common = {"cond": 0.5 * randn(count, 2, 4, 6), "latents": randn(1, 2, 4, 12, seed=3), "num_inference_steps": 4}
    built_in = fs.sample(prior, canvas, fs.SyncVC(3, reward_weight=1.7), **common)
    given = fs.sample(prior, canvas, fs.SyncVC(3, reward_weight=0.0, rewards=[Overlap(1.7)]), **common)
    assert relative(given.views, built_in.views) < 1e-9
    assert given.stats.gradients == built_in.stats.gradients  # the first view has no control


def test_settings_are_checked():
    with pytest.raises(ValueError, match="weight must be at least 0"):
        Overlap(-1.0)
    with pytest.raises(RuntimeError, match="does not know the canvas yet"):
        Overlap()(torch.zeros(1, 2, 2), [], 0)
    assert repr(Overlap(0.5)) == "Overlap(weight=0.5)"
