"""Pictures on disk, with what is needed to make them again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .files import check_writable, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_picture_path(path: str | Path) -> None:
    """Raises `ValueError` for a suffix that is not of `SUFFIXES`, `OSError` where no file can be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {suffix or 'no suffix'!r}; a picture needs one of {', '.join(SUFFIXES)}.")
    check_writable(path)


def save_picture(image: Image.Image, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes an RGB image, whole or not at all; its suffix says the format.

    `metadata` (JSON-able) goes into a PNG's text: as JSON under "fastsync", which `read_metadata` gives back, and as a
    line for people under "parameters". The other formats carry no metadata. Raises `ValueError` and `OSError` like
    `check_picture_path`.
    """
    check_picture_path(path)
    options: dict[str, Any] = {}
    if Path(path).suffix.lower() == ".png":
        if metadata is not None:
            options["pnginfo"] = _png_text(metadata)
    else:
        options["quality"] = 95
    with replacing(path) as temporary:
        image.save(temporary, **options)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save_picture` was given. Raises `ValueError` for a picture that carries no metadata of fastsync."""
    with Image.open(path) as image:
        text = image.info.get("fastsync")
    if text is None:
        raise ValueError(f"{path} carries no metadata of fastsync; only PNG files that fastsync wrote do.")
    return dict(json.loads(text))


def _png_text(metadata: Mapping[str, Any]) -> PngInfo:
    text = PngInfo()
    text.add_text("fastsync", json.dumps(metadata))
    text.add_text("parameters", ", ".join(f"{name}: {value}" for name, value in metadata.items() if value is not None))
    return text
