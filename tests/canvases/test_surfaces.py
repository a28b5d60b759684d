"""PanoramaCanvas on a sphere, a cylinder and a torus: each map against geometry written down a second time."""

import math

import pytest
import torch
from exact_priors import randn, relative

import fastsync as fs
from fastsync.canvases import CAMERAS, TILES, ring
from fastsync.canvases.surfaces import SURFACES, Cylinder, Sphere, Torus

SIZE, WINDOW = (48, 96), (10, 12)
FINE = 8  # parts of a pixel in the brute-force search
RIGS = {
    "sphere": ((48, 96), [(0.0, 0.0, 90.0), (40.0, 20.0, 80.0), (-170.0, 60.0, 90.0), (175.0, -75.0, 100.0)]),
    "cylinder": ((60, 96), [(0.0, 0.0, 90.0), (40.0, 20.0, 60.0), (-170.0, -10.0, 90.0), (175.0, 25.0, 70.0)]),
    "torus": ((96, 84), [(0.0, 0.0, 90.0), (40.0, 20.0, 80.0), (-170.0, 175.0, 90.0), (175.0, -160.0, 100.0)]),
}
EACH = pytest.mark.parametrize("surface", RIGS)


def rig(surface, scale=1, window=WINDOW):
    (height, width), cameras = RIGS[surface]
    return fs.PanoramaCanvas((scale * height, scale * width), cameras, window, surface=surface)


def painted(surface, size):
    """A smooth picture [1, C, H, W] of where its cells lie."""
    row, column = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    azimuth = (column * (360 / size[1]) - 180).deg2rad().expand(size)
    if surface == "sphere":
        up = (90 - row * (180 / size[0])).deg2rad()[:, None].expand(size)
        return torch.stack([up.cos() * azimuth.sin(), up.sin(), up.cos() * azimuth.cos()])[None]
    if surface == "cylinder":
        up = ((size[0] / 2 - row) * 2 * math.pi / size[1])[:, None].expand(size)
        return torch.stack([azimuth.sin(), up, azimuth.cos()])[None]
    up = (180 - row * (360 / size[0])).deg2rad()[:, None].expand(size)
    return torch.stack([azimuth.sin(), azimuth.cos(), up.sin(), up.cos()])[None]


def looked(surface, camera, window, row, column):
    """That picture's colours [C, ...] where a camera's (fractional) pixels look."""
    azimuth, elevation, fov = (math.radians(angle) for angle in camera)
    unit = 2 * math.tan(fov / 2) / window[1]
    x, y = (column + 0.5 - window[1] / 2) * unit, (window[0] / 2 - row - 0.5) * unit
    if surface == "torus":
        right, up = azimuth + x.atan(), elevation + y.atan()
        return torch.stack([right.sin(), right.cos(), up.sin(), up.cos()])
    forward, up = math.cos(elevation) - y * math.sin(elevation), math.sin(elevation) + y * math.cos(elevation)
    right = x * math.cos(azimuth) + forward * math.sin(azimuth)
    forward = forward * math.cos(azimuth) - x * math.sin(azimuth)
    length = (right**2 + forward**2 + up**2).sqrt() if surface == "sphere" else torch.hypot(right, forward)
    return torch.stack([right, up, forward]) / length


def pixels(window, parts=1):
    """Rows and columns of a window's pixels, or of their parts, [parts h, parts w] each."""
    row, column = ((torch.arange(side * parts, dtype=torch.float64) + 0.5) / parts - 0.5 for side in window)
    return torch.meshgrid(row, column, indexing="ij")


@EACH
def test_cameras_see_where_they_look(surface):
    canvas = rig(surface, scale=4)
    expected = torch.stack([looked(surface, camera, WINDOW, *pixels(WINDOW)) for camera in canvas.cameras])
    assert float((canvas.project(painted(surface, canvas.size)) - expected).abs().max()) < 1e-3
    assert canvas.surface == surface and canvas.num_views == 4 and canvas.view_shape == WINDOW


@EACH
def test_cells_are_seen_where_they_lie(surface):
    canvas = rig(surface)
    picture, wrapped = painted(surface, canvas.size)[0], SURFACES[surface](canvas.size)
    for camera in canvas.cameras:
        inside, row, column = wrapped.seen(camera, WINDOW)
        within = inside & (row > 0) & (row < WINDOW[0] - 1) & (column > 0) & (column < WINDOW[1] - 1)
        assert int(within.sum()) > 50
        expected = looked(surface, camera, WINDOW, row[within], column[within])
        assert float((picture[:, within] - expected).abs().max()) < 1e-12
        # All that lies there is seen: the cells nearest to inner pixels.
        place = (part.round().long()[1:-1, 1:-1] for part in wrapped.look(camera, WINDOW))
        assert bool(inside.flatten()[wrapped.flat(*place)].all())


