"""MeshCanvas: textures come back from their views, what is hidden stays untouched, noise stays white."""

import numpy as np
import pytest
import shapes
import torch
from exact_priors import ddim, nonlinear, randn, relative

import fastsync as fs
from fastsync.geometry import CAMERAS, Camera, Mesh, ring
from fastsync.geometry.texels import rasterize

pytest.importorskip("embreex")
pytest.importorskip("scipy")

WINDOW = (24, 24)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSYNC_CACHE", str(tmp_path))


def paint(points):
    """Colours [3, ...] of points [..., 3] in the unit sphere: smooth, between -1 and 1, different all over."""
    x, y, z = torch.as_tensor(points).double().unbind(-1)
    return torch.stack([(3 * x + y).sin(), (4 * y - z).cos(), (2 * z + 3 * x * y).sin()])


def painted(mesh, size):
    """The texture [1, 3, H, W] of :func:`paint`, and which texels lie in charts, bool [H W]."""
    texels = rasterize(mesh, size)
    at = np.einsum("mk,mkd->md", texels.barycentric, mesh.placed[mesh.faces][texels.face])
    z, inside = torch.zeros(3, size[0] * size[1], dtype=torch.float64), torch.zeros(size[0] * size[1], dtype=torch.bool)
    cells = torch.from_numpy(texels.cell)
    z[:, cells], inside[cells] = paint(at), True
    return z.reshape(1, 3, *size), inside


def photographed(canvas):
    """What the cameras would see of :func:`paint`, with no texture between: views [N, 3, h, w]."""
    return paint(canvas.sight.points).transpose(0, 1) * canvas.foreground


def psnr(got, expected, where):
    error = (got - expected).flatten(2)[..., where].square().mean()
    return float(10 * torch.log10(4 / error))  # values from -1 to 1


MESHES = {"cube": shapes.cube, "sphere": lambda: shapes.sphere(48, 96)}


@pytest.mark.parametrize("solver", ["splat", "cg"])
@pytest.mark.parametrize("name", MESHES)
def test_a_texture_comes_back_from_ten_views(name, solver):
    mesh = MESHES[name]()
    canvas = fs.MeshCanvas(mesh, view_size=96)
    z, inside = painted(mesh, canvas.size)
    seen = inside & (canvas.coverage.flatten() > 0)
    assert canvas.num_views == 10 and float(seen.sum() / inside.sum()) > 0.7
    for views in (photographed(canvas), canvas.project(canvas.fill(z))):
        back = canvas.merge(views, solver=solver)
        assert psnr(back, z, seen) > 30
        # What the cameras see of it, beside what they saw.
        assert psnr(canvas.project(back), views, canvas.foreground.flatten(1).all(0)) > 30


@pytest.mark.parametrize("name", MESHES)
def test_what_nobody_sees_takes_the_nearest_colour_in_space(name):
    mesh = MESHES[name]()
    canvas = fs.MeshCanvas(mesh, [Camera(0), Camera(20)], view_size=48)
    views = photographed(canvas)
    baked, merged = canvas.bake(views), canvas.merge(views, solver="cg", iterations=10)
    seen = canvas.merge(torch.ones_like(views)).flatten(2)[0, 0] > 0
    assert torch.equal(baked.flatten(2)[..., seen], merged.flatten(2)[..., seen])
    texels = rasterize(mesh, canvas.size)
    at = np.einsum("mk,mkd->md", texels.barycentric, mesh.placed[mesh.faces][texels.face])
    cell, is_seen = torch.from_numpy(texels.cell), seen[torch.from_numpy(texels.cell)]
    assert 0.1 < float(is_seen.float().mean()) < 0.9
    unseen, place = (~is_seen).nonzero()[::37, 0], torch.from_numpy(at)
    nearest = torch.cdist(place[unseen].double(), place[is_seen].double()).argmin(1)
    expected = baked.flatten(2)[0, :, cell[is_seen][nearest]]
    # Several may be equally near: colours may differ a little, not much.
    assert float((baked.flatten(2)[0, :, cell[unseen]] - expected).abs().median()) < 1e-6
    # Beside the charts goes on what is inside them.
    assert float(baked.flatten(2)[0].abs().sum(0).min()) > 0


