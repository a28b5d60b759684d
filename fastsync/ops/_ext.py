"""The compiled extension `fastsync._C`, loaded when it is first needed."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType


@cache
def load() -> ModuleType | None:
    """The extension, or None where it is not built or does not load (:func:`reason` says why)."""
    return _try()[0]


@cache
def reason() -> str:
    """Why the extension is not there; empty where it is."""
    return _try()[1]


@cache
def _try() -> tuple[ModuleType | None, str]:
    if importlib.util.find_spec("fastsync._C") is None:
        return None, (
            "the extension fastsync._C is not built in this installation: install torch, setuptools>=77, wheel, ninja "
            "and a C++ compiler, then pip install --no-build-isolation fastsync"
        )
    try:
        return importlib.import_module("fastsync._C"), ""
    except ImportError as error:
        return None, f"fastsync._C does not load ({error}): it was built for another torch, so install fastsync anew"
