"""Models that accelerate has offloaded, asked by other ways than their own call."""

from __future__ import annotations

from typing import Any


def load_offloaded(model: Any) -> None:
    """Load a model that accelerate keeps elsewhere, as its own call would; nothing is done where it is in place."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(model)
