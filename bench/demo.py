"""One prompt and one seed by three methods, as a strip with the coherence figures under each picture.

python -m bench.demo [-o demo.png]
"""

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from bench.strips import Strip, coherence, make
from fastsync.pictures import check_picture_path, save_picture

PROMPT, PLACE, SEED, STEPS = "a wide view of the mountains", "mountains", 0, 50
TITLES = {
    "independent": "Independent windows",
    "multidiffusion": "MultiDiffusion",
    "syncvc": "SyncVC",
}
ENLARGED = 2
MARGIN, GAP = 28, 10
BACKGROUND, INK, FAINT = (252, 252, 250), (24, 24, 28), (96, 96, 104)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the strip goes.")] = Path("demo.png"),
) -> None:
    """Samples the three pictures on the embedded prior and draws the strip."""
    check_picture_path(output)
    rows, parameters = [], {}
    for method, title in TITLES.items():
        out = make(Strip(PROMPT, PLACE, SEED, method, STEPS), progress=True)
        figures = coherence(out)
        caption = (
            f"colour distance between windows {figures['chi_square']:.2f}     "
            f"disagreement on overlaps {figures['disagreement']:.3f}     "
            f"{figures['evaluations']:,} view-evaluations"
        )
        typer.echo(f"{title:20} {caption}")
        rows.append((title, out.images[0], caption))
        parameters[method] = out.parameters
    save_picture(_strip(rows), output, parameters)


def _strip(rows: list[tuple[str, Image.Image, str]]) -> Image.Image:
    """Titles, pictures and captions below one another, under a heading."""
    heading, bold, small = (ImageFont.load_default(size) for size in (24, 20, 16))
    first = rows[0][1]
    width, height = first.width * ENLARGED, first.height * ENLARGED
    row_height = 20 + GAP + height + GAP + 16 + MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, MARGIN + 24 + MARGIN + row_height * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), f"“{PROMPT}”, seed {SEED}", INK, heading, anchor="lt")
    top = MARGIN + 24 + MARGIN
    for title, picture, caption in rows:
        draw.text((MARGIN, top), title, INK, bold, anchor="lt")
        sheet.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (MARGIN, top + 20 + GAP))
        draw.text((MARGIN, top + 20 + GAP + height + GAP), caption, FAINT, small, anchor="lt")
        top += row_height
    return sheet


if __name__ == "__main__":
    typer.run(main)
