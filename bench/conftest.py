"""Options of the benchmarks."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--minutes`: a machine on loan gives an end, not a pace."""
    parser.addoption("--minutes", type=float, default=60.0, help="Groups that would begin later than this are skipped.")
    parser.addoption("--threads", type=int, default=2, help="Threads of PyTorch on the CPU.")
    parser.addoption("--seconds", type=float, default=2.0, help="Time measured for each group of variants.")
    parser.addoption("--finished", default="", help="File that gets a line of JSON for each race once it is over.")
    parser.addoption("--rounds", type=int, default=3, help="Rounds of each race of whole runs.")
