"""What users switch on when memory is small, on the pipeline itself, changes no number and is left as it was."""

import sys
import types

import accelerate
import pytest
import tiny_pipelines as tiny
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor
from exact_priors import relative

import fastsync as fs
from bench.memory import evaluation
from fastsync import zoo
from fastsync.priors import AttentionSwitch, Runtime

METHODS = [fs.MultiDiffusion(), fs.SyncVC(iterations=2)]


def picture(pipe, method=METHODS[1], **settings):
    """Three windows; latents and pixels."""
    sync = fs.SyncPipeline(pipe, **settings)
    out = sync.wide(
        "a cat", width=40, overlap=4, method=method, num_inference_steps=3, seed=0, output_type="pt", progress=False
    )
    return out


def assert_same(out, expected, tolerance=1e-6):
    assert relative(out.latents, expected.latents) <= tolerance
    assert relative(out.images, expected.images) <= tolerance


# ---- gradient checkpointing -------------------------------------------------------------------------------------


def test_gradient_checkpointing_is_honoured_in_eval_mode_with_frozen_weights():
    pipe = tiny.make_pipeline()
    calls = []
    pipe.unet.down_blocks[1].resnets[0].register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    expected, plain = picture(pipe), len(calls)
    gradients = sum(calls)
    calls.clear()
    pipe.unet.enable_gradient_checkpointing()
    assert_same(picture(pipe), expected)
    assert gradients > 0 and len(calls) == plain + gradients  # each differentiated call is made once more
    assert pipe.unet.is_gradient_checkpointing


def test_gradient_checkpointing_takes_less_memory():
    unet = tiny.make_unet().requires_grad_(False)
    size = {"window": (8, 8), "text": (tiny.TOKENS, tiny.WIDTH), "backward": True}
    plain = evaluation(unet, views=2, **size)
    unet.enable_gradient_checkpointing()
    assert evaluation(unet, views=2, **size) < 0.7 * plain


def test_gradient_checkpointing_of_compiled_blocks():
    pipe = tiny.make_pipeline()
    expected = picture(pipe)
    pipe.unet.enable_gradient_checkpointing()
    torch._dynamo.reset()
    assert_same(picture(pipe, compile="regional"), expected, tolerance=1e-4)


# ---- accelerate's offload ---------------------------------------------------------------------------------------


def offload(pipe, how):
    """On this machine the device that models are loaded onto is the CPU too; hooks and meta weights are the same."""
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        # What enable_sequential_cpu_offload does; its own "cpu:0" accelerate takes for another device than "cpu".
        for model in (pipe.text_encoder, pipe.unet, pipe.vae):
            accelerate.cpu_offload(model, torch.device("cpu"))
    return pipe


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=["multidiffusion", "syncvc"])
@pytest.mark.parametrize("how", ["model", "sequential"])
def test_offloaded_pipelines_make_the_same_picture(how, method, tiled):
    expected = picture(tiny.make_pipeline(), method)
    pipe = tiny.make_pipeline()
    pipe.unet.conv_in.requires_grad_(False)  # a user's own choice, which must survive
    flags = [p.requires_grad for p in pipe.unet.parameters()]
    offload(pipe, how)
    if tiled:
        pipe.vae.enable_tiling()
    during = []
    pipe.unet.conv_out.register_forward_pre_hook(lambda module, _: during.append(module.weight.requires_grad))
    assert_same(picture(pipe, method), expected)
    assert during and not any(during)
    assert [p.requires_grad for p in pipe.unet.parameters()] == flags
    assert {p.device.type for p in pipe.unet.parameters()} == {"cpu" if how == "model" else "meta"}
    assert_same(picture(pipe, method), expected)  # and again


def test_all_switches_at_once():
    expected = picture(tiny.make_pipeline())
    pipe = offload(tiny.make_pipeline(), "sequential")
    pipe.unet.enable_gradient_checkpointing()
    pipe.vae.enable_tiling()
    assert_same(picture(pipe), expected)


def test_whole_model_offload_leaves_the_unet_alone_while_it_is_needed():
    """Else each decode of a reward moves the UNet's weights away, before the backward pass that needs them."""
    pipe = offload(tiny.make_pipeline(), "model")
    hook = pipe.vae._hf_hook
    before = hook.prev_module_hook
    assert before.model is pipe.unet
    prior = fs.DiffusersPrior(pipe)
    with pytest.raises(KeyError), prior.sampling():
        assert hook.prev_module_hook is None
        raise KeyError
    assert hook.prev_module_hook is before
    style = fs.SyncVC(iterations=1, rewards=[fs.rewards.Perceptual()])
    assert_same(picture(pipe, style), picture(tiny.make_pipeline(), style))
    assert pipe.vae._hf_hook.prev_module_hook.model is pipe.unet


# ---- attention --------------------------------------------------------------------------------------------------


def layers(pipe):
    return [module for module in pipe.unet.modules() if hasattr(module, "set_processor")]


