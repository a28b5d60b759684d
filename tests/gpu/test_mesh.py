"""Meshes on the GPU: what rasterisation sees, and what the tables make of it, as on the CPU."""

import pytest
import shapes
import torch

import fastsync as fs
from fastsync.geometry import CAMERAS, Camera, see

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("size", [(512, 512), (61, 93)])
@pytest.mark.parametrize(
    "mesh", [shapes.sphere(100, 200), shapes.cube(), shapes.scan()], ids=["sphere", "cube", "scan"]
)
def test_both_see_the_same(mesh, size):
    pytest.importorskip("nvdiffrast.torch")
    cameras = [*CAMERAS, Camera(30, -20, orthographic=True)]
    ours, theirs = see(mesh, cameras, size, "embree"), see(mesh, cameras, size, "nvdiffrast")
    same = ours.face == theirs.face
    assert float(same.float().mean()) > 0.995
    for name, limit in (("barycentric", 1e-2), ("depth", 1e-3), ("cosine", 1e-3), ("normal", 1e-3)):
        one, other = (getattr(sight, name)[same & ours.foreground] for sight in (ours, theirs))
        assert float((one - other).abs().max()) < limit, name


def test_the_canvas_computes_the_same():
    pytest.importorskip("embreex")
    canvas = fs.MeshCanvas(shapes.sphere(), view_size=32, rasterizer="embree")
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(10, 3, 32, 32, generator=generator)
    z = torch.randn(1, 3, *canvas.size, generator=generator)
    cases = [(rule, z) for rule in (canvas.project, canvas.project_noise, canvas.fill)]
    cases += [(rule, views) for rule in (canvas.adjoint, canvas.merge, canvas.bake)]
    for rule, x in [*cases, (lambda views: canvas.composite(views, range(10)), views)]:
        expected = rule(x)
        got = rule(x.cuda())
        assert got.is_cuda
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)
