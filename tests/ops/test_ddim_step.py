import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops

B, C, H, W = 3, 2, 4, 5


def numbers(count, seed=1):
    return torch.rand(count, B, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_is_its_formula_per_sample():
    x0, eps, noise = randn(3, B, C, H, W)
    a, d, s = numbers(3)
    got, plain = ops.ddim_step(x0, eps, a, d, s, noise), ops.ddim_step(x0, eps, a, d, s)
    for i in range(B):
        assert torch.allclose(plain[i], a[i] * x0[i] + d[i] * eps[i])
        assert torch.allclose(got[i], a[i] * x0[i] + d[i] * eps[i] + s[i] * noise[i])


def test_draws_views_to_their_neighbours():
    x0, eps, noise, x, source = randn(5, B, C, H, W).unbind()
    a, d, s, g = numbers(4)
    place = torch.tensor([[2, 0, 2], [-1, 0, 0], [0, -1, 0]])
    mask = torch.rand(B, 1, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = ops.ddim_step(x0, eps, a, d, s, noise, g, x, source, place, mask=mask)
    expected = ops.ddim_step(x0, eps, a, d, s, noise)
    expected[0, :, :, :3] -= g[0] * mask[0, :, :, :3] * (x[0, :, :, :3] - source[2, :, :, 2:])
    expected[2, :, 1:] -= g[2] * mask[2, :, 1:] * (x[2, :, 1:] - source[0, :, :3])
    assert relative(got, expected) < 1e-14


def test_what_lies_outside_the_overlap_does_not_matter():
    x0, eps, x, source = randn(4, B, C, H, W).unbind()
    a, d, s, g = numbers(4)
    place = torch.tensor([[0, 0, 3]] * B)
    plain = ops.ddim_step(x0, eps, a, d, s, None, g, x, source, place)
    source[1:], source[0, :, :, :3], x[:, :, :, 2:] = float("nan"), float("inf"), float("nan")
    assert torch.equal(ops.ddim_step(x0, eps, a, d, s, None, g, x, source, place), plain)
    source[0, 0, 1, 4] = float("nan")
    bad = ops.ddim_step(x0, eps, a, d, s, None, g, x, source, place).isnan()
    assert bool(bad[:, 0, 1, 1].all()) and int(bad.sum()) == B


def test_the_backward_does_not_spread_nan_into_the_pool():
    x0, eps, x, source = randn(4, B, C, H, W).unbind()
    a, d, s, g = numbers(4)
    source.requires_grad_()
    out = ops.ddim_step(x0, eps, a, d, s, None, g, x, source, torch.tensor([[0, 0, 3]] * B))
    weight = torch.ones_like(out)
    weight[..., 3] = float("nan")  # outside the overlap
    (gradient,) = torch.autograd.grad(out, source, weight)
    assert bool(gradient.isfinite().all())


def test_what_does_not_fit_is_one_sentence():
    x0, (a, d, s, g) = randn(B, C, H, W), numbers(4)
    with pytest.raises(ValueError, match="pull needs x, source and place: pass them, or leave pull out"):
        ops.ddim_step(x0, x0, a, d, s, None, g, x0)
    with pytest.raises(ValueError, match=r"noise must have x0's shape \[3, 2, 4, 5\], got \[1, 2, 4, 5\]"):
        ops.ddim_step(x0, x0, a, d, s, x0[:1])
    with pytest.raises(ValueError, match=r"sigma must be \[3\], one number a sample, got \[\]"):
        ops.ddim_step(x0, x0, a, d, s[0])
