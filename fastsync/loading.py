"""Loading what diffusers has in folders or on the hub."""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from .errors import shown


def load(kind: Any, argument: str, model: str, dtype: torch.dtype, what: str, **parts: Any) -> Any:
    """A diffusers pipeline or model from a folder or the hub; ValueError in one sentence where it cannot be had."""
    import diffusers

    # diffusers renamed the argument; 0.42 is known to have the new name, and warns of the old one.
    release = tuple(int(n) for n in re.findall(r"\d+", diffusers.__version__)[:2])
    keyword = "dtype" if release >= (0, 42) else "torch_dtype"
    try:
        return kind.from_pretrained(model, **{keyword: dtype}, **parts)
    except (OSError, ValueError, AttributeError, ImportError) as error:
        # The libraries' own messages run over many sentences (all of them stay in the chained error).
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 120 else reason[:117] + "..."
        folder = os.path.isdir(model)
        found = (
            f"the folder holds no complete {what}"
            if folder
            else "it is neither a local folder nor available on the hub"
        )
        raise ValueError(
            f"{argument} {shown(model)} could not be loaded, {found} ({reason}): check the name, or use "
            "SyncPipeline.from_zoo()."
        ) from error
