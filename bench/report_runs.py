"""What `python -m bench.report` says of whole runs: goals, a table, and a plot of what more windows cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bench.drawing import BLUE, FAINT, GREY, INK, RULE, sheet
from bench.tables import Results, short, source, table
from fastsync.pictures import save_picture

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """What runs must show: ``value`` of the rows ``needs``, (race, variant) each, at least (``at_most``) ``bound``."""

    says: str
    bound: float
    needs: tuple[tuple[str, str], ...]
    value: Callable[..., float]
    at_most: bool = False


def _ratio(row: Row, than: Row) -> float:
    return than["seconds"] / row["seconds"]


_CPU = "SyncVC | scenes, 8 windows | float32"
_SD21 = "SyncVC | SD 2.1, 5 windows | float16"
_TILES = "MultiDiffusion | SD 2.1, 25 windows | float16"
_COMPILED = "wavefront, regional"


def _speed_goals(race: str, wavefront: float, compiled: float, outside: float) -> tuple[Goal, ...]:
    own = f"{race}, compiled"
    return (
        Goal("wavefront, times as fast as the reference", wavefront, ((race, "wavefront"), (race, "reference")),
             _ratio),
        Goal("wavefront, compiled, times as fast as the reference", compiled, ((own, _COMPILED), (own, "reference")),
             _ratio),
        Goal("share of the time outside the network", outside, ((race, "wavefront"),), lambda row: row["outside"],
             at_most=True),
    )  # fmt: skip


GOALS = {
    "cpu": _speed_goals(_CPU, 1.3, 1.5, 0.05),
    "cuda": (
        *_speed_goals(_SD21, 3.0, 6.0, 0.03),
        Goal("time relative to the network alone", 1.05, ((_SD21, "network alone"), (_SD21, "wavefront")), _ratio,
             at_most=True),
        Goal("times as fast as MultiDiffusion, window by window, 25 of them", 1.0,
             ((f"{_SD21}, compiled", _COMPILED), (_TILES, "reference")), _ratio),
        # Five times ten steps, whose ramps of small batches weigh more than a longer run's would.
        Goal("seconds for 50 steps, compiled", 10.0, ((f"{_SD21}, compiled", _COMPILED),),
             lambda row: 5 * row["seconds"], at_most=True),
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
        parts += [
            f"![Time a window and step by the number of windows]({name})",
            "These runs have few steps, and no batch of a wavefront holds more views than the run has steps.",
            races_table(result, "scaling"),
        ]
    return {
        f"runs_goals_{device}": goals_table(result, device),
        f"runs_{device}": "\n\n".join(parts),
        f"runs_summary_{device}": summary(result),
    }


def summary(result: Results) -> str:
    """For the README: each method as fast as its reference, and when compiling pays."""
    rows: dict[tuple[str, str], list[str]] = {}
    sentences = []
    for name, race in result["races"].items():
        variants = race["variants"]
        plain = next((v for v in ("wavefront", "batched") if v in variants), None)
        if race["figure"] != "methods" or plain is None or "reference" not in variants:
            continue
        compiled = variants.get(f"{plain}, regional")
        run = name.split(" | ")[1]
        # A race that also compiles takes the place of the one that does not.
        if (race["method"], run) in rows and compiled is None:
            continue
        rows[race["method"], run] = [
            race["method"],
            run,
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
        run = goal.needs[0][0]
        bound = f"at {'most' if goal.at_most else 'least'} {short(goal.bound)}"
        measured = [result["races"].get(race, {}).get("variants", {}).get(variant) for race, variant in goal.needs]
        if None in measured:
            rows.append([run, goal.says, bound, "", "not measured"])
            continue
        value = goal.value(*measured)
        reached = value <= goal.bound if goal.at_most else value >= goal.bound
        rows.append([run, goal.says, bound, short(value), "yes" if reached else "**no**"])
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
    races = [race for race in result["races"].values() if race["figure"] == "scaling"]
    model, steps = races[0]["model"], races[0]["steps"]
    for race in sorted(races, key=lambda race: race["views"]):
        for variant in (name for name in COLOURS if name in race["variants"]):
            each = 1000 * race["variants"][variant]["seconds"] / race["views"] / race["steps"]
            lines.setdefault(variant, []).append((race["views"], each))
    points = [point for line in lines.values() for point in line]
    widest, highest = max(n for n, _ in points), 1.1 * max(each for _, each in points)

    def place(n: float, each: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * n / widest
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * each / highest

    image, pen = sheet(WIDTH, HEIGHT)
    pen.text(28, 24, f"SyncVC on {model}, {steps} steps: milliseconds a window and step", 20, INK)
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
