"""Control images: what a network is shown beside a prompt, read as users have it and made into a picture a view."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from .canvases import IllusionCanvas, PanoramaCanvas, WideCanvas
from .errors import check_tensor, shape_text, shown
from .pictures import read_image

_ALIKE = 0.02  # by how much, of the larger one, the proportions of two pictures may differ
_DEEP = 65535  # white in pictures of one deep channel
_GREY = {"1", "L", "F", "I", "I;16", "I;16B", "I;16L"}  # Pillow's modes of one channel


def of_windows(image: Any, canvas: WideCanvas, scale: int, size: tuple[int, int]) -> torch.Tensor:
    """A control image of a whole wide picture, cropped to its windows: [N, C, h, w] in pixels.

    Args:
        image: as :func:`read_control` takes it.
        canvas: whose windows, in cells; where it closes, windows wrap around.
        scale: pixels along a side of a cell.
        size: (height, width) of the picture in pixels; its last cells may reach beyond it.
    """
    picture = read_control(image, size)
    height, width = (side * scale for side in canvas.size)
    filled = pad(picture, (0, width - size[1], 0, height - size[0]), mode="replicate")
    (h, w), (y, x) = canvas.window, canvas.stride
    windows = WideCanvas(
        (height, width), (h * scale, w * scale), (y * scale, x * scale), loop=canvas.loop, units="pixels"
    )
    return windows.project(filled)


def of_cameras(image: Any, canvas: PanoramaCanvas, window: tuple[int, int]) -> torch.Tensor:
    """An equirectangular control image as the cameras of a panorama see it: [N, C, h, w], ``window`` in pixels.

    Raises:
        ValueError: beside what :func:`read_control` raises, a picture that is not twice as wide as high.
    """
    picture = read_control(image)
    height, width = picture.shape[-2:]
    if not _alike((height, width), (1, 2)):
        raise ValueError(
            f"control_image must be equirectangular, twice as wide as high, got {width} x {height} (width x height): "
            "it shows all directions, 360° by 180°."
        )
    rows = PanoramaCanvas.rows_for(canvas.cameras, window)
    if height > rows:  # finer than the views' own pixels, which would skip some of it
        picture = interpolate(picture, (rows, 2 * rows), mode="bilinear", antialias=True)
    return canvas.look(picture, window).clamp(0, 1)  # sums of rounded weights may be above 1


def of_views(image: Any, canvas: IllusionCanvas) -> torch.Tensor:
    """A control image of an illusion's picture, as each view shows it: [N, C, h, w], of a canvas in pixels.

    Negatives show it with black for white.
    """
    return (canvas.project(2 * read_control(image, canvas.size) - 1) + 1) / 2


def read_control(image: Any, size: tuple[int, int] | None = None) -> torch.Tensor:
    """A control image, float32 [1, 1 or 3, H, W] in [0, 1].

    Args:
        image: a file or PIL image: one channel (grey, of 8 or 16 bits, or float) stays one, such as depth; all else
            becomes RGB. Or an array [H, W] or [H, W, 1 or 3], or tensor [H, W], [C, H, W] or [1, C, H, W], in [0, 1],
            of bool or of bytes.
        size: (height, width) that it must have; files and PIL images of these proportions are resized (Lanczos). None:
            any.

    Raises:
        ValueError, TypeError, FileNotFoundError: what is wrong with it.
    """
    if isinstance(image, (str, os.PathLike)):
        image = read_image(image, "control_image")
    if isinstance(image, Image.Image):
        if size is not None and image.size != size[::-1] and _alike(image.size[::-1], size):
            image = _resized(image, size)
        picture = _of_pil(image)
    else:
        picture = _of_numbers(image)
    found = (int(picture.shape[-2]), int(picture.shape[-1]))
    if size is not None and found != size:
        raise ValueError(
            f"control_image must be of the picture's size, {size[1]} x {size[0]} (width x height), got {found[1]} x "
            f"{found[0]}: resize it, or pass a file or PIL image of the picture's proportions."
        )
    return picture


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at (height, width); palettes and bitmaps in modes that can be interpolated."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.asarray(image, dtype=np.float32) / _DEEP)
    elif image.mode not in ("L", "F"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.resize(size[::-1], Image.Resampling.LANCZOS)


def _of_pil(image: Image.Image) -> torch.Tensor:
    if image.mode not in _GREY:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    white = {"1": 1, "L": 255, "F": 1}.get(image.mode, _DEEP)
    values = torch.from_numpy(np.array(image, dtype=np.float32)) / white
    # Lanczos overshoots beside edges; whole numbers are clipped by Pillow itself.
    return (values.clamp(0, 1) if image.mode == "F" else values)[None, None]


def _of_numbers(image: Any) -> torch.Tensor:
    """An array or tensor of any of the forms, checked."""
    if isinstance(image, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
    elif isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
    else:
        raise TypeError(f"control_image must be a file, a PIL image, an array or a tensor, got {shown(image)}.")
    if tensor.ndim < 4:
        tensor = tensor[None, None] if tensor.ndim == 2 else tensor[None]
    if tensor.ndim != 4 or len(tensor) != 1 or tensor.shape[1] not in (1, 3) or not tensor.numel():
        raise ValueError(
            f"control_image must be one picture of 1 or 3 channels, an array [H, W] or [H, W, C] or a tensor [H, W] or "
            f"[C, H, W], got {shape_text(image.shape)}."
        )
    picture = tensor.float() / (255 if tensor.dtype == torch.uint8 else 1)
    low, high = (float(limit) for limit in check_tensor("control_image", picture).aminmax())
    if low < 0 or high > 1:
        raise ValueError(f"control_image must be in [0, 1], got values from {low:g} to {high:g}: scale it.")
    return picture


def _alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) have the same proportions."""
    (height, width), (h, w) = size, other
    return abs(height * w - width * h) <= _ALIKE * max(height * w, width * h)
