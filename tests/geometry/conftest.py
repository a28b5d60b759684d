"""Unwrapping keeps what it finds: not in the folder of the user who runs the tests."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSYNC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
