"""What `python -m bench.report` says of whole runs: goals, a table, and a plot of what more windows cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bench.drawing import BLUE, FAINT, GREY, INK, RULE, sheet
from bench.tables import Results, short, source, table
from fastsync.pictures import save_picture

Variants = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """What a race must show: ``value(variants)`` at least (``at_most``: at most) ``bound``."""

    race: str
    says: str
    bound: float
    value: Callable[[Variants], float]
    needs: tuple[str, ...]
    at_most: bool = False


def _faster(variant: str, than: str) -> Callable[[Variants], float]:
    return lambda rows: rows[than]["seconds"] / rows[variant]["seconds"]


_CPU = "SyncVC | scenes, 8 windows | float32"
_COMPILED = f"{_CPU}, compiled"
_SD21 = "SyncVC | SD 2.1, 5 windows | float16"
GOALS = {
    "cpu": (
        Goal(_CPU, "wavefront, times as fast as the reference", 1.3, _faster("wavefront", "reference"),
             ("wavefront", "reference")),
        Goal(_COMPILED, "wavefront, compiled, times as fast as the reference", 1.5,
             _faster("wavefront, regional", "reference"), ("wavefront, regional", "reference")),
        Goal(_CPU, "share of the time outside the network", 0.05, lambda rows: rows["wavefront"]["outside"],
             ("wavefront",), at_most=True),
    ),
    "cuda": (
        Goal(_SD21, "wavefront, times as fast as the reference", 3.0, _faster("wavefront", "reference"),
             ("wavefront", "reference")),
        Goal(_SD21, "wavefront, compiled, times as fast as the reference", 6.0,
             _faster("wavefront, regional", "reference"), ("wavefront, regional", "reference")),
        Goal(_SD21, "time relative to the network alone", 1.05, _faster("network alone", "wavefront"),
             ("wavefront", "network alone"), at_most=True),
        Goal(_SD21, "share of the time outside the network", 0.03, lambda rows: rows["wavefront"]["outside"],
             ("wavefront",), at_most=True),
        # The race has 10 steps, a picture 50.
        Goal(_SD21, "seconds for 50 steps, compiled", 10.0, lambda rows: 5 * rows["wavefront, regional"]["seconds"],
             ("wavefront, regional",), at_most=True),
    ),
}  # fmt: skip


def sections(result: Results | None, device: str, docs: Path) -> dict[str, str]:
    """The generated parts of the documents by name; the plot is drawn into ``docs``."""
    command = f"python -m bench.end_to_end{'' if device == 'cpu' else f' --device {device}'}"
    if result is None:
        names = (f"runs_goals_{device}", f"runs_{device}", f"runs_summary_{device}")
        return dict.fromkeys(names, f"Not measured yet: `{command}`.")
    parts = [source(result), races_table(result, "methods")]
    if any(race["figure"] == "scaling" for race in result["races"].values()):
        name = f"scaling_{device}.png"
        _plot(result, docs / name)
        parts += [f"![Time a window and step by the number of windows]({name})", races_table(result, "scaling")]
    return {
        f"runs_goals_{device}": goals_table(result, device),
        f"runs_{device}": "\n\n".join(parts),
        f"runs_summary_{device}": summary(result),
    }


def summary(result: Results) -> str:
    """For the README: each method as fast as its reference, and when compiling pays."""
    rows: dict[str, list[str]] = {}
    sentences = []
    for name, race in result["races"].items():
        variants = race["variants"]
        plain = next((v for v in ("wavefront", "batched") if v in variants), None)
        if race["figure"] != "methods" or plain is None or "reference" not in variants:
            continue
        compiled = variants.get(f"{plain}, regional")
        # A race that also compiles takes the place of the one that does not.
        rows[race["method"]] = [
            race["method"],
            name.split(" | ")[1],
            f"{short(variants[plain]['times_as_fast'])}x",
            "" if compiled is None else f"{short(compiled['times_as_fast'])}x",
        ]
        if race["method"] == "SyncVC" and compiled is not None:
            sentences.append(_when_it_pays(race, variants[plain], compiled))
    header = ["method", "run", "as fast as its reference", "compiled"]
    return "\n\n".join([table(header, list(rows.values()), "llrr"), source(result), *sentences])


def _when_it_pays(race: Mapping[str, Any], plain: Mapping[str, Any], compiled: Mapping[str, Any]) -> str:
    """After how many pictures of 50 steps compiling has paid for itself."""
    each = 50 / race["steps"] * (plain["seconds"] - compiled["seconds"])
    cost = f'Compiling (`compile="regional"`) {race["model"]} for {race["views"]} windows took'
    cost += f" {short(compiled['compile_seconds'])} s"
    if each <= 0:
        return f"{cost} and saved nothing here."
    pictures = max(1, ceil(compiled["compile_seconds"] / each))
    return f"{cost} and saves {short(each)} s a picture of 50 steps: it pays from {pictures} pictures on."


def goals_table(result: Results, device: str) -> str:
    """Each goal, what was measured, and whether it is reached."""
    rows = []
    for goal in GOALS[device]:
        variants = result["races"].get(goal.race, {}).get("variants", {})
        bound = f"at {'most' if goal.at_most else 'least'} {short(goal.bound)}"
        if any(name not in variants for name in goal.needs):
            rows.append([goal.race, goal.says, bound, "", "not measured"])
            continue
        value = goal.value(variants)
        reached = value <= goal.bound if goal.at_most else value >= goal.bound
        rows.append([goal.race, goal.says, bound, short(value), "yes" if reached else "**no**"])
    return table(
        ["run", "what", "goal", "measured", "reached"], [[c.replace("|", "·") for c in r] for r in rows], "llrrl"
    )


def races_table(result: Results, figure: str) -> str:
    """All variants of the races of one figure."""
    rows = []
    for name, race in result["races"].items():
        if race["figure"] != figure:
            continue
        for variant, row in race["variants"].items():
            rows.append(
                [
                    name.replace("|", "·"),
                    variant,
                    short(row["seconds"]),
                    f"{short(row['times_as_fast'])}x",
                    short(row["rows_per_second"]),
                    "" if row["outside"] is None else f"{row['outside']:.1%}",
                    f"{row['padded'] / row['rows']:.1%}" if row["padded"] else "",
                    "" if row["compile_seconds"] is None else short(row["compile_seconds"]),
                    "" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e9:.1f}",
                ]
            )
    header = ["run", "variant", "seconds", "speed", "rows/s", "outside", "padded", "compiling, s", "GB"]
    filled = [n for n in range(len(header)) if any(row[n] for row in rows)]
    kept = [[row[n] for n in filled] for row in rows]
    return table([header[n] for n in filled], kept, "".join("llrrrrrrr"[n] for n in filled))


# ---- the plot ---------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 76, 130, 92, 56
COLOURS = {"reference": BLUE, "wavefront": INK}


def _plot(result: Results, path: Path) -> None:
    """Milliseconds a window and step against the number of windows, the canvas growing with them."""
    lines: dict[str, list[tuple[int, float]]] = {}
    races = [race for race in result["races"].values() if race["method"] == "SyncVC"]
    model = next(race["model"] for race in races if race["figure"] == "scaling")
    for race in sorted((race for race in races if race["model"] == model), key=lambda race: race["views"]):
        for variant in set(COLOURS) & set(race["variants"]):
            each = 1000 * race["variants"][variant]["seconds"] / race["views"] / race["steps"]
            lines.setdefault(variant, []).append((race["views"], each))
    points = [point for line in lines.values() for point in line]
    widest, highest = max(n for n, _ in points), 1.1 * max(each for _, each in points)

    def place(n: float, each: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * n / widest
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * each / highest

    image, pen = sheet(WIDTH, HEIGHT)
    pen.text(28, 24, f"SyncVC on {model}: milliseconds a window and step", 20, INK)
    pen.text(28, 54, source(result).rsplit(", `", 1)[0], 13, FAINT)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if highest / s <= 6)
    for tick in range(0, int(highest) + 1, step):
        _, y = place(0, tick)
        pen.line(LEFT, y, WIDTH - RIGHT, y, RULE)
        pen.text(LEFT - 8, y, str(tick), 12, FAINT, "rm")
    for n in sorted({n for n, _ in points}):
        x, y = place(n, 0)
        pen.text(x, y + 8, str(n), 12, FAINT, "mt")
    pen.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 26, "windows (the canvas grows with them)", 12, FAINT, "mt")
    for variant, line in lines.items():
        colour = COLOURS.get(variant, GREY)
        spots = [place(*point) for point in line]
        for start, end in zip(spots, spots[1:], strict=False):
            pen.line(*start, *end, colour)
        for spot in spots:
            pen.dot(*spot, 3.5, colour)
        pen.text(spots[-1][0] + 10, spots[-1][1], variant, 13, colour, "lm")
    save_picture(image, path, {"made by": "python -m bench.report"})
