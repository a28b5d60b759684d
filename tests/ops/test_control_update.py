import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops

B, C, H, W = 3, 2, 4, 5


@pytest.mark.parametrize("gamma", [1.0, 0.3])
@pytest.mark.parametrize("scaled", [False, True])
def test_is_adam(gamma, scaled):
    x = randn(B, C, H, W, seed=1)
    u = torch.zeros_like(x, requires_grad=True)
    adam = torch.optim.Adam([u], lr=0.02, betas=(0.9, 0.999), eps=1e-8)
    control, first, second = (torch.zeros_like(x) for _ in range(3))
    scale = torch.tensor([1.0, 2.0**20, 2.0**-20], dtype=torch.float64) if scaled else None
    for k in range(8):
        vjp, direct = randn(2, B, C, H, W, seed=10 + k).unbind()
        # Rows are handed to the network scaled, so that half precision holds them, and come back scaled.
        given = vjp / scale.reshape(-1, 1, 1, 1) if scaled else vjp
        lr = 0.02 / (1 + k)
        adam.param_groups[0]["lr"] = lr
        u.grad = gamma * (vjp + direct)
        adam.step()
        out = ops.control_update(control, first, second, given, scale, direct, x, k, lr, gamma)
        assert relative(control, u.detach()) < 1e-12
        assert relative(out, x + gamma * u.detach()) < 1e-14


def test_a_zero_gradient_moves_nothing():
    x = randn(1, 1, 2, 2)
    control, first, second, zero = (torch.zeros_like(x) for _ in range(4))
    assert torch.equal(ops.control_update(control, first, second, zero, None, zero, x, 0, 0.1, 1.0), x)


def test_a_scale_undoes_what_half_precision_could_not_hold():
    x = randn(1, 1, 2, 2).float()
    control, first, second, zero = (torch.zeros_like(x) for _ in range(4))
    vjp = torch.full_like(x, 6e4).half()
    out = ops.control_update(control, first, second, vjp, torch.tensor([1e6]), zero, x, 0, 0.1, 1.0)
    assert bool(out.isfinite().all()) and relative(first, torch.full_like(x, 0.1 * vjp[0, 0, 0, 0].item() * 1e6)) < 1e-6


def test_nan_stays_in_its_cell():
    x = randn(B, C, H, W).float()
    control, first, second, direct = (torch.zeros_like(x) for _ in range(4))
    direct[1, 0, 2, 2] = float("nan")
    out = ops.control_update(control, first, second, torch.ones_like(x), None, direct, x, 0, 0.1, 1.0)
    assert int(out.isnan().sum()) == int(control.isnan().sum()) == 1 and bool(control[1, 0, 2, 2].isnan())


def test_what_does_not_fit_is_one_sentence():
    x = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="vjp must have x's shape"):
        ops.control_update(x, x, x, x[:1], None, x, x, 0, 0.1, 1.0)
    with pytest.raises(ValueError, match=r"scale must be \[2\]"):
        ops.control_update(x, x, x, x, torch.ones(1), x, x, 0, 0.1, 1.0)
