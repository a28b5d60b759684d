"""One wide picture of an embedded prior, sampled and measured: what the demo, the sweep and the final test share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fastsync as fs
from fastsync.metrics import crispness, histogram_distance, overlap_disagreement
from fastsync.task import METHODS, SyncPipelineOutput
from fastsync.zoo.classifier import HEADS, SceneClassifier

WINDOWS = 4
QUALITIES = ("crispness", "place_confidence", "time_confidence")
_COHERENCE = ("chi_square", "disagreement", "evaluations", "seconds")


@dataclass(frozen=True)
class Strip:
    """A picture to sample: `WINDOWS` windows wide, on the prior `scenes`.

    `place` is what the prompt names, for the classifier; `settings` are keywords of the method's constructor.
    """

    prompt: str
    place: str
    seed: int
    method: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"


def make(strip: Strip, progress: bool = False) -> SyncPipelineOutput:
    """Samples a strip; the pipeline is loaded once a process and device."""
    sync = _pipeline(strip.device)
    height, width = sync.window_pixels
    overlap = width // 4
    return sync.wide(
        strip.prompt,
        width=WINDOWS * width - (WINDOWS - 1) * overlap,
        height=height,
        overlap=overlap,
        method=METHODS[strip.method](**strip.settings),
        num_inference_steps=strip.steps,
        seed=strip.seed,
        progress=progress,
    )


def coherence(out: SyncPipelineOutput, device: str = "cpu") -> dict[str, float]:
    """HSV chi-square distance between the picture's windows, and its views' disagreement in the prior's units."""
    window = _pipeline(device).window_pixels
    return {
        "chi_square": histogram_distance(pixels(out.images[0]), window).item(),
        "disagreement": overlap_disagreement(out.views, out.canvas.origins).item(),
        "evaluations": out.stats.evaluations,
        "seconds": round(out.stats.seconds, 2),
    }


def measure(strip: Strip) -> dict[str, Any]:
    """Makes a strip and judges it."""
    return judge(strip, make(strip))


def judge(strip: Strip, out: SyncPipelineOutput) -> dict[str, Any]:
    """All figures of a strip: coherence, and how crisp and how recognisable its windows are.

    Independent windows are single samples of the prior, so their views, decoded one by one, also give the figures of
    single samples ("single_...") that the others are compared with. SyncVC leaves the first window as it is and gives
    the others its look, and a night full of lit windows is several times as crisp as a foggy noon: so the first one's
    figures stand apart as well ("first_...").
    """
    window = _pipeline(strip.device).window_pixels
    scale = window[1] // out.canvas.window[1]
    picture = pixels(out.images[0])
    crops = [picture[:, y * scale :, x * scale :][:, : window[0], : window[1]] for y, x in out.canvas.origins]
    figures = {**coherence(out, strip.device), **_quality(torch.stack(crops), strip.place)}
    if strip.method == "independent":
        prior = fs.DiffusersPrior(_pipeline(strip.device).pipe)
        with torch.no_grad():
            singles = prior.decode(out.views).float().cpu().add(1).div(2).clamp(0, 1)
        figures |= {f"single_{name}": value for name, value in _quality(singles, strip.place).items()}
        figures |= {f"first_{name}": value for name, value in _quality(singles[:1], strip.place).items()}
    return figures


def averages(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Means of what `judge` found by name, with qualities also as ratios to single samples.

    "..._ratio" compares with all single samples, "..._ratio_first" with those whose look the pictures share. `figures`
    needs the rows of "independent", which hold the single samples.
    """
    table = {}
    for key, rows in figures.items():
        table[key] = {name: mean(row[name] for row in rows) for name in (*_COHERENCE, *QUALITIES)}
        for prefix, suffix in (("single", "ratio"), ("first", "ratio_first")):
            for name in QUALITIES:
                reference = mean(row[f"{prefix}_{name}"] for row in figures["independent"])
                table[key][f"{name}_{suffix}"] = table[key][name] / reference
    return table


def excess(row: Mapping[str, float], independent: Mapping[str, float]) -> dict[str, float]:
    """By how much a row of `averages` misses what is asked of SyncVC beside its chi-square; 0 where it does not.

    Crispness within 10 % of single samples of the same look (grain is no better than blur), confidence at least 90 % of
    single samples', overlap disagreement at most a sixth of independent windows'.
    """
    return {
        "disagreement": max(0.0, row["disagreement"] / (independent["disagreement"] / 6) - 1),
        "crispness": max(0.0, abs(row["crispness_ratio_first"] - 1) - 0.1),
        **{name: max(0.0, 0.9 - row[f"{name}_ratio"]) for name in QUALITIES if name.endswith("confidence")},
    }


def pixels(image: Image.Image) -> Tensor:
    """A PIL image as float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@cache
def _pipeline(device: str) -> fs.SyncPipeline:
    return fs.SyncPipeline.from_zoo("scenes", device=device, dtype=torch.float32)


@cache
def _classifier() -> SceneClassifier:
    return SceneClassifier.load()


def _quality(windows: Tensor, place: str) -> dict[str, float]:
    """Means over windows [N, 3, h, w]: crispness, the place's probability, and the likeliest time's."""
    logits = _classifier()(windows)
    places, times = (logits[name].softmax(-1) for name in ("place", "time"))
    return {
        "crispness": crispness(windows).mean().item(),
        "place_confidence": places[:, HEADS["place"].index(place)].mean().item(),
        "time_confidence": times.amax(-1).mean().item(),
    }
