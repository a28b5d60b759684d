"""Contact sheets, one a task: three prompts by all methods that make sense, side by side.

python -m bench.gallery [TASK ...] [-o docs/gallery]

Pictures are kept in build/gallery and not made again while the weights are the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

import fastsync as fs
from fastsync import zoo
from fastsync.contact_sheet import contact_sheet
from fastsync.geometry import Mesh
from fastsync.pictures import save_picture
from fastsync.task import SyncPipelineOutput
from fastsync.turntable import turntable
from fastsync.zoo.objects import shapes

SEED, STEPS = 1, 40
WORK = Path("build/gallery")
BACKGROUND, INK, FAINT = (252, 252, 250), (24, 24, 28), (96, 96, 104)
MARGIN, GAP, LABEL = 20, 6, 16

WIDE = ("mountains at sunset", "a foggy forest", "a city at night")
PANORAMAS = ("dunes under a clear sky", "the sea at dawn", "mountains in winter")
PAIRS = (("6", "9", "rotate_180"), ("a", "v", "rotate_180"), ("t", "h", "rotate_cw"))


@dataclass(frozen=True)
class Task:
    """What a sheet shows.

    `make(number, method)` samples a picture, `titles` names the prompts, `scale` enlarges what is small; with `wide`
    methods stand below one another, else side by side. `show` makes one picture of what was sampled.
    """

    prior: str
    titles: Sequence[str]
    methods: Sequence[str]
    make: Callable[[int, str], SyncPipelineOutput]
    wide: bool
    scale: int = 1
    show: Callable[[Any], Image.Image] = lambda out: _joined(out.images)


def main(
    tasks: Annotated[
        list[str] | None, typer.Argument(help="wide, panorama, illusion, compose, texture; all if none.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sheets.")] = Path("docs/gallery"),
) -> None:
    """Samples the pictures that are not there yet and draws the sheets."""
    output.mkdir(parents=True, exist_ok=True)
    for name in tasks or TASKS:
        task = TASKS[name]
        folder = WORK / f"{name}-{zoo.fingerprint(task.prior)}-{SEED}-{STEPS}"
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [(number, method) for number in range(len(task.titles)) for method in task.methods]
        for number, method in tqdm(jobs, desc=name, unit="picture"):
            path = folder / f"{number}_{method}.png"
            if not path.exists():
                out = task.make(number, method)
                save_picture(task.show(out), path, out.parameters)
        rows = [
            [Image.open(folder / f"{n}_{m}.png").convert("RGB") for m in task.methods] for n in range(len(task.titles))
        ]
        sheet = _below(task, rows) if task.wide else _beside(task, rows)
        save_picture(sheet, output / f"{name}.webp")


@cache
def _sync(prior: str) -> fs.SyncPipeline:
    return fs.SyncPipeline.from_zoo(prior)


def _settings(method: str) -> dict[str, Any]:
    return {"method": method, "seed": SEED, "num_inference_steps": STEPS, "progress": False}


def _wide(number: int, method: str) -> SyncPipelineOutput:
    return _sync("scenes").wide(WIDE[number], width=416, overlap=32, **_settings(method))


def _panorama(number: int, method: str) -> SyncPipelineOutput:
    return _sync("scenes").panorama(PANORAMAS[number], **_settings(method))


def _illusion(number: int, method: str) -> SyncPipelineOutput:
    first, second, view = PAIRS[number]
    return _sync("glyphs").illusion([("identity", first), (view, second)], **_settings(method))


def hill() -> Image.Image:
    """A soft mound at the lower left."""
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).ellipse((-50, 60, 78, 190), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(3))


def right_half() -> Image.Image:
    """The right half, with a soft edge."""
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((64, 0, 128, 128), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(3))


SCENES = (
    ("the sea at sunset", hill, "a forest at sunset"),
    ("mountains at night", right_half, "a city at night"),
    ("dunes at noon", right_half, "the sea at noon"),
)


def _compose(number: int, method: str) -> SyncPipelineOutput:
    background, mask, prompt = SCENES[number]
    return _sync("scenes").compose([mask()], [prompt], background=background, **_settings(method))


THINGS = (("castle", "stones"), ("vase", "tiles"), ("mushroom", "dragon scales"))


def mesh(name: str) -> Mesh:
    """A shape of those that `scenes-depth` learnt on, another specimen."""
    return shapes.make(name, 2**40)


def _texture(number: int, method: str) -> SyncPipelineOutput:
    name, prompt = THINGS[number]
    return _sync("scenes-depth").texture(mesh(name), prompt, **_settings(method))


def _turned(out: Any) -> Image.Image:
    """A painted mesh from three sides."""
    return contact_sheet(turntable(out.textured.mesh, out.textured.texture, frames=3, size=128), columns=3)


TASKS = {
    "wide": Task(
        "scenes",
        WIDE,
        ("independent", "multidiffusion", "synctweedies", "syncsde", "syncdiffusion", "stochsync", "syncvc"),
        _wide,
        wide=True,
    ),
    "panorama": Task(
        "scenes",
        PANORAMAS,
        ("independent", "synctweedies", "syncsde", "stochsync", "syncvc"),
        _panorama,
        wide=True,
    ),
    "illusion": Task(
        "glyphs",
        [f"{first} / {second}, {view}" for first, second, view in PAIRS],
        ("independent", "multidiffusion", "synctweedies", "syncsde", "stochsync", "syncvc"),
        _illusion,
        wide=False,
        scale=2,
    ),
    "compose": Task(
        "scenes",
        [f"{background}; {prompt}" for background, _, prompt in SCENES],
        ("independent", "multidiffusion", "synctweedies", "syncsde", "stochsync", "syncvc"),
        _compose,
        wide=False,
    ),
    "texture": Task(
        "scenes-depth",
        [f"{name}: {prompt}" for name, prompt in THINGS],
        ("independent", "synctweedies", "syncsde", "stochsync", "syncvc"),
        _texture,
        wide=True,
        show=_turned,
    ),
}


def _joined(images: list[Image.Image]) -> Image.Image:
    """A picture alone, or an illusion's views side by side (the picture itself is the first of them)."""
    if len(images) == 1:
        return images[0]
    views = images[1:]
    joined = Image.new("RGB", (sum(view.width for view in views) + 2 * (len(views) - 1), views[0].height), BACKGROUND)
    left = 0
    for view in views:
        joined.paste(view, (left, 0))
        left += view.width + 2
    return joined


