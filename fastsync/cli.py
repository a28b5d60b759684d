"""The command `fastsync`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from . import doctor as health
from . import zoo
from .errors import check_choice, check_device
from .pictures import check_picture_path, save_picture
from .pipeline import METHODS, SyncPipeline

DTYPES = ("float32", "float16", "bfloat16")

app = typer.Typer(
    help="Diffusion synchronisation: pictures larger than what the model was trained on, from views that agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def wide(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    negative: Annotated[str | None, typer.Option(help="What it should not show.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; four windows' worth if not given.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; one window if not given.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Pixels that neighbouring windows share.")] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "syncvc",
    model: Annotated[
        str, typer.Option(help="A prior of the zoo (see `fastsync zoo`), a folder in diffusers' format, or a hub name.")
    ] = "scenes",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; the model's usual one if not given.")] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Most windows in one network call; fewer need less memory.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; a new one if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cpu, mps; a GPU if there is one, if not given.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DTYPES)}; float16 on a GPU, else float32, if not given.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .jpg or .webp file.")] = Path("out.png"),
) -> None:
    """Sample a wide picture. PNG files carry all that is needed to make them again."""
    with _one_sentence():
        check_picture_path(output)
        # Before the model is loaded, which may take long.
        check_choice("method", method, METHODS)
        sync = _load(model, device, dtype)
        out = sync.wide(
            prompt,
            negative_prompt=negative,
            width=width,
            height=height,
            overlap=overlap,
            method=method,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_batch=max_batch,
            seed=seed,
        )
        versions = {name: version(name) for name in ("fastsync", "torch", "diffusers", "transformers")}
        save_picture(
            out.images[0],
            output,
            # The model under the name that --model takes.
            {**out.parameters, "model": model, "device": sync.pipe.device.type, "versions": versions},
        )
        typer.echo(
            f"{output}: {out.parameters['width']}x{out.parameters['height']} pixels, {method}, seed "
            f"{out.parameters['seed']}, {out.stats.evaluations} view-evaluations in {out.stats.seconds:.1f} s"
        )


@app.command()
def doctor() -> None:
    """Say what this installation can do here, and why it cannot do the rest."""
    for what, how in health.report():
        typer.echo(f"{what:<16} {how}")
    failed = False
    for device in health.devices():
        try:
            how = health.self_test(device)
        except Exception as error:  # whatever is broken here is what the doctor was called for
            how, failed = f"FAILED: {type(error).__name__}: {error}", True
        typer.echo(f"{f'self-test {device}':<16} {how}")
    if failed:
        raise typer.Exit(1)


@app.command(name="zoo")
def list_zoo() -> None:
    """List the priors inside the package, with the words they know."""
    with _one_sentence():
        if not zoo.names():
            raise FileNotFoundError("This installation has no prior; install fastsync from a wheel or a full checkout.")
        for name in zoo.names():
            typer.echo(f"{name}: {health.zoo_line(name)}")
            typer.echo(f"  words: {', '.join(health.zoo_words(name))}")


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns what users can mend into one sentence on stderr and exit code 1."""
    try:
        yield
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        typer.echo("fastsync: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(1) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        typer.echo("fastsync: the memory is too small: ask for a smaller picture, or use --max-batch 1.", err=True)
        raise typer.Exit(1) from error


def _load(model: str, device: str | None, dtype: str | None) -> SyncPipeline:
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    if device is not None:
        check_device("device", device)
    # Loading a pipeline makes transformers advise on packages that it would like to have; errors still show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    placed: dict[str, Any] = {"device": device, "dtype": None if dtype is None else getattr(torch, dtype)}
    try:
        zoo.path(model)
    except ValueError:  # no name of the zoo; where only the weights are missing, its own sentence goes out
        return SyncPipeline.from_pretrained(model, **placed)
    return SyncPipeline.from_zoo(model, **placed)
