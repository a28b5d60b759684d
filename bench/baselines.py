"""What the ops are measured against: the ways in which PyTorch users write them.

None is written to lose. Overlaps are slices, without a mask or a shifted copy; gradients are closed forms except where
autograd is the point; what could be prepared outside a sampling loop (flat indices, full-size targets, counts) is
given.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Results = tuple[Tensor, ...]
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def overlap_autograd(x: Tensor, neighbour: Tensor, stride: int) -> Results:
    """Loss and gradient of the columns that each view of x [B, C, h, w] shares with its neighbour, by autograd."""
    x = x.detach().requires_grad_()
    loss = (x[..., : x.shape[3] - stride] - neighbour[..., stride:]).square().flatten(1).sum(1)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def overlap_sliced(x: Tensor, neighbour: Tensor, stride: int) -> Results:
    """The same with the gradient in closed form."""
    shared = x.shape[3] - stride
    difference = x[..., :shared] - neighbour[..., stride:]
    gradient = torch.zeros_like(x)
    torch.mul(difference, 2, out=gradient[..., :shared])
    return difference.square().sum((1, 2, 3)), gradient


def ddim_sliced(
    x0: Tensor,
    eps: Tensor,
    a_next: Tensor,
    direction: Tensor,
    pull: Tensor,
    x: Tensor,
    neighbour: Tensor,
    stride: int,
) -> Tensor:
    """The step with the pull on shared columns; coefficients [B, 1, 1, 1]."""
    shared = x.shape[3] - stride
    stepped = torch.addcmul(a_next * x0, direction, eps)
    stepped[..., :shared] -= pull * (x[..., :shared] - neighbour[..., stride:])
    return stepped


def adam_in_place(
    control: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    x: Tensor,
    iteration: int,
    lr: float,
    strength: float,
) -> Tensor:
    """Adam as a careful user writes it, without temporary tensors where PyTorch can; returns ``x + strength u``."""
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    spread = second.sqrt().div_((1 - BETA2 ** (iteration + 1)) ** 0.5).add_(EPSILON)
    control.addcdiv_(first, spread, value=-lr / (1 - BETA1 ** (iteration + 1)))
    return torch.add(x, control, alpha=strength)


def iteration_autograd(
    raw: Tensor,
    x: Tensor,
    eps_free: Tensor,
    control: Tensor,
    clean: Tensor,
    noisy: Tensor,
    mask: Tensor,
    numbers: dict[str, Tensor],
    weights: tuple[float, float],
) -> Results:
    """SyncVC's loss from the raw output [2B, C, h, w] on, and by autograd its gradients on raw and x.

    ``clean`` and ``noisy`` are the neighbours' states moved to where each view reads them, ``mask`` is 1 there.
    """
    raw, x = raw.detach().requires_grad_(), x.detach().requires_grad_()
    control = control.detach().requires_grad_()
    reward, cost = weights
    uncond, cond = raw.chunk(2)
    eps = uncond + numbers["guidance"] * (cond - uncond)
    x0 = (x - numbers["b"] * eps) / numbers["a"]
    overlap = (mask * (x0 - clean)).square().sum()
    deviation = eps + numbers["coupling"] * mask * (x - noisy) - eps_free
    loss = reward * overlap + (numbers["kl"] * deviation.square()).sum() + cost * control.square().sum()
    g_raw, g_x, g_control = torch.autograd.grad(loss, (raw, x, control))
    return g_raw, g_x + g_control


def iteration_sliced(
    raw: Tensor,
    x: Tensor,
    eps_free: Tensor,
    control: Tensor,
    clean: Tensor,
    noisy: Tensor,
    stride: int,
    numbers: dict[str, Tensor],
    weights: tuple[float, float],
) -> Results:
    """The same in closed form, on slices; ``clean`` and ``noisy`` are the neighbours' states as they are."""
    reward, cost = weights
    shared = x.shape[3] - stride
    uncond, cond = raw.chunk(2)
    a, b, s, kl, coupling = (numbers[name] for name in ("a", "b", "guidance", "kl", "coupling"))
    eps = torch.lerp(uncond, cond, s)
    x0 = (x - b * eps) / a
    difference = x0[..., :shared] - clean[..., stride:]
    deviation = eps - eps_free
    deviation[..., :shared] += coupling * (x[..., :shared] - noisy[..., stride:])
    # A loop reports its loss.
    loss = reward * difference.square().sum((1, 2, 3)) + (kl * deviation.square()).sum((1, 2, 3))
    loss += cost * control.square().sum((1, 2, 3))
    g_eps = 2 * kl * deviation
    direct = 2 * cost * control
    direct[..., :shared] += coupling * g_eps[..., :shared] + (2 * reward / a) * difference
    g_eps[..., :shared] -= (2 * reward * b / a) * difference
    return torch.cat([(1 - s) * g_eps, s * g_eps]), direct


def accumulate_sliced(views: Tensor, origins: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Windows added to a canvas one after the other; none wraps."""
    canvas = views.new_zeros(1, views.shape[1], *size)
    height, width = views.shape[2:]
    for view, (y, x) in zip(views, origins, strict=True):
        canvas[0, :, y : y + height, x : x + width] += view
    return canvas


def merge_sliced(views: Tensor, weights: Tensor, origins: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """MultiDiffusion's merge: values and counts added window by window, then divided where there is a count."""
    value, count = views.new_zeros(1, views.shape[1], *size), views.new_zeros(1, 1, *size)
    height, width = views.shape[2:]
    for view, (y, x) in zip(views, origins, strict=True):
        value[0, :, y : y + height, x : x + width] += weights[0] * view
        count[0, :, y : y + height, x : x + width] += weights[0]
    return torch.where(count > 0, value / count, value)


def transform_indexed(x: Tensor, flat: Tensor, side: int) -> Tensor:
    """One permutation of the cells for all views."""
    return x.flatten(2).index_select(2, flat).unflatten(2, (-1, side))


def splat_bare(products: Tensor, flat: Tensor, size: tuple[int, int]) -> Tensor:
    """``index_add_`` alone, of products [C, taps] formed beforehand: the layout in which PyTorch is fastest."""
    return products.new_zeros(len(products), size[0] * size[1]).index_add_(1, flat, products).reshape(1, -1, *size)


def splat_usual(views: Tensor, weight: Tensor, flat: Tensor, size: tuple[int, int]) -> Tensor:
    """Every pixel times its taps' weights [N, h, w, K], then ``index_add_``."""
    return splat_bare((views.transpose(0, 1)[..., None] * weight).flatten(1), flat, size)


def uv_bare(products: Tensor, weights: Tensor, flat: Tensor, size: tuple[int, int]) -> Results:
    """``index_add_`` alone, of weighted colours [C, taps] and weights [1, taps] formed beforehand."""
    return splat_bare(products, flat, size), splat_bare(weights, flat, size)


def uv_usual(views: Tensor, confidence: Tensor, weight: Tensor, flat: Tensor, size: tuple[int, int]) -> Results:
    """Weights times confidence, colours times these, ``index_add_`` of both; without the division, which follows."""
    both = confidence.transpose(0, 1)[..., None] * weight
    values = views.transpose(0, 1)[..., None] * both
    return uv_bare(values.flatten(1), both.flatten(1), flat, size)
