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
from .animation import check_animation_path, save_animation
from .canvases.illusion_views import VIEWS
from .contact_sheet import contact_sheet
from .diffusion import SolverChoice
from .errors import check_choice, check_device, check_int
from .geometry import ring
from .geometry.textured import check_mesh_path
from .methods.syncvc import PRESETS
from .pictures import check_picture_path, save_picture
from .pipeline import SyncPipeline
from .priors import save_memory
from .report import check_report_path, write_report
from .task import METHODS, Options, SyncPipelineOutput, method_of
from .texture import TEXTURE_SIZE
from .turntable import save_turntable, turntable

DTYPES = ("float32", "float16", "bfloat16")

app = typer.Typer(
    help="Diffusion synchronisation: pictures larger than what the model was trained on, from views that agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
Seed = Annotated[int | None, typer.Option(help="Same seed, same picture; a new one if not given.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu; a GPU if there is one, if not given.")]
Dtype = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(DTYPES)}; float16 on a GPU, else float32, if not given.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="A .png, .jpg or .webp file.")]


@app.command()
def wide(
    prompt: Prompt,
    negative: Negative = None,
    width: Annotated[int | None, typer.Option(help="Pixels; four windows' worth if not given.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; one window if not given.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Pixels that neighbouring windows share.")] = None,
    loop: Annotated[str | None, typer.Option(help="Close the picture: x, y, or xy (a seamless tile).")] = None,
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "scenes",
    steps: Steps = 50,
    solver: SolverName = None,
    guidance: Guidance = None,
    max_batch: MaxBatch = None,
    low_memory: LowMemory = False,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    output: Output = Path("out.png"),
) -> None:
    """Sample a wide picture. PNG files carry all that is needed to make them again."""
    with _one_sentence():
        check_picture_path(output)
        closed = check_choice("loop", loop, (None, "x", "y", "xy")) or False
        sync = _load(model, device, dtype, method, preset, solver, low_memory)
        out = sync.wide(
            prompt,
            width=width,
            height=height,
            overlap=overlap,
            loop=closed,
            **_options(negative, method, preset, steps, guidance, max_batch, seed),
        )
        _save(out, output, model, sync)


@app.command()
def panorama(
    prompt: Prompt,
    negative: Negative = None,
    width: Annotated[int | None, typer.Option(help="360 degrees in pixels.")] = None,
    poles: Annotated[bool, typer.Option("--poles", help="The whole sphere, up and down included.")] = False,
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "scenes",
    steps: Steps = 50,
    solver: SolverName = None,
    guidance: Guidance = None,
    max_batch: MaxBatch = None,
    low_memory: LowMemory = False,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    output: Output = Path("out.png"),
) -> None:
    """Sample a 360-degree picture (equirectangular, with the metadata by which viewers let one look around)."""
    with _one_sentence():
        check_picture_path(output)
        sync = _load(model, device, dtype, method, preset, solver, low_memory)
        out = sync.panorama(
            prompt, width=width, poles=poles, **_options(negative, method, preset, steps, guidance, max_batch, seed)
        )
        _save(out, output, model, sync, panorama=True)


