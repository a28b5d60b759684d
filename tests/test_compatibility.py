"""docs/compatibility.md names every family that the tests know, once, and says what was noted."""

import re

from families import FAMILIES

from bench.compatibility import PAGE, page


def section(text, name):
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_page_has_the_families_of_the_tests():
    """After a change of tests/families: make compatibility."""
    text = PAGE.read_text()
    named = [re.findall(r"^\| `([^`]+)`", section(text, part), re.MULTILINE) for part in ("Families", "Refused")]
    assert sorted(named[0] + named[1]) == sorted(FAMILIES)


def test_what_a_page_says():
    text = page(
        [
            {"family": "a", "scheduler": "its own"},
            {"family": "b", "scheduler": "its own", "way": "re-entry"},
            {"family": "a", "scheduler": "euler"},
            {"family": "a", "method": "syncvc"},
            {"family": "a", "task": "wide", "method": "syncvc"},
            {"family": "a", "task": "texture", "method": "syncvc", "sentence": "no depth"},
            {"family": "c", "sentence": "one | two"},
        ]
    )
    assert "| `a` | probe |  |  |  | yes |  |" in text and "| `b` | re-entry |  |  |  |  |  |" in text
    assert "| family | euler |" in section(text, "Schedulers")
    assert "| `a` | wide | yes |" in text and "| `a` | texture | refused (1) |" in text and "1. no depth" in text
    assert "| `c` | one \\| two |" in section(text, "Refused")
