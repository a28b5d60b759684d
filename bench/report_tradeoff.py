"""What `python -m bench.report` says of SyncVC's approximations: a table, and a plot of speed against coherence."""

from collections.abc import Iterator, Mapping
from itertools import product
from math import cos, log, pi, sin
from pathlib import Path
from typing import Any

from bench.drawing import BLUE, FAINT, GREY, INK, RED, RULE, Pen, sheet
from bench.strips import QUALITIES
from bench.tables import Results, source, table
from fastsync.pictures import save_picture

Box = tuple[float, float, float, float]
PLOT = "tradeoff.png"


def section(result: Results, docs: Path) -> str:
    """The generated part of docs/performance.md; the plot is drawn into ``docs``."""
    _plot(result, docs / PLOT)
    speed, presets = result["speed"], {name: preset for preset, name in result["summary"]["presets"].items()}
    rows = []
    for name, row in _by_speed(result):
        # Only SyncVC gives all windows the look of the first.
        suffix = "ratio_first" if row["method"] == "syncvc" else "ratio"
        rows.append(
            [
                f"`{name}`" if row["settings"] else name,
                presets.get(name, ""),
                f"{speed['times_as_fast'][name]:.2f}x",
                f"{row['chi_square']:.3f}",
                f"{row['disagreement']:.4f}",
                *(f"{row[f'{quality}_{suffix}']:.2f}" for quality in QUALITIES),
                f"{row['error']:.2f}",
                f"{row['evaluations']:,.0f}" + (f" ({row['shallow']:,.0f})" if row["shallow"] else ""),
                f"{row['gradients']:,.0f}",
            ]
        )
    header = ["setting", "preset", "speed", "chi-square", "disagreement", "crispness", "place", "time of day", "error"]
    header += ["evaluations (shallow)", "gradients"]
    return "\n\n".join([f"![Speed against coherence]({PLOT})", table(header, rows, "ll" + 9 * "r"), source(result)])


def _by_speed(result: Results) -> list[tuple[str, Mapping[str, Any]]]:
    speed = result["speed"]["times_as_fast"]
    return sorted(result["summary"]["methods"].items(), key=lambda item: float(speed[item[0]]))


# ---- the plot ---------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 620, 64, 40, 100, 60
SIZE, DOT = 12, 4
SHORT = {
    "iterations": "K={}",
    "control_window": "{0[0]}-{0[1]}",
    "jacobian": "{}",
    "guidance_gradient": "{}",
    "tolerance": "tol {}",
    "feature_reuse": "reuse",
}


def _plot(result: Results, path: Path) -> None:
    """Every setting as a labelled point, presets in red; a line joins those that no other beats in both."""
    speed, presets = result["speed"], {name: preset for preset, name in result["summary"]["presets"].items()}
    points = {name: (speed["times_as_fast"][name], row["chi_square"]) for name, row in _by_speed(result)}
    fast, far = zip(*points.values(), strict=True)
    across, down = (0.95 * min(fast), 1.15 * max(fast)), (0.8 * min(far), 1.25 * max(far))

    def place(ratio: float, distance: float) -> tuple[float, float]:
        x, y = (log(v / low) / log(high / low) for v, (low, high) in ((ratio, across), (distance, down)))
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    image, pen = sheet(WIDTH, HEIGHT)
    pen.text(28, 20, "SyncVC's approximations: speed against coherence", 20, INK)
    machine = source(result).rsplit(", `", 1)[0]
    pen.text(28, 48, f"{machine}; {speed['threads']} threads for the times; both scales logarithmic", 13, FAINT)
    key = "K: iterations (else 5); 1000-500: control_window; tol: tolerance; reuse: feature_reuse"
    pen.text(28, 67, key, 13, FAINT)
    for tick in _ticks(*across):
        x, y = place(tick, down[0])
        pen.line(x, TOP, x, y, RULE)
        pen.text(x, y + 8, f"{tick:g}x", SIZE, FAINT, "mt")
    for tick in _ticks(*down):
        x, y = place(across[0], tick)
        pen.line(x, y, WIDTH - RIGHT, y, RULE)
        pen.text(x - 8, y, f"{tick:g}", SIZE, FAINT, "rm")
    pen.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 24, "times as fast as quality", SIZE, FAINT, "mt")
    pen.text(28, TOP - 14, "chi-square of the windows' colours: lower is better", SIZE, FAINT)

    best = [point for point in points.values() if not any(_beats(other, point) for other in points.values())]
    spots = [place(*point) for point in sorted(best)]
    for start, end in zip(spots, spots[1:], strict=False):
        pen.line(*start, *end, GREY)
    taken: list[Box] = [_around(*place(*point), DOT, DOT) for point in points.values()]
    # The presets' labels take the best places.
    for name in sorted(points, key=lambda name: name not in presets):
        row, spot = result["summary"]["methods"][name], place(*points[name])
        colour = RED if name in presets else BLUE if row["method"] == "syncvc" else GREY
        label = ", ".join(SHORT[key].format(value) for key, value in row["settings"].items())
        label = ": ".join(filter(None, [presets.get(name, ""), label])) or name
        _label(pen, label, spot, taken, colour if name in presets else INK)
        pen.dot(*spot, DOT, colour)
    save_picture(image, path, {"made by": "python -m bench.report"})


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] <= other[1]


def _label(pen: Pen, text: str, spot: tuple[float, float], taken: list[Box], colour: tuple[int, int, int]) -> None:
    """Writes beside ``spot`` where nothing is ``taken`` yet, as near as there is room; a line leads to what is far."""
    width, height = pen.width(text, SIZE) / 2 + 2, SIZE / 2 + 1
    for distance, angle in product((8, 16, 28, 42, 58, 76, 96, 120), _angles()):
        x = spot[0] + cos(angle) * (distance + width)
        y = spot[1] + sin(angle) * (distance + height)
        box = _around(x, y, width, height)
        inside = LEFT <= box[0] and box[2] <= WIDTH - 4 and TOP <= box[1] and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            break
    if distance > 16:
        end = min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])
        pen.line(*spot, *end, RULE)
    taken.append(box)
    pen.text(x, y, text, SIZE, colour, "mm")


def _angles() -> Iterator[float]:
    """To the right and left first, then above and below, then between."""
    for part in (0, 4, 6, 2, 7, 1, 5, 3):
        yield part * pi / 4


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width, y - height, x + width, y + height


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ticks(low: float, high: float) -> list[float]:
    steps = [digit * 10**power for power in (-3, -2, -1, 0, 1) for digit in (1, 1.5, 2, 3, 5, 7)]
    return [tick for tick in steps if low <= tick <= high]
