"""The measures of docs/mathematics.md, "Measures", against values worked out by hand."""

import math

import pytest
import torch

from fastsync.metrics import (
    chi_square,
    crispness,
    histogram_distance,
    hsv_histogram,
    intersection,
    overlap_disagreement,
)


def flat(red, green, blue, height=4, width=4, dtype=torch.float64):
    return torch.tensor([red, green, blue], dtype=dtype)[:, None, None].expand(3, height, width)


@pytest.mark.parametrize(
    ("colour", "cell"),
    [
        ((0.0, 0.0, 0.0), (0, 0, 0)),
        ((1.0, 1.0, 1.0), (0, 0, 7)),
        ((0.5, 0.5, 0.5), (0, 0, 4)),
        ((1.0, 0.0, 0.0), (0, 7, 7)),
        ((0.0, 1.0, 0.0), (2, 7, 7)),  # hue 1/3: 2.67 eighths
        ((0.0, 0.0, 1.0), (5, 7, 7)),  # hue 2/3: 5.33 eighths
        ((1.0, 0.0, 0.1), (7, 7, 7)),  # hue just under 1
        ((0.25, 0.5, 0.5), (4, 4, 4)),  # cyan: hue 1/2, saturation 1/2, value 1/2
    ],
)
def test_a_flat_colour_fills_one_bin(colour, cell):
    histogram = hsv_histogram(flat(*colour))
    assert histogram.shape == (8, 8, 8)
    assert histogram[cell] == 1
    assert histogram.sum() == 1


def test_histogram_counts_shares_and_keeps_batch_and_dtype():
    picture = torch.cat([flat(1, 0, 0, width=1), flat(0, 0, 0, width=3)], -1)
    histogram = hsv_histogram(torch.stack([picture, flat(1, 1, 1)]).unsqueeze(0))
    assert histogram.shape == (1, 2, 8, 8, 8)
    assert histogram.dtype == torch.float64
    assert histogram[0, 0, 0, 7, 7] == 0.25
    assert histogram[0, 0, 0, 0, 0] == 0.75
    assert histogram[0, 1, 0, 0, 7] == 1
    assert hsv_histogram(flat(1, 0, 0, dtype=torch.float16)).dtype == torch.float32


def test_chi_square_and_intersection():
    p, q = torch.zeros(2, 8, 8, 8, dtype=torch.float64)
    p[0, 0, 0], p[1, 1, 1] = 0.5, 0.5
    q[0, 0, 0], q[2, 2, 2] = 0.25, 0.75
    # (1/4)^2 / (3/4) + 1/2 + 3/4
    assert chi_square(p, q).item() == pytest.approx(1 / 12 + 1.25)
    assert intersection(p, q) == 0.25
    assert chi_square(p, p) == 0
    assert intersection(p, p) == 1
    assert chi_square(p, q.roll(3, 0)) == 2


def test_histogram_distance_averages_over_all_pairs():
    black, white = flat(0, 0, 0), flat(1, 1, 1)
    picture = torch.cat([black, black, white], -1)
    # pairs: equal, different, different
    assert histogram_distance(picture, (4, 4)).item() == pytest.approx(4 / 3)
    assert histogram_distance(picture, (4, 4), intersection).item() == pytest.approx(1 / 3)
    batch = torch.stack([picture, torch.cat([white] * 3, -1)])
    torch.testing.assert_close(histogram_distance(batch, (4, 4)), torch.tensor([4 / 3, 0], dtype=torch.float64))


def test_histogram_distance_spreads_its_crops_to_both_borders():
    # 10 columns hold two crops of 4: columns 0..3 and 6..9; the two grey columns between are not looked at
    picture = torch.cat([flat(0, 0, 0), flat(0.5, 0.5, 0.5, width=2), flat(1, 1, 1)], -1)
    assert histogram_distance(picture, (4, 4)) == 2
    grid = torch.cat([flat(0, 0, 0, 4, 8), flat(1, 1, 1, 4, 8)], -2)
    assert histogram_distance(grid, (4, 4)).item() == pytest.approx(2 * 4 / 6)


def test_overlap_disagreement():
    views = torch.zeros(3, 1, 2, 4, dtype=torch.float64)
    views[1], views[2] = 1.0, 3.0
    views[1, :, :, 0] = 5.0
    # views 0 and 1 share two columns (5 and 1 away from 0), views 1 and 2 one (2 apart), two rows each
    assert overlap_disagreement(views, [(0, 0), (0, 2), (0, 5)]).item() == pytest.approx((5 + 1 + 2) / 3)
    # on a loop of 8 cells view 2 (cells 5 6 7 0) meets view 0 on cell 0 as well (3 apart)
    assert overlap_disagreement(views, [(0, 0), (0, 2), (0, 5)], loop_width=8).item() == pytest.approx(11 / 4)