def _below(task: Task, rows: list[list[Image.Image]]) -> Image.Image:
    """A block a prompt, a picture a line with its method on the left."""
    names = 120
    width = names + max(picture.width for row in rows for picture in row) + 2 * MARGIN
    height = MARGIN + sum(LABEL + GAP + sum(p.height + GAP for p in row) + MARGIN for row in rows)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw, top = ImageDraw.Draw(sheet), MARGIN
    for title, row in zip(task.titles, rows, strict=True):
        draw.text((MARGIN, top), f"“{title}”", INK, ImageFont.load_default(LABEL), anchor="lt")
        top += LABEL + GAP
        for method, picture in zip(task.methods, row, strict=True):
            middle = top + picture.height // 2
            draw.text((MARGIN, middle), method, FAINT, ImageFont.load_default(LABEL - 2), anchor="lm")
            sheet.paste(picture, (MARGIN + names, top))
            top += picture.height + GAP
        top += MARGIN
    return sheet


def _beside(task: Task, rows: list[list[Image.Image]]) -> Image.Image:
    """A row a prompt, a column a method."""
    width, height = (side * task.scale for side in rows[0][0].size)
    sheet = Image.new(
        "RGB",
        (
            2 * MARGIN + len(task.methods) * (width + GAP),
            MARGIN + LABEL + GAP + len(rows) * (LABEL + GAP + height + MARGIN),
        ),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for column, method in enumerate(task.methods):
        left = MARGIN + column * (width + GAP)
        draw.text((left, MARGIN + LABEL - 2), method, FAINT, ImageFont.load_default(LABEL - 2), anchor="ls")
    top = MARGIN + LABEL + GAP
    for title, row in zip(task.titles, rows, strict=True):
        draw.text((MARGIN, top), f"“{title}”", INK, ImageFont.load_default(LABEL), anchor="lt")
        top += LABEL + GAP
        for column, picture in enumerate(row):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (MARGIN + column * (width + GAP), top))
        top += height + MARGIN
    return sheet


if __name__ == "__main__":
    typer.run(main)
