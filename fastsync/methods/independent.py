"""No synchronisation: the baseline that every method is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Method


@dataclass(eq=False)
class Independent(Method):
    """Every view is sampled on its own; the canvas is the merge of the final views."""
