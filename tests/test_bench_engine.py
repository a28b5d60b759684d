"""The engine beside another checkout: what a case spends is what it says, and a process serves this checkout."""

import pytest

from bench import engine


def test_a_case_is_the_median_of_the_rounds_ratios():
    rounds = [
        {"here": [2.0, 3.0, 10.0], "before": [1.0, 2.0, 10.0]},
        {"here": [1.0], "before": [1.0]},
        {"here": [9.0], "before": [1.0]},
    ]
    row = engine.condense(rounds)
    assert row["seconds"] == {"here": 3.0, "before": 1.0}
    assert row["rounds"] == [1.5, 1.0, 9.0] and row["ratio"] == 1.5
    assert engine.condense([{"here": [2.0, 4.0]}]) == {"seconds": {"here": 3.0}}


def test_an_iteration_is_counted_in_batches():
    few, many = (engine._bare("SyncVC", iterations=k)().stats for k in engine.ITERATIONS)
    more = engine.ITERATIONS[1] - engine.ITERATIONS[0]
    # One call forward for each further iteration of a batch that has controls.
    assert many.calls - few.calls == more * engine.BATCHES


@pytest.mark.parametrize("name", [name for name in engine.TURNS if name.startswith("bare")])
def test_a_process_runs_this_checkout(name):
    worker = engine._Worker(engine.ROOT)
    try:
        assert 0 < worker.seconds(name) < 60
    finally:
        worker.end()


def test_a_folder_without_fastsync_is_refused(tmp_path):
    (tmp_path / "bench").mkdir()
    for name in ("__init__", "machine", "timing"):
        (tmp_path / "bench" / f"{name}.py").write_bytes((engine.ROOT / "bench" / f"{name}.py").read_bytes())
    with pytest.raises(SystemExit, match="is no checkout of fastsync"):
        engine._Worker(tmp_path)
