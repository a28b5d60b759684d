"""The public functions of a whole control iteration inside one compiled graph."""

import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops


def iteration(x, pool, place, a, b, guidance, matrix, control, first, second):
    """Estimates, loss, cotangents, update, step and merge; the network is a linear map of the columns."""
    raw = x @ matrix
    x0, eps = ops.cfg_tweedie(raw, raw * 0.5, x, a, b, guidance, "v_prediction")
    loss, gradient = ops.overlap_loss(x0, pool, place)
    _, g_raw, direct, _ = ops.control_grad(
        x, eps, eps * 0.9, control, gradient, None, pool, place, None, None, a, a, b, guidance, b, 1.0, 0.1, (0, 0),
        "v_prediction", False,
    )  # fmt: skip
    x = ops.control_update(control, first, second, g_raw @ matrix.mT, None, direct, x, 0, 0.02, 1.0)
    x = ops.ddim_step(x0, eps, b, a, a, None, a, x, pool, place)
    origins = torch.tensor([[0, 0], [0, 4], [0, 8]])
    return loss, x, ops.merge(x, torch.ones(1, 1, 4, 6), origins, (4, 14))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_control_iteration_is_one_graph(layout):
    torch.compiler.reset()
    angle = torch.tensor([0.3, 0.9, 1.3], dtype=torch.float64)
    place = torch.tensor([[-1, 0, 0], [0, 0, 4], [1, 0, 4]])
    results = []
    for function in (iteration, torch.compile(iteration, fullgraph=True)):
        x, pool, control, first = (t.contiguous(memory_format=layout) for t in randn(4, 3, 2, 4, 6).unbind())
        second = first.square()
        numbers = (angle.cos(), angle.sin(), angle + 1)
        out = function(x, pool, place, *numbers, randn(6, 6, seed=3), control, first, second)
        results.append((*out, control, first, second))
    for mine, expected in zip(*results, strict=True):
        assert relative(mine, expected) < 1e-12
