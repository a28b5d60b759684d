"""A textured mesh that turns once around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor
from tqdm.auto import tqdm

from .animation import save_frames
from .errors import check_int, check_number
from .geometry import Mesh, ring
from .geometry.shading import LIGHT, SHADE, corner_normals
from .geometry.sight import cast

BACKGROUND = "#f4f4f2"
_FINER = 2  # rays a pixel's side, whose mean it is
_TURN = 3000  # milliseconds of one turn


def turntable(
    mesh: Mesh,
    texture: Image.Image,
    frames: int = 36,
    size: int = 384,
    background: str = BACKGROUND,
    elevation: float = 15.0,
    progress: bool = False,
) -> list[Image.Image]:
    """RGB pictures of a mesh, ``size`` pixels a side, evenly around it and beginning in front.

    They show the texture's own colours, a little darker where the surface turns away from a light over the camera's
    left shoulder, so that its form is seen.

    Args:
        mesh: with texture coordinates.
        texture: what they point into; row 0 is v = 1.
        background: a colour as CSS names it.
        elevation: of the camera, degrees, from -90 to 90.
        progress: show a progress bar, one tick a frame.

    Raises:
        ValueError: a mesh without texture coordinates; settings out of range.
    """
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("the mesh has no texture coordinates, so a texture has no place on it: unwrap it first.")
    cameras = ring(check_int("frames", frames), check_number("elevation", elevation, minimum=-90.0, maximum=90.0))
    fine = _FINER * check_int("size", size)
    # Texels much finer than pixels would glitter.
    texture = texture.convert("RGB").reduce(max(1, min(texture.size) // (2 * fine)))
    table = torch.from_numpy(np.array(texture)).permute(2, 0, 1)[None].float()
    corner = torch.from_numpy(np.concatenate([mesh.uv[mesh.uv_faces], corner_normals(mesh)], -1).astype(np.float32))
    empty = torch.tensor(ImageColor.getrgb(background)[:3], dtype=torch.float32)
    light = torch.nn.functional.normalize(torch.tensor(LIGHT), dim=0)
    pictures = []
    hits = cast(mesh, cameras, (fine, fine))
    for camera, (face, part) in zip(cameras, tqdm(hits, "Turntable", frames, disable=not progress), strict=True):
        seen = face >= 0
        at = torch.einsum("mk,mkd->md", part[seen], corner[face[seen].long()])
        towards = at[:, 2:] @ (light @ camera.axes.float())
        # Both sides are painted: the one that is seen is lit as if it were the outer one.
        facing = (at[:, 2:] @ camera.axes[2].float()).sign()
        shade = SHADE + (1 - SHADE) * (towards * facing).clamp(0, 1)
        picture = empty.repeat(fine, fine, 1)
        picture[seen] = _read(table, at[:, :2]) * shade[:, None]
        mean = torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1), _FINER).permute(1, 2, 0)
        pictures.append(Image.fromarray(mean.round().byte().numpy()))
    return pictures


def save_turntable(frames: list[Image.Image], path: str | Path) -> None:
    """Write a turntable as a GIF or WebP that turns on and on, three seconds a turn, whole or not at all.

    Raises `ValueError` for another suffix, `OSError` where no file can be written.
    """
    save_frames(frames, round(_TURN / len(frames)), path, quality=85, method=4)


def _read(table: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """A texture [1, 3, H, W] at places [m, 2], bilinear, [m, 3]."""
    place = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], -1)[None, None]
    found = torch.nn.functional.grid_sample(table, place, padding_mode="border", align_corners=False)
    return found[0, :, 0].T
