"""What users switch on, on pipelines that are probed: the same picture, and no recompilation during a run."""

from __future__ import annotations

import functools
from typing import Any

import accelerate
import pytest
import torch
from exact_priors import relative
from families import FAMILIES
from families.awkward import AWKWARD
from torch._dynamo.utils import counters

import fastsync as fs
from fastsync.priors import AttentionSwitch, Runtime, save_memory
from fastsync.priors.runtime import autoencoder_of, networks_of

DITS = ("flux", "sd3")
SYNCVC = fs.SyncVC(iterations=2)


def picture(pipe: Any, name: str, seed: int = 0, sync: Any = None, **options: Any) -> Any:
    """Three windows."""
    call = FAMILIES[name].call()
    given = {key: call.pop(key, None) for key in ("prompt", "negative_prompt")}
    window, _ = (call.pop("height"), call.pop("width")), call.pop("guidance_scale", None)
    settings = {"method": SYNCVC, "num_inference_steps": 4, "progress": False, "output_type": "pt"}
    return (sync or fs.SyncPipeline(pipe)).wide(
        given["prompt"], negative_prompt=given["negative_prompt"], window=window, width=40, overlap=4, seed=seed,
        pipe_kwargs=call, **{**settings, **options},
    )  # fmt: skip


def assert_same(out: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert relative(out.latents, expected.latents) < tolerance
    assert relative(out.images, expected.images) < tolerance


@functools.cache
def plain(name: str) -> Any:
    return picture(FAMILIES[name].make(), name)


# ---- compiling --------------------------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that traces as always, and leaves the kernels to PyTorch: seconds in the place of minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("name", [*DITS, "sana", "z-image"])
def test_regional_compiles_in_the_first_run_alone(name, traced):
    pipe = FAMILIES[name].make()
    sync = fs.SyncPipeline(pipe, compile="regional")
    first = picture(pipe, name, sync=sync)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0 and not counters["graph_break"]
    assert_same(first, plain(name), tolerance=1e-4)
    picture(pipe, name, seed=1, sync=sync)
    picture(pipe, name, sync=sync, num_inference_steps=6)
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(module._compiled_call_impl is None for module in pipe.transformer.modules())


def test_all_steps_of_a_run_share_what_the_first_ones_compiled(traced):
    """Batches of fixed sizes: the wavefront's first fronts have all of them."""
    pipe = FAMILIES["flux"].make()
    sync = fs.SyncPipeline(pipe, compile="regional")
    seen: list[int] = []
    picture(
        pipe, "flux", sync=sync, num_inference_steps=8, method=fs.MultiDiffusion(),
        callback_on_step_end=lambda *_: seen.append(counters["stats"]["unique_graphs"]) or {},
    )  # fmt: skip
    assert seen[0] > 0 and seen[-1] == seen[0]


# ---- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*DITS, "sd-controlnet"])
@pytest.mark.parametrize("most", [1, 2, "auto"])
def test_batches_of_any_size_are_the_same_picture(name, most):
    assert_same(picture(FAMILIES[name].make(), name, max_batch=most), plain(name))


def test_batches_are_halved_when_memory_is_too_small():
    pipe, rows = FAMILIES["flux"].make(), []

    def full(module: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(kwargs["hidden_states"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.transformer.register_forward_pre_hook(full, with_kwargs=True)
    assert_same(picture(pipe, "flux", max_batch="auto", method=fs.MultiDiffusion()), multidiffusion("flux"))
    assert 3 in rows and rows[-1] <= 2


@functools.cache
def multidiffusion(name: str) -> Any:
    return picture(FAMILIES[name].make(), name, method=fs.MultiDiffusion())


def test_memory_for_one_picture_alone_is_enough_to_probe():
    pipe = FAMILIES["sd3"].make()

    def full(module: Any, args: Any, kwargs: Any) -> None:
        if len(kwargs["hidden_states"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.transformer.register_forward_pre_hook(full, with_kwargs=True)
    assert_same(picture(pipe, "sd3", max_batch=1), plain("sd3"))


# ---- memory -----------------------------------------------------------------------------------------------------


def offload(pipe: Any, how: str) -> None:
    """On this machine the device that models are loaded onto is the CPU too; hooks and meta weights are the same."""
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                accelerate.cpu_offload(part, torch.device("cpu"))


@pytest.mark.parametrize("how", ["model", "sequential"])
@pytest.mark.parametrize("name", [*DITS, "sd-controlnet", "sana"])
def test_offloaded_pipelines_make_the_same_picture(name, how):
    pipe = FAMILIES[name].make()
    offload(pipe, how)
    assert_same(picture(pipe, name), plain(name))
    network = networks_of(pipe)[0]
    assert {p.device.type for p in network.parameters()} == {"cpu" if how == "model" else "meta"}
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", [*DITS, "sana", "z-image", "sd-controlnet"])
def test_gradient_checkpointing_is_honoured(name):
    pipe = FAMILIES[name].make()
    calls: list[bool] = []
    network = networks_of(pipe)[0]
    blocks = [m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    part = blocks[0][0] if not hasattr(network, "mid_block") else network.mid_block.resnets[1]
    part.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    expected = picture(pipe, name)
    plainly, with_gradient = len(calls), sum(calls)
    calls.clear()
    network.enable_gradient_checkpointing()
    assert_same(picture(pipe, name), expected)
    assert with_gradient > 0 and len(calls) == plainly + with_gradient
    assert network.is_gradient_checkpointing


@pytest.mark.parametrize("name", ["flux", "sana", "sd-controlnet", "qwen-image"])
def test_everything_at_once(name):
    expected = picture(FAMILIES[name].make(), name)
    pipe = FAMILIES[name].make()
    save_memory(pipe)
    offload(pipe, "sequential")
    assert all(network.is_gradient_checkpointing for network in networks_of(pipe))
    assert_same(picture(pipe, name), expected, tolerance=1e-4)


@pytest.mark.parametrize("name", ["flux", "sd-controlnet"])
def test_channels_last_is_the_same_picture(name):
    pipe = FAMILIES[name].make()
    sync = fs.SyncPipeline(pipe)
    sync._runtime = Runtime.of(pipe, channels_last=True)
    convolutions = [
        p for network in networks_of(pipe) for p in network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1
    ]
    seen = []
    networks_of(pipe)[0].register_forward_pre_hook(
        lambda *_: seen.append([p.is_contiguous(memory_format=torch.channels_last) for p in convolutions])
    )
    assert_same(picture(pipe, name, sync=sync), plain(name))
    assert all(seen[-1]) and all(p.is_contiguous() for p in convolutions)


# ---- which networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_denoiser_comes_first_and_encoders_are_none(name):
    pipe = FAMILIES[name].make()
    networks = networks_of(pipe)
    denoiser = next(getattr(pipe, part) for part in ("unet", "transformer") if getattr(pipe, part, None) is not None)
    assert networks[0] is denoiser
    for part in ("text_encoder", "text_encoder_2", "image_encoder", "safety_checker", "vae"):
        assert all(network is not getattr(pipe, part, None) for network in networks)
    if getattr(pipe, "controlnet", None) is not None:
        assert networks[-1] is pipe.controlnet
    named = [getattr(pipe, part, None) for part in ("vae", "movq", "vqvae")]
    assert autoencoder_of(pipe) is next((part for part in named if part is not None), None)


def test_networks_that_are_no_models_of_diffusers_are_frozen_too():
    pipe = AWKWARD["plain-module"].make()
    network = networks_of(pipe)[0]
    assert network is pipe.unet
    with Runtime.of(pipe).on(torch.device("cpu")):
        assert not any(p.requires_grad for p in network.parameters())
    assert all(p.requires_grad for p in network.parameters())
    save_memory(pipe)


def test_attention_that_does_more_than_attend_is_not_replaced():
    with pytest.raises(
        ValueError, match="would replace JointAttnProcessor2_0 of SD3Transformer2DModel, which computes"
    ):
        AttentionSwitch(FAMILIES["sd3"].make().transformer, "sdpa")
    with pytest.raises(ValueError, match="FluxTransformer2DModel has none"):
        AttentionSwitch(FAMILIES["flux"].make().transformer, "sdpa")
    with pytest.raises(ValueError, match="would replace IPAdapterAttnProcessor2_0"):
        AttentionSwitch(FAMILIES["sd-ip-adapter"].make().unet, "sdpa")