def test_overlap_disagreement_of_rows_and_of_views_that_agree():
    canvas = torch.rand(2, 7, 9, dtype=torch.float64)
    origins = [(0, 0), (0, 5), (3, 0), (3, 5)]
    views = torch.stack([canvas[:, y : y + 4, x : x + 4].clone() for y, x in origins])
    with pytest.raises(ValueError, match="share no cell"):
        overlap_disagreement(views[:2], origins[:2])
    assert overlap_disagreement(views, origins) == 0
    views[2, :, 0] += 1  # the row that views 0 and 2 share; views 1 and 3 share as much and agree
    assert overlap_disagreement(views, origins).item() == pytest.approx(0.5)


def test_two_windows_of_a_loop_meet_on_both_sides():
    ring = torch.rand(1, 3, 6, dtype=torch.float64)
    origins = [(0, 0), (0, 3)]
    views = torch.stack([ring.roll(-x, -1)[..., :4] for _, x in origins])
    assert overlap_disagreement(views, origins, loop_width=6) == 0
    views[1, ..., 3] += 1  # cell 0, where the second window closes the loop: one of two common columns
    assert overlap_disagreement(views, origins, loop_width=6).item() == pytest.approx(0.5)


def test_windows_of_a_torus_meet_on_all_sides():
    plane = torch.rand(1, 5, 6, dtype=torch.float64)
    origins = [(0, 0), (0, 3), (3, 0), (3, 3)]
    views = torch.stack([plane.roll((-y, -x), (1, 2))[..., :4, :4] for y, x in origins])
    assert overlap_disagreement(views, origins, loop_width=6, loop_height=5) == 0
    assert overlap_disagreement(views[::2], origins[::2], loop_height=5) == 0
    # Rows 3 and 4, 0 and 1 of view 0 and rows 0 to 3 of view 2 are three common rows: 3, 0 and 1. One is changed.
    views[2, :, 2] += 1
    assert overlap_disagreement(views[::2], origins[::2], loop_height=5).item() == pytest.approx(1 / 3)
    assert overlap_disagreement(views[::2], origins[::2]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cycles", "share"), [(1 / 8, 0.0), (3 / 8, 1.0), (1 / 2, 1.0)])
def test_crispness_of_a_wave(cycles, share, dtype):
    x = torch.arange(64, dtype=dtype)
    wave = (0.5 + 0.4 * torch.cos(2 * math.pi * cycles * x)).expand(3, 64, 64)
    assert crispness(wave).item() == pytest.approx(share, abs=1e-4)
    assert crispness(wave.mT).item() == pytest.approx(share, abs=1e-4)


def test_crispness_weighs_energy_not_amplitude():
    x = torch.arange(64, dtype=torch.float64)
    low, high = (torch.cos(2 * math.pi * cycles * x) for cycles in (1 / 8, 3 / 8))
    mixed = (0.5 + 0.2 * low + 0.1 * high).expand(3, 64, 64)
    assert crispness(mixed).item() == pytest.approx(0.1**2 / (0.2**2 + 0.1**2), abs=1e-4)


def test_crispness_counts_radially_and_ignores_borders():
    x = torch.arange(64, dtype=torch.float64)
    # 0.2 cycles a pixel along both axes are 0.283 along the diagonal
    diagonal = (0.5 + 0.4 * torch.cos(2 * math.pi * 0.2 * (x[:, None] + x))).expand(3, 64, 64)
    assert crispness(diagonal).item() == pytest.approx(1, abs=1e-4)
    ramp = (x / 63).expand(3, 64, 64)  # its borders do not match: a periodic transform would see an edge
    assert crispness(ramp).item() < 1e-4


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_flat_picture_is_not_crisp(level, dtype):
    assert crispness(torch.full((2, 3, 16, 24), level, dtype=dtype)).tolist() == [0, 0]


def test_white_noise_has_the_share_of_the_area():
    noise = torch.rand(8, 3, 128, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # the disc of radius 1/4 covers pi/16 of the spectrum's unit square
    assert crispness(noise).mean().item() == pytest.approx(1 - math.pi / 16, abs=0.01)


@pytest.mark.parametrize("measure", [hsv_histogram, crispness, lambda x: histogram_distance(x, (2, 2))])
def test_pictures_are_checked(measure):
    with pytest.raises(TypeError, match="divide bytes by 255"):
        measure(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\[\.\.\., 3, H, W\]"):
        measure(torch.zeros(4, 4, 4))
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="outside"):
            measure(torch.full((3, 4, 4), wrong))


def test_windows_and_views_are_checked():
    with pytest.raises(ValueError, match="smaller window"):
        histogram_distance(torch.zeros(3, 8, 15), (8, 8))
    with pytest.raises(ValueError, match="at least 1"):
        histogram_distance(torch.zeros(3, 8, 16), (0, 8))
    with pytest.raises(ValueError, match="2 origins"):
        overlap_disagreement(torch.zeros(3, 1, 4, 4), [(0, 0), (0, 2)])
