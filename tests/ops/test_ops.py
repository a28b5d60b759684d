import itertools

import pytest
import torch
from exact_priors import randn, relative

from fastsync import ops

B, C, H, W = 3, 2, 4, 5


def cosine(seed=0):
    """Variance-preserving (a, b) [B]."""
    angle = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64)
    return angle.cos(), angle.sin()


# ---- cfg_tweedie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("scale", [1.0, 7.5, None])
def test_cfg_tweedie_splits_x(kind, scale):
    raw, raw_uncond, x = randn(3, B, C, H, W)
    a, b = cosine()
    if kind == "flow":
        a, b = torch.tensor([0.0, 0.4, 0.99], dtype=torch.float64), torch.tensor([1.0, 0.6, 0.01], dtype=torch.float64)
    guided = raw if scale is None else raw_uncond + scale * (raw - raw_uncond)
    x0, eps = ops.cfg_tweedie(raw, None if scale is None else raw_uncond, x, a, b, scale or 3.0, kind)
    a, b = a.reshape(-1, 1, 1, 1), b.reshape(-1, 1, 1, 1)
    assert relative(a * x0 + b * eps, x) < 1e-14
    # What the network predicted comes back from the two estimates.
    target = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0, "flow": eps - x0}[kind]
    assert relative(target, guided) < 1e-13


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_cfg_tweedie_gradcheck(kind):
    raw, raw_uncond, x = (v.requires_grad_() for v in randn(3, 2, 1, 2, 3).unbind())
    a, b = (v[:2] for v in cosine())
    assert torch.autograd.gradcheck(lambda *v: ops.cfg_tweedie(*v, a, b, 2.5, kind), (raw, raw_uncond, x))


def test_cfg_tweedie_takes_the_precision_of_the_state():
    x, a, b = randn(B, C, H, W), *cosine()
    x0, eps = ops.cfg_tweedie(x.half(), x.half(), x, a, b, 2.0, "epsilon")
    assert x0.dtype == eps.dtype == torch.float64
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        ops.cfg_tweedie(x, None, x, a, b, 2.0, "score")


# ---- ddim_step --------------------------------------------------------------------------------------------------


