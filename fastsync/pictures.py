"""Pictures on disk, with what is needed to make them again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .files import check_writable, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_image(path: str | os.PathLike[str], name: str) -> Image.Image:
    """The picture in a file; messages begin with `name`. Raises `FileNotFoundError` and `ValueError`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: there is no file {os.fspath(path)}.")
    try:
        with Image.open(path) as image:
            return image.copy()
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: {os.fspath(path)} is no picture that Pillow can read: save it as PNG.") from error


def check_picture_path(path: str | Path) -> None:
    """Raises `ValueError` for a suffix that is not of `SUFFIXES`, `OSError` where no file can be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {suffix or 'no suffix'!r}; a picture needs one of {', '.join(SUFFIXES)}.")
    check_writable(path)


def save_picture(
    image: Image.Image, path: str | Path, metadata: Mapping[str, Any] | None = None, panorama: bool = False
) -> None:
    """Writes an RGB image, whole or not at all; its suffix says the format.

    `metadata` (JSON-able) goes into a PNG's text: as JSON under "fastsync", which `read_metadata` gives back, and as a
    line for people under "parameters". The other formats carry no metadata.

    `panorama` says that the image is equirectangular and 360° wide, so that viewers let one look around in it: all
    formats then carry Google's Photo Sphere XMP (https://developers.google.com/streetview/spherical-metadata). An image
    lower than half its width is the middle of the sphere, its rows around the horizon.

    Raises `ValueError` and `OSError` like `check_picture_path`, and `ValueError` for a panorama higher than half its
    width.
    """
    check_picture_path(path)
    xmp = _photo_sphere(*image.size) if panorama else None
    options: dict[str, Any] = {}
    if Path(path).suffix.lower() == ".png":
        options["pnginfo"] = _png_text(metadata, xmp)
    else:
        options["quality"] = 95
        if xmp is not None:
            options["xmp"] = xmp.encode()
    with replacing(path) as temporary:
        image.save(temporary, **options)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save_picture` was given. Raises `ValueError` for a picture that carries no metadata of fastsync."""
    with Image.open(path) as image:
        text = image.info.get("fastsync")
    if text is None:
        raise ValueError(f"{path} carries no metadata of fastsync; only PNG files that fastsync wrote do.")
    return dict(json.loads(text))


def _png_text(metadata: Mapping[str, Any] | None, xmp: str | None) -> PngInfo:
    text = PngInfo()
    if metadata is not None:
        line = ", ".join(f"{name}: {value}" for name, value in metadata.items() if value is not None)
        text.add_text("fastsync", json.dumps(metadata))
        text.add_text("parameters", line)
    if xmp is not None:
        text.add_itxt("XML:com.adobe.xmp", xmp)
    return text


def _photo_sphere(width: int, height: int) -> str:
    """The XMP packet of an equirectangular picture. No heading: nobody knows where a made-up place has its north."""
    full = width // 2
    if height > full:
        raise ValueError(
            f"a panorama's height must be at most half its width, got {width} x {height}: it is 360° wide and at most "
            "180° high; save it with panorama=False if it is no equirectangular picture."
        )
    properties = {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": full,
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": (full - height) // 2,
    }
    written = " ".join(f'GPano:{name}="{value}"' for name, value in properties.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {written}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
