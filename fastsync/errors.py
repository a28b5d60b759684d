"""Validation, and its messages: what was given, what is needed, how to mend it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import torch


def shown(value: Any) -> str:
    """``repr(value)`` on one line, at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def check_int(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return ``value`` as an int that is at least ``minimum``; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {shown(value)}: pass an int of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}: pass a larger number.")
    return int(value)


def check_number(name: str, value: Any, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return ``value`` as a finite float with ``minimum <= value <= maximum``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}: pass a float.")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}: pass an ordinary number.")
    if value < minimum or value > maximum:
        low = f"at least {minimum:g}" if minimum > -math.inf else ""
        high = f"at most {maximum:g}" if maximum < math.inf else ""
        raise ValueError(f"{name} must be {' and '.join(s for s in (low, high) if s)}, got {value:g}.")
    return value


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Return ``value`` as a pair (height, width) of ints, each at least 1."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (height, width), got {shown(value)}: pass two whole numbers.")
    return check_int(f"{name}[0]", value[0]), check_int(f"{name}[1]", value[1])


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``; ValueError that lists them otherwise."""
    choices = list(choices)
    if not isinstance(value, (str, type(None))) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}.")
    return value


def check_device(name: str, value: Any) -> torch.device:
    """Return ``value`` as a device that PyTorch can compute on here; ValueError otherwise."""
    try:
        device = torch.device(value)
        # A well-formed name is not enough: "cuda:9" may not be there, and "meta" holds no numbers.
        torch.zeros(1, device=device).item()
    except (RuntimeError, TypeError, AssertionError) as error:
        no_gpu = str(value).startswith("cuda") and not torch.cuda.is_available()
        raise ValueError(
            f"{name} must be one that PyTorch can compute on here, got {shown(value)}"
            f"{' but torch finds no CUDA GPU' if no_gpu else ''}: use 'cpu', or what `fastsync doctor` lists."
        ) from error
    return device


def check_tensor(name: str, value: Any, *, floating: bool = True) -> torch.Tensor:
    """Return ``value`` if it is a tensor without NaN or Inf (floating point if asked)."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}: convert it with torch.as_tensor.")
    if floating and not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}: convert it with .float().")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} has {count} values that are NaN or infinite: pass finite numbers.")
    return value


def shape_text(shape: Iterable[int]) -> str:
    """A shape as people write it: ``[1, 4, 64, 64]``."""
    return "[" + ", ".join(str(int(s)) for s in shape) + "]"
