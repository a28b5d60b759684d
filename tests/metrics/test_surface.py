"""Views of a surface against one another."""

import math

import pytest
import torch
from shapes import plates, sphere

from fastsync.geometry import Camera, ring, see
from fastsync.metrics import detail, view_disagreement


def painted(sight, colour):
    """Views [N, 3, h, w] of a surface with a colour at each point."""
    return (colour(sight.points) * sight.foreground[..., None]).permute(0, 3, 1, 2).double()


def test_views_of_one_colouring_agree_and_what_is_added_to_one_is_found():
    sight = see(sphere(48, 96), ring(4), (64, 64))
    views = painted(sight, lambda p: torch.stack([p[..., 0], p[..., 1], p[..., 0] * p[..., 2]], -1))
    agreed = view_disagreement(sight, views)
    assert 0 < agreed < 0.01
    views[0] += 0.5
    # View 0 is in two of the four pairs of neighbours, and opposite views share nothing.
    assert view_disagreement(sight, views) == pytest.approx(0.25, abs=0.03)


def test_one_view_or_opposite_ones_share_nothing():
    sight = see(sphere(), [Camera(0), Camera(180)], (32, 32))
    assert math.isnan(view_disagreement(sight, torch.zeros(2, 3, 32, 32)))


def test_what_is_hidden_is_not_compared():
    """The rear plate is seen by the second camera alone: the first shows the front one there."""
    sight = see(plates(0.5, -0.5, side=0.5), [Camera(0), Camera(30)], (64, 64))
    views = torch.zeros(2, 1, 64, 64)
    rear = (sight.face >= 2)[:, None]
    views[1][rear[1]] = 1.0
    front_only = view_disagreement(sight, torch.where(rear, 0, views))
    assert front_only == 0 and view_disagreement(sight, views) < 1.0


def test_detail_is_less_of_blurred_views():
    sight = see(sphere(48, 96), ring(3), (64, 64))
    views = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(views, 3, 1, 1)
    assert detail(sight, torch.ones(3, 3, 64, 64)) == 0
    assert detail(sight, blurred) < 0.4 * detail(sight, views)
    # Of independent normal numbers: 2 / sqrt(pi).
    assert detail(sight, views) == pytest.approx(2 / math.sqrt(math.pi), rel=0.03)


def test_views_of_another_size_are_refused():
    sight = see(sphere(), ring(2), (32, 32))
    for bad in (torch.zeros(3, 3, 32, 32), torch.zeros(2, 3, 32, 16), "views"):
        with pytest.raises(ValueError, match=r"views must be \[2, C, 32, 32\], as sight's, got"):
            view_disagreement(sight, bad)
