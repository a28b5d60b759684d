"""ControlNetPrior on tiny real pipelines: diffusers' own numbers, and controls that reach their views."""

import accelerate
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DiffusionPipeline, StableDiffusionControlNetPipeline
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from exact_priors import randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.priors import ControlNetPrior, Runtime

CANVAS = fs.WideCanvas((8, 20), (8, 8), 6)
VIEWS = 3
STEPS = 4


def depths(n=VIEWS, seed=0, dtype=torch.float32):
    return torch.rand(n, 1, tiny.PIXELS, tiny.PIXELS, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def told(prior, n=VIEWS, seed=0):
    return prior.with_control(*prior.encode_prompt("a cat", "grey"), depths(n, seed))


def sampled(prior, method=None, cond=None, seed=0, **settings):
    """Three windows under control."""
    given = told(prior) if cond is None else cond
    dtype = prior.dtype if prior.dtype == torch.float64 else torch.float32
    return fs.sample(
        prior, CANVAS, method or fs.SyncVC(iterations=1), cond=given[0], uncond=given[1], guidance_scale=4.0,
        num_inference_steps=STEPS, latents=randn(1, 4, 8, 20, seed=seed, dtype=dtype), **settings,
    )  # fmt: skip


@pytest.fixture
def pipe():
    return tiny.make_control_pipeline()


def embeddings_counted(pipe):
    calls = []
    pipe.controlnet.controlnet_cond_embedding.register_forward_hook(lambda m, given, out: calls.append(given[0]))
    return calls


# ---- the pipeline's own numbers ---------------------------------------------------------------------------------


def test_wrap_chooses_and_says_what_takes_depth(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    prior = priors.wrap(loaded, conditioning_scale=0.5)
    assert type(loaded) is StableDiffusionControlNetPipeline and type(prior) is ControlNetPrior
    assert prior.conditioning_scale == 0.5 and prior.view_shape == (4, 8, 8) and prior.control_shape == (3, 16, 16)
    assert prior.takes_control and not priors.wrap(tiny.make_pipeline()).takes_control
    assert ControlNetPrior(pipe, window=(6, 10)).control_shape == (3, 12, 20)


@pytest.mark.parametrize("method", [fs.Independent(), fs.SyncVC(iterations=1)], ids=["independent", "syncvc"])
@pytest.mark.parametrize("guidance, scale", [(4.0, 1.0), (1.0, 0.6)])
def test_one_view_is_the_call_of_diffusers(pipe, method, guidance, scale):
    latents, depth = randn(1, 4, 8, 8, dtype=torch.float32), depths(1)
    calls = embeddings_counted(pipe)
    picture = depth.expand(-1, 3, -1, -1)
    expected = pipe(
        "a cat", image=picture, negative_prompt="grey", num_inference_steps=STEPS, guidance_scale=guidance,
        controlnet_conditioning_scale=scale, latents=latents, output_type="latent",
    ).images  # fmt: skip
    assert len(calls) == STEPS
    calls.clear()
    prior = ControlNetPrior(pipe, conditioning_scale=scale)
    cond, uncond = prior.with_control(*prior.encode_prompt("a cat", "grey"), depth)
    assert cond["control"] is uncond["control"] and torch.equal(cond["control"], picture)
    out = fs.sample(
        prior, fs.WideCanvas((8, 8), (8, 8), 6), method, cond=cond, uncond=uncond, guidance_scale=guidance,
        num_inference_steps=STEPS, latents=latents,
    )  # fmt: skip
    assert relative(out.views, expected) < 1e-5
    assert len(calls) == 1  # of the picture, which depends neither on the view's noise nor on the time
    with torch.no_grad():
        pixels = pipe.vae.decode(expected / pipe.vae.config.scaling_factor).sample
        assert relative(prior.decode(out.views), pixels) < 1e-5


def test_pictures_are_embedded_once_a_view_and_run(pipe):
    calls = embeddings_counted(pipe)
    prior = ControlNetPrior(pipe)
    own, expected = pipe.controlnet.controlnet_cond_embedding, sampled(prior, order="sequential")
    assert len(calls) == VIEWS and all(given.shape == (1, 3, 16, 16) for given in calls)
    assert pipe.controlnet.controlnet_cond_embedding is own
    prior.prepare_conditions = lambda cond, uncond, num_views: (cond, uncond)  # each call embeds
    calls.clear()
    assert relative(sampled(prior, order="sequential").views, expected.views) < 1e-5
    assert len(calls) == expected.stats.calls > VIEWS


def test_pictures_of_either_half_may_differ_and_channels_may_be_swapped():
    plain = tiny.make_pipeline()
    for order in ("rgb", "bgr"):
        net = tiny.make_controlnet(plain.unet, controlnet_conditioning_channel_order=order)
        prior = ControlNetPrior(tiny.make_control_pipeline(controlnet=net))
        text, text_uncond = (c.expand(2, -1, -1) for c in prior.encode_prompt("a cat"))
        a, b, x = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.randn(2, 4, 8, 8)
        t = torch.tensor([800, 200])
        with torch.no_grad():
            given = fs.Conditions({"text": text, "control": a}), fs.Conditions({"text": text_uncond, "control": b})
            expected = prior.raw(x, t, *given)
            with prior.sampling():
                prepared = prior.prepare_conditions(*given, 2)
                assert prepared[0]["embedded"].shape == (2, 8, 8, 8)
                got = prior.raw(x, t, *prepared)
            other = prior.raw(x, t, given[0], given[1].updated(control=a))
        assert relative(got, expected) < 1e-6 < relative(other, expected)


# ---- synchronised views -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"max_batch": 2, "fixed_batches": True}], ids=["whole", "padded"])
def test_every_order_gives_the_same_numbers(changes):
    prior = ControlNetPrior(tiny.make_control_pipeline(dtype=torch.float64))
    first = sampled(prior, order="sequential")
    second = sampled(prior, order="wavefront", **changes)
    assert first.views.dtype == torch.float64 and relative(second.views, first.views) < 1e-10
    plain = fs.DiffusersPrior(tiny.make_pipeline(dtype=torch.float64))
    expected = sampled(plain, cond=plain.encode_prompt("a cat", "grey"), order="sequential").stats
    for out in (first, second):
        assert (out.stats.evaluations, out.stats.gradients) == (expected.evaluations, expected.gradients)
    assert first.stats.calls == expected.calls


def test_a_control_reaches_its_own_view(pipe):
    prior = ControlNetPrior(pipe)
    before, cond = sampled(prior, fs.Independent()), told(prior)
    control = cond[0]["control"].clone()
    control[1] = 1 - control[1]
    after = sampled(prior, fs.Independent(), cond=[c.updated(control=control) for c in cond])
    changed = [relative(new, old) for new, old in zip(after.views, before.views, strict=True)]
    assert changed[1] > 1e-3 and changed[0] < 1e-6 and changed[2] < 1e-6


def test_one_control_may_serve_all_views(pipe):
    prior = ControlNetPrior(pipe)
    calls = embeddings_counted(pipe)
    one = sampled(prior, fs.Independent(), cond=told(prior, 1))
    assert len(calls) == 1
    cond, uncond = told(prior, 1)
    control = cond["control"].repeat(VIEWS, 1, 1, 1)
    several = sampled(prior, fs.Independent(), cond=[c.updated(control=control) for c in (cond, uncond)])
    assert relative(several.views, one.views) < 1e-6


def test_gradients_go_through_the_unet_and_the_controlnet():
    pipe = tiny.make_control_pipeline(dtype=torch.float64)
    prior = ControlNetPrior(pipe)
    (cond, _), t = told(prior, 1), torch.tensor([500])
    x, direction = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    weights = randn(1, 4, 8, 8, seed=2)

    def value(x):
        return (prior.raw(x, t, cond, None) * weights).sum()

    with prior.sampling():
        cond, _ = prior.prepare_conditions(cond, None, 1)
        leaf = x.clone().requires_grad_()
        [gradient] = torch.autograd.grad(value(leaf), leaf)
        with torch.no_grad():
            slope = (value(x + 1e-5 * direction) - value(x - 1e-5 * direction)) / 2e-5
    assert relative((gradient * direction).sum(), slope) < 1e-6
    handle = pipe.controlnet.register_forward_pre_hook(lambda m, given: (given[0].detach(), *given[1:]))
    [unet_alone] = torch.autograd.grad(value(leaf), leaf)
    handle.remove()
    assert relative(unet_alone, gradient) > 1e-3


# ---- what is borrowed is given back -----------------------------------------------------------------------------


def test_both_networks_are_frozen_and_everything_is_given_back(pipe):
    pipe.controlnet.conv_in.requires_grad_(False)  # a user's own choice
    parts = [*pipe.unet.parameters(), *pipe.controlnet.parameters()]
    flags, own = [p.requires_grad for p in parts], pipe.controlnet.controlnet_cond_embedding
    prior, during = ControlNetPrior(pipe), []
    handle = pipe.unet.register_forward_hook(lambda *_: during.append(any(p.requires_grad for p in parts)))
    sampled(prior)
    handle.remove()
    assert during and not any(during) and all(p.grad is None for p in parts)

    def fail(*_):
        raise KeyboardInterrupt

    for network in (pipe.unet, pipe.controlnet, pipe.controlnet.mid_block):
        handle = network.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            sampled(prior)
        handle.remove()
        assert [p.requires_grad for p in parts] == flags
        assert pipe.controlnet.controlnet_cond_embedding is own


@pytest.mark.parametrize("how", ["model", "sequential"])
def test_offloaded_pipelines_give_the_same_numbers(how):
    expected, pipe = sampled(ControlNetPrior(tiny.make_control_pipeline())), tiny.make_control_pipeline()
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:  # as in test_memory_switches
        for model in (pipe.text_encoder, pipe.unet, pipe.vae, pipe.controlnet):
            accelerate.cpu_offload(model, torch.device("cpu"))
    for _ in range(2):
        assert relative(sampled(ControlNetPrior(pipe)).views, expected.views) < 1e-6
    kind = "cpu" if how == "model" else "meta"
    assert {p.device.type for p in pipe.controlnet.parameters()} == {kind}


def test_gradient_checkpointing_changes_no_number(pipe):
    expected = sampled(ControlNetPrior(pipe))
    calls = []
    pipe.controlnet.down_blocks[1].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    sampled(ControlNetPrior(pipe))
    plain = len(calls)
    calls.clear()
    pipe.unet.enable_gradient_checkpointing()
    pipe.controlnet.enable_gradient_checkpointing()
    assert relative(sampled(ControlNetPrior(pipe)).views, expected.views) < 1e-6
    assert len(calls) > plain


def test_half_precision(pipe):
    expected = sampled(ControlNetPrior(pipe), fs.Independent())
    prior = ControlNetPrior(tiny.make_control_pipeline(dtype=torch.bfloat16))
    seen = set()
    for network in (prior.pipe.unet, prior.pipe.controlnet):
        network.conv_in.register_forward_pre_hook(lambda m, given: seen.add(given[0].dtype))
    out = sampled(prior)
    assert seen == {torch.bfloat16} and out.views.dtype == torch.float32 and torch.isfinite(out.views).all()
    assert relative(sampled(prior, fs.Independent()).views, expected.views) < 0.05


@pytest.mark.parametrize("neighbours", [None, priors.view_ring(2)], ids=["alone", "shared"])
def test_the_unet_may_be_compiled(pipe, neighbours):
    t = torch.tensor([500, 100])

    def work(compile):
        prior = ControlNetPrior(pipe, runtime=Runtime.of(pipe, compile=compile), neighbours=neighbours)
        told_two = told(prior, 2)[0]
        x = randn(2, 4, 8, 8, dtype=torch.float32).requires_grad_()
        with prior.sampling():
            cond, _ = prior.prepare_conditions(told_two.select([0, 1]), None, 2)
            raw = prior.raw(x, t, cond, None)
            return raw.detach(), torch.autograd.grad(raw.square().sum(), x)[0]

    torch._dynamo.reset()
    for got, expected in zip(work("regional"), work("off"), strict=True):
        assert relative(got, expected) < 1e-4


# ---- sentences --------------------------------------------------------------------------------------------------


def refused(call, *words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 300


def test_conditions_without_control_are_refused_before_any_call(pipe):
    prior = ControlNetPrior(pipe)
    text, calls = prior.encode_prompt("a cat"), []
    pipe.controlnet.register_forward_pre_hook(lambda *_: calls.append(1))
    refused(
        lambda: sampled(prior, cond=text), "cond is Conditions(text:", "[N, 3, 16, 16]", "with_control", "encode_prompt"
    )
    picture = torch.zeros(1, 3, 8, 8)
    pair = tuple(fs.Conditions({"text": c, "control": picture}) for c in text)
    refused(lambda: sampled(prior, cond=pair), "[N, 3, 16, 16]", "[1, 3, 8, 8]")
    more = told(prior)[0].updated(style=text[0])
    refused(lambda: sampled(prior, cond=(more, None)), "style", "needs text embeddings")
    plain = fs.DiffusersPrior(tiny.make_pipeline())
    refused(lambda: sampled(plain, cond=told(prior)), "control", "needs text embeddings")
    refused(lambda: sampled(prior, fs.SyncVC(feature_reuse=True)), "feature_reuse=False")
    assert not calls


@pytest.mark.parametrize(
    "depth, words",
    [
        (torch.zeros(3, 16, 16), ["[N, 1, 16, 16] or [N, 3, 16, 16]", "[3, 16, 16]"]),
        (torch.zeros(3, 1, 8, 8), ["[N, 1, 16, 16]", "[3, 1, 8, 8]"]),
        (torch.zeros(3, 2, 16, 16), ["[N, 1, 16, 16] or [N, 3, 16, 16]", "[3, 2, 16, 16]"]),
        (torch.full((1, 1, 16, 16), 5.0), ["0 (background) to 1 (nearest)", "5 to 5"]),
        (torch.zeros(1, 1, 16, 16, dtype=torch.int64), ["floating-point", "int64"]),
        (torch.full((1, 1, 16, 16), float("nan")), ["NaN"]),
    ],
)
def test_controls_are_checked(pipe, depth, words):
    prior = ControlNetPrior(pipe)
    refused(lambda: prior.with_control(*prior.encode_prompt("a cat"), depth), "control", *words)


def test_pictures_are_taken_as_they_are_and_depth_in_all_channels(pipe):
    prior, picture = ControlNetPrior(pipe), torch.rand(2, 3, 16, 16)
    cond, uncond = prior.with_control(*prior.encode_prompt("a cat"), picture)
    assert torch.equal(cond["control"], picture) and cond["control"] is uncond["control"]
    grey = prior.with_control(*prior.encode_prompt("a cat"), picture[:, :1])[0]
    assert torch.equal(grey["control"], picture[:, :1].expand(-1, 3, -1, -1))


def test_a_control_is_given_once(pipe):
    prior = ControlNetPrior(pipe)
    refused(lambda: prior.with_control(*told(prior), depths()), "cond must be text embeddings", "Conditions")
    cond, uncond = prior.with_control(prior.encode_prompt("a cat")[0], None, depths())
    assert uncond is None and cond["control"].shape == (3, 3, 16, 16)


def test_other_pipelines_are_refused(pipe):
    refused(lambda: ControlNetPrior(tiny.make_pipeline()), "no ControlNet", "priors.wrap")
    refused(lambda: fs.DiffusersPrior(pipe), "a ControlNet", "priors.wrap")
    several = tiny.make_control_pipeline(controlnet=MultiControlNetModel([pipe.controlnet, pipe.controlnet]))
    refused(lambda: ControlNetPrior(several), "MultiControlNetModel", "single ControlNet")
    assert type(priors.wrap(several)) is fs.ProbedPrior
    wide = tiny.make_controlnet(tiny.make_unet(cross_attention_dim=24))
    refused(lambda: priors.wrap(tiny.make_control_pipeline(controlnet=wide)), "width 24", "16")
    pooled = tiny.make_controlnet(pipe.unet)
    pooled.register_to_config(global_pool_conditions=True)
    refused(lambda: ControlNetPrior(tiny.make_control_pipeline(controlnet=pooled)), "global_pool_conditions")
    refused(lambda: ControlNetPrior(pipe, conditioning_scale="much"), "conditioning_scale")
