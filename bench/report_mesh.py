"""What `python -m bench.report` says of meshes: goals, tables, and a plot of what more views and texels cost."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from bench.drawing import BLUE, FAINT, GREY, INK, RULE, Pen, sheet
from bench.mesh_scenes import BAKE, BARE, FITS, OP, RASTERISED, RENDER, SCATTER, STEP
from bench.tables import Results, short, source, table
from fastsync.pictures import save_picture

Scene = Mapping[str, Any]
LARGE = "10 views of 512, texture 1024"


@dataclass(frozen=True)
class Goal:
    """What scenes must show: ``value`` of a scene of the figure ``steps`` at least (``at_most``) ``bound``."""

    says: str
    bound: float
    value: Callable[[Scene], float]
    at_most: bool = False
    only: str = ""


def _fastest(names: Iterable[str]) -> Callable[[Scene], float]:
    """How many times as long as a step of ours the fastest of some fits takes; at least, where one was given up."""
    return lambda scene: min(float(scene["variants"][name]["ratio"]) for name in names)


def _apart(scene: Scene, name: str, ours: str) -> float:
    return float(scene["variants"][name]["seconds"] / scene["variants"][ours]["seconds"])


GOALS = (
    Goal("a step, times as fast as the fastest fit that rasterises", 20.0, _fastest(RASTERISED)),
    Goal("a step, times as fast as the fastest fit, its rasterising free", 20.0, _fastest(FITS)),
    Goal("a step, times as fast as scatter_add_ and gather", 2.0, lambda scene: _apart(scene, SCATTER, STEP)),
    Goal("uv_accumulate, times as fast as bare scatter_add_", 2.0, lambda scene: _apart(scene, BARE, OP)),
    Goal("seconds to build the tables, 40,000 faces", 3.0, lambda scene: scene["build"], at_most=True, only=LARGE),
)


def sections(result: Results | None, device: str, docs: Path) -> dict[str, str]:
    """The generated parts of the documents by name; the plot is drawn into ``docs``."""
    command = f"python -m bench.mesh{'' if device == 'cpu' else f' --device {device}'}"
    if result is None:
        return dict.fromkeys((f"mesh_goals_{device}", f"mesh_{device}"), f"Not measured yet: `{command}`.")
    parts = [source(result), _steps(result), _building(result)]
    if all(len(_growing(result, figure)) > 1 for figure in ("views", "texture")):
        name = f"mesh_{device}.png"
        _plot(result, docs / name)
        parts += [f"![Time of baking and rendering by the number of views and the texture's side]({name})"]
        parts += [_sizes(result)]
    return {f"mesh_goals_{device}": goals_table(result), f"mesh_{device}": "\n\n".join(parts)}


def goals_table(result: Results) -> str:
    """Each goal at each scene of steps, what was measured, and whether it is reached."""
    rows = []
    for goal in GOALS:
        for name, scene in result["scenes"].items():
            if scene["figure"] != "steps" or goal.only not in ("", name):
                continue
            value = goal.value(scene)
            reached = value <= goal.bound if goal.at_most else value >= goal.bound
            bound = f"at {'most' if goal.at_most else 'least'} {short(goal.bound)}"
            rows.append([name, goal.says, bound, short(value), "yes" if reached else "**no**"])
    return table(["scene", "what", "goal", "measured", "reached"], rows, "llrrl")


def _steps(result: Results) -> str:
    """All variants of a step."""
    rows = []
    for name, scene in result["scenes"].items():
        if scene["figure"] != "steps":
            continue
        for variant, row in scene["variants"].items():
            rows.append([name, variant, short(1000 * row["seconds"]), _ratio(row), _settings(row)])
    return table(["scene", "variant", "ms", "to a step", "settings"], rows, "llrrl")


def _ratio(row: Mapping[str, Any]) -> str:
    return f"{'' if row.get('reached', True) else 'at least '}{short(row['ratio'])}x"


def _settings(row: Mapping[str, Any]) -> str:
    if "descent" not in row:
        return ""
    return f"{row['descent']}: {row['iterations']} iterations" + ("" if row["reached"] else ", not there yet")


def _building(result: Results) -> str:
    """How long the tables take, and what of it."""
    found = [(name, scene) for name, scene in result["scenes"].items() if scene["figure"] == "steps"]
    header = ["building the tables, s", *(name for name, _ in found)]
    rows = [["all of it", *(short(scene["build"]) for _, scene in found)]]
    stages = found[0][1]["stages"] if found else {}
    rows += [[stage, *(short(scene["stages"][stage]) for _, scene in found)] for stage in stages]
    return table(header, rows, "l" + "r" * len(found))


def _sizes(result: Results) -> str:
    """What grows with views and texels."""
    rows = []
    for name, scene in result["scenes"].items():
        variants = scene["variants"]
        times = [short(1000 * variants[variant]["seconds"]) for variant in (BAKE, RENDER, SCATTER)]
        rows.append([name, *times, short(scene["build"]), f"{scene['held'] / 1e6:,.0f}"])
    header = ["scene", "bake, ms", "render, ms", "scatter_add_ and gather, ms", "tables, s", "tables, MB"]
    return table(header, rows, "lrrrrr")


def _growing(result: Results, figure: str) -> list[Scene]:
    """The scenes of a curve in its order; more views is also what the large scene of steps has."""
    scenes = [scene for scene in result["scenes"].values() if scene["figure"] == figure]
    if figure == "views":
        scenes += [result["scenes"][LARGE]] if LARGE in result["scenes"] else []
        return sorted(scenes, key=lambda scene: int(scene["views"]))
    return sorted(scenes, key=lambda scene: int(scene["texture"][0]))


# ---- the plot ---------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, TOP, BOTTOM = 900, 400, 108, 64
PANELS = ((84, 420), (524, 860))  # from left to right
COLOURS = {BAKE: INK, RENDER: BLUE, SCATTER: GREY}
LABELS = {BAKE: "bake", RENDER: "render", SCATTER: "bake and render by scatter_add_ and gather"}


def _plot(result: Results, path: Path) -> None:
    """Milliseconds against the number of views, and against the texture's side; all scales logarithmic."""
    views, textures = _growing(result, "views"), _growing(result, "texture")
    image, pen = sheet(WIDTH, HEIGHT)
    pen.text(28, 20, "Views to texture and back: milliseconds", 20, INK)
    pen.text(28, 48, source(result).rsplit(", `", 1)[0] + "; both scales logarithmic", 13, FAINT)
    x = 28.0
    for name, label in LABELS.items():
        pen.dot(x + 4, 77, 4, COLOURS[name])
        pen.text(x + 14, 77, label, 13, COLOURS[name], "lm")
        x += 34 + pen.width(label, 13)
    every = [1000 * scene["variants"][name]["seconds"] for scene in (*views, *textures) for name in COLOURS]
    span = 0.8 * min(every), 1.25 * max(every)
    side = views[0]["view"][0]
    says = f"views of {side}x{side}, a texture of {views[0]['texture'][0]}x{views[0]['texture'][1]}"
    _panel(pen, PANELS[0], span, [(scene["views"], scene) for scene in views], says)
    side = textures[0]["view"][0]
    says = f"side of the texture, {textures[0]['views']} views of {side}x{side}"
    _panel(pen, PANELS[1], span, [(scene["texture"][0], scene) for scene in textures], says)
    save_picture(image, path, {"made by": "python -m bench.report"})


