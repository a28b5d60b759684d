"""Ambigrams on the prior `glyphs`: how often does the classifier accept BOTH readings of a picture?

    python -m bench.ambigrams [--quick] [--device cuda] [--output FILE]

Goes on from what the result file holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

import fastsync as fs
from bench.cases import add_summary, run_cases
from bench.machine import RESULTS
from bench.strips import pixels
from fastsync import zoo
from fastsync.zoo.classifier import GlyphClassifier
from fastsync.zoo.glyphs import CHARACTERS

# What the picture shows, what it shows in the view, and the view. A 6 is a 9 turned round; the others have to become
# something between two letters. None of them had a part in choosing SyncVC's settings for illusions, which was done on
# E/W, 2/5, 4/H, K/X and 7/L with seeds from 100 on.
PAIRS = (
    ("6", "9", "rotate_180"),
    ("A", "V", "rotate_180"),
    ("U", "C", "rotate_cw"),
    ("T", "H", "rotate_cw"),
    ("J", "L", "flip_horizontal"),
)
SEEDS = range(20)
# SyncTweedies gives MultiDiffusion's numbers where views are permutations of one noise.
METHODS = ("independent", "multidiffusion", "syncsde", "stochsync", "syncvc")
STEPS = 20


@dataclass(frozen=True)
class Ambigram:
    """A picture to sample."""

    first: str
    second: str
    view: str
    seed: int
    method: str
    steps: int
    device: str = "cpu"


def measure(ambigram: Ambigram) -> dict[str, Any]:
    """The classifier's probability of the wanted character in either reading, and whether both are its first guess."""
    sync = _sync(ambigram.device)
    prompts = [
        (view, _prompt(c))
        for view, c in zip(("identity", ambigram.view), (ambigram.first, ambigram.second), strict=True)
    ]
    out = sync.illusion(
        prompts, method=ambigram.method, num_inference_steps=ambigram.steps, seed=ambigram.seed, progress=False
    )
    row: dict[str, Any] = {"evaluations": out.stats.evaluations}
    for name, image, wanted in zip(("first", "second"), out.images[1:], (ambigram.first, ambigram.second), strict=True):
        chances = _classifier()(pixels(image)[None])["character"].softmax(-1)[0]
        row[name] = round(float(chances[CHARACTERS.index(wanted)]), 4)
        row[f"{name}_read"] = CHARACTERS[int(chances.argmax())]
    row["both"] = row["first_read"] == ambigram.first and row["second_read"] == ambigram.second
    return row


def main(
    quick: Annotated[bool, typer.Option(help="One pair, two seeds, 10 steps: does it run?")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
) -> None:
    """Samples and reads every pair and seed with every method."""
    pairs, seeds, steps = (PAIRS[:1], SEEDS[:2], 10) if quick else (PAIRS, SEEDS, STEPS)
    output = output or RESULTS / ("ambigrams_glyphs_quick.json" if quick else "ambigrams_glyphs.json")
    settings = {"prior": "glyphs", "weights": zoo.fingerprint("glyphs"), "steps": steps, "device": device}
    cases = {
        f"{method} | {first}/{second} {view} | {seed}": Ambigram(first, second, view, seed, method, steps, device)
        for seed in seeds
        for first, second, view in pairs
        for method in METHODS
    }
    done = run_cases(output, settings, cases, measure, "ambigrams")
    summary = {method: accepted(done, method, pairs) for method in METHODS}
    add_summary(output, {"both": summary})
    for method, shares in summary.items():
        typer.echo(f"{method:15}" + "".join(f"{name}: {share:.0%}   " for name, share in shares.items()))
    typer.echo(f"written to {output}")


def accepted(
    cases: Mapping[str, Mapping[str, Any]], method: str, pairs: tuple[tuple[str, str, str], ...] = PAIRS
) -> dict[str, float]:
    """Shares of a method's pictures with both readings accepted: by pair, and of all."""
    shares = {}
    for first, second, _ in pairs:
        rows = [row for name, row in cases.items() if name.startswith(f"{method} | {first}/{second} ")]
        shares[f"{first}/{second}"] = sum(row["both"] for row in rows) / len(rows)
    return {**shares, "all": sum(shares.values()) / len(shares)}


def _prompt(character: str) -> str:
    kind = "digit" if character.isdigit() else "letter"
    return f"the {kind} {character.lower()}"


@cache
def _sync(device: str) -> fs.SyncPipeline:
    return fs.SyncPipeline.from_zoo("glyphs", device=device)


@cache
def _classifier() -> GlyphClassifier:
    return GlyphClassifier.load()


if __name__ == "__main__":
    typer.run(main)
