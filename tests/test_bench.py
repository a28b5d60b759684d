"""The op benchmarks compare equals, and the report tells what its files hold."""

import json

import pytest
import torch

from bench import ops as bench_ops
from bench import report, workloads
from bench.race import forced

SMALLEST = dict(reversed(workloads.names("cpu")))


@pytest.mark.parametrize("op", SMALLEST)
def test_all_variants_compute_the_same(op):
    workload = workloads.build(op, SMALLEST[op], "cpu")
    results = {}
    for variant in workload.variants:
        if variant.name != "copy" and not variant.optional:
            with forced(variant):
                out = variant.run()
            results[variant.name] = (out,) if isinstance(out, torch.Tensor) else tuple(out)
    assert len(results) >= 2 and workload.moved > 0
    for name, outputs in results.items():
        for mine, right in zip(outputs, results["eager"], strict=True):
            assert torch.allclose(mine, right, rtol=1e-3, atol=1e-4 * float(right.abs().max())), name


def info(seconds, op="merge", size="SD 1.5, 25 views"):
    spread = dict.fromkeys(seconds, 0.1)
    return {"op": op, "size": size, "bytes": 10**6, "seconds": seconds, "spread": spread, "failed": {}}


def test_figures_are_relative_to_ours():
    seconds = {"fastsync (native)": 1e-4, "hand-sliced": 3.5e-4, "copy": 0.5e-4}
    group = bench_ops.condense(info(seconds))
    assert group["ours"] == "fastsync (native)"
    assert group["variants"]["hand-sliced"]["ratio"] == 3.5
    assert group["variants"]["fastsync (native)"]["of_copy"] == 0.5
    assert group["variants"]["fastsync (native)"]["gigabytes_per_second"] == 10.0


def test_disturbed_groups_are_known():
    quiet = {**info({"fastsync": 1.0, "copy": 1.0}), "disturbance": 1.1}
    assert not bench_ops.is_disturbed(quiet)
    assert bench_ops.is_disturbed({**quiet, "disturbance": 80.0})
    assert bench_ops.is_disturbed({**quiet, "spread": {"fastsync": 0.5, "copy": 0.9}})


def test_a_goal_is_held_against_the_fastest_of_its_variants():
    goals = {"transform": (2.5, 1.9), "merge": (9.0,)}
    groups = {}
    for op, ratios in goals.items():
        names = ("eager", "index_select") if op == "transform" else ("hand-sliced",)
        seconds = {"fastsync (native)": 1.0, **dict(zip(names, ratios, strict=True)), "copy": 1.0}
        group = bench_ops.condense(info(seconds, op))
        groups[f"{op} | {group['size']}"] = group
    found = {goal.op: (against, value) for goal, _, against, value in report.goals({"groups": groups}, "cpu")}
    assert found == {"transform": ("index_select", 1.9), "merge": ("hand-sliced", 9.0)}


def test_only_what_is_between_markers_is_rewritten():
    text = "a <!-- bench:x -->old<!-- /bench:x --> b <!-- bench:y -->kept<!-- /bench:y -->"
    filled = report.fill(text, {"x": r"new \1"})
    assert filled == "a <!-- bench:x -->\n" + r"new \1" + "\n<!-- /bench:x --> b <!-- bench:y -->kept<!-- /bench:y -->"
    with pytest.raises(ValueError, match="needs one <!-- /bench:x --> after it"):
        report.fill("<!-- bench:x -->", {"x": ""})


def test_the_documents_hold_what_the_results_say(tmp_path, monkeypatch):
    for path in report.DOCUMENTS:
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(report, "DOCUMENTS", [tmp_path / path.name for path in report.DOCUMENTS])
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    originals = {path.name: path.read_text() for path in report.DOCUMENTS}
    report.main(None)
    for path in report.DOCUMENTS:
        assert path.read_text() == originals[path.name], "run python -m bench.report and commit what it writes"
    if (bench_ops.RESULTS / "ops_cpu.json").exists():
        assert (tmp_path / "docs" / "performance_cpu.png").stat().st_size > 1000
        assert json.loads((bench_ops.RESULTS / "ops_cpu.json").read_text())["groups"]
