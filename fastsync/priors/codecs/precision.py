"""A model's function in another dtype than the model's, whose own weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from ..offload import load_offloaded


def computed_in(
    dtype: torch.dtype | None, model: Any, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """``function(x)``, which calls ``model``, in ``dtype``; None is the model's own. Differentiable in x."""
    dtype = dtype or model.dtype
    x = x.to(dtype)
    if dtype == model.dtype:
        return function(x)
    load_offloaded(model)
    # Copies, which a backward pass still finds when the model has its own weights again. Parameters, since accelerate
    # loads what is offloaded weight by weight into one of the same class and dtype.
    weights: dict[str, torch.Tensor] = {
        f"model.{name}": torch.nn.Parameter(
            tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype), requires_grad=False
        )
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    result: torch.Tensor = torch.func.functional_call(_Bound(model, function), weights, (x,))
    return result


class _Bound(torch.nn.Module):
    """A function of a model's as a module's forward, which can be called with other weights."""

    def __init__(self, model: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)
