"""Sessions on a CUDA device: what was stopped goes on bit for bit, and networks are left as they were."""

import io

import pytest
import torch
from cuda_runs import arguments, two_m

import fastsync as fs
from fastsync.priors import Runtime

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CASES = {
    "a wavefront": (fs.SyncVC(iterations=2), {"previews": False}),
    "noise that is drawn ahead": (fs.SyncVC(iterations=1), {"previews": False, "eta": 0.6}),
    "candidates": (fs.SyncVC(search=3), {"order": "sequential", "eta": 0.6}),
    "a solver that looks back": (fs.MultiDiffusion(), {"scheduler": two_m, "steps": 8}),
    "a merge of estimates": (fs.SyncTweedies(), {"eta": 0.6}),
    "a canvas of its own": (fs.StochSync(steps=4), {}),
    "states on the CPU": (fs.SyncVC(iterations=2), {"canvas_device": "cpu", "eta": 0.6}),
}


def session(name, generator):
    method, settings = CASES[name]
    parts, keywords = arguments("cuda", method, generator=generator, **settings)
    return fs.Session(*parts, **keywords)


@pytest.mark.parametrize("loaded", ["cpu", "cuda"])
@pytest.mark.parametrize("drawn", ["cpu", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_bit_for_bit(name, drawn, loaded):
    """With generators on either side, and a state that was loaded to either."""
    whole = session(name, torch.Generator(drawn).manual_seed(3))
    for _ in range(2):
        next(whole)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    for _ in whole:
        pass
    expected = whole.result()
    file.seek(0)
    again = session(name, torch.Generator(drawn).manual_seed(99))
    again.load_state_dict(torch.load(file, map_location=loaded, weights_only=True))
    assert len(list(again)) == len(whole) - 2
    out = again.result()
    assert torch.equal(out.canvas, expected.canvas) and torch.equal(out.views, expected.views)
    assert out.stats.evaluations == expected.stats.evaluations


def test_without_a_generator_the_devices_own_goes_on():
    torch.cuda.manual_seed(5)
    parts, keywords = arguments("cuda", fs.SyncTweedies(), eta=0.6)
    whole = fs.Session(*parts, **{**keywords, "generator": None})
    next(whole)
    state = whole.state_dict()
    for _ in whole:
        pass
    torch.cuda.manual_seed(6)
    again = fs.Session(*parts, **{**keywords, "generator": None})
    again.load_state_dict(state)
    for _ in again:
        pass
    assert torch.equal(again.result().canvas, whole.result().canvas)


def test_previews_are_on_the_device_and_views_may_be_replaced_from_the_host():
    parts, keywords = arguments("cuda", fs.MultiDiffusion(), scheduler=two_m, steps=6)
    zeros = torch.zeros(5, 4, 16, 16)
    run = fs.Session(*parts, **keywords)
    for state in run:
        assert state.views.is_cuda and state.x0.is_cuda
        if state.step == 2:
            state.views = zeros
            assert torch.equal(state.views.cpu(), zeros)
    assert bool(run.result().canvas.isfinite().all())


def strides(module):
    return {name: (p.stride(), p.device, p.dtype) for name, p in module.named_parameters()}


def test_channels_last_is_undone_on_the_device():
    tiny = pytest.importorskip("tiny_pipelines")
    pipe = tiny.make_pipeline().to("cuda")
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt("a cat")
    canvas = fs.WideCanvas((8, 20), (8, 8), 6)
    z = torch.randn(1, 4, 8, 20, generator=torch.Generator().manual_seed(0))
    given = {"cond": cond, "uncond": uncond, "num_inference_steps": 3, "latents": z}
    plain = fs.sample(prior, canvas, fs.SyncVC(iterations=1), **given)
    before, weight = strides(pipe.unet), pipe.unet.conv_in.weight.detach().clone()
    prior = fs.DiffusersPrior(pipe, runtime=Runtime.of(pipe, channels_last=True))
    seen = []
    hook = pipe.unet.conv_in.register_forward_pre_hook(
        lambda module, _: seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))
    )
    out = fs.sample(prior, canvas, fs.SyncVC(iterations=1), **given)
    assert seen and all(seen)
    assert float((out.canvas - plain.canvas).norm() / plain.canvas.norm()) < 1e-3
    assert strides(pipe.unet) == before and torch.equal(pipe.unet.conv_in.weight, weight)
    assert all(p.requires_grad for p in pipe.unet.parameters())
    # After an error as well.
    hook.remove()
    pipe.unet.conv_out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fs.sample(prior, canvas, fs.SyncVC(iterations=1), **given)
    assert strides(pipe.unet) == before
