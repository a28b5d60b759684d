"""Speed against coherence: what each of SyncVC's approximations saves, and what it costs, on the prior `scenes`.

    python -m bench.tradeoff [--quick] [--only-speed] [--output FILE]

First the figures of `bench.strips` for every setting, in two processes of one thread, resumed where they were stopped;
an approximation follows the same seeds as SyncVC itself, so its pictures are also compared with SyncVC's own. Then,
with the machine to itself, the time of a picture with every setting, in turn. The presets of
`fastsync.SyncVC.preset` are chosen on this curve, which is drawn by `python -m bench.report`.

Prompts and seeds are neither those of `bench.sweep_syncvc`, which chose the defaults, nor of `bench.coherence`.
"""

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from bench.cases import Figures, run_cases
from bench.machine import RESULTS, write_json
from bench.ops import DISTURBED
from bench.strips import WINDOWS, Strip, averages, judge, make
from bench.timing import disturbance, spread
from fastsync import zoo
from fastsync.files import replacing
from fastsync.methods.syncvc import PRESETS

PROMPTS = {"mountain ridges": "mountains", "the woods": "forest", "a city skyline": "city", "green meadows": "hills"}
SEEDS = (2000,)
STEPS = 50
# A picture of fewer steps is timed: what settings leave out of a step does not depend on their number, but for
# `tolerance`, where views have more to do in a longer step.
TIMED_STEPS, ROUNDS, THREADS = 10, 3, 2
BASELINES = ("independent", "multidiffusion")

Settings = Mapping[str, Any]
EARLY, MOST, MIDDLE = (1000, 500), (1000, 300), (800, 200)
# Each approximation alone, at some strengths; some together; and what the presets are.
SETTINGS: tuple[Settings, ...] = (
    {},
    *({"iterations": k} for k in (1, 2, 3)),
    *({"control_window": window} for window in (EARLY, MOST, MIDDLE)),
    {"jacobian": "identity"},
    {"guidance_gradient": "cond"},
    *({"tolerance": share} for share in (0.02, 0.1, 0.3)),
    {"feature_reuse": True},
    {"iterations": 1, "control_window": EARLY},
    {"iterations": 1, "control_window": MOST},
    {"iterations": 2, "control_window": MOST},
    {"iterations": 2, "feature_reuse": True},
    {"iterations": 3, "feature_reuse": True},
    {"iterations": 2, "control_window": MOST, "feature_reuse": True},
    {"iterations": 3, "control_window": MOST, "feature_reuse": True},
    {"iterations": 2, "control_window": EARLY, "jacobian": "identity"},
    *PRESETS.values(),
)


def name_of(settings: Settings) -> str:
    """What a setting of SyncVC is called: `quality`, or what is changed of it."""
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "quality"


METHODS: dict[str, tuple[str, Settings]] = {
    **{name: (name, {}) for name in BASELINES},
    **{name_of(settings): ("syncvc", settings) for settings in SETTINGS},
}


@dataclass(frozen=True)
class Comparison:
    """A strip, and the folder of the latents of `quality`'s pictures."""

    strip: Strip
    folder: Path


def compare(case: Comparison) -> Figures:
    """All figures of a strip, and `error`: how far its latents are from `quality`'s, relative to their norm."""
    strip, right = case.strip, replace(case.strip, method="syncvc", settings={})
    path = case.folder / f"{right.prompt.replace(' ', '_')}-{right.seed}.pt"
    out = make(strip)
    if strip == right or not path.exists():
        case.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            torch.save((out if strip == right else make(right)).latents, temporary)
    latents = torch.load(path)
    spent = {name: getattr(out.stats, name) for name in ("gradients", "shallow")}
    return {**judge(strip, out), **spent, "error": ((out.latents - latents).norm() / latents.norm()).item()}


