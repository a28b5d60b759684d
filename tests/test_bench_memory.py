"""The account of memory: what it counts, that it needs no data, and that the figures hold what is said of them."""

import json
from functools import partial

import pytest
import tiny_pipelines as tiny
import tiny_vaes
import torch
from torch._subclasses import FakeTensorMode

from bench import memory
from bench.machine import RESULTS
from bench.memory import Tracker, evaluation, peak_of
from fastsync.priors.codecs import strips

FLOATS = 4 * 1000  # bytes of a thousand


def test_what_counts():
    before = torch.zeros(1000)
    with Tracker() as tracker:
        a = torch.zeros(1000)
        assert tracker.alive == FLOATS
        view = a[:500].view(5, 100)  # the same storage
        before.add_(1.0)  # was there before
        before.view(10, 100)
        assert tracker.alive == FLOATS
        b = a + before
        assert tracker.alive == 2 * FLOATS
        del a
        assert tracker.alive == 2 * FLOATS  # the view holds it
        del view
        assert tracker.alive == FLOATS
        del b
    assert tracker.alive == 0 and tracker.peak == 2 * FLOATS


def test_what_autograd_keeps_counts():
    x = torch.randn(1000, requires_grad=True)
    with Tracker() as tracker:
        y = x.exp().exp()  # both results are kept for the way back
        assert tracker.alive == 2 * FLOATS
        torch.autograd.grad(y.sum(), x)
        assert tracker.alive == FLOATS


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_tensors_without_data_give_the_same_account(backward, checkpointing):
    def account():
        unet = tiny.make_unet().eval().requires_grad_(False)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        size = {"window": (8, 8), "text": (tiny.TOKENS, tiny.WIDTH), "backward": backward}
        return [evaluation(unet, views=n, **size) for n in (1, 3)]

    real = account()
    with FakeTensorMode():
        assert account() == real
    assert real[1] > 2 * real[0] > 0


def test_decodes_too():
    def account():
        vae = tiny.make_pipeline().vae.requires_grad_(False)
        z = torch.zeros(1, 4, 8, 24)
        with torch.no_grad():
            return [peak_of(lambda: vae.decode(z)), peak_of(lambda: memory.kl.decode(vae, z))]

    real = account()
    with FakeTensorMode():
        assert account() == real


def test_maps_outside_of_the_budget_take_what_is_read_of_them(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 2**9)

    def account():
        vae = tiny_vaes.make_small_vae(mid_block_add_attention=False).requires_grad_(False)
        return memory.canvases(vae, (4, 16), 4, 2**13)

    real = account()
    with FakeTensorMode():
        assert account() == real
    for way in ("decode", "encode"):
        assert real["16"][f"{way} in strips"] < real["16"][way]
    vae, z = tiny_vaes.make_small_vae(mid_block_add_attention=False), torch.zeros(1, 4, 4, 4 + 15 * 3)
    files = partial(memory.maps.Maps, budget=2**13)
    assert z.nbytes == real["16"]["latents"]
    with torch.no_grad():
        assert peak_of(lambda: memory.kl.decode(vae, z, make=files)) < 1.1 * real["16"]["decode in strips"]


def test_wide_pictures_take_no_more_than_their_budget_in_strips():
    result = json.loads((RESULTS / "memory_sd21.json").read_text())
    for (name, accounts), budget in zip(result["canvases"].items(), (2**31, 2**26), strict=True):
        for count, account in accounts.items():
            for way in ("decode", "encode"):
                beyond = account[f"{way} in strips"] - account["pixels"] - account["latents"]
                assert beyond < budget + 100e6, (name, count, way, beyond)
    widest = result["canvases"]["scenes in float32 on a CPU"]["64"]
    assert all(widest[f"{way} in strips"] < 0.4 * widest[way] for way in ("decode", "encode"))


def test_a_picture_of_2048_by_512_fits_in_8_gb():
    """SyncVC with all five windows at once, checkpointed, and every component's weights on the card."""
    result = json.loads((RESULTS / "memory_sd21.json").read_text())
    weights = sum(result["weights"].values())
    assert weights + result["calls"]["5"]["checkpointed"] < 8e9
    assert weights + result["decode"]["tiled"] < weights + result["decode"]["plain"] < 8e9
    assert 860e6 < result["weights"]["UNet"] / 2 < 870e6
