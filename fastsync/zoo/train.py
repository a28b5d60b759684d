"""`python -m fastsync.zoo.train NAME`: trains an embedded prior from nothing but its generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from fastsync.zoo.models import DEPTH_SIZE, Size
from fastsync.zoo.training.run import Run


class Stage(str, Enum):
    """The stages, in the order in which `all` runs them (`adopt` aside, which goes on from the shipped weights)."""

    data = "data"
    classifier = "classifier"
    vae = "vae"
    latents = "latents"
    decoder = "decoder"
    unet = "unet"
    export = "export"
    all = "all"
    adopt = "adopt"


GLYPH_STAGES = (Stage.data, Stage.classifier, Stage.unet, Stage.export)  # pixels: no autoencoder, no latents
DEPTH_STAGES = (Stage.data, Stage.vae, Stage.latents, Stage.unet, Stage.export)


def train(run: Run, stage: Stage, pictures: int | None = None, target: Path | None = None) -> None:
    """Runs one stage of `scenes`, or all of them; each begins from what the earlier ones left in the run's folder."""
    from fastsync.zoo.training import adopt, classifier, data, denoiser, export, latents, vae

    stages = {
        Stage.data: lambda: data.paint(run, pictures or 12_000),
        Stage.classifier: lambda: classifier.train_classifier(run),
        Stage.vae: lambda: vae.train_vae(run),
        Stage.latents: lambda: latents.encode_windows(run),
        Stage.decoder: lambda: vae.polish_decoder(run),
        Stage.unet: lambda: denoiser.train_denoiser(run),
        Stage.export: lambda: export.export(run, target),
        Stage.adopt: lambda: adopt.adopt(run),
    }
    _go_through(stages, stage)


def train_glyphs(run: Run, stage: Stage, pictures: int | None = None, target: Path | None = None) -> None:
    """As `train`, for `glyphs`."""
    from fastsync.zoo.training import glyphs

    stages = {
        Stage.data: lambda: glyphs.paint(run, pictures or 30_000),
        Stage.classifier: lambda: glyphs.train_classifier(run),
        Stage.unet: lambda: glyphs.train_denoiser(run),
        Stage.export: lambda: glyphs.export(run, target),
        Stage.adopt: lambda: glyphs.adopt(run),
    }
    _go_through(stages, stage)


def train_objects(run: Run, stage: Stage, pictures: int | None = None, target: Path | None = None) -> None:
    """As `train`, for `scenes-depth`."""
    from fastsync.zoo.training import objects

    stages = {
        Stage.data: lambda: objects.paint(run, pictures or 7_000),
        Stage.vae: lambda: objects.train_vae(run),
        Stage.latents: lambda: objects.encode(run),
        Stage.unet: lambda: objects.train_denoiser(run),
        Stage.export: lambda: objects.export(run, target),
        Stage.adopt: lambda: objects.adopt(run),
    }
    _go_through(stages, stage)


def _go_through(stages: Mapping[Stage, Callable[[], object]], stage: Stage) -> None:
    """Runs one of a prior's stages, or all in order but for `adopt`."""
    for one in [s for s in stages if s is not Stage.adopt] if stage is Stage.all else [stage]:
        stages[one]()


TRAINERS = {"scenes": train, "glyphs": train_glyphs, "scenes-depth": train_objects}
STAGES = {"scenes": tuple(Stage), "glyphs": GLYPH_STAGES, "scenes-depth": DEPTH_STAGES}


def main(
    name: Annotated[str, typer.Argument(help="The prior to train: scenes, glyphs or scenes-depth.")] = "scenes",
    stage: Annotated[Stage, typer.Option(help="One stage, or all in order.")] = Stage.all,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    minutes: Annotated[float | None, typer.Option(help="Time for each trained stage; drives its schedule.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each trained stage, instead of minutes.")] = None,
    batch: Annotated[int | None, typer.Option(help="Batch size of the trained stages.")] = None,
    pictures: Annotated[int | None, typer.Option(help="Pictures of the data stage.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of data and checkpoints.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from what the folder holds.")] = True,
    target: Annotated[Path | None, typer.Option(help="Folder the export fills; default: the package's own.")] = None,
) -> None:
    """Train an embedded prior, stage by stage, resumable after any interruption."""
    if name not in TRAINERS:
        raise typer.BadParameter(f"the zoo cannot train {name!r}; it can train: {', '.join(TRAINERS)}.")
    if stage not in (*STAGES[name], Stage.all, Stage.adopt):
        raise typer.BadParameter(
            f"{name} has no stage {stage.value!r}; it has {', '.join(s.value for s in STAGES[name])}."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("this machine has no usable CUDA device; pass --device cpu.")
    if minutes is not None and steps is not None:
        raise typer.BadParameter("--minutes and --steps exclude each other; pass one of them.")
    run = Run(
        work=work or Path.home() / ".cache" / "fastsync" / "train" / name,
        device=torch.device(device),
        seed=seed,
        steps=steps,
        minutes=minutes,
        batch=batch,
        resume=resume,
        size=DEPTH_SIZE if name == "scenes-depth" else Size(),
    )
    TRAINERS[name](run, stage, pictures, target)


if __name__ == "__main__":
    typer.run(main)
