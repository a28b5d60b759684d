"""IllusionCanvas: exact, orthogonal views of one picture, and every method on them."""

import pytest
import torch
from exact_priors import ddim, nonlinear, randn, relative

import fastsync as fs
from bench import reference
from fastsync.canvases.illusion_views import VIEWS

EXPECTED = {
    "identity": lambda z: z,
    "rotate_cw": lambda z: z.rot90(-1, (-2, -1)),
    "rotate_ccw": lambda z: z.rot90(1, (-2, -1)),
    "rotate_180": lambda z: z.flip(-2, -1),
    "flip": lambda z: z.flip(-2),
    "flip_horizontal": lambda z: z.flip(-1),
    "skew": lambda z: torch.stack(
        [z[..., j].roll(int(1.5 * (j - z.shape[-1] / 2)), -1) for j in range(z.shape[-1])], -1
    ),
    "negate": lambda z: -z,
}


@pytest.mark.parametrize("side", [8, 16, 64])
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_orthogonal_at_any_size(name, side):
    if name == "jigsaw" and side < 16:
        side = 32
    canvas = fs.IllusionCanvas(["identity", name], (2, side, side))
    assert canvas.whiteness == "exact" and canvas.coverage.unique().tolist() == [2.0]
    z, x = randn(1, 2, side, side), randn(2, 2, side, side, seed=1)
    views = canvas.project(z)
    assert torch.equal(views[0], z[0])
    assert torch.equal(views[1].abs().flatten(1).sort(1).values, z[0].abs().flatten(1).sort(1).values)
    torch.testing.assert_close(canvas.merge(views), z)
    torch.testing.assert_close((views * x).sum(), (z * canvas.adjoint(x)).sum())
    torch.testing.assert_close(
        canvas.project(canvas.merge(canvas.project(canvas.merge(x)))), canvas.project(canvas.merge(x))
    )
    assert (name == "identity") == torch.equal(views[0], views[1])


@pytest.mark.parametrize("name", EXPECTED)
def test_views_are_what_their_names_say(name):
    z = randn(1, 3, 16, 16)
    assert torch.equal(fs.IllusionCanvas([name], (3, 16, 16)).project(z), EXPECTED[name](z))


def test_the_middle_turns_and_the_rest_stays():
    z = randn(1, 1, 64, 64)
    circle, square = fs.IllusionCanvas(["inner_circle", "inner_rotate"], (1, 64, 64)).project(z)[:, 0]
    y = torch.arange(64) - 31.5
    disc = y[:, None] ** 2 + y**2 < 24**2
    assert torch.equal(circle[disc], z[0, 0].flip(0, 1)[disc]) and torch.equal(circle[~disc], z[0, 0][~disc])
    assert torch.equal(square[16:48, 16:48], z[0, 0, 16:48, 16:48].rot90(-1))
    square[16:48, 16:48] = z[0, 0, 16:48, 16:48]
    assert torch.equal(square, z[0, 0])


@pytest.mark.parametrize("name", ["jigsaw", "square_hinge", "patch_permute"])
def test_pieces_move_whole(name):
    # Almost all neighbours stay neighbours; single cells that stray would break far more.
    side = 64
    index = VIEWS[name].index(side, side)
    y, x = index // side, index % side
    together = ((y.diff(dim=1).abs() + x.diff(dim=1).abs()) == 1).float().mean()
    assert together > 0.8
    assert not torch.equal(index, torch.arange(side * side).reshape(side, side))


def test_jigsaw_pieces_have_knobs():
    # Cut along straight lines, each 16 x 16 square would come from one place; knobs reach over.
    index = VIEWS["jigsaw"].index(64, 64)
    tile = index[16:32, 32:48]
    steps = tile[:, 1:] - tile[:, :-1]
    assert len(steps.unique()) > 1


CYCLES = [["identity", "rotate_cw"], ["identity", "negate", "skew"], ["negate", "flip", "negate", "pixel_permute"]]


def reference_maps(names, side):
    """Rows and columns of each view, from what the names say about a picture of coordinates."""
    canvas = fs.IllusionCanvas(list(names), (2, side, side))
    maps = []
    for i, name in enumerate(names):
        grid = torch.arange(side * side, dtype=torch.float64).reshape(1, 1, side, side)
        if name in EXPECTED and name != "negate":
            cells = EXPECTED[name](grid)[0, 0].long()
        else:
            cells = canvas.project(grid)[i, 0].abs().round().long()
        maps.append((cells // side, cells % side))
    return canvas, maps, [-1.0 if name == "negate" else 1.0 for name in names]


@pytest.mark.parametrize("names", CYCLES, ids=["-".join(c) for c in CYCLES])
@pytest.mark.parametrize("order", ["sequential", "wavefront"])
def test_syncvc_is_the_reference(names, order):
    side, steps = 8, 4
    canvas, maps, signs = reference_maps(names, side)
    shape = (2, side, side)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), shape, dtype=torch.float64)
    cond, z = 0.5 * randn(len(names), *shape, seed=1), randn(1, *shape, seed=3)
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(1, *shape, generator=generator, dtype=torch.float64) for _ in range(steps)]
    model, place = reference.Model(nonlinear, ddim(steps_offset=1), cond), reference.Cells(maps, (side, side), signs)
    picture, expected = reference.syncvc(model, canvas.project(z), place, steps, iterations=3, eta=0.5, noise=noise)
    out = fs.sample(
        prior, canvas, fs.SyncVC(iterations=3), cond=cond, latents=z, num_inference_steps=steps, eta=0.5, order=order,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    assert relative(out.views, expected) < 1e-9 and relative(out.canvas, picture) < 1e-9
    # The last view lies on top, and covers everything.
    assert relative(canvas.project(out.canvas)[-1], out.views[-1]) < 1e-12


@pytest.mark.parametrize("names", CYCLES, ids=["-".join(c) for c in CYCLES])
def test_syncsde_is_syncvc_without_iterations(names):
    canvas = fs.IllusionCanvas(names, (2, 8, 8))
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 8, 8), dtype=torch.float64)
    common = {"cond": 0.5 * randn(len(names), 2, 8, 8), "latents": randn(1, 2, 8, 8), "num_inference_steps": 4}
    one = fs.sample(prior, canvas, fs.SyncSDE(3.0), **common)
    other = fs.sample(prior, canvas, fs.SyncVC(iterations=0, inv_lambda=3.0), **common)
    assert relative(one.views, other.views) < 1e-12


