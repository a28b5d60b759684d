"""What a picture's metadata say of arguments that JSON cannot hold."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from typing import Any

from .errors import shape_text
from .priors import ByView


def recorded(value: Any) -> Any:
    """Strings, numbers, None, and lists and dictionaries of them, as they are; all else by its type and shape."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return {str(name): recorded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [recorded(item) for item in value]
    if isinstance(value, ByView):
        return f"ByView of {len(value)}: {recorded(value[0])}"
    return f"{type(value).__name__}{_shape(value)}"


def _shape(value: Any) -> str:
    shape, size = getattr(value, "shape", None), getattr(value, "size", None)
    if shape is not None:
        return f" {shape_text(shape)}"
    return f" {size[0]} x {size[1]}" if isinstance(size, tuple) and len(size) == 2 else ""
