"""Makes the tables and plots of the documents from bench/results/*.json.

    python -m bench.report [--goals FILE]

Fills what stands between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->`` in docs/performance.md and README.md, and
draws the plots beside them. The same results give the same bytes.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import report_mesh, report_runs, report_tradeoff
from bench.drawing import BLUE, FAINT, GREY, INK, RED, RULE, sheet
from bench.machine import RESULTS
from bench.tables import Results, short, source, table, times
from fastsync.files import replacing
from fastsync.pictures import save_picture

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "docs" / "performance.md", ROOT / "README.md")


@dataclass(frozen=True)
class Goal:
    """What a group must reach: ``figure`` of a variant at least (or, where ``at_most``, at most) ``bound``.

    ``against`` names variants, of which the fastest counts; empty means ours. ``size`` None stands for all sizes.
    """

    op: str
    size: str | None
    figure: str
    bound: float
    against: tuple[str, ...] = ()
    at_most: bool = False


SORTED, UNSORTED = "fastsync (native, sorted)", "fastsync (native, unsorted)"
GOALS = {
    "cpu": (
        Goal("overlap_loss", None, "ratio", 3.0, ("autograd",)),
        Goal("overlap_loss", None, "ratio", 1.5, ("hand-sliced",)),
        Goal("merge", "SD 1.5, 25 views", "ratio", 3.0, ("hand-sliced",)),
        Goal("transform", None, "ratio", 2.0, ("eager", "index_select")),
        *(
            Goal(op, "texture 1024, 8 views", "ratio", bound, (form,))
            for op in ("splat", "uv_accumulate")
            for form, bound in (("bare index_add_", 2.0), ("usual form", 4.0))
        ),
    ),
    "cuda": (
        *(
            Goal(op, "64 MB", "of_copy", 0.8)
            for op in ("overlap_loss", "cfg_tweedie", "ddim_step", "control_grad", "control_update", "transform")
        ),
        Goal("control iteration", None, "launches", 5, at_most=True),
        Goal("uv_accumulate", None, "of_copy", 0.5, (SORTED, UNSORTED)),
        # The deterministic form takes at most twice as long as the atomic one.
        Goal("uv_accumulate", None, "ratio", 0.5, (UNSORTED,)),
    ),
}
# What the plot and the README show of each op.
SHOWN = {
    **dict.fromkeys(("control iteration", "overlap_loss", "transform", "merge", "accumulate"), "SD 1.5, 25 views"),
    **dict.fromkeys(("uv_accumulate", "splat", "resample"), "texture 1024, 8 views"),
}
FIGURES = {"ratio": "times as fast", "of_copy": "of a copy's bandwidth", "launches": "launches"}


def main(
    goals_of: Annotated[Path | None, typer.Option("--goals", help="Only print the goals table of this file.")] = None,
) -> None:
    """Rewrites the documents' generated parts."""
    if goals_of:
        result = json.loads(goals_of.read_text())
        device = result["settings"]["device"]
        if "scenes" in result:
            typer.echo(report_mesh.goals_table(result))
        else:
            typer.echo(report_runs.goals_table(result, device) if "races" in result else _goals(result, device))
        return
    sections: dict[str, str] = {}
    for device in GOALS:
        result = _load(f"ops_{device}")
        command = f"python -m bench.ops{'' if device == 'cpu' else f' --device {device}'}"
        missing = f"Not measured yet: `{command}`."
        sections[f"goals_{device}"] = _goals(result, device) if result else missing
        sections[f"ops_{device}"] = _ops(result, device) if result else missing
        if result:
            _plot(result, ROOT / "docs" / f"performance_{device}.png")
        sections |= report_runs.sections(_load(f"end_to_end_{device}"), device, ROOT / "docs")
        sections |= report_mesh.sections(_load(f"mesh_{device}"), device, ROOT / "docs")
    shown = _load("ops_cpu")
    sections["summary"] = _summary(shown) if shown else "Not measured yet: `python -m bench.ops`."
    for name, (section, command) in _QUALITY.items():
        result = _load(name)
        sections[name] = section(result) if result else f"Not measured yet: `{command}`."
    for path in DOCUMENTS:
        before = path.read_text()
        after = fill(before, sections)
        if after != before:
            with replacing(path) as temporary:
                temporary.write_text(after)
            typer.echo(f"{path.relative_to(ROOT)} is rewritten")


