import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops
from fastsync.ops.cfg_tweedie import linear_form

B, C, H, W = 3, 2, 4, 5
KINDS = ["epsilon", "v_prediction", "sample", "flow"]


def variance_preserving():
    angle = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 7.5, "a sample", None])
def test_splits_x_into_estimates_that_the_network_meant(kind, scale):
    raw, raw_uncond, x = randn(3, B, C, H, W)
    a, b = variance_preserving()
    if kind == "flow":
        a, b = torch.tensor([0.0, 0.4, 0.99], dtype=torch.float64), torch.tensor([1.0, 0.6, 0.01], dtype=torch.float64)
    if scale == "a sample":
        scale = torch.tensor([1.0, 3.0, 7.5], dtype=torch.float64)
    s = scale.reshape(-1, 1, 1, 1) if isinstance(scale, torch.Tensor) else scale
    guided = raw if scale is None else raw_uncond + s * (raw - raw_uncond)
    x0, eps = ops.cfg_tweedie(
        raw, None if scale is None else raw_uncond, x, a, b, 3.0 if scale is None else scale, kind
    )
    a, b = a.reshape(-1, 1, 1, 1), b.reshape(-1, 1, 1, 1)
    assert relative(a * x0 + b * eps, x) < 1e-14
    target = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0, "flow": eps - x0}[kind]
    assert relative(target, guided) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_linear_form_is_the_op_itself(kind):
    raw, x = randn(2, B, C, H, W).unbind()
    a, b = variance_preserving()
    x0, eps = ops.cfg_tweedie(raw, None, x, a, b, 1.0, kind)
    px, pr, qx, qr = (c.reshape(-1, 1, 1, 1) for c in linear_form(a, b, kind))
    assert relative(px * x + pr * raw, x0) < 1e-14 and relative(qx * x + qr * raw, eps) < 1e-14


def test_takes_the_precision_of_the_state():
    x, (a, b) = randn(B, C, H, W), variance_preserving()
    x0, eps = ops.cfg_tweedie(x.half(), x.half(), x, a, b, 2.0, "epsilon")
    assert x0.dtype == eps.dtype == torch.float64
    # Guidance of half-precision rows is not rounded to half on its way.
    raw, uncond = x.half() * 60, x.half() * 59
    _, eps = ops.cfg_tweedie(raw, uncond, x.float(), a, b, 7.5, "epsilon")
    assert relative(eps.double(), uncond.double() + 7.5 * (raw.double() - uncond.double())) < 1e-6


def test_nan_stays_in_its_cell():
    raw, uncond, x = randn(3, B, C, H, W).unbind()
    raw[1, 0, 2, 3] = float("nan")
    uncond[2, 1, 0, 0] = float("inf")
    for out in ops.cfg_tweedie(raw, uncond, x, *variance_preserving(), 2.0, "v_prediction"):
        bad = ~out.isfinite()
        assert int(bad.sum()) == 2 and bool(bad[1, 0, 2, 3]) and bool(bad[2, 1, 0, 0])


def test_what_does_not_fit_is_one_sentence():
    x, (a, b) = randn(B, C, H, W), variance_preserving()
    with pytest.raises(
        ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, flow, got 'score'"
    ):
        ops.cfg_tweedie(x, None, x, a, b, 2.0, "score")
    with pytest.raises(ValueError, match=r"raw_uncond must have x's shape \[3, 2, 4, 5\], got \[2, 2, 4, 5\]"):
        ops.cfg_tweedie(x, x[:2], x, a, b, 2.0, "epsilon")
    with pytest.raises(ValueError, match=r"b must be \[3\], one number a sample, got \[1\]"):
        ops.cfg_tweedie(x, None, x, a, b[:1], 2.0, "epsilon")