@app.command()
def illusion(
    prompts: Annotated[list[str], typer.Argument(help="What the picture shows, and what each view of it shows.")],
    view: Annotated[
        list[str] | None, typer.Option(help=f"For each prompt after the first, one of {', '.join(VIEWS)}.")
    ] = None,
    negative: Negative = None,
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "glyphs",
    steps: Steps = 50,
    solver: SolverName = None,
    guidance: Guidance = None,
    max_batch: MaxBatch = None,
    low_memory: LowMemory = False,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    output: Output = Path("out.png"),
) -> None:
    """Sample a picture that shows something else when it is turned or taken apart.

    Beside the picture, say out.png, it writes what each view shows (out_rotate_180.png) and an animation from one to
    the other (out.gif).
    """
    with _one_sentence():
        check_picture_path(output)
        views = view or ["rotate_180"] * (len(prompts) == 2)
        if len(prompts) != len(views) + 1:
            raise ValueError(
                f"{len(prompts)} prompts need {len(prompts) - 1} --view, got {len(views)}: the first prompt is what "
                "the picture shows as it is."
            )
        for name in views:
            check_choice("view", name, VIEWS)
        shown = [output.with_name(f"{output.stem}_{name}{output.suffix}") for name in views]
        animation = output.with_suffix(".gif")
        if len(set(shown)) < len(shown):
            raise ValueError("a view was given twice: each view shows one thing, so name different ones.")
        for path in shown:
            check_picture_path(path)
        check_animation_path(animation)
        sync = _load(model, device, dtype, method, preset, solver, low_memory)
        out = sync.illusion(
            list(zip(["identity", *views], prompts, strict=True)),
            **_options(negative, method, preset, steps, guidance, max_batch, seed),
        )
        for image, path in zip(out.images[2:], shown, strict=True):
            save_picture(image, path)
        save_animation(out.images[0], out.canvas.views, animation)
        _save(out, output, model, sync)
        typer.echo(f"{', '.join(map(str, shown))}: what the views show; {animation}: from one to the other")


@app.command()
def compose(
    background: Annotated[str, typer.Argument(help="What is seen where no mask is.")],
    mask: Annotated[list[Path], typer.Option(help="A picture, white where its prompt holds; once for each region.")],
    prompt: Annotated[list[str], typer.Option(help="What is seen in the region of the mask of the same number.")],
    whole: Annotated[
        str | None, typer.Option(help="A prompt for all of the picture; the others, joined, if not given.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own window if not given.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own window if not given.")] = None,
    negative: Negative = None,
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "scenes",
    steps: Steps = 50,
    solver: SolverName = None,
    guidance: Guidance = None,
    max_batch: MaxBatch = None,
    low_memory: LowMemory = False,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    output: Output = Path("out.png"),
) -> None:
    """Sample a picture whose regions follow prompts of their own."""
    with _one_sentence():
        check_picture_path(output)
        sync = _load(model, device, dtype, method, preset, solver, low_memory)
        out = sync.compose(
            mask,
            prompt,
            background=background,
            prompt=whole,
            width=width,
            height=height,
            **_options(negative, method, preset, steps, guidance, max_batch, seed),
        )
        _save(out, output, model, sync)