def fill(text: str, sections: Mapping[str, str]) -> str:
    """``text`` with each section between its markers; markers of unknown names stay as they are.

    Raises:
        ValueError: a marker is opened and not closed.
    """
    for name, content in sections.items():
        opening, closing = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
        if text.count(opening) != text.count(closing):
            raise ValueError(f"{opening} needs one {closing} after it: put both on lines of their own.")
        between = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
        text = between.sub(lambda _, c=content, o=opening, e=closing: f"{o}\n{c}\n{e}", text)  # type: ignore[misc]
    return text


def goals(result: Results, device: str) -> list[tuple[Goal, str, str, float]]:
    """``(goal, size, against, value)`` of every goal at every size that was measured."""
    found = []
    for goal in GOALS[device]:
        for group in result["groups"].values():
            if group["op"] != goal.op or goal.size not in (None, group["size"]):
                continue
            rows = group["variants"]
            there = [name for name in goal.against or (group["ours"],) if name in rows]
            if there:
                name = min(there, key=lambda name: rows[name]["microseconds"])
                found.append((goal, group["size"], name if goal.against else "", rows[name][goal.figure]))
    return found


def _goals(result: Results, device: str) -> str:
    rows = []
    for goal, size, against, value in goals(result, device):
        reached = value <= goal.bound if goal.at_most else value >= goal.bound
        bound = f"{'at most' if goal.at_most else 'at least'} {short(goal.bound)} {FIGURES[goal.figure]}"
        rows.append([goal.op, size, against, bound, short(value), "yes" if reached else "**no**"])
    unmeasured = {goal.op for goal in GOALS[device]} - {group["op"] for group in result["groups"].values()}
    rows += [[op, "", "", "", "", "not measured"] for op in sorted(unmeasured)]
    return table(["op", "size", "against", "goal", "measured", "reached"], rows, "lllrrl")


def _ops(result: Results, device: str) -> str:
    """One table an op: our time, bandwidth, and how many times as long the others take."""
    parts = [source(result), f"![Times relative to fastsync](performance_{device}.png)"]
    for op in dict.fromkeys(group["op"] for group in result["groups"].values()):
        groups = [group for group in result["groups"].values() if group["op"] == op]
        others = list(
            dict.fromkeys(n for group in groups for n in group["variants"] if n not in (group["ours"], "copy"))
        )
        launched = any("launches" in row for row in groups[0]["variants"].values())
        header = ["size", f"{groups[0]['ours']}, µs", "GB/s", "of copy", *(["launches"] if launched else []), *others]
        rows = []
        for group in groups:
            variants, ours = group["variants"], group["variants"][group["ours"]]
            cells = [short(ours[key]) for key in ("microseconds", "gigabytes_per_second", "of_copy")]
            cells += [str(ours.get("launches", ""))] if launched else []
            rows.append([group["size"], *cells, *(times(variants.get(name)) for name in others)])
        parts += [f"### {op}", table(header, rows, "l" + "r" * (len(header) - 1))]
    return "\n\n".join(parts)


def _others(group: Mapping[str, Any]) -> list[str]:
    return [name for name in group["variants"] if name not in (group["ours"], "copy")]


def _summary(result: Results) -> str:
    rows = []
    for op, size in SHOWN.items():
        group = result["groups"].get(f"{op} | {size}")
        if group:
            plain, name = min((row["ratio"], n) for n, row in group["variants"].items() if _is_baseline(n))
            compiled = group["variants"].get("compiled eager")
            ours = short(group["variants"][group["ours"]]["microseconds"])
            rows.append([f"`{op}`", size, f"{ours} µs", f"{short(plain)}x ({name})", times(compiled)])
    header = ["op", "size", "fastsync", "fastest plain PyTorch takes", "compiled eager takes"]
    return table(header, rows, "llrrr") + "\n\n" + source(result)


def _is_baseline(name: str) -> bool:
    return not name.startswith(("fastsync", "compiled", "copy"))