def test_maps_are_linear_and_adjoint():
    canvas = fs.MeshCanvas(shapes.sphere(), texture_size=(40, 56), view_size=(20, 28))
    z, x = randn(1, 2, 40, 56), randn(10, 2, 20, 28, seed=1)
    forward, backward = (canvas.project(z) * x).sum(), (z * canvas.adjoint(x)).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)
    other = randn(1, 2, 40, 56, seed=2)
    torch.testing.assert_close(canvas.project(z + 2 * other), canvas.project(z) + 2 * canvas.project(other))
    # One tap's weights sum to 1, and the background reads nothing.
    ones = canvas.project(torch.ones(1, 1, 40, 56, dtype=torch.float64))
    torch.testing.assert_close(ones, canvas.foreground.double(), rtol=1e-6, atol=1e-6)
    assert float(canvas.coverage.sum()) == pytest.approx(int(canvas.foreground.sum()), rel=1e-5)
    # Merging is the weighted least squares, held a little at the splat: the gradient of
    # |x - P z|^2_W / 2 + |z - splat|^2_H / 2, with a tenth of the weights around each texel in H, is 0.
    merged, splat = canvas.merge(x, solver="cg", iterations=200), canvas.merge(x)
    confidence = canvas.sight.cosine.clamp_min(0.1).double().pow(4)[:, None] * canvas.foreground
    gradient = canvas.adjoint(confidence * (canvas.project(merged) - x))
    held = 0.1 * canvas.adjoint(confidence) / canvas.adjoint(canvas.foreground.double()).clamp_min(1e-6)
    touched = canvas.coverage > 0
    gradient = torch.where(touched, gradient + held * (merged - splat), 0)
    assert float(gradient.norm()) < 1e-6 * float(canvas.adjoint(confidence * x).norm())


@pytest.mark.parametrize("mesh", [shapes.sphere(), shapes.cube()], ids=["sphere", "cube"])
def test_views_that_contradict_each_other_leave_no_speckles(mesh):
    canvas = fs.MeshCanvas(mesh, view_size=48)
    views = randn(10, 1, 48, 48).clamp(-1, 1)
    error = {}
    for solver in ("splat", "cg"):
        baked = canvas.bake(views, solver=solver)
        assert float(baked.abs().max()) < 6 and float((baked.abs() > 2).double().mean()) < 0.03
        error[solver] = float(((canvas.project(baked) - views) * canvas.foreground).square().mean())
    assert error["cg"] < error["splat"]


def test_gradients_go_through():
    canvas = fs.MeshCanvas(shapes.cube(), ring(3), 20, (10, 10))
    z = randn(1, 1, *canvas.size).requires_grad_()
    x = randn(3, 1, 10, 10, seed=1)
    (canvas.project(z) * x).sum().backward()
    torch.testing.assert_close(z.grad, canvas.adjoint(x))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: canvas.merge(x).sum(), x)


def test_a_point_seen_in_two_views_reads_the_same_texels():
    mesh = shapes.sphere(48, 96)
    canvas = fs.MeshCanvas(mesh, [Camera(0), Camera(35)], 160, 64)
    numbers = paint(canvas.sight.points)  # tells points apart
    near = canvas.neighbours([0, 1])
    common = near.mask(1)[0].bool()
    assert 0.2 < float(common.float().mean()) < 0.6
    # Where neither looks along the surface, pixels are near one another on it.
    common &= (canvas.sight.cosine[1] > 0.5) & (near.target(1, canvas.sight.cosine[:, None])[0] > 0.5)
    z, _ = painted(mesh, canvas.size)
    for values in (numbers.transpose(0, 1), canvas.project(z)):
        assert float(((near.target(1, values) - values[1]) * common).abs().max()) < 0.1
    # Exactly: two cameras at one place are one.
    twice = fs.MeshCanvas(mesh, [Camera(10), Camera(10)], 64, 32)
    assert torch.equal(*twice.project(randn(1, 1, 64, 64)))
    near = twice.neighbours([0, 1])
    straight = twice.foreground[1, 0] & (twice.sight.cosine[1] > 0.1)
    assert torch.equal(near.owner[1] == 0, straight)
    assert torch.equal(near.cell[1][straight], torch.arange(1024).reshape(32, 32)[straight])


