"""A prior from any function: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..conditions import Conditions
from ..diffusion import NoiseSchedule, SolverChoice
from ..errors import check_device, check_int, shape_text, shown
from .base import Prior

EpsFunction = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]


class FunctionPrior(Prior):
    """Wraps ``eps_fn(x[B, C, h, w], t[B], cond[B, ...]) -> raw[B, C, h, w]`` as a prior.

    Args:
        eps_fn: the network; its output is read as the scheduler's ``prediction_type`` says (epsilon by default). Times
            are int64 on discrete schedules and float on flow schedules; ``cond`` is None if none was given to
            ``sample``, a tensor [B, ...] if a bare one was, and :class:`fastsync.Conditions` of B rows if names were.
            With guidance it is called once with both halves in a batch, the unconditional half first.
        scheduler: a diffusers scheduler, whose own solver takes the steps.
        view_shape: (C, h, w).
        device, dtype: where states live and what noise is drawn in when no latents are given. States are float32 or
            float64; with a half-precision ``dtype`` they are handed to ``eps_fn`` in it.
        solver: ``"auto"``, the scheduler's own, or ``"ddim"``, which runs any scheduler's times and betas by DDIM.
    """

    def __init__(
        self,
        eps_fn: EpsFunction,
        scheduler: Any,
        view_shape: tuple[int, int, int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        solver: SolverChoice = "auto",
    ) -> None:
        if not callable(eps_fn):
            raise TypeError(f"eps_fn must be callable as eps_fn(x, t, cond), got {type(eps_fn).__name__}.")
        if not isinstance(view_shape, (tuple, list)) or len(view_shape) != 3:
            raise ValueError(f"view_shape must be (C, h, w), got {shown(view_shape)}: pass three whole numbers.")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {shown(dtype)}: pass torch.float32.")
        self.eps_fn = eps_fn
        self.schedule = NoiseSchedule(scheduler, solver)
        c, h, w = (check_int(f"view_shape[{i}]", n) for i, n in enumerate(view_shape))
        self._view_shape = (c, h, w)
        self._device, self._dtype = check_device("device", device), dtype

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w), as given."""
        return self._view_shape

    @property
    def device(self) -> torch.device:
        """Where states live, as given."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """What ``eps_fn`` is given at most, as given."""
        return self._dtype

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """Raw output of ``eps_fn``, checked for its shape."""
        given = None if cond is None else cond.bare()
        raw = self.eps_fn(x.to(self.dtype) if self.dtype.itemsize < 4 else x, t, given)
        if not isinstance(raw, torch.Tensor) or raw.shape != x.shape:
            got = shape_text(raw.shape) if isinstance(raw, torch.Tensor) else type(raw).__name__
            raise ValueError(f"eps_fn must return a tensor of x's shape {shape_text(x.shape)}, got {got}.")
        return raw
