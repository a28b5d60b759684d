import pytest
import torch
from exact_priors import randn

from fastsync import ops

H, W = 5, 7


def grid():
    return torch.arange(H * W).reshape(1, H, W)


@pytest.mark.parametrize(
    "move",
    [lambda t: t.flip(-1), lambda t: t.flip(-2), lambda t: t.rot90(1, (-2, -1)), lambda t: t.roll(3, -1)],
    ids=["flip_horizontal", "flip", "rotate", "roll"],
)
def test_an_index_map_made_by_moving_the_cells_moves_pictures(move):
    x = randn(3, 2, H, W)
    assert torch.equal(ops.transform(x, move(grid())), move(x))


def test_factors_and_maps_of_each_sample():
    x = randn(2, 3, H, W)
    index = torch.cat([grid(), grid().flip(-1)])
    index[1, 0, 0] = -1
    y = ops.transform(x, index, torch.tensor([-1.0, 0.5]))
    expected = 0.5 * x[1].flip(-1)
    expected[:, 0, 0] = 0.0
    assert torch.equal(y[0], -x[0]) and torch.equal(y[1], expected)


def test_the_gradient_adds_up_where_a_cell_is_read_twice():
    x = randn(1, 2, H, W).requires_grad_()
    index = torch.zeros(1, H, W, dtype=torch.int64)
    index[0, 0, 0] = -1
    (gradient,) = torch.autograd.grad(ops.transform(x, index, torch.tensor([2.0])).sum(), x)
    assert float(gradient[0, 0, 0, 0]) == 2.0 * (H * W - 1) and float(gradient.sum()) == 4.0 * (H * W - 1)


def test_inverse_permutation_undoes():
    x = randn(2, 3, H, W)
    index = torch.stack([torch.randperm(H * W, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    index = index.reshape(2, H, W)
    assert torch.equal(ops.transform(ops.transform(x, index), ops.inverse_permutation(index)), x)
    index[0, 0, 0] = index[0, 0, 1]
    with pytest.raises(ValueError, match="index is no permutation: each cell must be named exactly once"):
        ops.inverse_permutation(index)


def test_nan_moves_with_its_cell():
    x = randn(1, 1, H, W)
    x[0, 0, 0, 0] = float("nan")
    assert bool(ops.transform(x, grid().flip(-1))[0, 0, 0, W - 1].isnan())
    hole = grid()
    hole[0, 0, 0] = -1
    assert float(ops.transform(x, hole)[0, 0, 0, 0]) == 0.0


def test_what_does_not_fit_is_one_sentence():
    x = torch.zeros(3, 1, H, W)
    with pytest.raises(ValueError, match=r"index must be int64 \[3 or 1, h', w'\], got torch.int64 \[2, 5, 7\]"):
        ops.transform(x, grid().expand(2, -1, -1))
    with pytest.raises(ValueError, match="index must be int64"):
        ops.transform(x, grid().int())
    with pytest.raises(ValueError, match=r"factor must be \[3\]"):
        ops.transform(x, grid(), torch.ones(1))
