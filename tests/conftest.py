"""Where there is no GPU, Triton interprets the kernels. It decides when it is imported, so before any test."""

import json
import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.register_assert_rewrite("contracts")
OUTCOMES = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption(
        "--compatibility", metavar="FILE", help="write what passed of families, schedulers, methods and tasks as JSON"
    )


def pytest_configure(config):
    config.stash[OUTCOMES] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.passed:
        item.config.stash[OUTCOMES] += [value for name, value in item.user_properties if name == "outcome"]
    return report


def pytest_sessionfinish(session):
    path = session.config.getoption("--compatibility")
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(session.config.stash[OUTCOMES], indent=0) + "\n")


@pytest.fixture
def outcome(request):
    """Note what a test that passes has shown, for docs/compatibility.md.

    ``outcome(family, scheduler=..., method=..., task=..., sentence=...)``: the family ran so, or was refused so.
    """

    def note(family, **of):
        request.node.user_properties.append(("outcome", {"family": family, **of}))

    return note
