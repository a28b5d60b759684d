"""Cameras around a mesh in the unit sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from ..errors import check_number, shown

Side = Literal["front", "side", "back", "top", "bottom"]


@dataclass(frozen=True)
class Camera:
    """A camera that looks at the origin from outside the unit sphere.

    Axes: x to the right, y up, z to the front (glTF's): azimuth 0 looks at the front from +z, 90° from +x. The whole
    unit sphere is in the picture where ``distance sin(fov / 2) >= 1`` (orthographic: ``distance tan(fov / 2) >= 1``).

    Attributes:
        azimuth, elevation: degrees; elevation from -90 (from below) to 90.
        distance: from the origin, above 1.
        fov: field of view across the picture's shorter side, degrees.
        orthographic: parallel rays, as far apart as the perspective camera's are at the origin.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 3.0
    fov: float = 40.0
    orthographic: bool = False

    def __post_init__(self) -> None:
        check_number("azimuth", self.azimuth)
        check_number("elevation", self.elevation, minimum=-90.0, maximum=90.0)
        if check_number("distance", self.distance) <= 1.0:
            raise ValueError(
                f"distance must be above 1, got {self.distance:g}: the mesh fills the unit sphere, and cameras stand "
                "outside it."
            )
        check_number("fov", self.fov, minimum=1.0, maximum=150.0)

    @classmethod
    def of(cls, value: Any) -> Camera:
        """A camera, or ``(azimuth, elevation)``, ``(azimuth, elevation, distance)``, ``(..., fov)`` as one."""
        if isinstance(value, Camera):
            return value
        if isinstance(value, str) or not isinstance(value, Sequence) or not 2 <= len(value) <= 4:
            raise TypeError(
                "a camera must be a fastsync.geometry.Camera or (azimuth, elevation, distance, fov), of which the last "
                f"two may be left out, got {shown(value)}."
            )
        return cls(*value)

    @property
    def side(self) -> Side:
        """Which side of the mesh it sees, as prompts name it."""
        if abs(self.elevation) > 60:
            return "top" if self.elevation > 0 else "bottom"
        turned = abs((self.azimuth + 180) % 360 - 180)
        return "front" if turned < 45 else "side" if turned <= 135 else "back"

    @cached_property
    def axes(self) -> torch.Tensor:
        """float64 [3, 3], rows: the picture's right, its top, and from the origin to the camera."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        right = [math.cos(a), 0.0, -math.sin(a)]
        top = [-math.sin(e) * math.sin(a), math.cos(e), -math.sin(e) * math.cos(a)]
        back = [math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)]
        return torch.tensor([right, top, back], dtype=torch.float64)

    def focal(self, size: tuple[int, int]) -> float:
        """Pixels that a length of 1 at depth 1 covers (orthographic: at ``depth = distance``, times the distance)."""
        return min(size) / 2 / math.tan(math.radians(self.fov) / 2)

    def look(self, points: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, columns and depths [...] of points [..., 3] in a picture (h, w); pixels' centres are whole numbers."""
        x, y, z = (points @ self.axes.T.to(points.dtype)).unbind(-1)
        depth = self.distance - z
        scale = self.focal(size) / (self.distance if self.orthographic else depth)
        return (size[0] - 1) / 2 - y * scale, (size[1] - 1) / 2 + x * scale, depth

    def rays(self, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the rays through the pixels start, and where they go per unit of depth, float64 [h, w, 3] each."""
        (h, w), focal = size, self.focal(size)
        y = ((h - 1) / 2 - torch.arange(h, dtype=torch.float64)) / focal
        x = (torch.arange(w, dtype=torch.float64) - (w - 1) / 2) / focal
        plane = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1) @ self.axes[:2]
        eye = self.distance * self.axes[2]
        if self.orthographic:
            return eye + self.distance * plane, (-self.axes[2]).expand(h, w, 3)
        return eye.expand(h, w, 3), plane - self.axes[2]

    def towards(self, points: torch.Tensor) -> torch.Tensor:
        """Unit vectors [..., 3] from points [..., 3] to the camera."""
        back = self.axes[2].to(points.dtype)
        if self.orthographic:
            return back.expand_as(points)
        return torch.nn.functional.normalize(self.distance * back - points, dim=-1)


def ring(count: int, elevation: float = 0.0, start: float = 0.0, **settings: Any) -> list[Camera]:
    """``count`` cameras evenly around the mesh from azimuth ``start``; ``settings`` as of :class:`Camera`."""
    return [Camera(start + 360.0 * i / count, elevation, **settings) for i in range(count)]


# Eight around at the mesh's height, and two from 30 degrees above, in front and behind (after SyncMVD, Liu 2024).
CAMERAS = [*ring(8), Camera(0.0, 30.0), Camera(180.0, 30.0)]