def test_what_lies_beyond_the_borders():
    row, column = torch.tensor([-1, 4, 2, 1]), torch.tensor([0, 5, 6, -1])
    assert Sphere((4, 6)).flat(row, column).tolist() == [0 * 6 + 3, 3 * 6 + 2, 2 * 6 + 0, 1 * 6 + 5]
    assert Cylinder((4, 6)).flat(row, column).tolist() == [-1, -1, 2 * 6 + 0, 1 * 6 + 5]
    assert Torus((4, 6)).flat(row, column).tolist() == [3 * 6 + 0, 0 * 6 + 5, 2 * 6 + 0, 1 * 6 + 5]


def test_noise_at_a_cylinders_border_comes_from_the_wall():
    # As many pixels as cells, up to the border: many look for a cell of their own, and some look above.
    canvas = fs.PanoramaCanvas((21, 180), [(0.7, 0.0, 40.0)], (20, 20), surface="cylinder")
    row = torch.arange(21.0)[:, None].expand(1, 1, 21, 180)
    column = torch.arange(180.0).expand(1, 1, 21, 180)
    assert len(canvas.project_noise(row * 180 + column).unique()) == 400
    for part in (row, column):
        assert float((canvas.project_noise(part) - canvas.project(part)).abs().max()) < 6.6


@EACH
def test_adjoint_is_the_transpose(surface):
    canvas = rig(surface)
    z, x = randn(1, 2, *canvas.size), randn(4, 2, *WINDOW, seed=1)
    torch.testing.assert_close((canvas.project(z) * x).sum(), (z * canvas.adjoint(x)).sum(), rtol=1e-9, atol=1e-9)
    ones = torch.ones(1, 1, *canvas.size, dtype=torch.float64)
    # No pixel reads what is nobody's.
    torch.testing.assert_close(canvas.project(ones), torch.ones(4, 1, *WINDOW).double(), rtol=1e-6, atol=1e-6)
    assert math.isclose(float(canvas.coverage.sum()), 4 * 10 * 12, rel_tol=1e-4)


@EACH
def test_noise_stays_white(surface):
    canvas = rig(surface)
    count = canvas.size[0] * canvas.size[1]
    own = canvas.project_noise(torch.arange(float(count), dtype=torch.float64).reshape(1, 1, *canvas.size)).long()
    assert all(len(view.unique()) == 10 * 12 for view in own)
    # Cells are near what their pixels look at: within the six cells of the search, each 3.75° or less wide, and their
    # pixel's own rounding.
    place = painted(surface, canvas.size)[0].flatten(1)[:, own.flatten()].unflatten(1, (4, *WINDOW)).transpose(0, 1)
    expected = torch.stack([looked(surface, camera, WINDOW, *pixels(WINDOW)) for camera in canvas.cameras])
    assert float((place - expected).norm(dim=1).max()) < 1.5 * 7 * 2 * math.pi / min(canvas.size[1], 96)
    views = torch.cat([canvas.project_noise(randn(1, 4, *canvas.size, seed=seed)) for seed in range(30)])
    assert abs(float(views.std()) - 1) < 0.01 and abs(float(views.mean())) < 0.01
    assert abs(float((views[..., 1:] * views[..., :-1]).mean())) < 0.01
    assert abs(float((views[..., 1:, :] * views[..., :-1, :]).mean())) < 0.01


@EACH
def test_least_squares_repeats_what_it_projected(surface):
    canvas = rig(surface)
    views = canvas.project(randn(1, 2, *canvas.size))
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        # As many iterations as one likes: once rounding is all that is left, the canvas stays.
        back = canvas.project(canvas.merge(views.to(dtype), solver="cg", iterations=500))
        assert back.dtype == dtype and relative(back, views) < error
    z = painted(surface, canvas.size)
    assert float((canvas.merge(canvas.project(z)) - z)[..., canvas.coverage[0, 0] > 0.3].abs().max()) < 0.25