def test_hidden_surfaces_get_nothing():
    mesh = shapes.plates(0.3, -0.3)  # the front one hides the other from the camera
    canvas = fs.MeshCanvas(mesh, [Camera(0, orthographic=True)], (64, 128), 48)
    views = torch.ones(1, 1, 48, 48)
    left, right = slice(0, 64), slice(64, 128)
    for z in (canvas.merge(views), canvas.merge(views, solver="cg"), canvas.composite(views, [0])):
        assert bool((z[..., 8:56, left][..., 8:56] > 0).all()) and not bool(z[..., right].any())
    assert not bool(canvas.coverage[..., right].any())
    previous = torch.full((1, 1, 64, 128), 7.0)
    assert bool((canvas.merge(views, previous=previous)[..., right] == 7).all())
    # From both sides both are seen, each by one view; neither reads the other.
    both = fs.MeshCanvas(mesh, [Camera(0), Camera(180)], (64, 128), 48)
    assert both.neighbours([0, 1]).sources == [(), ()]
    baked = both.composite(torch.stack([views[0], 3 * views[0]]), [0, 1])
    for part, value in ((slice(16, 48), 1.0), (slice(80, 112), 3.0)):
        torch.testing.assert_close(baked[..., 16:48, part], torch.full((1, 1, 32, 32), value))


def test_slanted_views_count_less():
    mesh = shapes.plates(0.0)
    cameras = [Camera(0, orthographic=True), Camera(60, orthographic=True)]
    views = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 32, 32)
    powers = (0.0, 2.0, 6.0)
    canvases = [fs.MeshCanvas(mesh, cameras, 33, 32, cosine_power=power) for power in powers]
    shares = {power: canvas.merge(views).double() for power, canvas in zip(powers, canvases, strict=True)}
    both = (shares[0.0] > 0.1) & (shares[0.0] < 0.9)
    assert int(both.sum()) > 200
    odds = {power: (share / (1 - share))[both] for power, share in shares.items()}
    for power in (2.0, 6.0):
        torch.testing.assert_close(odds[power], 0.5**power * odds[0.0], rtol=1e-3, atol=0)  # cos(60) is 0.5


def test_noise_stays_white():
    canvas = fs.MeshCanvas(shapes.sphere(), view_size=WINDOW)
    cells = torch.arange(canvas.size[0] * canvas.size[1], dtype=torch.float64).reshape(1, 1, *canvas.size)
    own = canvas.project_noise(cells)[:, 0].long()
    for view in own:
        assert len(view.unique()) == WINDOW[0] * WINDOW[1]
    # Most pixels on the mesh have a texel that they look at, so views share noise where they overlap.
    taps = canvas._taps.index
    looked = (taps == own[..., None]).any(-1)[canvas.foreground[:, 0]]
    assert float(looked.float().mean()) > 0.8
    one, other = (set(own[i][canvas.foreground[i, 0]].tolist()) for i in (0, 1))
    assert len(one & other) > 0.2 * len(one)
    views = canvas.project_noise(randn(1, 4, *canvas.size))
    assert abs(float(views.mean())) < 0.05 and abs(float(views.std()) - 1) < 0.05


def test_the_texture_that_suits_the_views():
    """Few texels lie between pixels, and views share most of what both see."""
    for view_size in (16, 48, 96):
        canvas = fs.MeshCanvas(shapes.sphere(48, 96), view_size=view_size)
        height, width = canvas.size
        assert height == width and 1.0 * view_size <= height <= 4 * view_size
        inside = painted(canvas.mesh, canvas.size)[1]
        assert len(canvas._holes) < 0.15 * float(inside.sum())


def test_texels_between_pixels_are_filled_in():
    mesh = shapes.sphere(48, 96)
    canvas = fs.MeshCanvas(mesh, ring(6), 192, 24)
    z, inside = painted(mesh, canvas.size)
    back = canvas.merge(photographed(canvas), previous=torch.full_like(z, 9.0))
    touched = (back[0, 0] != 9).flatten()
    assert float((canvas.coverage.flatten() > 0).sum()) < 0.6 * float(touched.sum())
    belt = torch.zeros(canvas.size, dtype=torch.bool)
    belt[60:132] = True
    assert bool(touched[belt.flatten()].all()) and psnr(back, z, inside & belt.flatten()) > 25