def test_attention_is_swapped_for_the_run_and_given_back():
    pipe = tiny.make_pipeline()
    pipe.unet.set_attn_processor(AttnProcessor())
    own = [layer.processor for layer in layers(pipe)]
    assert own
    seen = []
    pipe.unet.register_forward_pre_hook(lambda *_: seen.append({type(layer.processor) for layer in layers(pipe)}))
    expected = picture(pipe)
    assert {kind for kinds in seen for kind in kinds} == {AttnProcessor}  # None leaves the user's own
    seen.clear()
    assert_same(picture(pipe, attention="sdpa"), expected, tolerance=1e-5)
    assert {kind for kinds in seen for kind in kinds} == {AttnProcessor2_0}
    assert all(layer.processor is mine for layer, mine in zip(layers(pipe), own, strict=True))


def test_attention_of_pixel_pipelines():
    """Their layers take text beside the picture, which needs a processor of its own."""
    pipe = tiny.make_pixel_pipeline()
    settings = {"method": "multidiffusion", "num_inference_steps": 1, "seed": 0, "output_type": "latent"}
    plain, sdpa = (
        fs.SyncPipeline(pipe, attention=attention).wide("cat", width=24, progress=False, **settings).latents
        for attention in (None, "sdpa")
    )
    assert layers(pipe) and relative(sdpa, plain) < 1e-5


@pytest.fixture
def xformers(monkeypatch):
    """A stand-in for the package; what it computes is torch's own attention."""
    from diffusers.models import attention_processor

    def attend(query, key, value, attn_bias=None, op=None, scale=None):
        calls.append(query.shape)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_bias, scale=scale)

    calls: list = []
    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, attend
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(attention_processor, "xformers", package, raising=False)
    return calls


def test_xformers_computes_what_it_is_asked_for(xformers):
    pipe = tiny.make_pipeline()
    prior = fs.DiffusersPrior(pipe)
    cond, _ = prior.encode_prompt("a cat")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 100])
    expected = prior.raw(x, t, cond).detach()
    switch = AttentionSwitch(pipe.unet, "xformers")
    own = [layer.processor for layer in layers(pipe)]
    with pytest.raises(KeyError), switch.on(torch.device("cuda")):
        assert all(isinstance(layer.processor, XFormersAttnProcessor) for layer in layers(pipe))
        assert relative(prior.raw(x, t, cond).detach(), expected) < 1e-5
        raise KeyError
    assert xformers and [layer.processor for layer in layers(pipe)] == own


def test_xformers_on_a_cpu_is_refused(xformers):
    with pytest.raises(ValueError, match="needs the network on a CUDA GPU, and it is on cpu: .* attention='sdpa'"):
        picture(tiny.make_pipeline(), attention="xformers")


def test_without_xformers_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(ValueError, match="cannot be imported .*: run pip install xformers, or use attention='sdpa'"):
        fs.SyncPipeline(tiny.make_pipeline(), attention="xformers")
    with pytest.raises(ValueError, match="attention must be one of 'sdpa', 'xformers', got 'flash'"):
        fs.SyncPipeline(tiny.make_pipeline(), attention="flash")


# ---- channels-last ----------------------------------------------------------------------------------------------


@pytest.mark.skipif("scenes" not in zoo.names(), reason="the weights of `scenes` are not there yet")
def test_pipelines_that_are_loaded_here_are_channels_last_on_a_cpu_while_they_sample():
    sync = fs.SyncPipeline.from_zoo("scenes", device="cpu")
    weight, seen = sync.pipe.unet.conv_in.weight, []
    before = weight.stride()
    handle = sync.pipe.unet.register_forward_hook(
        lambda *_: seen.append(weight.is_contiguous(memory_format=torch.channels_last))
    )
    settings = {"width": 128, "num_inference_steps": 1, "method": "independent", "progress": False}
    sync.wide("dunes", seed=0, **settings)
    handle.remove()
    assert seen and all(seen) and weight.stride() == before


@pytest.mark.skipif("scenes" not in zoo.names(), reason="the weights of `scenes` are not there yet")
def test_channels_last_is_the_same_numbers():
    pipe = fs.SyncPipeline.from_zoo("scenes", device="cpu").pipe
    prior = fs.DiffusersPrior(pipe)
    other = fs.DiffusersPrior(pipe, runtime=Runtime.of(pipe, channels_last=True))
    cond, uncond = prior.encode_prompt("dunes")
    x = torch.randn(2, *prior.view_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def work():
        raw = prior.raw(x, torch.tensor([800, 200]), cond, uncond)
        return raw.detach(), torch.autograd.grad(raw.square().sum(), x)[0]

    with other.sampling():
        assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        fast = work()
    assert not pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for got, expected in zip(fast, work(), strict=True):
        assert relative(got, expected) < 1e-5


def test_a_pipeline_that_is_handed_over_keeps_its_layout():
    pipe = tiny.make_pipeline()
    fs.SyncPipeline(pipe)
    assert pipe.unet.conv_in.weight.is_contiguous()
    assert not pipe.unet.down_blocks[0].resnets[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
