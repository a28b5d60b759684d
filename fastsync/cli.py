"""The command `fastsync`."""

from pathlib import Path
from typing import Annotated

import typer

from . import doctor as health
from . import zoo
from .animation import check_animation_path, save_animation
from .canvases.illusion_views import VIEWS
from .cli_options import (
    ControlImage,
    ControlNet,
    Device,
    Dtype,
    Guidance,
    LowMemory,
    MaxBatch,
    MethodName,
    Model,
    Negative,
    Output,
    PresetName,
    Prompt,
    Seed,
    SolverName,
    Steps,
    Window,
    load,
    metadata_of,
    one_sentence,
    options_of,
    save,
)
from .contact_sheet import contact_sheet
from .errors import check_choice, check_int
from .geometry import ring
from .geometry.textured import check_mesh_path
from .pictures import check_picture_path, save_picture
from .report import check_report_path, write_report
from .texture import TEXTURE_SIZE
from .turntable import save_turntable, turntable

app = typer.Typer(
    help="Diffusion synchronisation: pictures larger than what the model was trained on, from views that agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
    window: Window = None,
    controlnet: ControlNet = None,
    control_image: ControlImage = None,
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
    with one_sentence():
        check_picture_path(output)
        closed = check_choice("loop", loop, (None, "x", "y", "xy")) or False
        sync = load(model, device, dtype, method, preset, solver, low_memory, controlnet, control_image)
        out = sync.wide(
            prompt,
            width=width,
            height=height,
            overlap=overlap,
            loop=closed,
            **options_of(negative, method, preset, steps, guidance, max_batch, seed, window, control_image),
        )
        save(out, output, model, sync)


@app.command()
def panorama(
    prompt: Prompt,
    negative: Negative = None,
    width: Annotated[int | None, typer.Option(help="360 degrees in pixels.")] = None,
    poles: Annotated[bool, typer.Option("--poles", help="The whole sphere, up and down included.")] = False,
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "scenes",
    window: Window = None,
    controlnet: ControlNet = None,
    control_image: ControlImage = None,
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
    with one_sentence():
        check_picture_path(output)
        sync = load(model, device, dtype, method, preset, solver, low_memory, controlnet, control_image)
        out = sync.panorama(
            prompt,
            width=width,
            poles=poles,
            **options_of(negative, method, preset, steps, guidance, max_batch, seed, window, control_image),
        )
        save(out, output, model, sync, panorama=True)


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
    window: Window = None,
    controlnet: ControlNet = None,
    control_image: ControlImage = None,
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
    with one_sentence():
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
        sync = load(model, device, dtype, method, preset, solver, low_memory, controlnet, control_image)
        out = sync.illusion(
            list(zip(["identity", *views], prompts, strict=True)),
            **options_of(negative, method, preset, steps, guidance, max_batch, seed, window, control_image),
        )
        for image, path in zip(out.images[2:], shown, strict=True):
            save_picture(image, path)
        save_animation(out.images[0], out.canvas.views, animation)
        save(out, output, model, sync)
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
    window: Window = None,
    controlnet: ControlNet = None,
    control_image: ControlImage = None,
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
    with one_sentence():
        check_picture_path(output)
        sync = load(model, device, dtype, method, preset, solver, low_memory, controlnet, control_image)
        out = sync.compose(
            mask,
            prompt,
            background=background,
            prompt=whole,
            width=width,
            height=height,
            **options_of(negative, method, preset, steps, guidance, max_batch, seed, window, control_image),
        )
        save(out, output, model, sync)


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
    method: MethodName = "syncvc",
    preset: PresetName = None,
    model: Model = "scenes-depth",
    window: Window = None,
    controlnet: ControlNet = None,
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
    with one_sentence():
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
        sync = load(model, device, dtype, method, preset, solver, low_memory, controlnet)
        out = sync.texture(
            mesh,
            prompt,
            cameras=around,
            texture_size=texture_size,
            view_prompts=view_prompts,
            reunwrap=reunwrap,
            **options_of(negative, method, preset, steps, guidance, max_batch, seed, window),
        )
        frames = turntable(out.textured.mesh, out.textured.texture, progress=True)
        save_picture(contact_sheet(out.pictures), beside["views"])
        save_turntable(frames, beside["gif"])
        if report:
            spent = {"view-evaluations": out.stats.evaluations, "seconds": round(out.stats.seconds, 1)}
            write_report(beside["html"], out.textured, out.pictures, {**metadata_of(out, model, sync), **spent}, frames)
        save(out, beside["texture"], model, sync)
        out.textured.save(output)  # last: it may take the place of the mesh that was given
        others = [output, beside["views"], beside["gif"], *([beside["html"]] if report else [])]
        typer.echo(f"{', '.join(map(str, others))}: the mesh, its views, turning" + (", and a page" if report else ""))


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Say what is known of this one instead: of the zoo, a folder, or a hub name.")
    ] = None,
    controlnet: ControlNet = None,
    solver: SolverName = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Say what this installation can do here, and why it cannot do the rest; or what is known of a model."""
    with one_sentence():
        if model is None and (controlnet, solver, device, dtype) != (None,) * 4:
            raise ValueError("--controlnet, --solver, --device and --dtype are of a model: give --model too.")
        if model is not None:
            sync = load(model, device, dtype, "syncvc", None, solver, False, controlnet)
            for line in repr(sync.prior).splitlines():
                typer.echo(line)
            return
    for what, how in health.report():
        typer.echo(f"{what:<16} {how}")
    failed = False
    for place in health.devices():
        try:
            how = health.self_test(place)
        except Exception as error:  # whatever is broken here is what the doctor was called for
            how, failed = f"FAILED: {type(error).__name__}: {error}", True
        typer.echo(f"{f'self-test {place}':<16} {how}")
    if failed:
        raise typer.Exit(1)


@app.command(name="zoo")
def list_zoo() -> None:
    """List the priors inside the package, with the words they know."""
    with one_sentence():
        if not zoo.names():
            raise FileNotFoundError("This installation has no prior; install fastsync from a wheel or a full checkout.")
        for name in zoo.names():
            typer.echo(f"{name}: {health.zoo_line(name)}")
            typer.echo(f"  words: {', '.join(zoo.words(name))}")
