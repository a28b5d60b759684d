"""Agreement of pictures of a surface: what it compares, its gradient, and SyncVC led by it."""

import pytest
import torch
from exact_priors import ddim, nonlinear, randn
from shapes import cube, plates, sphere

import fastsync as fs
from fastsync.geometry import Camera, see
from fastsync.metrics import view_disagreement
from fastsync.rewards import SurfaceOverlap

AROUND = [(0.0, 0.0), (40.0, 0.0), (80.0, 10.0)]
SIZE = (24, 24)


def canvas_of(mesh):
    return fs.MeshCanvas(mesh, AROUND, view_size=SIZE)


def bound(canvas, order=(0, 1, 2), **settings):
    return SurfaceOverlap(canvas.sight, **settings).begin(canvas, order)


def test_views_of_one_colouring_score_near_nothing_and_others_less():
    canvas = canvas_of(sphere(48, 96))
    views = (canvas.sight.points * canvas.sight.foreground[..., None]).permute(0, 3, 1, 2).double()
    reward = bound(canvas)
    agreeing = reward(views[1], [views[0]], 1)
    assert -0.05 < agreeing <= 0
    changed = views[1] + 0.1
    pixels = reward._tables[1].pixel.numel()
    assert reward(changed, [views[0]], 1) == pytest.approx(-3 * 0.01 * pixels, rel=0.2)
    assert bound(canvas, weight=4.0)(changed, [views[0]], 1) == pytest.approx(4 * float(reward(changed, [views[0]], 1)))


def test_each_point_is_read_from_the_earlier_view_that_looks_most_straight():
    """View 2 sees most of what it shares more straight from view 1 than from view 0."""
    canvas = canvas_of(sphere(48, 96))
    reward = bound(canvas)
    views = torch.stack([torch.full((3, *SIZE), float(k)) for k in range(3)])
    table = reward._tables[2]
    target = (torch.stack([views[0], views[1]], 1).flatten(1)[:, table.index] * table.weight).sum(-1)
    assert set(target.round(decimals=4).unique().tolist()) <= {0.0, 1.0} and target.mean() > 0.7
    torch.testing.assert_close(table.weight.sum(1), torch.ones(len(table.weight)))


def test_what_is_hidden_or_beside_an_edge_is_not_compared():
    canvas = fs.MeshCanvas(plates(0.5, -0.5, side=0.5), [(0.0, 0.0), (30.0, 0.0)], view_size=(48, 48))
    reward = SurfaceOverlap(canvas.sight, margin=2).begin(canvas, [0, 1])
    compared = torch.zeros(48 * 48, dtype=torch.bool)
    compared[reward._tables[1].pixel] = True
    rear = (canvas.sight.face[1] >= 2).flatten()
    edge = canvas.sight.beside_edges(2)[1].flatten()
    # Of the rear plate view 0 sees nothing; of the front one all but its edges.
    assert not bool((compared & (rear | edge)).any()) and int(compared.sum()) > 100


def test_its_gradient_is_the_one_of_finite_differences():
    canvas = fs.MeshCanvas(cube(), AROUND, view_size=(12, 12))
    reward, earlier = bound(canvas), list(randn(2, 3, 12, 12, seed=1))
    x = randn(3, 12, 12, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reward(x, earlier, 2), x)


@pytest.mark.parametrize("order", ["sequential", "wavefront"])
def test_syncvc_makes_views_agree_by_it(order):
    canvas = canvas_of(sphere())
    prior = fs.FunctionPrior(nonlinear, scheduler=ddim(), view_shape=(3, *SIZE))
    cond, latents = randn(3, 3, *SIZE, seed=3), randn(3, 3, *SIZE, seed=4)

    def run(method):
        return fs.sample(prior, canvas, method, cond=cond, num_inference_steps=6, latents=latents, order=order).views

    led = fs.SyncVC(iterations=8, lr=0.1, reward_weight=0, inv_lambda=0, rewards=[SurfaceOverlap(canvas.sight)])
    alone = fs.SyncVC(iterations=8, lr=0.1, reward_weight=0, inv_lambda=0)
    apart = [view_disagreement(canvas.sight, run(method)) for method in (alone, led)]
    assert apart[1] < 0.6 * apart[0]


def test_misuse_is_one_sentence():
    canvas = canvas_of(sphere())
    with pytest.raises(RuntimeError, match="does not know the order of views"):
        SurfaceOverlap(canvas.sight)(torch.zeros(3, *SIZE), [], 0)
    with pytest.raises(ValueError, match="pictures must be .* as SurfaceOverlap's sight"):
        bound(canvas)(torch.zeros(3, 8, 8), [], 0)
    with pytest.raises(ValueError, match="knows what 1 views see, and the canvas has 3"):
        SurfaceOverlap(see(sphere(), [Camera()], SIZE)).begin(canvas, [0, 1, 2])
    with pytest.raises(ValueError, match="margin must be at least 1"):
        SurfaceOverlap(canvas.sight, margin=0)
