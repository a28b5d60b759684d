"""The custom pipeline `integrations/diffusers/panorama` beside the deprecated one of diffusers that it replaces.

    python -m bench.panorama [--rounds 5] [--output FILE]

Both are built of the same parts and asked for the same picture in turns. Compared are CPU seconds of the process, with
one thread, which other programs on the machine disturb less than the clock. What does not go into the UNet's forward is
``outside``: prompts, views, guidance, steps, merging.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL, StableDiffusionPanoramaPipeline, UNet2DConditionModel
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module
from tqdm import tqdm

import fastsync as fs
from bench.machine import RESULTS, describe, write_json
from bench.ops import rounded
from bench.runs import difference

FOLDER = Path(__file__).parents[1] / "integrations" / "diffusers" / "panorama"
# Network, height and width in pixels, steps. Windows have at most 64 x 64 latent cells, eight pixels each.
Case = tuple[str, int, int, int]
CASES: dict[str, Case] = {
    "scenes, windows of 64 x 64": ("scenes", 512, 640, 1),
    "scenes, windows of 8 x 64": ("scenes", 64, 1024, 2),
    "one multiplication, 9 windows of 64 x 64": ("bare", 512, 1024, 20),
    "one multiplication, 25 windows of 64 x 64": ("bare", 512, 2048, 20),
}
ALL = 1000  # more windows than there are
VARIANTS = {"diffusers": 1, "diffusers, 4": 4, "diffusers, all": ALL, "fastsync": 1, "fastsync, all": ALL}


class Bare(UNet2DConditionModel):
    """A network that is one multiplication, so that all time is the sampler's."""

    def forward(self, sample: torch.Tensor, *given: Any, return_dict: bool = True, **further: Any) -> Any:
        """Half of x."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(0.5 * sample) if return_dict else (0.5 * sample,)


class Bench:
    """Both pipelines on one network, with a watch on it."""

    def __init__(self, network: str) -> None:
        parts = dict(fs.SyncPipeline.from_zoo("scenes").pipe.components)
        # The deprecated pipeline takes eight pixels a cell for granted; nothing is decoded here.
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        parts["vae"] = AutoencoderKL(block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, **blocks)
        if network == "bare":
            parts["unet"] = Bare.from_config(parts["unet"].config)
        self.unet, self.spent = parts["unet"], 0.0
        self._forward, self.unet.forward = self.unet.forward, self._watched
        ours = get_class_from_dynamic_module(FOLDER, "pipeline.py", trust_remote_code=True)
        kinds = {"diffusers": StableDiffusionPanoramaPipeline, "fastsync": ours}
        self.pipes = {name: kind(**parts, requires_safety_checker=False) for name, kind in kinds.items()}
        for pipe in self.pipes.values():
            pipe.set_progress_bar_config(disable=True)

    def run(self, variant: str, height: int, width: int, steps: int) -> tuple[float, float, torch.Tensor]:
        """CPU seconds of a call, those of them in the network, and its latents."""
        self.spent, began = 0.0, time.process_time()
        out = self.pipes[variant.partition(",")[0]](
            "mountains",
            height=height,
            width=width,
            num_inference_steps=steps,
            view_batch_size=VARIANTS[variant],
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        )
        return time.process_time() - began, self.spent, out.images

    def _watched(self, *given: Any, **further: Any) -> Any:
        began = time.process_time()
        out = self._forward(*given, **further)
        self.spent += time.process_time() - began
        return out


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Medians of all variants: seconds, the part outside of the network, and both against diffusers' default."""
    network, *size = case
    bench = Bench(network)
    pictures = {variant: bench.run(variant, *size)[2] for variant in VARIANTS}
    found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, runs in found.items():
            runs.append(bench.run(variant, *size)[:2])
    seconds = {variant: median(whole for whole, _ in runs) for variant, runs in found.items()}
    outside = {variant: median(whole - inside for whole, inside in runs) for variant, runs in found.items()}
    first = next(iter(VARIANTS))
    return {
        variant: {
            "seconds": rounded(seconds[variant]),
            "outside": rounded(outside[variant]),
            "times_as_fast": rounded(seconds[first] / seconds[variant]),
            "difference": rounded(difference(pictures[variant], pictures[first])),
        }
        for variant in VARIANTS
    }


def main(
    rounds: Annotated[int, typer.Option(help="Timed runs of each variant.")] = 5,
    output: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "panorama_cpu.json",
) -> None:
    """Measures every case and writes medians and ratios."""
    torch.set_num_threads(1)
    cases = {name: measure(case, rounds) for name, case in tqdm(CASES.items(), desc="panorama")}
    write_json(output, {**describe(), "settings": {"device": "cpu", "threads": 1, "rounds": rounds}, "cases": cases})
    for name, rows in cases.items():
        typer.echo(name)
        for variant, row in rows.items():
            typer.echo(
                f"  {variant:16}{1e3 * row['seconds']:10.1f} ms, {1e3 * row['outside']:7.1f} outside of the network"
                f"{row['times_as_fast']:8.2f} x"
            )
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