def test_ddim_step_is_its_formula_per_sample():
    x0, eps, noise = randn(3, B, C, H, W)
    a, d, s = torch.rand(3, B, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got, plain = ops.ddim_step(x0, eps, a, d, s, noise), ops.ddim_step(x0, eps, a, d, s)
    for i in range(B):
        assert torch.allclose(plain[i], a[i] * x0[i] + d[i] * eps[i])
        assert torch.allclose(got[i], a[i] * x0[i] + d[i] * eps[i] + s[i] * noise[i])


# ---- overlap_loss, control_grad ---------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_overlap_loss_and_its_gradient(soft):
    x, target = randn(2, B, C, H, W).unbind()
    mask = torch.rand(B, 1, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = mask if soft else (mask > 0.5).double()
    x.requires_grad_()
    loss, gradient = ops.overlap_loss(x, target, mask)
    expected = torch.stack([sum((mask[i] * (x[i] - target[i])[c]).pow(2).sum() for c in range(C)) for i in range(B)])
    assert torch.allclose(loss, expected)
    assert relative(gradient, torch.autograd.grad(expected.sum(), x)[0]) < 1e-14
    assert torch.autograd.gradcheck(lambda v: ops.overlap_loss(v, target, mask)[0], x)


def control_inputs():
    x, x0, eps, eps_free, control, target_x0, target_x = randn(7, B, C, H, W).unbind()
    mask = (torch.rand(B, 1, H, W, generator=torch.Generator().manual_seed(3)) > 0.4).double()
    coupling = torch.tensor([0.0, 0.7, 5.0], dtype=torch.float64)
    kl = torch.tensor([0.3, 0.0, 2.0], dtype=torch.float64)
    return x, x0, eps, eps_free, control, target_x0, target_x, mask, coupling, kl


def written_loss(x, x0, eps, eps_free, control, target_x0, target_x, mask, coupling, kl, w, c):
    """DESIGN.md section 4, one view at a time."""
    total = []
    for i in range(B):
        coupled = eps[i] + mask[i] * (x[i] - target_x[i]) * coupling[i]
        total.append(
            w * (mask[i] * (x0[i] - target_x0[i])).pow(2).sum()
            + kl[i] * (coupled - eps_free[i]).pow(2).sum()
            + c * control[i].pow(2).sum()
        )
    return torch.stack(total)


def test_control_grad_is_autograd_of_the_written_loss():
    x, x0, eps, eps_free, control, target_x0, target_x, mask, coupling, kl = control_inputs()
    w, c = 1.7, 0.2
    loss, g_x0, g_eps, direct = ops.control_grad(
        x, x0, eps, eps_free, control, target_x0, target_x, mask, coupling, w, kl, c
    )
    # x~ = x_t + control, so the control moves with x.
    base = x - control
    leaves = [v.clone().requires_grad_() for v in (x, x0, eps)]
    expected = written_loss(*leaves, eps_free, leaves[0] - base, target_x0, target_x, mask, coupling, kl, w, c)
    gradients = torch.autograd.grad(expected.sum(), leaves)
    assert torch.allclose(loss, expected)
    for got, gradient in zip((direct, g_x0, g_eps), gradients, strict=True):
        assert relative(got, gradient) < 1e-13


def test_control_grad_by_finite_differences():
    x, x0, eps, eps_free, control, target_x0, target_x, mask, coupling, kl = control_inputs()
    rest = (target_x0, target_x, mask, coupling, 1.7, kl, 0.2)
    _, g_x0, g_eps, direct = ops.control_grad(x, x0, eps, eps_free, control, *rest)
    d_x, d_x0, d_eps = randn(3, B, C, H, W, seed=9)
    h = 1e-6

    def loss(s):
        return ops.control_grad(x + s * d_x, x0 + s * d_x0, eps + s * d_eps, eps_free, control + s * d_x, *rest)[0]

    slope = (loss(h) - loss(-h)) / (2 * h)
    expected = (g_x0 * d_x0 + g_eps * d_eps + direct * d_x).flatten(1).sum(1)
    assert relative(slope, expected) < 1e-7


# ---- control_update ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_control_update_is_adam(gamma):
    x = randn(B, C, H, W, seed=1)
    u = torch.zeros_like(x, requires_grad=True)
    adam = torch.optim.Adam([u], lr=0.02, betas=(0.9, 0.999), eps=1e-8)
    control, first, second = (torch.zeros_like(x) for _ in range(3))
    for k in range(8):
        gradient = randn(B, C, H, W, seed=10 + k) * 10.0 ** (k - 4)
        lr = 0.02 / (1 + k)
        adam.param_groups[0]["lr"] = lr
        u.grad = gamma * gradient
        adam.step()
        out = ops.control_update(control, first, second, gradient, x, k, lr, gamma)
        assert relative(control, u.detach()) < 1e-12
        assert relative(out, x + gamma * u.detach()) < 1e-14


def test_control_update_of_a_zero_gradient_stays():
    x = randn(1, 1, 2, 2)
    control, first, second = (torch.zeros_like(x) for _ in range(3))
    assert torch.equal(ops.control_update(control, first, second, torch.zeros_like(x), x, 0, 0.1, 1.0), x)


# ---- accumulate, merge ------------------------------------------------------------------------------------------


def crops(loop=False):
    """Index tensors of windows 3x4 on a canvas 5x9, written by hand; the last wraps if it is a loop."""
    origins = [(0, 0), (0, 3), (2, 1), (2, 7 if loop else 5)]
    rows = [torch.arange(y, y + 3) for y, _ in origins]
    columns = [torch.arange(x, x + 4) % 9 for _, x in origins]
    return rows, columns


def crop(z, rows, columns):
    return torch.stack([z[0].index_select(1, y).index_select(2, x) for y, x in zip(rows, columns, strict=True)])


@pytest.mark.parametrize("loop", [False, True])
def test_accumulate_is_the_adjoint_of_cropping(loop):
    rows, columns = crops(loop)
    z, views = randn(1, 2, 5, 9), randn(4, 2, 3, 4, seed=1)
    total = ops.accumulate(views, rows, columns, (5, 9))
    assert float((crop(z, rows, columns) * views).sum()) == pytest.approx(float((z * total).sum()), rel=1e-12)
    assert torch.autograd.gradcheck(lambda v: ops.accumulate(v, rows, columns, (5, 9)), views.requires_grad_())


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("per_view", [False, True])
def test_merge_is_the_weighted_mean(loop, per_view):
    rows, columns = crops(loop)
    views, previous = randn(4, 2, 3, 4, seed=1), randn(1, 2, 5, 9, seed=2)
    weights = torch.rand(4 if per_view else 1, 1, 3, 4, generator=torch.Generator().manual_seed(3)).double() + 0.1
    weights[0, 0, 1, 1] = 0.0
    merged = ops.merge(views, weights, rows, columns, (5, 9), previous)
    for y, x in itertools.product(range(5), range(9)):
        top, bottom = torch.zeros(2, dtype=torch.float64), 0.0
        for i in range(4):
            for r, s in itertools.product(range(3), range(4)):
                if int(rows[i][r]) == y and int(columns[i][s]) == x:
                    weight = weights[i if per_view else 0, 0, r, s]
                    top, bottom = top + weight * views[i, :, r, s], bottom + weight
        expected = top / bottom if bottom > 0 else previous[0, :, y, x]
        assert torch.allclose(merged[0, :, y, x], expected, rtol=1e-12)
    covered = ops.accumulate(torch.ones(4, 1, 3, 4), rows, columns, (5, 9)) > 0
    assert not bool(covered.all())
    z = randn(1, 2, 5, 9, seed=5)
    again = ops.merge(crop(z, rows, columns), torch.ones(1, 1, 3, 4), rows, columns, (5, 9))
    assert torch.allclose(again, torch.where(covered, z, torch.zeros_like(z)), rtol=1e-12)