def _coherence(result: Results) -> str:
    rows = []
    for method, row in result["summary"]["methods"].items():
        # Only SyncVC gives all windows the look of the first.
        suffix = "ratio_first" if method == "syncvc" else "ratio"
        ratios = [f"{row[f'{name}_{suffix}']:.2f}" for name in _QUALITIES]
        figures = [f"{row['chi_square']:.3f}", f"{row['disagreement']:.4f}", *ratios, f"{row['evaluations']:,.0f}"]
        rows.append([method, *figures])
    header = ["method", "chi-square", "disagreement", "crispness", "place", "time of day", "evaluations"]
    return table(header, rows, "lrrrrrr") + "\n\n" + source(result)


def _sweep(result: Results) -> str:
    rows = []
    for name, row in result["summary"]["ranked"].items():
        suffix = "ratio" if name in ("independent", "multidiffusion") else "ratio_first"
        ratios = [f"{row[f'{quality}_{suffix}']:.2f}" for quality in _QUALITIES]
        rows.append([name, f"{row['chi_square']:.3f}", f"{row['disagreement']:.4f}", *ratios])
    header = ["settings", "chi-square", "disagreement", "crispness", "place", "time of day"]
    return table(header, rows[:12], "lrrrrr") + "\n\n" + source(result)


def _evaluation(result: Results) -> str:
    heads = [name for name, value in result["generated"].items() if isinstance(value, float)]
    rows = [[name, *(f"{result[name][head]:.1%}" for head in heads)] for name in ("generated", "real")]
    return table(["pictures", *heads], rows, "l" + "r" * len(heads))


def _ambigrams(result: Results) -> str:
    both = result["summary"]["both"]
    pairs = list(next(iter(both.values())))
    rows = [[method, *(f"{share[pair]:.0%}" for pair in pairs)] for method, share in both.items()]
    return table(["method", *pairs], rows, "l" + "r" * len(pairs)) + "\n\n" + source(result)


def _textures(result: Results) -> str:
    rows = [
        [
            method,
            short(row["disagreement"]),
            f"{row['view_detail']:.0%}",
            f"{row['texture_detail']:.0%}",
            f"{row['evaluations']:,.0f}",
        ]
        for method, row in result["summary"]["methods"].items()
    ]
    header = ["method", "views apart", "detail of the views", "detail of the texture", "view-evaluations"]
    return table(header, rows, "lrrrr") + "\n\n" + source(result)


def _memory(result: Results) -> str:
    """Bytes on the card at once: as it is, and with what can be switched on."""
    weights, calls, decode = result["weights"], result["calls"], result["decode"]
    total, limit = sum(weights.values()), result["settings"]["limit"]
    rows = [["weights: " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in weights.items())]]
    rows[0] += [f"{size / 1e9:.2f}" for size in (total, total, weights["UNet"])]
    for views, peaks in calls.items():
        plain, checkpointed = peaks["gradient"], peaks["checkpointed"]
        sizes = (total + plain, total + checkpointed, weights["UNet"] + checkpointed)
        rows.append([f"a control iteration, views at once: {views}", *(f"{size / 1e9:.2f}" for size in sizes)])
    sizes = (total + decode["plain"], total + decode["tiled"], weights["VAE"] + decode["tiled"])
    rows.append(["the decode", *(f"{size / 1e9:.2f}" for size in sizes)])
    header = ["GB (1e9 bytes)", "as it is", "checkpointing, tiled decode", "and model offload"]
    fits = [
        max([int(views) for views, peaks in calls.items() if total + peaks[kind] <= limit], default=0)
        for kind in ("gradient", "checkpointed")
    ]
    said = (
        f"Of {max(map(int, calls))} views {fits[0]} fit into {limit / 1e9:g} GB at once as it is, and {fits[1]} with "
        "gradient checkpointing."
    )
    wide = [
        [f"{name}, {count} windows wide", *(f"{size / 1e6:.0f}" for size in account.values())]
        for name, accounts in result["canvases"].items()
        for count, account in accounts.items()
    ]
    columns = ["MB (1e6 bytes)", *next(iter(next(iter(result["canvases"].values())).values()))]
    widths = table(columns, wide, "l" + "r" * (len(columns) - 1))
    return "\n\n".join([table(header, rows, "lrrr"), said, widths, source(result)])


def _memory_models(result: Results) -> str:
    """Weights and evaluations of the larger models."""
    rows = []
    for name, model in result["models"].items():
        for views, peaks in model["evaluations"].items():
            sizes = (model["weights"]["network"], model["weights"]["autoencoder"], *peaks.values())
            rows.append([f"{name}, views at once: {views}", *(f"{size / 1e9:.2f}" for size in sizes)])
    header = ["GB (1e9 bytes)", "network", "autoencoder", "forward", "with gradient", "and checkpointing"]
    return "\n\n".join([table(header, rows, "lrrrrr"), source(result)])


