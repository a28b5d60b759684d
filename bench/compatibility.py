"""``docs/compatibility.md`` from what the tests ran (``make compatibility``)."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
HEAD = """# What runs on what

`make compatibility` writes this page from what the tests ran, on tiny random pipelines of diffusers' own classes
(`tests/families`). None of them has code of its own in fastsync here: a pipeline that is not listed is learnt in the
same way, and `fastsync doctor --model NAME` says whether it can be ([any-pipeline.md](any-pipeline.md)).

"""
OWN = "its own"
METHODS = ("multidiffusion", "synctweedies", "syncsde", "syncvc", "stochsync")


def page(outcomes: list[dict[str, Any]]) -> str:
    """The page in Markdown.

    Args:
        outcomes: what tests have noted, a dictionary each: ``family``, and those of ``scheduler``, ``method``,
            ``task``, ``way`` and ``sentence`` (of a refusal) that it is about.
    """
    return HEAD + "\n".join([_families(outcomes), _schedulers(outcomes), _tasks(outcomes), _refusals(outcomes)])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _families(outcomes: list[dict[str, Any]]) -> str:
    ways: dict[str, str] = {}
    methods: dict[str, set[str]] = defaultdict(set)
    for found in outcomes:
        if found.get("scheduler") == OWN:
            ways[found["family"]] = found.get("way", "probe")
        if "method" in found and "task" not in found:
            methods[found["family"]].add(found["method"])
    rows = [
        [f"`{family}`", way, *("yes" if method in methods[family] else "" for method in METHODS)]
        for family, way in sorted(ways.items())
    ]
    return (
        "## Families\n\nOne window is the pipeline's own picture (1e-4), with its own scheduler. Way: `probe`, asked "
        "as learnt from\nits call, or `re-entry`, by entering its call anew at each step. Methods: yes, three windows "
        "ran; blank, not tried.\n\n" + table(["family", "way", *METHODS], rows)
    )


def _schedulers(outcomes: list[dict[str, Any]]) -> str:
    tried: dict[str, set[str]] = defaultdict(set)
    for found in outcomes:
        if found.get("scheduler", OWN) != OWN:
            tried[found["family"]].add(found["scheduler"])
    text = "## Schedulers\n\nOne window is the pipeline's own picture with these schedulers too; blank: not tried.\n"
    names = sorted({name for found in tried.values() for name in found})
    for flow in (False, True):
        columns = [name for name in names if name.startswith("flow") == flow]
        rows = [
            [f"`{family}`", *("yes" if name in found else "" for name in columns)]
            for family, found in sorted(tried.items())
            if found & set(columns)
        ]
        text += "\n" + table(["family", *columns], rows)
    return text


def _tasks(outcomes: list[dict[str, Any]]) -> str:
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    sentences: list[str] = []
    for found in outcomes:
        if "task" not in found:
            continue
        sentence = found.get("sentence")
        if sentence is not None and sentence not in sentences:
            sentences.append(sentence)
        said = "yes" if sentence is None else f"refused ({sentences.index(sentence) + 1})"
        cells[found["family"], found["task"]][found["method"]] = said
    methods = [name for name in METHODS if any(name in row for row in cells.values())]
    rows = [[f"`{f}`", task, *(row.get(name, "") for name in methods)] for (f, task), row in cells.items()]
    notes = "".join(f"{number}. {_escaped(sentence)}\n" for number, sentence in enumerate(sentences, 1))
    return "## Tasks\n\n" + table(["family", "task", *methods], rows) + "\nRefused:\n\n" + notes


def _refusals(outcomes: list[dict[str, Any]]) -> str:
    found = {o["family"]: o["sentence"] for o in outcomes if "sentence" in o and "task" not in o}
    rows = [[f"`{family}`", _escaped(sentence)] for family, sentence in sorted(found.items())]
    return "## Refused\n\n" + table(["family", "what fastsync says"], rows)


def _escaped(sentence: str) -> str:
    return sentence.replace("|", "\\|").replace("<", "&lt;").replace("__call__", "`__call__`")


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(Path(sys.argv[1]).read_text())))
