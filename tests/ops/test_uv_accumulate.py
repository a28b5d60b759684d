import pytest
import torch
from exact_priors import randn

from fastsync import ops

SIZE = (6, 7)


def problem():
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(-8, 42, (3, 4, 5, 4), generator=generator).clamp_min(-1).int()
    weight = torch.rand(3, 4, 5, 4, generator=generator, dtype=torch.float64)
    confidence = torch.rand(3, 1, 4, 5, generator=generator, dtype=torch.float64)
    return randn(3, 2, 4, 5), confidence, ops.Taps(index, weight, SIZE)


@pytest.mark.parametrize("in_order", [False, True])
def test_is_the_splat_of_weighted_views_and_of_weights(in_order):
    views, confidence, taps = problem()
    taps = taps.sort() if in_order else taps
    total, weight = ops.uv_accumulate(views, confidence, taps)
    assert torch.allclose(total, ops.splat(confidence * views, taps), rtol=1e-12)
    assert torch.allclose(weight, ops.splat(confidence, taps), rtol=1e-12)


def test_the_ratio_is_the_normalised_splat():
    _, confidence, taps = problem()
    colour = torch.tensor([0.3, -2.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    total, weight = ops.uv_accumulate(colour.expand(3, 2, 4, 5).contiguous(), confidence, taps)
    seen = (weight > 0).expand_as(total)
    assert torch.allclose((total / weight)[seen], colour.expand_as(total)[seen], rtol=1e-12)


def test_without_confidence_a_pixel_is_not_read():
    views, confidence, taps = problem()
    confidence[1, 0, 2, :] = 0.0
    plain = ops.uv_accumulate(views, confidence, taps)
    views[1, :, 2, :] = float("nan")
    for mine, expected in zip(ops.uv_accumulate(views, confidence, taps), plain, strict=True):
        assert torch.equal(mine, expected)
    views[0, 1, 0, 0] = float("nan")
    total, weight = ops.uv_accumulate(views, confidence, taps)
    assert bool(total[0, 1].isnan().any()) and not bool(total[0, 0].isnan().any()) and not bool(weight.isnan().any())


def test_what_does_not_fit_is_one_sentence():
    views, confidence, taps = problem()
    with pytest.raises(ValueError, match=r"confidence must be \[3, 1, 4, 5\], got \[3, 2, 4, 5\]"):
        ops.uv_accumulate(views, views, taps)
    with pytest.raises(ValueError, match="uv_accumulate: views must be"):
        ops.uv_accumulate(views[:2], confidence, taps)
