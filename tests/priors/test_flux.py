"""FLUX, probed: diffusers' own pictures, packed and unpacked, guidance told and true."""

import functools

import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch
from diffusers import FluxPipeline
from exact_priors import randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.priors import Compiler, Runtime, ViewRequest

WINDOW = fs.WideCanvas((8, 8), (8, 8), 8)
P = tiny.PIXELS


@pytest.fixture(scope="module")
def pipe():
    return families.make_flux_pipeline()


def generator():
    return torch.Generator().manual_seed(5)


def own(pipe, height=P, width=P, **settings):
    """The pipeline's latents [1, C, h, w]."""
    latents = pipe(
        "a cat", height=height, width=width, num_inference_steps=6, generator=generator(), output_type="latent",
        **settings,
    ).images  # fmt: skip
    return FluxPipeline._unpack_latents(latents, height, width, tiny.SCALE)


def wrapped(pipe, window=None, **pipe_kwargs):
    return priors.wrap(pipe, window=window, pipe_kwargs=pipe_kwargs)


def sampled(prior, negative=None, guidance=None, **settings):
    told = prior.told(ViewRequest(1, ["a cat"], negative, None if guidance is None else fs.Guidance(guidance)))
    canvas = fs.WideCanvas(prior.window, prior.window, prior.window)
    given = {
        "cond": told.cond, "uncond": told.uncond, "guidance_scale": told.guidance, "num_inference_steps": 6,
        "generator": generator(),
    }  # fmt: skip
    return fs.sample(prior, canvas, fs.SyncVC(iterations=1), **{**given, **settings}).canvas


# ---- the pipeline's own numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("true_guidance", [1.0, 3.0])
@pytest.mark.parametrize("embeds", [True, False], ids=["dev", "schnell"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "fixed"])
def test_one_window_is_the_pipelines_own_picture(dynamic, embeds, true_guidance):
    scheduler = families.make_flux_scheduler(use_dynamic_shifting=dynamic)
    pipe = families.make_flux_pipeline(scheduler=scheduler, guidance_embeds=embeds)
    expected = own(pipe, negative_prompt="grey", true_cfg_scale=true_guidance, guidance_scale=2.5)
    prior = wrapped(pipe, true_cfg_scale=true_guidance)
    guidance = 2.5 if embeds else None  # nothing is told to the other
    assert relative(sampled(prior, "grey", guidance), expected) < 1e-4 and expected.std() > 0.5
    other = wrapped(pipe, true_cfg_scale=2.0)
    assert relative(sampled(other, "grey", guidance), expected) > 1e-4


def test_the_shift_is_that_of_the_windows_size(pipe):
    for window in ((16, 32), (32, 32)):
        assert relative(sampled(wrapped(pipe, window)), own(pipe, *window)) < 1e-4
    tables = [wrapped(pipe, (side, side)).steps(6).timesteps for side in (16, 128)]
    assert (tables[1] - tables[0])[1:].min() > 1
    exponential = families.make_flux_scheduler(time_shift_type="linear", base_image_seq_len=8, max_image_seq_len=64)
    other = families.make_flux_pipeline(scheduler=exponential)
    assert relative(sampled(wrapped(other)), own(other)) < 1e-4


@pytest.mark.parametrize("guidance", [None, 1.0, 6.0])
def test_tasks_take_guidance_scale_as_the_pipeline_does(pipe, guidance):
    chosen = {} if guidance is None else {"guidance_scale": guidance}
    out = fs.SyncPipeline(pipe).wide(
        "a cat", width=P, num_inference_steps=6, generator=generator(), output_type="latent", progress=False, **chosen
    )
    assert relative(out.latents, own(pipe, **chosen)) < 1e-4
    assert out.parameters["guidance_scale"] == (3.5 if guidance is None else guidance)
    assert out.parameters["solver"] == "flow-euler"
    assert out.stats.evaluations == 6  # one row a step: nothing is guided truly
    other = own(pipe, guidance_scale=2.0)
    assert relative(out.latents, other) > 1e-4


def test_pictures_are_decoded_as_the_pipeline_does(pipe):
    expected = pipe("a cat", height=P, width=P, num_inference_steps=3, generator=generator(), output_type="np").images
    out = fs.SyncPipeline(pipe).wide(
        "a cat", width=P, num_inference_steps=3, generator=generator(), output_type="np", progress=False
    )
    assert abs(out.images - expected).max() < 1e-4 and expected.std() > 0.05


def test_conditions_are_the_pipelines_own(pipe):
    prior = wrapped(pipe, (16, 32))
    assert type(prior) is priors.ProbedPrior and prior.view_shape == (4, 8, 16)
    cond, uncond = prior.encode_prompt(["a cat", "a dog"])
    with torch.no_grad():
        text, pooled, text_ids = pipe.encode_prompt(["a cat", "a dog"])
    assert uncond is None and cond["transformer.guidance"].tolist() == [3.5, 3.5]
    for name, wanted in {"encoder_hidden_states": text, "pooled_projections": pooled}.items():
        assert torch.equal(cond[f"transformer.{name}"], wanted)
    [(network, _, named)] = [(call.network, call.args, call.kwargs) for call in cond["recipes"][0].calls]
    ids = FluxPipeline._prepare_latent_image_ids(1, 4, 8, torch.device("cpu"), torch.float32)
    assert network == "transformer" and torch.equal(named["img_ids"].value, ids)
    assert torch.equal(named["txt_ids"].value, text_ids)