@app.command()
def texture(
    mesh: Annotated[Path, typer.Argument(help="An OBJ, GLB, glTF, PLY, STL or OFF file.")],
    prompt: Annotated[str, typer.Argument(help="What it is made of, or shows.")],
    negative: Negative = None,
    texture_size: Annotated[int, typer.Option(help="Side of the texture, pixels.")] = TEXTURE_SIZE,
    cameras: Annotated[
        int | None, typer.Option(help="So many evenly around; eight and two from above, if not given.")
    ] = None,
    elevation: Annotated[float | None, typer.Option(help="Of --cameras, degrees; 15 if not given.")] = None,
    view_prompts: Annotated[
        bool, typer.Option(help="Add to the prompt from which side a view looks (', front view').")
    ] = True,
    reunwrap: Annotated[bool, typer.Option("--reunwrap", help="Make new texture coordinates in any case.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write a page with the mesh to turn about, too.")] = False,
    controlnet: Annotated[
        str | None, typer.Option(help="Of depth, for a --model without one: a folder or a hub name.")
    ] = None,
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "scenes-depth",
    steps: Steps = 50,
    solver: SolverName = None,
    guidance: Guidance = None,
    max_batch: MaxBatch = None,
    low_memory: LowMemory = False,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .glb or .obj file.")] = Path("out.glb"),
) -> None:
    """Paint a mesh. Its vertices, faces, texture coordinates and other materials stay as they are.

    Beside the mesh, say out.glb, it writes its texture (out_texture.png, with all that is needed to make it again), the
    views that it was made of (out_views.png) and the mesh turning once around (out.gif); with --report, a page with all
    of these, out.html.
    """
    with _one_sentence():
        check_mesh_path(output)
        if output.suffix.lower() == ".png":
            raise ValueError(f"{output}: the mesh goes into a .glb or .obj file; its texture is written beside it.")
        beside = {
            what: output.with_name(f"{output.stem}{end}")
            for what, end in (("texture", "_texture.png"), ("views", "_views.png"), ("gif", ".gif"), ("html", ".html"))
        }
        check_picture_path(beside["texture"])
        check_picture_path(beside["views"])
        check_animation_path(beside["gif"])
        check_report_path(beside["html"])
        around = None
        if cameras is not None:
            around = ring(check_int("cameras", cameras), 15.0 if elevation is None else elevation)
        elif elevation is not None:
            raise ValueError("--elevation was given without --cameras, whose it is: say how many cameras, too.")
        sync = _load(model, device, dtype, method, preset, solver, low_memory, controlnet)
        out = sync.texture(
            mesh,
            prompt,
            cameras=around,
            texture_size=texture_size,
            view_prompts=view_prompts,
            reunwrap=reunwrap,
            **_options(negative, method, preset, steps, guidance, max_batch, seed),
        )
        frames = turntable(out.textured.mesh, out.textured.texture, progress=True)
        save_picture(contact_sheet(out.pictures), beside["views"])
        save_turntable(frames, beside["gif"])
        if report:
            spent = {"view-evaluations": out.stats.evaluations, "seconds": round(out.stats.seconds, 1)}
            write_report(beside["html"], out.textured, out.pictures, {**_metadata(out, model, sync), **spent}, frames)
        _save(out, beside["texture"], model, sync)
        out.textured.save(output)  # last: it may take the place of the mesh that was given
        others = [output, beside["views"], beside["gif"], *([beside["html"]] if report else [])]
        typer.echo(f"{', '.join(map(str, others))}: the mesh, its views, turning" + (", and a page" if report else ""))


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
            typer.echo(f"  words: {', '.join(zoo.words(name))}")


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns what users can mend into one sentence on stderr and exit code 1."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        typer.echo("fastsync: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(1) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        typer.echo("fastsync: the memory is too small: use --low-memory, or ask for a smaller picture.", err=True)
        raise typer.Exit(1) from error


def _load(
    model: str,
    device: str | None,
    dtype: str | None,
    method: str,
    preset: str | None,
    solver: str | None,
    low_memory: bool,
    controlnet: str | None = None,
) -> SyncPipeline:
    # What is wrong with the rest is said before the model is loaded, which may take long.
    method_of({"method": method, "preset": preset})
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    chosen: SolverChoice | None = check_choice("solver", solver, (None, "auto", "ddim"))
    if device is not None:
        check_device("device", device)
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


def _options(
    negative: str | None,
    method: str,
    preset: str | None,
    steps: int,
    guidance: float | None,
    max_batch: int | None,
    seed: int | None,
) -> Options:
    return {
        "negative_prompt": negative,
        "method": method,
        "preset": preset,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "max_batch": "auto" if max_batch is None else max_batch,
        "seed": seed,
    }


def _save(out: SyncPipelineOutput, path: Path, model: str, sync: SyncPipeline, panorama: bool = False) -> None:
    metadata = _metadata(out, model, sync)
    image = out.images[0]
    shallow = f" ({out.stats.shallow} of them shallow)" if out.stats.shallow else ""
    save_picture(image, path, metadata, panorama=panorama)
    typer.echo(
        f"{path}: {image.width}x{image.height} pixels, {out.parameters['method']}, seed {out.parameters['seed']}, "
        f"{out.stats.evaluations} view-evaluations{shallow} in {out.stats.seconds:.1f} s"
    )


def _metadata(out: SyncPipelineOutput, model: str, sync: SyncPipeline) -> dict[str, Any]:
    versions = {name: version(name) for name in ("fastsync", "torch", "diffusers", "transformers")}
    # The model under the name that --model takes.
    return {**out.parameters, "model": model, "device": sync.pipe._execution_device.type, "versions": versions}
