"""Pictures beside one another on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from .errors import check_int

GROUND = "#e9e9e6"
_GAP = 16  # a gap is this part of a picture's width


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """One RGB picture of several, row by row on a neutral ground, each in the middle of its cell.

    Args:
        columns: None: about as many as make the sheet half as wide again as high.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("images must not be empty: pass at least one picture.")
    width, height = max(image.width for image in images), max(image.height for image in images)
    if columns is None:
        columns = min(len(images), max(1, round(math.sqrt(1.5 * len(images) * height / width))))
        columns = math.ceil(len(images) / math.ceil(len(images) / columns))  # as few empty cells as that many rows have
    columns = check_int("columns", columns)
    gap = max(1, width // _GAP)
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + gap)), GROUND)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left = gap + column * (width + gap) + (width - image.width) // 2
        top = gap + row * (height + gap) + (height - image.height) // 2
        sheet.paste(image.convert("RGB"), (left, top))
    return sheet
