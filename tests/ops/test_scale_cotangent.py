import pytest
import torch
from exact_priors import randn

from fastsync import ops


def test_each_sample_is_scaled_by_its_own_peak_in_both_halves():
    g = randn(6, 2, 4, 5) * torch.tensor([1e6, 1e-6, 3.0] * 2, dtype=torch.float64).reshape(-1, 1, 1, 1)
    peak = g.abs().reshape(2, 3, -1).amax((0, 2))
    scaled = ops.scale_cotangent(g, peak, torch.float32)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled.abs().reshape(2, 3, -1).amax((0, 2)), torch.ones(3))
    assert torch.allclose(scaled.double() * peak.repeat(2).reshape(-1, 1, 1, 1), g, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e9, 1e-30])
def test_what_float16_cannot_hold_comes_through(size):
    g = (randn(1, 2, 4, 5) * size).float()
    scaled = ops.scale_cotangent(g, g.abs().amax().reshape(1), torch.float16)
    assert not bool(g.half().isfinite().all()) or not bool(g.half().any())
    assert float(scaled.abs().max()) == 1.0 and bool(scaled.isfinite().all())


def test_nothing_stays_nothing_and_nan_is_seen():
    g = torch.zeros(2, 1, 2, 2)
    assert not bool(ops.scale_cotangent(g, torch.zeros(2), torch.float16).any())
    g[1, 0, 0, 0] = float("nan")
    scaled = ops.scale_cotangent(g, torch.tensor([0.0, float("nan")]), torch.float16)
    assert not bool(scaled[0].any()) and bool(scaled[1].isnan().all())
    g[1, 0, 0, 0] = float("inf")
    assert bool(ops.scale_cotangent(g, torch.tensor([0.0, float("inf")]), torch.float16)[1].isnan().any())


def test_what_does_not_fit_is_one_sentence():
    g = torch.zeros(4, 1, 2, 2)
    with pytest.raises(ValueError, match=r"peak must be \[B\], one number a sample.* got \[3\] and \[4, 1, 2, 2\]"):
        ops.scale_cotangent(g, torch.ones(3), torch.float16)
    with pytest.raises(TypeError, match="dtype must be a floating point type, got torch.int32"):
        ops.scale_cotangent(g, torch.ones(4), torch.int32)
