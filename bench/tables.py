"""Markdown tables, and figures as people read them."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]
Rows = list[list[str]]


def source(result: Results) -> str:
    """Where figures come from, in one line."""
    machine, versions, settings = result["machine"], result["versions"], result.get("settings", {})
    where = machine["gpus"][0] if settings.get("device") == "cuda" else machine["cpu"]
    threads = settings.get("threads")
    used = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return f"{where}{used}, torch {versions['torch']}, {result['date'][:10]}, `{result['command']}`."


def table(header: list[str], rows: Rows, alignment: str) -> str:
    """Markdown; ``alignment`` has an ``l`` or an ``r`` for each column."""
    rule = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def times(row: Mapping[str, float] | None) -> str:
    """How many times as long a variant takes; nothing where it was not measured."""
    return "" if row is None else f"{short(row['ratio'])}x"


def short(value: float) -> str:
    """Three digits, thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 0.1 else f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")
