"""What a run's saved state has to say of itself, so that no other run goes on with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .canvases.base import LinearCanvas
from .errors import shown
from .methods.base import Method
from .run import Run


def description(run: Run, method: Method) -> dict[str, Any]:
    """What two runs must have in common for one to go on with the other's state: numbers, strings, lists of them.

    Prompts are not part of it.
    """
    canvas = run.canvas
    return {
        "method": type(method).__name__,
        **{name: _plainly(value) for name, value in vars(method).items()},
        "canvas": f"{type(canvas).__name__} of {canvas.num_views} views, {list(canvas.size)}",
        "where views lie": _places(canvas),
        "order of views": list(run.order),
        "what views read": _plainly(run.sources),
        "view shape": list(run.prior.view_shape),
        "solver": method.solver_name(run.prior),
        "times": run.times.host_times.tolist(),
        "noise of the steps": run.times.table.sigma.tolist(),
        "guidance": str(run.network.guidance),
        "fixed_batches": run.network.buckets is not None,
        "precision": str(run.dtype),
    }


def check_same_run(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """ValueError that names the first difference of two descriptions, ``other`` being the saved one."""
    for name in (*mine, *other):
        if mine.get(name) != other.get(name):
            raise ValueError(
                f"the state is of another run: there {name} is {shown(other.get(name))}, and here "
                f"{shown(mine.get(name))}: build the session by the call that the state was taken from."
            )


def copied(value: Any, device: torch.device | None = None) -> Any:
    """A copy that shares no tensor, list or dictionary with the original, its tensors on ``device`` if given."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if device is None else value.detach().to(device, copy=True)
    if isinstance(value, Mapping):
        return {name: copied(item, device) for name, item in value.items()}
    return [copied(item, device) for item in value] if isinstance(value, (list, tuple)) else value


def _places(canvas: LinearCanvas) -> list[list[float]]:
    """A number or two a view that tell where it looks, rounded: geometry may differ in a cell between machines."""
    parts = [torch.stack([canvas.cells(i) for i in range(canvas.num_views)])]
    parts += [] if canvas.regions is None else [canvas.regions]
    parts += [] if canvas.signs is None else [canvas.signs[:, None].expand(-1, math.prod(canvas.view_shape))]
    means = []
    for part in parts:
        flat = part.cpu().double().flatten(1)
        means.append((flat * torch.linspace(0, 1, flat.shape[1], dtype=flat.dtype)).mean(1))
    return [[round(mean, 2) for mean in row] for row in torch.stack(means, 1).tolist()]


def _plainly(value: Any) -> Any:
    """A setting as it can be saved and compared: numbers, strings and lists of them; of all else only its type."""
    if isinstance(value, (list, tuple)):
        return [_plainly(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__
