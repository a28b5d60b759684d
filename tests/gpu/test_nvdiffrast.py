"""Rasterisation on the GPU sees what ray casting on the CPU sees."""

import pytest
import shapes
import torch

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