def test_composite_paints_in_order():
    mesh = shapes.sphere(48, 96)
    canvas = fs.MeshCanvas(mesh, [Camera(0), Camera(30), Camera(180)], view_size=48)
    views = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1).expand(3, 1, 48, 48)
    height, width = canvas.size
    row, front = height // 2, width // 2
    first, last = canvas.composite(views, [1, 0, 2]), canvas.composite(views, [0, 1, 2])
    assert float(first[0, 0, row, front]) == 1 and float(last[0, 0, row, front]) == 2
    assert float(first[0, 0, row, 2]) == float(last[0, 0, row, 2]) == 3
    assert not bool(canvas.composite(views, [2])[0, 0, :, front].any())  # nobody of the order looks there
    z, inside = painted(mesh, canvas.size)
    seen = inside & (canvas.coverage.flatten() > 0)
    assert psnr(canvas.composite(photographed(canvas), [0, 1, 2]), z, seen) > 30


def test_neighbours_are_of_earlier_views_only():
    canvas = fs.MeshCanvas(shapes.scan(), view_size=WINDOW)
    order = [3, 0, 9, 1, 2, 8, 4, 7, 5, 6]
    near = canvas.neighbours(order)
    assert near.sources[3] == ()
    for position, i in enumerate(order):
        assert set(near.sources[i]) <= set(order[:position])
        assert set(near.owner[i].unique().tolist()) <= {-1, *near.sources[i]}
        assert not bool((near.owner[i] >= 0)[~canvas.foreground[i, 0]].any())
        read = near.owner[i] >= 0
        assert bool(
            canvas.foreground[near.owner[i][read], 0]
            .flatten(1)[torch.arange(int(read.sum())), near.cell[i][read]]
            .all()
        )
    # By the last view nearly all is covered.
    assert float(near.mask(6).sum() / canvas.foreground[6].sum()) > 0.8


METHODS = {
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(),
    "syncvc": fs.SyncVC(iterations=2),
    "merged": fs.SyncVC(iterations=1, composite="merge"),
    "stochsync": fs.StochSync(steps=6, start=900, stop=300),
    "independent": fs.Independent(),
}


def sampled(method, canvas, **options):
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, *WINDOW), dtype=torch.float64)
    cond = 0.5 * randn(canvas.num_views, 2, *WINDOW, seed=1)
    generator = torch.Generator().manual_seed(0)
    return fs.sample(prior, canvas, method, cond=cond, num_inference_steps=4, generator=generator, **options)


@pytest.mark.parametrize("name", METHODS)
def test_methods_run_and_every_order_gives_the_same(name):
    canvas, method = fs.MeshCanvas(shapes.cube(), view_size=WINDOW), METHODS[name]
    out = sampled(method, canvas)
    assert out.canvas.shape == (1, 2, *canvas.size) and out.canvas.dtype == torch.float64
    assert torch.isfinite(out.canvas).all() and out.canvas.std() > 0.01
    for order in method.orders:
        again = sampled(method, canvas, order=order, max_batch=3)
        assert relative(again.canvas, out.canvas) < 1e-10, order
        assert relative(again.views, out.views) < 1e-10, order


def test_views_agree_more_than_apart():
    canvas = fs.MeshCanvas(shapes.sphere(), view_size=WINDOW)
    near = canvas.neighbours(range(10))

    def disagreement(method):
        views = sampled(method, canvas).views
        return sum(float(((near.target(i, views) - views[i]) * near.mask(i)).abs().sum()) for i in range(1, 10))

    apart = disagreement(fs.Independent())
    # The published coupling overshoots where steps are so few.
    for method in (fs.SyncTweedies(), fs.SyncSDE(coupling="stable"), fs.SyncVC(iterations=2, coupling="stable")):
        assert disagreement(method) < 0.8 * apart, method


def test_noisy_states_are_not_merged():
    with pytest.raises(ValueError, match="MultiDiffusion merges noisy states.*use SyncTweedies, SyncSDE or SyncVC"):
        sampled(fs.MultiDiffusion(), fs.MeshCanvas(shapes.cube(), view_size=WINDOW))


@pytest.mark.parametrize(
    "mesh",
    [
        shapes.scan(),
        Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]),
        Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]]),
        shapes.grid(6, 6, lambda u, v: np.stack([u, v, np.sin(4 * u)], -1)),
    ],
    ids=["scan", "one face", "non-manifold", "open"],
)
def test_meshes_that_are_no_closed_surface(mesh):
    pytest.importorskip("xatlas")
    before = [array.tobytes() for array in (mesh.vertices, mesh.faces)]
    canvas = fs.MeshCanvas(mesh, view_size=WINDOW)
    views = photographed(canvas)
    baked = canvas.bake(views)
    assert torch.isfinite(baked).all()
    z, inside = painted(canvas.mesh, canvas.size)
    assert psnr(baked, z, inside & (canvas.coverage.flatten() > 0)) > 20
    assert [array.tobytes() for array in (canvas.mesh.vertices, canvas.mesh.faces)] == before