@pytest.mark.parametrize("method", [fs.MultiDiffusion, fs.SyncTweedies])
def test_merging_methods_leave_one_picture(method):
    # On orthogonal views from one noise the two are the same numbers, step by step.
    names, steps = ["identity", "rotate_180", "negate"], 4
    canvas, scheduler = fs.IllusionCanvas(names, (2, 8, 8)), ddim(steps_offset=1)
    cond, z = 0.5 * randn(3, 2, 8, 8, seed=1), randn(1, 2, 8, 8, seed=3)
    scheduler.set_timesteps(steps)
    picture, put_back = z, (lambda x: x, lambda x: x.flip(-2, -1), lambda x: -x)
    for t in scheduler.timesteps:
        views = torch.cat([back(picture) for back in put_back])  # each map is its own inverse
        views = scheduler.step(nonlinear(views, t.expand(3), cond), t, views).prev_sample
        picture = torch.stack([back(view) for back, view in zip(put_back, views, strict=True)]).mean(0, keepdim=True)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 8, 8), dtype=torch.float64)
    out = fs.sample(prior, canvas, method(), cond=cond, latents=z, num_inference_steps=steps)
    assert relative(out.canvas, picture) < 1e-6  # diffusers computes its coefficients in float32


def test_views_of_ones_own():
    mirror = fs.View("mirror", lambda h, w: torch.arange(h * w).reshape(h, w).flip(1))
    z = randn(1, 3, 6, 10)
    assert torch.equal(fs.IllusionCanvas([mirror], (3, 6, 10)).project(z), z.flip(3))


def zoom(h, w):
    return (torch.arange(h)[:, None] // 2 * w + torch.arange(w) // 2).long()


def test_a_view_that_repeats_cells_is_refused_where_noise_would_pass():
    canvas = fs.IllusionCanvas(["identity", fs.View("zoom", zoom)], (2, 8, 8))
    assert canvas.whiteness == "none"
    z, x = randn(1, 2, 8, 8), randn(2, 2, 8, 8, seed=1)
    torch.testing.assert_close((canvas.project(z) * x).sum(), (z * canvas.adjoint(x)).sum())
    torch.testing.assert_close(canvas.merge(canvas.project(z)), z)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 8, 8), dtype=torch.float64)
    common = {"cond": randn(2, 2, 8, 8), "num_inference_steps": 2}
    for method in (fs.SyncSDE(), fs.SyncVC()):
        with pytest.raises(ValueError, match="passes noise from view to view.*use SyncTweedies"):
            fs.sample(prior, canvas, method, **common)
    with pytest.raises(ValueError, match="MultiDiffusion merges noisy states.*use SyncTweedies, or a canvas of crops"):
        fs.sample(prior, canvas, fs.MultiDiffusion(), **common)
    with pytest.raises(ValueError, match="eta above 0 passes noise"):
        fs.sample(prior, canvas, fs.SyncTweedies(), eta=0.5, **common)
    out = fs.sample(prior, canvas, fs.SyncTweedies(), generator=torch.Generator().manual_seed(0), **common)
    assert relative(canvas.project(canvas.merge(out.views)), out.views) < 1e-6


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match="views must be of identity, rotate_cw, .* got 'spin'"):
        fs.IllusionCanvas(["identity", "spin"])
    with pytest.raises(TypeError, match="views must be a list of names"):
        fs.IllusionCanvas("identity")
    with pytest.raises(TypeError, match=r"shape must be \(channels, height, width\)"):
        fs.IllusionCanvas(["identity"], (64, 64))
    with pytest.raises(ValueError, match="'rotate_cw' needs a square"):
        fs.IllusionCanvas(["rotate_cw"], (3, 64, 32))
    with pytest.raises(ValueError, match="'jigsaw' needs a square whose side is a multiple of 16, got 24 x 24"):
        fs.IllusionCanvas(["jigsaw"], (3, 24, 24))
    with pytest.raises(ValueError, match="must show cells 0 to 63"):
        fs.IllusionCanvas([fs.View("off", lambda h, w: torch.arange(h * w).reshape(h, w) + 1)], (3, 8, 8))
    with pytest.raises(TypeError, match=r"must give int64 \[8, 8\]"):
        fs.IllusionCanvas([fs.View("flat", lambda h, w: torch.arange(h * w))], (3, 8, 8))
    with pytest.raises(ValueError, match="must have sign 1 or -1, got 2"):
        fs.IllusionCanvas([fs.View("loud", VIEWS["flip"].index, sign=2)], (3, 8, 8))
    canvas = fs.IllusionCanvas(["identity", "flip"], (3, 8, 8))
    with pytest.raises(ValueError, match=r"z must be a canvas \[1, C, 8, 8\], got \[2, 3, 8, 8\]"):
        canvas.project(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"views must be \[2, C, 8, 8\], got \[1, 3, 8, 8\]"):
        canvas.merge(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="weights must be"):
        canvas.merge(torch.zeros(2, 3, 8, 8), weights=torch.ones(3))
