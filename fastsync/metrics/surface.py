"""Do views of one surface show the same, and how much is there to see?"""

import torch
from torch import Tensor

from ..errors import shape_text
from ..geometry import Sight
from ..geometry.sight import normals


def view_disagreement(sight: Sight, views: Tensor, margin: int = 2) -> float:
    """Mean |difference| of views where they show the same point of the surface, over all pairs.

    `views`: floating `[N, C, h, w]`, as large as `sight`'s. Each view's pixels are compared with what the other views
    show there, bilinear. Pixels within `margin` of an edge of either view say nothing: colours of what is behind them
    are mixed in. NaN if no two views share anything.
    """
    _check(sight, views)
    inside = sight.foreground & ~sight.beside_edges(margin)
    total, count = views.new_zeros(()), 0
    for i in range(len(views)):
        own = inside[i].to(views.device)
        at, normal = sight.points[i][inside[i]], normals(sight.mesh, sight.face[i][inside[i]])
        for j in range(len(views)):
            if i == j or not len(at):
                continue
            index, weight = (part.to(views.device) for part in sight.around(j, at, normal))
            clear = inside[j].flatten().to(views.device)[index] | (weight == 0)
            shown = (weight.sum(1) > 0) & clear.all(1)
            read = (views[j].flatten(1)[:, index] * weight.to(views.dtype)).sum(-1)
            difference = (views[i][:, own] - read).abs()[:, shown]
            total, count = total + difference.sum(), count + difference.numel()
    return float(total) / count if count else float("nan")


def detail(sight: Sight, views: Tensor, margin: int = 2) -> float:
    """Mean |difference| of neighbouring pixels on the surface: what blurred views have less of.

    `views`: floating `[N, C, h, w]`; `margin` as in `view_disagreement`.
    """
    _check(sight, views)
    inside = (sight.foreground & ~sight.beside_edges(margin))[:, None].expand(views.shape).to(views.device)
    across = (views[..., 1:] - views[..., :-1]).abs()[inside[..., 1:] & inside[..., :-1]]
    down = (views[..., 1:, :] - views[..., :-1, :]).abs()[inside[..., 1:, :] & inside[..., :-1, :]]
    return float(torch.cat([across, down]).mean())


def _check(sight: Sight, views: Tensor) -> None:
    expected = (len(sight.face), *sight.size)
    if not isinstance(views, Tensor) or views.ndim != 4 or (len(views), *views.shape[2:]) != expected:
        got = shape_text(views.shape) if isinstance(views, Tensor) else type(views).__name__
        raise ValueError(f"views must be [{expected[0]}, C, {expected[1]}, {expected[2]}], as sight's, got {got}.")
