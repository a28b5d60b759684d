"""The final test of SyncVC on the prior `scenes`: methods side by side, on prompts that leave the time of day open.

    python -m bench.coherence [--quick] [--device cuda] [--output FILE]

Prompts and seeds are not those of `bench.sweep_syncvc`, which chose the defaults.
"""

from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from bench.cases import Figures, add_summary, run_cases
from bench.machine import RESULTS
from bench.strips import WINDOWS, Strip, fingerprint, measure

PROMPTS = {
    "a wide view of the alps": "mountains",
    "sand dunes": "dunes",
    "a seascape": "sea",
    "a forest": "forest",
    "a panorama of a town": "city",
    "rolling hills": "hills",
}
SEEDS = range(8)
METHODS = ("independent", "multidiffusion", "syncvc")
STEPS = 50


def main(
    quick: Annotated[bool, typer.Option(help="Two prompts, one seed, 10 steps: does it run?")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Samples and measures every prompt and seed with every method."""
    prompts, seeds, steps = (list(PROMPTS)[:2], SEEDS[:1], 10) if quick else (list(PROMPTS), SEEDS, STEPS)
    output = output or RESULTS / ("coherence_scenes_quick.json" if quick else "coherence_scenes.json")
    settings = {"prior": "scenes", "weights": fingerprint(), "windows": WINDOWS, "steps": steps}
    cases = {
        f"{method} | {prompt} | {seed}": Strip(prompt, PROMPTS[prompt], seed, method, steps, device=device)
        for prompt in prompts
        for seed in seeds
        for method in METHODS
    }
    done = run_cases(output, settings, cases, measure, "coherence")
    summary = summarise({method: [done[name] for name in cases if name.startswith(method)] for method in METHODS})
    add_summary(output, summary)
    for name, passed in summary["required"].items():
        typer.echo(f"{'passed' if passed else 'FAILED'}  {name}")
    typer.echo(f"{'':15}chi-square  disagreement  crispness  place  time  (the last three relative to single samples)")
    for method in METHODS:
        row = summary[method]
        typer.echo(
            f"{method:15}{row['chi_square']:10.3f}{row['disagreement']:14.3f}{row['crispness_ratio']:11.2f}"
            f"{row['place_confidence_ratio']:7.2f}{row['time_confidence_ratio']:6.2f}"
        )
    typer.echo(f"written to {output}")


def summarise(figures: dict[str, list[Figures]]) -> dict[str, Any]:
    """Means by method, ratios to single samples of the prior, and whether the required bounds hold."""
    single = {name: mean(f[f"single_{name}"] for f in figures["independent"]) for name in QUALITIES}
    summary: dict[str, Any] = {"single samples": single}
    for method, rows in figures.items():
        means = {name: mean(row[name] for row in rows) for name in (*COHERENCE, *QUALITIES)}
        summary[method] = {**means, **{f"{name}_ratio": means[name] / single[name] for name in QUALITIES}}
    syncvc, rivals = summary["syncvc"], (summary["multidiffusion"], summary["independent"])
    summary["required"] = {
        "chi-square at most half of MultiDiffusion's": syncvc["chi_square"] <= rivals[0]["chi_square"] / 2,
        "disagreement at most a sixth of independent windows'": (
            syncvc["disagreement"] <= rivals[1]["disagreement"] / 6
        ),
        **{f"{name} within 10 % of single samples'": abs(syncvc[f"{name}_ratio"] - 1) <= 0.1 for name in QUALITIES},
    }
    return summary


COHERENCE = ("chi_square", "disagreement", "evaluations", "seconds")
QUALITIES = ("crispness", "place_confidence", "time_confidence")

if __name__ == "__main__":
    typer.run(main)
