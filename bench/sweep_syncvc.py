"""The sweep that chose SyncVC's defaults for latent priors, on the prior `scenes`.

    python -m bench.sweep_syncvc [--quick] [--device cuda] [--output FILE]

Five settings, three degrees of freedom. Adam does not see the scale of a loss, so without extra rewards and control
cost only the ratio of `kl_weight` to `reward_weight` matters; nor does it see the scale of its variable's gradient, so
only the product of `lr` and `control_strength` does. The sweep walks `lr`, `inv_lambda` and `kl_weight` in stages, each
around the best of the one before, and ends with two settings that should change nothing, as a check of this claim.

Prompts leave the time of day open. The final test, `bench.coherence`, uses other prompts and seeds.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from bench.cases import add_summary, run_cases
from bench.machine import RESULTS
from bench.strips import QUALITIES, WINDOWS, Strip, averages, excess, measure
from fastsync import zoo

PROMPTS = {"mountains": "mountains", "the desert": "dunes", "ocean waves": "sea", "a photo of a city": "city"}
SEEDS = (1000,)
STEPS = 50
BASELINES = ("independent", "multidiffusion")

Settings = dict[str, float]
START: Settings = {
    "lr": 0.02, "reward_weight": 1.0, "kl_weight": 1.0, "control_strength": 1.0, "inv_lambda": 5.0
}  # fmt: skip


def stages(quick: bool) -> Iterator[Mapping[str, tuple[float, ...]]]:
    """Factors or values to try in turn, as a grid; names ending in "*" multiply the best so far."""
    if quick:
        yield {"lr": (0.01, 0.02), "inv_lambda": (0.0, 5.0)}
        return
    yield {"lr": (0.0025, 0.005, 0.01, 0.02), "inv_lambda": (0.0, 5.0)}
    yield {"kl_weight": (0.1, 10.0)}
    yield {"reward_weight*": (10.0,), "kl_weight*": (10.0,)}
    yield {"lr*": (0.5,), "control_strength*": (2.0,)}


def main(
    quick: Annotated[bool, typer.Option(help="One prompt, one seed, 10 steps, four settings: does it run?")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Walks the stages; every picture is kept, so that a second call goes on where the first stopped."""
    prompts, seeds, steps = (list(PROMPTS)[:1], SEEDS[:1], 10) if quick else (list(PROMPTS), SEEDS, STEPS)
    output = output or RESULTS / ("sweep_syncvc_scenes_quick.json" if quick else "sweep_syncvc_scenes.json")
    header = {"prior": "scenes", "weights": zoo.fingerprint(), "windows": WINDOWS, "steps": steps}
    cases: dict[str, Strip] = {}

    def add(name: str, method: str, settings: Settings) -> None:
        for prompt, seed in product(prompts, seeds):
            strip = Strip(prompt, PROMPTS[prompt], seed, method, steps, settings, device)
            cases[f"{name} | {prompt} | {seed}"] = strip

    for method in BASELINES:
        add(method, method, {})
    tried: dict[str, Settings] = {}
    best = START
    for number, stage in enumerate(stages(quick), start=1):
        for settings in _grid(stage, best):
            name = " ".join(f"{key}={value:g}" for key, value in settings.items())
            tried[name] = settings
            add(name, "syncvc", settings)
        done = run_cases(output, header, cases, measure, f"stage {number}")
        rows = averages(
            {
                name: [figures for case, figures in done.items() if case.startswith(f"{name} | ")]
                for name in (*BASELINES, *tried)
            }
        )
        # Rounded, so that among equals the one tried first wins.
        ranked = sorted(tried, key=lambda name: (_missed(rows, name), round(rows[name]["chi_square"], 3)))
        best = tried[ranked[0]]
        add_summary(output, {"best": best, "ranked": {name: rows[name] for name in (*BASELINES, *ranked)}})
    typer.echo("chi-square  disagreement  crispness  place  time  (the last three relative to single samples)")
    for name in (*BASELINES, *ranked):
        row = rows[name]
        suffix = "ratio" if name in BASELINES else "ratio_first"
        qualities = "".join(f"{row[f'{quality}_{suffix}']:8.2f}" for quality in QUALITIES)
        typer.echo(f"{row['chi_square']:10.3f}{row['disagreement']:14.4f}{qualities}   {name}")
    typer.echo(f"written to {output}")


def _grid(stage: Mapping[str, tuple[float, ...]], best: Settings) -> Iterator[Settings]:
    for values in product(*stage.values()):
        settings = dict(best)
        for name, value in zip(stage, values, strict=True):
            settings[name.rstrip("*")] = value * best[name[:-1]] if name.endswith("*") else value
        yield settings


def _missed(rows: Mapping[str, Mapping[str, float]], name: str) -> float:
    """By how much the final test's bounds are missed, in steps of 0.05: four pictures do not tell less apart."""
    return round(20 * sum(excess(rows[name], rows["independent"]).values())) / 20


if __name__ == "__main__":
    typer.run(main)
