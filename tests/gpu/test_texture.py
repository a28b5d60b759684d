"""A mesh painted on a CUDA device: a ControlNet, a backdrop and the bake compute there what they do on the CPU."""

import numpy as np
import pytest
import shapes
import torch

import fastsync as fs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
AROUND = [(0.0, 0.0), (120.0, 0.0), (240.0, 20.0)]


def painted(device, dtype, method):
    for module in ("diffusers", "embreex", "trimesh"):
        pytest.importorskip(module)
    import tiny_pipelines as tiny

    sync = fs.SyncPipeline(tiny.make_control_pipeline(dtype=dtype).to(device))
    return sync.texture(
        shapes.sphere(), "a cat", cameras=AROUND, method=method, num_inference_steps=4, seed=0, progress=False,
        guidance_scale=3.0, texture_size=64, rasterizer="embree",
    )  # fmt: skip


@pytest.mark.parametrize("method", ["syncvc", "syncsde", "synctweedies"])
def test_the_texture_is_that_of_the_cpu(method):
    here, there = (painted(device, torch.float32, method) for device in ("cpu", "cuda"))
    assert float((there.views.cpu() - here.views).norm() / here.views.norm()) < 1e-2
    difference = np.array(here.images[0], float) - np.array(there.images[0], float)
    assert np.abs(difference).mean() < 3


def test_half_precision_paints_too():
    whole, half = (painted("cuda", dtype, "syncvc") for dtype in (torch.float32, torch.float16))
    assert np.abs(np.array(whole.images[0], float) - np.array(half.images[0], float)).mean() < 12