_QUALITIES = ("crispness", "place_confidence", "time_confidence")
_QUALITY: dict[str, tuple[Callable[[Results], str], str]] = {
    "coherence_scenes": (_coherence, "python -m bench.coherence"),
    "sweep_syncvc_scenes": (_sweep, "python -m bench.sweep_syncvc"),
    "tradeoff_scenes": (lambda result: report_tradeoff.section(result, ROOT / "docs"), "python -m bench.tradeoff"),
    "evaluate_scenes": (_evaluation, "python -m fastsync.zoo.evaluate scenes"),
    "evaluate_glyphs": (_evaluation, "python -m fastsync.zoo.evaluate glyphs"),
    "ambigrams_glyphs": (_ambigrams, "python -m bench.ambigrams"),
    "textures_scenes-depth": (_textures, "python -m bench.textures"),
    "memory_sd21": (_memory, "python -m bench.memory"),
    "memory_models": (_memory_models, "python -m bench.memory_models"),
}


def _load(name: str) -> Results | None:
    """A result file, if it is there and finished (sweeps write theirs after each case, the summary last)."""
    path = RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else None
    return None if content is None or ("cases" in content and "summary" not in content) else dict(content)


# ---- the plot ---------------------------------------------------------------------------------------------------

PLAIN, COMPILED, OURS, SLOWER = BLUE, (122, 168, 190), GREY, RED
WIDTH, MARGIN, LABELS, BAR, GAP, BLOCK = 900, 28, 330, 15, 5, 16


def _plot(result: Results, path: Path) -> None:
    """Bars: how many times as long as fastsync each alternative takes, on a logarithmic scale with 1 marked."""
    groups = [group for op, size in SHOWN.items() if (group := result["groups"].get(f"{op} | {size}"))]
    blocks = [(group, [(name, group["variants"][name]["ratio"]) for name in _others(group)]) for group in groups]
    if not blocks:
        return
    top = MARGIN + 72
    height = top + sum(len(bars) * (BAR + GAP) + BLOCK for _, bars in blocks) + MARGIN
    image, pen = sheet(WIDTH, height)
    pen.text(MARGIN, MARGIN, "How many times as long the alternatives take", 20, INK)
    pen.text(MARGIN, MARGIN + 28, source(result).rsplit(", `", 1)[0] + "; fastsync = 1", 13, FAINT)
    ratios = [ratio for _, bars in blocks for _, ratio in bars]
    axis = _Axis(min(0.5, *ratios), max(10.0, *ratios))
    for tick in axis.ticks():
        x = axis.at(tick)
        pen.line(x, top - 8, x, height - MARGIN, INK if tick == 1 else RULE)
        pen.text(x, top - 12, f"{tick:g}x", 12, INK if tick == 1 else FAINT, "mb")
    y = top
    for group, bars in blocks:
        pen.text(MARGIN, y, group["op"], 14, INK)
        pen.text(MARGIN, y + 18, group["size"], 12, FAINT)
        for name, ratio in bars:
            # Red leaves no doubt where the alternative is the faster one.
            kind = OURS if name.startswith("fastsync") else COMPILED if name.startswith("compiled") else PLAIN
            colour = SLOWER if ratio < 1 and kind != OURS else kind
            pen.text(LABELS - 8, y + BAR / 2, name, 12, FAINT, "rm")
            low, high = sorted((axis.at(1.0), axis.at(ratio)))
            pen.bar(low, y, high, y + BAR, colour)
            pen.text(high + 6, y + BAR / 2, f"{short(ratio)}x", 12, INK, "lm")
            y += BAR + GAP
        y += BLOCK
    save_picture(image, path, {"made by": "python -m bench.report"})


class _Axis:
    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def at(self, value: float) -> float:
        share = log(value / self.low) / log(self.high / self.low)
        return LABELS + share * (WIDTH - MARGIN - 52 - LABELS)

    def ticks(self) -> list[float]:
        return [
            tick
            for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
            if self.low <= tick <= self.high
        ]


if __name__ == "__main__":
    typer.run(main)
