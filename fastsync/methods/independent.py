"""No synchronisation: the baseline that every method is compared with."""

from __future__ import annotations

from .base import Method


class Independent(Method):
    """Every view is sampled on its own; the canvas is the merge of the final views."""
