import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops
from fastsync.ops import neighbour
from fastsync.ops.cfg_tweedie import linear_form

B, C, H, W = 3, 2, 4, 6
KINDS = ["epsilon", "v_prediction", "sample", "flow"]


class Problem:
    """Random states, and DESIGN's loss, view by view, as a function of the network's rows and the control."""

    w, c = 1.7, 0.2

    def __init__(self, kind):
        angle = torch.tensor([0.3, 0.9, 1.3], dtype=torch.float64)
        self.kind, (self.a, self.b) = kind, (angle.cos(), angle.sin())
        self.raw, self.uncond, self.base, self.control, self.eps_free, self.pool_x0, self.pool_x = randn(7, B, C, H, W)
        self.mask = torch.rand(B, 1, H, W, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.place = torch.tensor([[2, 0, 2], [-1, 0, 0], [0, -1, 1]])
        self.coupling = torch.tensor([0.9, 0.7, 5.0], dtype=torch.float64)
        self.kl = torch.tensor([0.3, 0.5, 2.0], dtype=torch.float64)
        self.guidance = torch.tensor([1.0, 3.0, 7.5], dtype=torch.float64)
        self.reward = randn(B, C, H, W, seed=8)

    def neighbours(self, pool, like):
        return neighbour.read(pool, self.place, None, self.mask, (0, 0), like)

    def estimates(self, raw, uncond, x, guided):
        if self.kind == "estimates":
            return raw, uncond
        return ops.cfg_tweedie(raw, uncond if guided else None, x, self.a, self.b, self.guidance, self.kind)

    def loss(self, raw, uncond, control, guided):
        x = self.base + control
        x0, eps = self.estimates(raw, uncond, x, guided)
        (y0, weight), (y, _) = self.neighbours(self.pool_x0, x), self.neighbours(self.pool_x, x)
        total = 0.0
        for i in range(B):
            coupled = eps[i] + weight[i] * (x[i] - y[i]) * self.coupling[i]
            total = total + self.w * (weight[i] * (x0[i] - y0[i])).square().sum() - (self.reward[i] * x0[i]).sum()
            total = total + self.kl[i] * (coupled - self.eps_free[i]).square().sum()
            total = total + self.c * control[i].square().sum()
        return total

    def closed(self, guided, rewarded=True):
        x = self.base + self.control
        x0, eps = self.estimates(self.raw, self.uncond, x, guided)
        overlap, gradient = ops.overlap_loss(x0, self.pool_x0, self.place, mask=self.mask)
        states = (x, eps, self.eps_free, self.control, gradient, self.reward if rewarded else None)
        numbers = (self.coupling, self.a, self.b, self.guidance, self.kl, self.w, self.c, (0, 0))
        return (
            overlap,
            x0,
            ops.control_grad(*states, self.pool_x, self.place, None, self.mask, *numbers, self.kind, guided),
        )


@pytest.mark.parametrize("kind", [*KINDS, "estimates"])
@pytest.mark.parametrize("guided", [False, True])
def test_cotangents_are_autograd_of_the_written_loss(kind, guided):
    problem = Problem(kind)
    leaves = [t.clone().requires_grad_() for t in (problem.raw, problem.uncond, problem.control)]
    expected = problem.loss(*leaves, guided)
    raw, uncond, control = torch.autograd.grad(expected, leaves, allow_unused=True)
    overlap, x0, (loss, g_raw, direct, peak) = problem.closed(guided)
    assert torch.allclose(loss.sum() + problem.w * overlap.sum() - (problem.reward * x0).sum(), expected)
    if kind == "estimates":
        assert relative(g_raw, torch.cat([raw, uncond])) < 1e-13
    elif guided:
        assert relative(g_raw, torch.cat([uncond, raw])) < 1e-13
    else:
        assert relative(g_raw, raw) < 1e-13
    # Without a network between x~ and the raw rows, the direct part is all that moves with the control.
    assert relative(direct, control) < 1e-13
    halves = g_raw.reshape(-1, B, C, H, W)
    assert torch.equal(peak, halves.abs().amax((0, 2, 3, 4)))


@pytest.mark.parametrize("kind", KINDS)
def test_through_a_network_the_whole_gradient_is_right(kind):
    problem = Problem(kind)
    matrix = randn(2, W, W, seed=5) / W

    def network(x):
        return (x @ matrix[0]).tanh(), (x @ matrix[1]).tanh()

    control = problem.control.clone().requires_grad_()
    x = problem.base + control
    expected = torch.autograd.grad(problem.loss(*network(x), control, True), control)[0]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        rows = network(x)
    problem.raw, problem.uncond = (row.detach() for row in rows)
    _, _, (_, g_raw, direct, _) = problem.closed(True)
    (vjp,) = torch.autograd.grad(torch.cat([rows[1], rows[0]]), x, g_raw)
    assert relative(vjp + direct, expected) < 1e-13


def test_without_rewards_and_with_nothing_to_agree_with():
    problem = Problem("epsilon")
    problem.place = torch.tensor([[-1, 0, 0]] * B)
    problem.pool_x, problem.pool_x0, problem.mask = (
        t * float("nan") for t in (problem.pool_x, problem.pool_x0, problem.mask)
    )
    _, _, (loss, g_raw, direct, _) = problem.closed(True, rewarded=False)
    deviation = (
        ops.cfg_tweedie(problem.raw, problem.uncond, problem.base, problem.a, problem.b, problem.guidance, "epsilon")[1]
        - problem.eps_free
    )
    kl, s = (t.reshape(-1, 1, 1, 1) for t in (problem.kl, problem.guidance))
    cost = problem.c * problem.control.square().sum((1, 2, 3))
    assert torch.allclose(loss, problem.kl * deviation.square().sum((1, 2, 3)) + cost)
    assert relative(g_raw, torch.cat([(1 - s) * 2 * kl * deviation, s * 2 * kl * deviation])) < 1e-13
    assert relative(direct, 2 * problem.c * problem.control) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_linear_form_of_every_kind_is_read_once(kind):
    problem = Problem(kind)
    _, _, (_, g_raw, direct, _) = problem.closed(False)
    problem.kl = torch.zeros_like(problem.kl)
    _, _, (_, of_x0, direct_x0, _) = problem.closed(False)
    px, pr, _, _ = (c.reshape(-1, 1, 1, 1) for c in linear_form(problem.a, problem.b, kind))
    x0, _ = problem.estimates(problem.raw, None, problem.base + problem.control, False)
    gradient = problem.w * ops.overlap_loss(x0, problem.pool_x0, problem.place, mask=problem.mask)[1] - problem.reward
    assert relative(of_x0, pr * gradient + 0 * g_raw) < 1e-13
    assert relative(direct_x0, px * gradient + 2 * problem.c * problem.control + 0 * direct) < 1e-13


def test_peak_carries_nan_of_its_own_view_only():
    problem = Problem("v_prediction")
    problem.eps_free[1, 0, 2, 2] = float("nan")
    _, _, (loss, _, _, peak) = problem.closed(True)
    assert loss.isnan().tolist() == peak.isnan().tolist() == [False, True, False]


def test_what_does_not_fit_is_one_sentence():
    problem = Problem("score")
    problem.estimates = lambda raw, uncond, x, guided: (raw, raw)
    with pytest.raises(ValueError, match="prediction_type must be one of .*, estimates, got 'score'"):
        problem.closed(True)
    problem = Problem("epsilon")
    problem.kl = problem.kl[:2]
    with pytest.raises(ValueError, match=r"kl_weight must be \[3\], one number a sample, got \[2\]"):
        problem.closed(True)
    problem = Problem("epsilon")
    problem.reward = problem.reward[:, :1]
    with pytest.raises(ValueError, match="reward_gradient must have x's shape"):
        problem.closed(True)
