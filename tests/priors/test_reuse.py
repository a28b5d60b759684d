"""Feature reuse: nothing changes where deep levels do not look at the views, nothing is left behind, all is counted."""

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import ddim, nonlinear, relative
from torch._dynamo.utils import counters

import fastsync as fs

SETTINGS = {
    "all": {},
    "half": {"guidance_gradient": "cond"},
    "forward": {"jacobian": "identity"},
    "some": {"tolerance": 0.05},
    "some, half": {"tolerance": 0.05, "guidance_gradient": "cond"},
}
STEPS, VIEWS, K = 6, 3, 4
PIPELINES = {"latents": tiny.make_pipeline, "pixels": tiny.make_pixel_pipeline}


def picture(sync, reuse, seed=0, **settings):
    """Three windows in a wavefront, a prompt each."""
    prior = sync._prior()
    scale, window = prior.scale, prior.window[1]
    return sync.wide(
        ["cat", "dog", "a cat"], width=(3 * window - 4) * scale, overlap=2 * scale, num_inference_steps=STEPS,
        method=fs.SyncVC(**{"iterations": K, "feature_reuse": reuse, **settings}), seed=seed, output_type="latent",
        guidance_scale=3.0, progress=False,
    )  # fmt: skip


class Rows:
    """Counts the rows of a module's calls."""

    def __init__(self, module):
        self.count = 0
        module.register_forward_hook(self)

    def __call__(self, module, given, out):
        self.count += len(out)


def blind(unet):
    """Let what the deep levels give depend on time and prompt alone."""

    def replace(module, given, named, out):
        seen = named["encoder_hidden_states"].mean((1, 2)) + named["temb"].mean(1)
        return seen[:, None, None, None].expand_as(out).detach()

    unet.up_blocks[-2].register_forward_hook(replace, with_kwargs=True)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", PIPELINES)
def test_it_changes_nothing_where_deep_levels_do_not_look_at_the_views(kind, settings):
    pipe = PIPELINES[kind]()
    blind(pipe.unet)
    sync, settings = fs.SyncPipeline(pipe), SETTINGS[settings]
    whole, reused = (picture(sync, reuse, **settings) for reuse in (False, True))
    # Where views leave the batch, whole networks compute the same in batches of another size, which rounds otherwise.
    assert relative(reused.latents, whole.latents) <= (1e-5 if "tolerance" in settings else 0)
    assert reused.stats.shallow > 0 == whole.stats.shallow
    assert relative(picture(sync, True, iterations=0).latents, whole.latents) > 1e-3


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", PIPELINES)
def test_elsewhere_it_is_near_and_what_was_left_out_is_counted(kind, settings):
    pipe = PIPELINES[kind]()
    outer, deep = Rows(pipe.unet.down_blocks[0].resnets[0]), Rows(pipe.unet.mid_block)
    sync, settings = fs.SyncPipeline(pipe), SETTINGS[settings]
    reused = picture(sync, True, **settings)
    assert outer.count == reused.stats.evaluations
    assert deep.count == reused.stats.evaluations - reused.stats.shallow
    whole, none = picture(sync, False, **settings), picture(sync, False, iterations=0)
    assert 1e-6 < relative(reused.latents, whole.latents) < relative(none.latents, whole.latents)
    if "tolerance" not in settings:
        assert reused.stats.evaluations == whole.stats.evaluations == 2 * STEPS * (VIEWS + K * (VIEWS - 1))
        assert reused.stats.gradients == whole.stats.gradients
        assert reused.stats.shallow == 2 * STEPS * (K - 1) * (VIEWS - 1)


