"""What the commands of `fastsync` share: their options, loading a model, and writing a picture."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from . import zoo
from .diffusion import SolverChoice
from .errors import check_choice, check_device
from .methods.syncvc import PRESETS
from .pictures import read_image, save_picture
from .pipeline import SyncPipeline
from .priors import save_memory
from .task import METHODS, Options, SyncPipelineOutput, method_of

DTYPES = ("float32", "float16", "bfloat16")

Prompt = Annotated[str, typer.Argument(help="What the picture shows.")]
Negative = Annotated[str | None, typer.Option(help="What it should not show.")]
MethodName = Annotated[str, typer.Option("--method", help=f"One of {', '.join(METHODS)}.")]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", help=f"Of syncvc: {', '.join(PRESETS)}, from slow to fast; quality if not given."),
]
Model = Annotated[
    str, typer.Option(help="A prior of the zoo (see `fastsync zoo`), a folder in diffusers' format, or a hub name.")
]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; the model's usual one if not given.")]
SolverName = Annotated[
    str | None, typer.Option("--solver", help="auto: the model's own scheduler; ddim: its times and betas run by DDIM.")
]
MaxBatch = Annotated[int | None, typer.Option(help="Most views in one network call; what fits, if not given.")]
LowMemory = Annotated[
    bool, typer.Option("--low-memory", help="The same picture in less memory, and more slowly: for small GPUs.")
]
Window = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="HEIGHT WIDTH", help="Pixels of a view; the model's own size if not given."),
]
ControlNet = Annotated[
    list[str] | None, typer.Option(help="For the --model: a folder or a hub name; may be given several times.")
]
ControlImage = Annotated[Path | None, typer.Option(help="What the model's ControlNet is shown of the whole picture.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same picture; a new one if not given.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu; a GPU if there is one, if not given.")]
Dtype = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(DTYPES)}; float16 on a GPU, else float32, if not given.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="A .png, .jpg or .webp file.")]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns what users can mend into one sentence on stderr and exit code 1."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        typer.echo("fastsync: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(1) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        typer.echo("fastsync: the memory is too small: use --low-memory, or ask for a smaller picture.", err=True)
        raise typer.Exit(1) from error


def load(
    model: str,
    device: str | None,
    dtype: str | None,
    method: str,
    preset: str | None,
    solver: str | None,
    low_memory: bool,
    controlnet: list[str] | None = None,
    control_image: Path | None = None,
) -> SyncPipeline:
    """The pipeline that a command's options name."""
    # What is wrong with the rest is said before the model is loaded, which may take long.
    method_of({"method": method, "preset": preset})
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    chosen: SolverChoice | None = check_choice("solver", solver, (None, "auto", "ddim"))
    if device is not None:
        check_device("device", device)
    if control_image is not None:
        read_image(control_image, "--control-image")
    # Loading a pipeline makes transformers advise on packages that it would like to have; errors still show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    placed: dict[str, Any] = {"device": device, "dtype": None if dtype is None else getattr(torch, dtype)}
    try:
        zoo.path(model)
    except ValueError:  # no name of the zoo; where only the weights are missing, its own sentence goes out
        sync = SyncPipeline.from_pretrained(model, controlnet=controlnet, solver=chosen or "auto", **placed)
    else:
        if controlnet is not None:
            raise ValueError(f"controlnet was given, but --model {model} of the zoo takes none: leave it out.")
        sync = SyncPipeline.from_zoo(model, solver=chosen, **placed)
    if low_memory:
        save_memory(sync.pipe)
    return sync


def options_of(
    negative: str | None,
    method: str,
    preset: str | None,
    steps: int,
    guidance: float | None,
    max_batch: int | None,
    seed: int | None,
    window: tuple[int, int] | None,
    control_image: Path | None = None,
) -> Options:
    """The keyword arguments that the tasks share."""
    return {
        "negative_prompt": negative,
        "method": method,
        "preset": preset,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "max_batch": "auto" if max_batch is None else max_batch,
        "seed": seed,
        "window": window,
        "control_image": control_image,
    }


def save(out: SyncPipelineOutput, path: Path, model: str, sync: SyncPipeline, panorama: bool = False) -> None:
    """Write the picture with its metadata, and say what it is and what it cost."""
    metadata = metadata_of(out, model, sync)
    image = out.images[0]
    shallow = f" ({out.stats.shallow} of them shallow)" if out.stats.shallow else ""
    save_picture(image, path, metadata, panorama=panorama)
    typer.echo(
        f"{path}: {image.width}x{image.height} pixels, {out.parameters['method']}, seed {out.parameters['seed']}, "
        f"{out.stats.evaluations} view-evaluations{shallow} in {out.stats.seconds:.1f} s"
    )


def metadata_of(out: SyncPipelineOutput, model: str, sync: SyncPipeline) -> dict[str, Any]:
    """What a picture's file says of how it was made."""
    versions = {name: version(name) for name in ("fastsync", "torch", "diffusers", "transformers")}
    # The model under the name that --model takes.
    return {**out.parameters, "model": model, "device": sync.pipe._execution_device.type, "versions": versions}