def test_views_are_packed_as_the_pipeline_packs_them(pipe):
    prior, seen = wrapped(pipe, (16, 32)), []
    x, cond = randn(2, 4, 8, 16, dtype=torch.float32), prior.encode_prompt("a cat")[0].select([0, 0])
    handle = pipe.transformer.register_forward_hook(
        lambda m, given, named, out: seen.append((named["hidden_states"], named["timestep"], out[0])), with_kwargs=True
    )
    raw = prior.network(x, torch.tensor([900.0, 250.0]), cond)
    handle.remove()
    [(tokens, times, out)] = seen
    assert torch.equal(tokens, FluxPipeline._pack_latents(x, 2, 4, 8, 16))
    assert torch.equal(raw, FluxPipeline._unpack_latents(out, 16, 32, 2)) and torch.equal(
        times, torch.tensor([0.9, 0.25])
    )


def test_each_view_may_be_told_a_guidance_of_its_own(pipe):
    prior, name = wrapped(pipe), "transformer.guidance"
    cond = prior.encode_prompt("a cat")[0]
    canvas, values = fs.WideCanvas((8, 20), (8, 8), 6), [1.0, 3.5, 9.0]
    settings = {"num_inference_steps": 2, "latents": randn(1, 4, 8, 20, dtype=torch.float32)}

    def views(*values):
        told = cond.select([0] * len(values)).updated(**{name: torch.tensor(values)})
        return fs.sample(prior, canvas, fs.Independent(), cond=told, **settings).views

    mixed = views(*values)
    for i, value in enumerate(values):
        changed = [relative(*pair) for pair in zip(views(value), mixed, strict=True)]
        assert changed[i] < 1e-6 and min(changed[:i] + changed[i + 1 :]) > 1e-6


# ---- switches ---------------------------------------------------------------------------------------------------


def test_its_repeated_blocks_are_compiled(pipe):
    compiler = Compiler(pipe.transformer, "regional")
    with compiler.on(torch.device("cpu")):
        compiled = [type(m).__name__ for m in pipe.transformer.modules() if m._compiled_call_impl is not None]
    assert compiled == ["FluxTransformerBlock", "FluxSingleTransformerBlock"]


def test_compiled_blocks_give_the_same_numbers(pipe, monkeypatch):
    """Traced as a whole, forward and backward; what the code that is made of them computes is not in question here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    t = torch.tensor([900.0, 250.0])

    def work(**switches):
        prior = priors.wrap(pipe, runtime=Runtime.of(pipe, **switches))
        x = randn(2, *prior.view_shape, dtype=torch.float32).requires_grad_()
        with prior.sampling():
            raw = prior.network(x, t, prior.encode_prompt("a cat")[0].select([0, 0]))
            return raw.detach(), torch.autograd.grad(raw.square().sum(), x)[0]

    torch._dynamo.reset()
    for got, expected in zip(work(compile="regional"), work(), strict=True):
        assert relative(got, expected) < 1e-4


def test_gradient_checkpointing_changes_no_number(pipe):
    expected = sampled(wrapped(pipe))
    other = families.make_flux_pipeline()
    other.enable_model_cpu_offload(device="cpu")
    other.transformer.enable_gradient_checkpointing()
    assert relative(sampled(wrapped(other)), expected) < 1e-6


# ---- sentences --------------------------------------------------------------------------------------------------


def refused(call, *words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 320


def cached():
    from diffusers import FirstBlockCacheConfig

    pipe = families.make_flux_pipeline()
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    return pipe


def test_what_cannot_be_run_is_refused_in_one_sentence(pipe):
    refused(lambda: wrapped(pipe, (18, 32)), "window is 18 x 32", "16 x 32")
    with pytest.raises(ValueError, match="'true_cfg', which the call of FluxPipeline does not take: .* true_cfg_scale"):
        wrapped(pipe, true_cfg=2.0)  # the names make it long
    refused(lambda: priors.wrap(cached()), "caches from step to step", "disable_cache")
    refused(lambda: priors.wrap(pipe, neighbours=priors.view_ring(3)), "neighbours", "FluxPipeline")
    refused(lambda: wrapped(pipe).steps(0), "num_inference_steps must be at least 1")
    refused(lambda: wrapped(pipe).deep_features(), "ProbedPrior", "feature_reuse=False")
    refused(lambda: fs.SyncPipeline(pipe, attention="sdpa"), "FluxTransformer2DModel has none")
    refused(lambda: Compiler(torch.nn.Linear(2, 2), "regional"), "those of Linear are not known", "compile='max'")


def test_tasks_refuse_what_told_guidance_cannot_do(pipe):
    sync, settings = fs.SyncPipeline(pipe), {"width": P, "num_inference_steps": 1, "progress": False}
    for guidance in (fs.Guidance(3.5, rescale=0.5), fs.Guidance(3.5, interval=(0.2, 0.8))):
        refused(
            lambda guidance=guidance: sync.wide("a cat", guidance_scale=guidance, **settings),
            "tells its network the guidance scale",
        )
