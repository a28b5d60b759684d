import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops
from fastsync.ops import neighbour
from fastsync.ops.samples import Draw


def test_loss_and_gradient_are_those_of_the_written_sum():
    draw = Draw(torch.float64, "cpu", 0)
    for address in neighbour.samples(draw, (2, 3, 7, 13)):
        x = draw.normal(2, 3, 7, 13).requires_grad_()
        target, weight = neighbour.read(*address, x)
        loss, gradient = ops.overlap_loss(x, *address)
        expected = torch.stack([(weight[i] * (x[i] - target[i])).square().sum() for i in range(2)])
        assert torch.allclose(loss, expected)
        (slope,) = torch.autograd.grad(expected.sum(), x, retain_graph=True)
        assert torch.allclose(gradient, slope, rtol=1e-13, atol=0)
        # The tape through the op gives the same as the gradient that it returns.
        assert torch.allclose(torch.autograd.grad(loss.sum(), x, retain_graph=True)[0], slope, rtol=1e-13, atol=0)


def test_wide_windows_compare_their_common_columns():
    views = randn(2, 3, 4, 10)
    loss, gradient = ops.overlap_loss(views[1:], views, torch.tensor([[0, 0, 6]]))
    difference = views[1, :, :, :4] - views[0, :, :, 6:]
    assert torch.allclose(loss[0], difference.square().sum())
    assert torch.allclose(gradient[0, :, :, :4], 2 * difference) and bool((gradient[0, :, :, 4:] == 0).all())


def test_second_derivatives():
    draw = Draw(torch.float64, "cpu", 1)
    source, place, index, mask, period = neighbour.sample(draw, (2, 3, 7, 13))
    x, source = draw.normal(2, 3, 7, 13).requires_grad_(), source.nan_to_num(0.1).requires_grad_()
    both = lambda x, y: ops.overlap_loss(x, y, place, index, mask, period)  # noqa: E731
    assert torch.autograd.gradgradcheck(both, (x, source), fast_mode=True)


def test_nan_passes_inside_the_overlap_and_stops_outside():
    x, source = randn(2, 2, 4, 6, seed=1), randn(2, 2, 4, 6, seed=2)
    place = torch.tensor([[0, 0, 4], [1, 0, 4]])
    loss, gradient = ops.overlap_loss(x, source, place)
    x[0, 0, 0, 2], source[1, 1, 2, 3] = float("nan"), float("inf")
    for mine, expected in zip(ops.overlap_loss(x, source, place), (loss, gradient), strict=True):
        assert torch.equal(mine, expected)
    x[0, 0, 0, 1] = float("nan")
    loss, gradient = ops.overlap_loss(x, source, place)
    assert loss.isnan().tolist() == [True, False] and int(gradient.isnan().sum()) == 1


def test_half_states_have_a_float32_loss_that_does_not_overflow():
    x = torch.full((1, 4, 32, 32), 10.0, dtype=torch.float16)
    loss, gradient = ops.overlap_loss(x, -x, torch.zeros(1, 3, dtype=torch.int64))
    assert loss.dtype == torch.float32 and gradient.dtype == torch.float16
    assert float(loss) == 4 * 32 * 32 * 400.0 and relative(gradient.float(), 40.0 * torch.ones_like(loss)) == 0


@pytest.mark.parametrize("empty", [{"place": torch.tensor([[-1, 0, 0]])}, {"place": torch.tensor([[0, 4, 0]])}])
def test_an_empty_overlap_costs_nothing(empty):
    nothing = torch.full((1, 2, 4, 6), float("nan"))
    loss, gradient = ops.overlap_loss(nothing, nothing, **empty)
    assert float(loss) == 0.0 and not bool(gradient.any())
