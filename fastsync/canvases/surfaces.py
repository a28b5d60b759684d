"""Surfaces that a canvas may be wrapped around, and how cameras inside them see it.

A surface knows where its cells lie and where a camera's pixels meet it; nothing outside this file knows trigonometry.
Axes: x to the right, y up, z forward; azimuths grow to the right, elevations upward.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import check_number, shown

Camera = tuple[float, float, float]
Window = tuple[int, int]
Seen = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Surface(ABC):
    """A closed surface of H x W cells, seen by cameras ``(azimuth, elevation, horizontal fov)`` in degrees.

    Points of a surface are float64 [..., k] in coordinates of its own, which only its methods read.

    Args:
        size: (H, W). Column 0 begins at azimuth -180°, the middle is 0°; row 0 is the top.
    """

    elevations = (-90.0, 90.0)

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def checked(self, camera: Any, window: Window) -> Camera:
        """The camera in plain floats; TypeError or ValueError in one sentence where this surface cannot show it."""
        if isinstance(camera, str) or not isinstance(camera, Sequence) or len(camera) != 3:
            raise TypeError(f"a camera must be (azimuth, elevation, fov) in degrees, got {shown(camera)}.")
        azimuth = check_number("azimuth", camera[0])
        elevation = check_number("elevation", camera[1], minimum=self.elevations[0], maximum=self.elevations[1])
        return azimuth, elevation, check_number("fov", camera[2], minimum=1.0, maximum=150.0)

    def look(self, camera: Camera, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns, float64 [h, w], at which a camera's pixels meet the canvas; cell centres are whole."""
        return self._place(self._points(camera, window))

    def seen(self, camera: Camera, window: Window) -> Seen:
        """Which cells a camera's picture shows, bool [H, W], and at which fractional pixel (y, x), [H, W] each.

        Outside the picture y and x mean nothing; in the half pixel along its border they are the border's pixel.
        """
        return self._picture(camera, window, self._cells())

    def between(self, camera: Camera, other: Camera, window: Window) -> Seen:
        """As :meth:`seen`, for the pixels [h, w] of a camera in place of cells: where another camera sees them."""
        return self._picture(other, window, self._points(camera, window))

    @abstractmethod
    def flat(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Flat cells int64 of whole rows and columns, which may lie beyond the borders; below 0: nobody's."""

    @abstractmethod
    def _points(self, camera: Camera, window: Window) -> torch.Tensor:
        """Points [h, w, k] at which a camera's pixels look."""

    @abstractmethod
    def _cells(self) -> torch.Tensor:
        """Points [H, W, k] of the cells' centres."""

    @abstractmethod
    def _place(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of points [..., k]."""

    @abstractmethod
    def _picture(self, camera: Camera, window: Window, points: torch.Tensor) -> Seen:
        """Whether a camera's picture shows points [..., k], and the fractional (y, x) of its pixels there."""

    def _longitudes(self) -> torch.Tensor:
        """Azimuths [W] of the columns, in radians."""
        width = self.size[1]
        return ((torch.arange(width, dtype=torch.float64) + 0.5) / width - 0.5) * 2 * math.pi


class Rays(Surface):
    """A surface around one viewer: its points are directions [..., 3], its cameras perspective ones."""

    def _points(self, camera: Camera, window: Window) -> torch.Tensor:
        (h, w), (azimuth, elevation, _) = window, camera
        x, y = _plane(camera, window)
        rays = torch.stack([x.expand(h, w), y[:, None].expand(h, w), torch.ones(h, w, dtype=torch.float64)], -1)
        return rays @ _turn(azimuth, elevation).T

    def _picture(self, camera: Camera, window: Window, points: torch.Tensor) -> Seen:
        x, y, z = (points @ _turn(*camera[:2])).unbind(-1)
        ahead = z > 1e-6
        z = z.where(ahead, torch.ones_like(z))
        return _pixels(x / z, y / z, ahead, camera, window)

    def _column(self, points: torch.Tensor) -> torch.Tensor:
        longitude = torch.atan2(points[..., 0], points[..., 2])
        return (longitude / (2 * math.pi) + 0.5) * self.size[1] - 0.5


class Sphere(Rays):
    """The equirectangular picture of all directions: rows are latitudes, row 0 the zenith, columns azimuths.

    Columns wrap around, and what lies beyond a pole is the other side's meridian.
    """

    def flat(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Flat cells int64 of whole rows and columns, continued around the sphere and, once, over its poles."""
        height, width = self.size
        row = row.clamp(-height, 2 * height - 1)
        beyond = (row < 0) | (row >= height)
        row = torch.where(row < 0, -1 - row, torch.where(row >= height, 2 * height - 1 - row, row))
        return row * width + torch.where(beyond, column + width // 2, column) % width

    def _cells(self) -> torch.Tensor:
        height, width = self.size
        latitude = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * math.pi
        longitude, flat = self._longitudes(), latitude.cos()[:, None]
        up = latitude.sin()[:, None].expand(height, width)
        return torch.stack([flat * longitude.sin(), up, flat * longitude.cos()], -1)

    def _place(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latitude = torch.asin((points[..., 1] / points.norm(dim=-1)).clamp(-1, 1))
        return (0.5 - latitude / math.pi) * self.size[0] - 0.5, self._column(points)


class Cylinder(Rays):
    """A wall around a viewer who stands on its axis: rows are heights, columns azimuths.

    Cells are square: the wall of radius 1 reaches from ``pi H / W`` down to ``-pi H / W``, so that a level camera with
    a vertical field of view ``v`` needs ``H >= W tan(v / 2) / pi``. Columns wrap around; above and below the wall is
    nothing.
    """

    def checked(self, camera: Any, window: Window) -> Camera:
        """As on every surface; besides, all of a camera's pixels must meet the wall."""
        camera = super().checked(camera, window)
        axis = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
        if bool(self._picture(camera, window, axis)[0].any()):
            raise ValueError(
                f"camera {camera} looks straight up or down, where a cylinder has no wall: choose an elevation nearer "
                "to 0 or a smaller fov, or surface='sphere'."
            )
        height, width = self.size
        # Pixels between the first and the last row's centres have all their cells on the wall.
        row = self.look(camera, window)[0]
        beyond = max(-float(row.min()), float(row.max()) - (height - 1))
        if beyond > 1e-9:
            raise ValueError(
                f"camera {camera} with windows of {window} looks beyond the top or the bottom of a cylinder of size "
                f"{self.size}: it needs H of at least {math.ceil(height + 2 * beyond - 1e-9)} at W = {width}, or an "
                "elevation nearer to 0 or a smaller fov."
            )
        return camera

    def flat(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Flat cells int64 of whole rows and columns, continued around the cylinder; -1 above and below it."""
        height, width = self.size
        return torch.where((row < 0) | (row >= height), -1, row * width + column % width)

    def _cells(self) -> torch.Tensor:
        height, width = self.size
        up = (height / 2 - 0.5 - torch.arange(height, dtype=torch.float64)) * (2 * math.pi / width)
        longitude = self._longitudes().expand(height, width)
        return torch.stack([longitude.sin(), up[:, None].expand(height, width), longitude.cos()], -1)

    def _place(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = self.size
        up = points[..., 1] / torch.hypot(points[..., 0], points[..., 2])
        return height / 2 - 0.5 - up * (width / (2 * math.pi)), self._column(points)


class Torus(Surface):
    """A plane that closes in both directions: rows and columns are angles, 360° of each.

    Cameras are perspective in each direction on its own: the pixel at (x, y) of the plane of focal length 1 looks at
    azimuth + atan x and elevation + atan y. Row 0 begins at elevation 180°, which is -180° as well. The canvas, laid
    side by side with itself, is a seamless tile. Points are (azimuth, elevation) [..., 2] in radians.
    """

    elevations = (-180.0, 180.0)

    def flat(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Flat cells int64 of whole rows and columns, continued around both ways."""
        height, width = self.size
        return row % height * width + column % width

    def _points(self, camera: Camera, window: Window) -> torch.Tensor:
        (h, w), (azimuth, elevation, _) = window, camera
        x, y = _plane(camera, window)
        right, up = math.radians(azimuth) + x.atan(), math.radians(elevation) + y.atan()
        return torch.stack([right.expand(h, w), up[:, None].expand(h, w)], -1)

    def _cells(self) -> torch.Tensor:
        height, width = self.size
        up = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * 2 * math.pi
        return torch.stack([self._longitudes().expand(height, width), up[:, None].expand(height, width)], -1)

    def _place(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        right, up = (points / (2 * math.pi)).unbind(-1)
        return (0.5 - up) * self.size[0] - 0.5, (right + 0.5) * self.size[1] - 0.5

    def _picture(self, camera: Camera, window: Window, points: torch.Tensor) -> Seen:
        towards = torch.tensor([math.radians(camera[0]), math.radians(camera[1])], dtype=torch.float64)
        angles = torch.remainder(points - towards + math.pi, 2 * math.pi) - math.pi
        ahead = (angles.abs() < math.pi / 2 - 1e-6).all(-1)
        x, y = angles.where(ahead[..., None], torch.zeros_like(angles)).tan().unbind(-1)
        return _pixels(x, y, ahead, camera, window)


SURFACES: dict[str, type[Surface]] = {"sphere": Sphere, "cylinder": Cylinder, "torus": Torus}


def focal(camera: Camera, window: Window) -> float:
    """Focal length in pixels."""
    return window[1] / 2 / math.tan(math.radians(camera[2]) / 2)


def _plane(camera: Camera, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """x [w] and y [h] of a camera's pixels on its plane of focal length 1."""
    (h, w), length = window, focal(camera, window)
    x = (torch.arange(w, dtype=torch.float64) + 0.5 - w / 2) / length
    return x, (h / 2 - torch.arange(h, dtype=torch.float64) - 0.5) / length


def _pixels(x: torch.Tensor, y: torch.Tensor, ahead: torch.Tensor, camera: Camera, window: Window) -> Seen:
    """Fractional pixels (y, x) of points (x, y) of that plane, and which of those ahead lie in the picture."""
    (h, w), length = window, focal(camera, window)
    column, row = x * length + w / 2 - 0.5, h / 2 - 0.5 - y * length
    inside = ahead & (column > -0.5) & (column < w - 0.5) & (row > -0.5) & (row < h - 0.5)
    return inside, row.clamp(0, h - 1), column.clamp(0, w - 1)


def _turn(azimuth: float, elevation: float) -> torch.Tensor:
    """Rotation float64 [3, 3] from a camera's axes to the world's."""
    a, e = math.radians(azimuth), math.radians(elevation)
    up = [[1, 0, 0], [0, math.cos(e), math.sin(e)], [0, -math.sin(e), math.cos(e)]]
    around = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    return torch.tensor(around, dtype=torch.float64) @ torch.tensor(up, dtype=torch.float64)