@EACH
def test_neighbours_are_the_nearest_pixels(surface):
    canvas, order = rig(surface), [2, 0, 3, 1]
    table = canvas.neighbours(order)
    rows, columns = pixels(WINDOW, FINE)
    met = 0
    for position, i in enumerate(order):
        here = looked(surface, canvas.cameras[i], WINDOW, *pixels(WINDOW)).flatten(1).T
        owner, cell = table.owner[i].flatten(), table.cell[i].flatten()
        nobody = torch.full_like(owner, True, dtype=torch.bool)
        for j in reversed(order[:position]):
            there = looked(surface, canvas.cameras[j], WINDOW, rows, columns)
            # A part's step to the next, as a distance between colours, is what brute force cannot tell apart.
            step = torch.nn.functional.pad((there[:, 1:, 1:] - there[:, :-1, :-1]).norm(dim=0), (0, 1, 0, 1), value=0.1)
            distance, nearest = torch.cdist(here, there.flatten(1).T).min(1)
            row, column = rows.flatten()[nearest], columns.flatten()[nearest]
            border = (row < -0.4) | (row > WINDOW[0] - 0.6) | (column < -0.4) | (column > WINDOW[1] - 0.6)
            seen = nobody & (distance < step.flatten()[nearest]) & ~border
            assert bool((owner[seen] == j).all())
            read = owner == j
            assert bool((distance[read] < 2 * step.flatten()[nearest][read]).all())
            for found, place in ((cell // WINDOW[1], row), (cell % WINDOW[1], column)):
                assert not bool(((found - place).abs()[read] > 0.66).any())
            nobody &= owner != j
            met += int(read.sum())
        assert bool((owner[nobody] == -1).all())
        assert set(table.sources[i]) == set(owner[owner >= 0].tolist())
    assert met > 40


@EACH
def test_composite_paints_over_what_was_there(surface):
    canvas = rig(surface, scale=2)
    z = painted(surface, canvas.size)
    laid = canvas.composite(canvas.project(z), range(4))
    assert float((laid - z)[..., canvas.coverage[0, 0] > 0.2].abs().max()) < 0.25
    # The last view lies on top.
    one = canvas.composite(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, *WINDOW), [3, 1, 2, 0])
    alone = fs.PanoramaCanvas(canvas.size, canvas.cameras[:1], WINDOW, surface=surface)
    assert bool((one[..., alone.coverage[0, 0] > 0.2] == 0).all())


def test_a_torus_is_covered_and_closed_by_its_own_cameras():
    canvas = fs.PanoramaCanvas((60, 60), None, (16, 16), surface="torus")
    assert canvas.cameras == TILES and canvas.num_views == 25
    z = painted("torus", canvas.size)
    back = canvas.merge(canvas.project(z), previous=torch.full_like(z, 9.0))
    assert float((back - z).abs().max()) < 0.05  # the borders too: no cell is left at 9
    assert fs.PanoramaCanvas(SIZE, None, WINDOW, surface="cylinder").cameras == CAMERAS


def test_a_torus_turns_upside_down_past_its_top():
    # Elevation 180° is -180°: the two cameras are one.
    canvas = fs.PanoramaCanvas((48, 48), [(0.0, 180.0, 80.0), (360.0, -180.0, 80.0)], (8, 8), surface="torus")
    one, other = canvas.project(randn(1, 2, 48, 48))
    assert relative(one, other) < 1e-6
    assert torch.equal(canvas.neighbours([0, 1]).cell[1].flatten(), torch.arange(64))


def test_upright_lines_stay_straight_on_a_cylinder():
    # What level cameras see upright is a column of the canvas, and level lines at their middle are rows.
    canvas = fs.PanoramaCanvas((240, 480), ring(3, fov=70.0), (9, 9), surface="cylinder")
    column = torch.arange(480, dtype=torch.float64).expand(1, 1, 240, 480)
    seen = canvas.project(column)
    assert float((seen - seen[:, :, :1]).abs().max()) < 1e-3
    row = torch.arange(240, dtype=torch.float64)[:, None].expand(1, 1, 240, 480)
    assert float((canvas.project(row)[:, :, 4] - 119.5).abs().max()) < 1e-3
    # Rows are heights: equal steps up in the middle column of the view are equal steps on the canvas.
    steps = canvas.project(row)[0, 0, :, 4].diff()
    assert float((steps - 480 / (2 * math.pi) * 2 * math.tan(math.radians(35)) / 9).abs().max()) < 1e-3


def test_a_cylinder_says_which_height_it_needs():
    with pytest.raises(
        ValueError, match=r"camera \(10.0, 20.0, 60.0\).*beyond the top or the bottom.*H of at least"
    ) as e:
        fs.PanoramaCanvas((24, 96), [(10.0, 20.0, 60.0)], WINDOW, surface="cylinder")
    needed = int(str(e.value).split("H of at least ")[1].split()[0])
    fs.PanoramaCanvas((needed, 96), [(10.0, 20.0, 60.0)], WINDOW, surface="cylinder")
    with pytest.raises(ValueError, match=f"H of at least {needed} at W = 96"):
        fs.PanoramaCanvas((needed - 1, 96), [(10.0, 20.0, 60.0)], WINDOW, surface="cylinder")
    # The rule of the docstring: a level camera needs W tan(v / 2) / pi.
    level = math.ceil(120 * math.tan(math.radians(35)) / math.pi)
    fs.PanoramaCanvas((level, 120), [(0.0, 0.0, 70.0)], (12, 12), surface="cylinder")
    with pytest.raises(ValueError, match="straight up or down"):
        fs.PanoramaCanvas(SIZE, [(0.0, 80.0, 60.0)], WINDOW, surface="cylinder")
    with pytest.raises(ValueError, match="straight up or down"):
        fs.PanoramaCanvas(SIZE, [(0.0, -90.0, 60.0)], WINDOW, surface="cylinder")


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="surface must be one of 'sphere', 'cylinder', 'torus', got 'cube'"):
        fs.PanoramaCanvas(SIZE, None, WINDOW, surface="cube")
    with pytest.raises(ValueError, match="elevation must be at least -180 and at most 180, got 181"):
        fs.PanoramaCanvas(SIZE, [(0.0, 181.0, 60.0)], WINDOW, surface="torus")
    with pytest.raises(ValueError, match="elevation must be at least -90 and at most 90, got 91"):
        fs.PanoramaCanvas(SIZE, [(0.0, 91.0, 60.0)], WINDOW, surface="cylinder")
