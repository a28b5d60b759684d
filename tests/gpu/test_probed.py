"""Pipelines that are probed, on a CUDA device in half precision: one real call, no recompilation, the same picture."""

import pytest
import torch
from exact_priors import relative
from families import FAMILIES
from torch._dynamo.utils import counters

import fastsync as fs
from fastsync.priors import ViewRequest
from fastsync.priors.probed import ProbedPrior

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
NAMES = ("sd", "sdxl", "sd3", "flux", "sana", "z-image")


def made(name, dtype):
    return FAMILIES[name].make(dtype=dtype).to("cuda")


def arguments(name):
    call = FAMILIES[name].call()
    texts = {key: call.pop(key, None) for key in ("prompt", "negative_prompt")}
    window, _ = (call.pop("height"), call.pop("width")), call.pop("guidance_scale", None)
    return texts, window, call


def picture(sync, name, seed=0, **options):
    texts, window, call = arguments(name)
    return sync.wide(
        texts["prompt"], negative_prompt=texts["negative_prompt"], window=window, width=40, overlap=4, seed=seed,
        pipe_kwargs=call, method=fs.SyncVC(iterations=2), num_inference_steps=4, output_type="latent", progress=False,
        **options,
    ).latents  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_probe_asks_once(name, dtype):
    pipe, calls = made(name, dtype), []
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    texts, window, call = arguments(name)
    prior = ProbedPrior(pipe, window=window, pipe_kwargs=call)
    prior.told(ViewRequest(3, [texts["prompt"]], texts["negative_prompt"]))
    prior.steps(10)
    assert len(calls) == 1 and prior.dtype == dtype and prior.device.type == "cuda"


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_those_of_the_cpu(name):
    expected = picture(fs.SyncPipeline(FAMILIES[name].make()), name)
    assert relative(picture(fs.SyncPipeline(made(name, torch.float32)), name).cpu(), expected) < 1e-3


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_regional_compiles_in_the_first_run_alone(name):
    pipe = made(name, torch.bfloat16)
    torch._dynamo.reset()
    counters.clear()
    sync = fs.SyncPipeline(pipe, compile="regional")
    picture(sync, name)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0 and not counters["graph_break"]
    picture(sync, name, seed=1)
    assert counters["stats"]["unique_graphs"] == graphs


def test_offloaded_pipelines_make_the_same_picture():
    expected = picture(fs.SyncPipeline(made("flux", torch.bfloat16)), "flux")
    pipe = FAMILIES["flux"].make(dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    assert relative(picture(fs.SyncPipeline(pipe), "flux"), expected) < 2e-2