def test_without_guidance_and_in_padded_batches():
    pipe = tiny.make_pipeline()
    blind(pipe.unet)
    prior = fs.DiffusersPrior(pipe)
    canvas = fs.WideCanvas((8, 8 + 5 * 6), (8, 8), 6)
    cond, uncond = prior.encode_prompt(["a", "b", "cat", "dog", "e", "f"], "")

    def run(reuse, guided, fixed):
        method = fs.SyncVC(iterations=3, feature_reuse=reuse)
        return fs.sample(
            prior, canvas, method, cond=cond, uncond=uncond if guided else None, num_inference_steps=24,
            fixed_batches=fixed, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    for guided in (False, True):
        whole, reused = (run(reuse, guided, fixed=True) for reuse in (False, True))
        assert reused.stats.padded == whole.stats.padded > 0
        assert torch.equal(reused.canvas, whole.canvas)
        # Batches of other sizes round otherwise, which grows over the steps.
        assert relative(run(True, guided, fixed=False).canvas, whole.canvas) < 1e-2


def test_one_iteration_has_nothing_to_reuse():
    sync = fs.SyncPipeline(tiny.make_pipeline())
    whole, reused = (picture(sync, reuse, iterations=1) for reuse in (False, True))
    assert torch.equal(reused.latents, whole.latents) and reused.stats.shallow == 0


@pytest.mark.parametrize("call", [3, 4])
def test_the_network_is_left_as_it_was_whatever_happens(call):
    """The first iteration's call (the 3rd of the run) keeps features, the next one's puts them in."""
    pipe = tiny.make_pipeline()
    before = [(module.__dict__.get("forward"), dict(module._forward_hooks)) for module in pipe.unet.modules()]
    calls = []

    def fail(module, given):
        calls.append(module.training)
        if len(calls) == call:
            raise KeyError("the plug was pulled")

    hook = pipe.unet.up_blocks[-1].resnets[0].register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="plug"):
        picture(fs.SyncPipeline(pipe), True)
    hook.remove()
    assert all(module._compiled_call_impl is None for module in pipe.unet.modules())
    assert [(m.__dict__.get("forward"), dict(m._forward_hooks)) for m in pipe.unet.modules()] == before
    assert torch.equal(
        picture(fs.SyncPipeline(pipe), False).latents, picture(fs.SyncPipeline(tiny.make_pipeline()), False).latents
    )


def test_in_compiled_blocks_it_is_the_same_picture_and_nothing_compiles_again():
    pipe = tiny.make_pipeline()
    plain = picture(fs.SyncPipeline(pipe), True)
    sync = fs.SyncPipeline(pipe, compile="regional")
    torch._dynamo.reset()
    counters.clear()
    assert relative(picture(sync, True).latents, plain.latents) < 1e-4
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0 and not counters["graph_break"]
    picture(sync, True, seed=1)
    # What whole evaluations compile is what shallow ones need.
    picture(sync, False)
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(module._compiled_call_impl is None for module in pipe.unet.modules())


def test_networks_without_known_levels_are_refused():
    prior = fs.FunctionPrior(nonlinear, ddim(), (2, 4, 4))
    with pytest.raises(ValueError, match=r"levels are known .* FunctionPrior is none: use feature_reuse=False"):
        fs.sample(prior, fs.WideCanvas((4, 10), (4, 4), 3), fs.SyncVC(feature_reuse=True))
    pipe = tiny.make_pipeline()
    with pytest.raises(ValueError, match="compiled as a whole: use compile='regional' or 'off'"):
        picture(fs.SyncPipeline(pipe, compile="max"), True)
    single = tiny.make_unet(
        block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",)
    )
    with pytest.raises(ValueError, match="deeper levels of a UNet, and this one has 1"):
        picture(fs.SyncPipeline(tiny.make_pipeline(unet=single)), True)
    with pytest.raises(TypeError, match="feature_reuse must be True or False, got 'all'"):
        fs.SyncVC(feature_reuse="all")


def test_with_gradient_checkpointing_it_is_the_same_picture():
    pipe = tiny.make_pipeline()
    plain = picture(fs.SyncPipeline(pipe), True)
    pipe.unet.enable_gradient_checkpointing()
    assert relative(picture(fs.SyncPipeline(pipe), True).latents, plain.latents) < 1e-5