def race(strips: Mapping[str, Strip], rounds: int, threads: int) -> dict[str, Any]:
    """Seconds of each strip, in another order each round, so that a disturbance meets all alike.

    `times_as_fast` are ratios of medians to that of the strip named `quality`.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {name: [] for name in strips}
    shuffle = random.Random(0)
    make(strips["quality"])
    before = disturbance(threads)
    turns = [name for _ in range(rounds) for name in shuffle.sample(list(strips), len(strips))]
    for name in tqdm(turns, desc="speed"):
        began = time.perf_counter()
        make(strips[name])
        seconds[name].append(time.perf_counter() - began)
    disturbed = max(before, disturbance(threads))
    torch.set_num_threads(usual)
    medians = {name: median(times) for name, times in seconds.items()}
    return {
        "threads": threads,
        "steps": strips["quality"].steps,
        "rounds": rounds,
        "disturbance": round(disturbed, 2),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "spread": {name: round(spread(times), 3) for name, times in seconds.items()},
        "times_as_fast": {name: round(medians["quality"] / value, 3) for name, value in medians.items()},
    }


def summarise(cases: Mapping[str, Figures]) -> dict[str, Any]:
    """Means of each method's figures, beside the settings that they stand for, and which of them are presets."""
    rows = {name: [row for case, row in cases.items() if case.startswith(f"{name} | ")] for name in METHODS}
    table = averages(rows)
    for name, (method, settings) in METHODS.items():
        means = {figure: mean(row[figure] for row in rows[name]) for figure in ("gradients", "shallow", "error")}
        table[name] = {"method": method, "settings": settings, **table[name], **means}  # type: ignore[dict-item]
    return {"methods": table, "presets": {preset: name_of(settings) for preset, settings in PRESETS.items()}}


def main(
    quick: Annotated[bool, typer.Option(help="One prompt, one seed, 2 steps, one round: does it run?")] = False,
    only_speed: Annotated[bool, typer.Option("--only-speed", help="Time anew; figures stay as they are.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Figures of every setting, then the time of each."""
    prompts, seeds, steps = (list(PROMPTS)[:1], SEEDS[:1], 2) if quick else (list(PROMPTS), SEEDS, STEPS)
    output = output or RESULTS / ("tradeoff_scenes_quick.json" if quick else "tradeoff_scenes.json")
    settings = {"prior": "scenes", "weights": zoo.fingerprint(), "windows": WINDOWS, "steps": steps}
    cases = {
        f"{name} | {prompt} | {seed}": Comparison(
            Strip(prompt, PROMPTS[prompt], seed, method, steps, changes), output.with_suffix("")
        )
        for name, (method, changes) in METHODS.items()
        for prompt in prompts
        for seed in seeds
    }
    if only_speed:
        measured = json.loads(output.read_text())["cases"] if output.exists() else {}
        if not set(cases) <= set(measured):
            raise SystemExit(f"{output} does not hold all figures yet: run without --only-speed.")
    else:
        # First the pictures that all others are compared with.
        run_cases(output, settings, {n: c for n, c in cases.items() if n.startswith("quality")}, compare, "quality")
        run_cases(output, settings, cases, compare, "approximations")
    timed = {
        name: Strip(prompts[0], PROMPTS[prompts[0]], seeds[0], method, min(steps, TIMED_STEPS), changes)
        for name, (method, changes) in METHODS.items()
    }
    # On a busy machine threads wait for each other, and a trial would take as long as a measurement.
    speed = race(timed, 1, 1) if quick else race(timed, ROUNDS, THREADS)
    content = json.loads(output.read_text())
    summary = summarise(content["cases"])
    write_json(output, {**content, "speed": speed, "summary": summary})
    typer.echo("  speed  chi-square  disagreement  crispness  error")
    for name, row in sorted(summary["methods"].items(), key=lambda item: speed["times_as_fast"][item[0]]):
        ratio = row["crispness_ratio_first" if row["method"] == "syncvc" else "crispness_ratio"]
        preset = "".join(f"  <- {preset}" for preset, chosen in summary["presets"].items() if chosen == name)
        typer.echo(
            f"{speed['times_as_fast'][name]:6.2f}x{row['chi_square']:12.3f}{row['disagreement']:14.4f}{ratio:11.2f}"
            f"{row['error']:7.2f}   {name}{preset}"
        )
    if speed["disturbance"] > DISTURBED:
        typer.echo("another program held a core while times were taken: take them again with --only-speed.")
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