def test_half_a_million_faces():
    canvas = fs.MeshCanvas(shapes.sphere(500, 500), CAMERAS[:3], 128, 32)
    z, inside = painted(canvas.mesh, canvas.size)
    assert psnr(canvas.bake(photographed(canvas)), z, inside & (canvas.coverage.flatten() > 0)) > 30


def test_from_a_file_with_its_own_coordinates(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    mesh = shapes.cube()
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv.copy())
    given = trimesh.Trimesh(mesh.vertices.copy(), mesh.faces.copy(), visual=visual, process=False)
    given.export(tmp_path / "cube.glb")
    before = [np.array(a).tobytes() for a in (given.vertices, given.faces, given.visual.uv)]
    canvases = [fs.MeshCanvas(source, ring(4), 48, WINDOW) for source in (mesh, given, tmp_path / "cube.glb")]
    z = randn(1, 1, 48, 48)
    for canvas in canvases[1:]:
        assert relative(canvas.project(z), canvases[0].project(z)) < 1e-4
    assert [np.array(a).tobytes() for a in (given.vertices, given.faces, given.visual.uv)] == before


def test_progress(capsys):
    fs.MeshCanvas(shapes.cube(), ring(2), 16, 8, progress=True)
    said = capsys.readouterr().err
    assert "Views of the mesh" in said and "Tables of the mesh" in said


def test_what_makes_no_sense_is_refused():
    cube = shapes.cube()
    with pytest.raises(
        ValueError, match=r"texture_size \(8, 8\) has fewer texels than a view of \(16, 16\) has pixels"
    ):
        fs.MeshCanvas(cube, texture_size=8, view_size=16)
    with pytest.raises(TypeError, match="cameras must be a list"):
        fs.MeshCanvas(cube, [])
    with pytest.raises(TypeError, match="cameras must be a list"):
        fs.MeshCanvas(cube, Camera(0))
    with pytest.raises(TypeError, match=r"view_size must be a pair \(height, width\)"):
        fs.MeshCanvas(cube, view_size=1.5)
    with pytest.raises(ValueError, match="cosine_power must be at least 0"):
        fs.MeshCanvas(cube, cosine_power=-1.0)
    with pytest.raises(FileNotFoundError, match="there is no mesh file"):
        fs.MeshCanvas("nowhere.obj")
    canvas = fs.MeshCanvas(cube, ring(2), 16, 8)
    with pytest.raises(ValueError, match="z must be a canvas"):
        canvas.fill(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="views must be"):
        canvas.bake(torch.zeros(3, 2, 8, 8))
    with pytest.raises(ValueError, match="solver must be one of"):
        canvas.bake(torch.zeros(2, 2, 8, 8), solver="qr")


# ---- the merge without weights, one table's pass -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mesh", "panorama"])
@pytest.mark.parametrize("given", ["nothing", "previous"])
def test_the_merge_without_weights_is_that_with_weights_of_one(kind, given):
    if kind == "mesh":
        canvas = fs.MeshCanvas(shapes.sphere(), view_size=24)
    else:
        canvas = fs.PanoramaCanvas((48, 96), [(a, 0.0, 80.0) for a in (0, 60, 120, 200)], (16, 16))
    views = randn(canvas.num_views, 3, *canvas.view_shape)
    previous = randn(1, 3, *canvas.size) if given == "previous" else None
    ones = torch.ones(canvas.view_shape, dtype=torch.float64)
    expected = canvas.merge(views, ones, previous=previous)
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 2e-6), (torch.float16, 4e-3)):
        got = canvas.merge(views.to(dtype), previous=None if previous is None else previous.to(dtype))
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, atol=atol, rtol=atol)


def test_the_merge_without_weights_is_linear_and_differentiable():
    cameras = [(0.0, 0.0), (120.0, 0.0), (240.0, 20.0)]
    canvas = fs.MeshCanvas(shapes.sphere(6, 12), cameras, view_size=5)
    x = randn(len(cameras), 1, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(canvas.merge, x)
    other = randn(len(cameras), 1, 5, 5, seed=3)
    torch.testing.assert_close(canvas.merge(x + 2 * other), canvas.merge(x) + 2 * canvas.merge(other))
