"""The final test of SyncVC on the prior `scenes`: methods side by side, on prompts that leave the time of day open.

    python -m bench.coherence [--quick] [--device cuda] [--output FILE]

Prompts and seeds are not those of `bench.sweep_syncvc`, which chose the defaults.
"""

from pathlib import Path
from typing import Annotated

import typer

from bench.cases import add_summary, run_cases
from bench.machine import RESULTS
from bench.strips import QUALITIES, WINDOWS, Strip, averages, excess, measure
from fastsync import zoo

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
    settings = {"prior": "scenes", "weights": zoo.fingerprint(), "windows": WINDOWS, "steps": steps}
    cases = {
        f"{method} | {prompt} | {seed}": Strip(prompt, PROMPTS[prompt], seed, method, steps, device=device)
        for prompt in prompts
        for seed in seeds
        for method in METHODS
    }
    done = run_cases(output, settings, cases, measure, "coherence")
    summary = averages({method: [done[name] for name in cases if name.startswith(method)] for method in METHODS})
    missed = excess(summary["syncvc"], summary["independent"])
    half = summary["multidiffusion"]["chi_square"] / 2
    missed["chi_square"] = max(0.0, summary["syncvc"]["chi_square"] / half - 1)
    add_summary(output, {"methods": summary, "missed_by": missed})
    typer.echo(f"{'':15}chi-square  disagreement  " + "  ".join(f"{name} (of single)" for name in QUALITIES))
    for method, row in summary.items():
        # Only SyncVC gives all windows the look of the first.
        suffix = "ratio_first" if method == "syncvc" else "ratio"
        ratios = "".join(f"{row[f'{name}_{suffix}']:{len(name) + 14}.3f}" for name in QUALITIES)
        typer.echo(f"{method:15}{row['chi_square']:10.3f}{row['disagreement']:14.4f}{ratios}")
    for name, relative in missed.items():
        typer.echo(f"{name}: {'passed' if relative == 0 else f'MISSED by {relative:.0%}'}")
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