def _panel(
    pen: Pen, between: tuple[int, int], span: tuple[float, float], points: list[tuple[int, Scene]], says: str
) -> None:
    """One curve for each variant; ``points`` in their order along x."""
    left, right = between
    least, most = points[0][0], points[-1][0]

    def place(n: float, milliseconds: float) -> tuple[float, float]:
        across = log(n / least) / log(most / least)
        down = log(milliseconds / span[0]) / log(span[1] / span[0])
        return left + across * (right - left), HEIGHT - BOTTOM - down * (HEIGHT - BOTTOM - TOP)

    for tick in (digit * 10**power for power in (-2, -1, 0, 1, 2, 3) for digit in (1, 3)):
        if span[0] <= tick <= span[1]:
            _, y = place(least, tick)
            pen.line(left, y, right, y, RULE)
            pen.text(left - 8, y, f"{tick:g}", 12, FAINT, "rm")
    for n, _ in points:
        pen.text(place(n, span[0])[0], HEIGHT - BOTTOM + 8, str(n), 12, FAINT, "mt")
    pen.text((left + right) / 2, HEIGHT - 28, says, 12, FAINT, "mt")
    for name, colour in COLOURS.items():
        spots = [place(n, 1000 * scene["variants"][name]["seconds"]) for n, scene in points]
        for start, end in zip(spots, spots[1:], strict=False):
            pen.line(*start, *end, colour)
        for spot in spots:
            pen.dot(*spot, 3.5, colour)
