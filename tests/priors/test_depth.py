"""DepthPrior on a tiny real depth-to-image pipeline: diffusers' own numbers and maps."""

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DiffusionPipeline, StableDiffusionDepth2ImgPipeline
from exact_priors import randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.priors import DepthPrior

CANVAS = fs.WideCanvas((8, 20), (8, 8), 6)
VIEWS = 3


def depths(n=VIEWS, dtype=torch.float32):
    return torch.rand(n, 1, tiny.PIXELS, tiny.PIXELS, generator=torch.Generator().manual_seed(0), dtype=dtype)


def told(prior, depth=None):
    return prior.with_control(*prior.encode_prompt("a cat", "grey"), depths() if depth is None else depth)


def sampled(prior, method=None, cond=None, **settings):
    given = told(prior) if cond is None else cond
    return fs.sample(
        prior, CANVAS, method or fs.SyncVC(iterations=1), cond=given[0], uncond=given[1], guidance_scale=4.0,
        num_inference_steps=4, latents=randn(1, 4, 8, 20, dtype=torch.promote_types(prior.dtype, torch.float32)),
        **settings,
    )  # fmt: skip


@pytest.fixture
def pipe():
    return tiny.make_depth_pipeline()


def test_wrap_chooses(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    prior = priors.wrap(loaded)
    assert type(loaded) is StableDiffusionDepth2ImgPipeline and type(prior) is DepthPrior
    assert prior.takes_control
    with pytest.raises(ValueError, match=r"control must be \[N, 1, 16, 16\], .* got \[1, 3, 16, 16\]: render depth"):
        prior.with_control(*prior.encode_prompt("a cat"), torch.zeros(1, 3, 16, 16))
    assert prior.view_shape == (4, 8, 8) and prior.control_shape == (1, 8, 8) and prior.scale == 2
    # The model without its depth estimator is as good.
    assert type(priors.wrap(tiny.make_pipeline(unet=loaded.unet))) is DepthPrior


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_one_view_is_the_call_of_diffusers(pipe, guidance):
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    depth = depths(1)
    expected = pipe(
        "a cat", torch.rand(1, 3, 16, 16), depth_map=7 * depth[:, 0] + 3, strength=1.0, num_inference_steps=4,
        guidance_scale=guidance, negative_prompt="grey", output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    handle.remove()
    latents, wanted = seen[0][:1].split([4, 1], 1)
    prior = DepthPrior(pipe)
    cond, uncond = told(prior, depth)
    assert cond["control"] is uncond["control"] and relative(cond["control"], wanted) < 1e-5
    out = fs.sample(
        prior, fs.WideCanvas((8, 8), (8, 8), 6), fs.SyncVC(iterations=1), cond=cond, uncond=uncond,
        guidance_scale=guidance, num_inference_steps=4, latents=latents,
    )  # fmt: skip
    assert relative(out.views, expected) < 1e-5


def test_maps_are_scaled_view_by_view_and_near_is_large(pipe):
    prior = DepthPrior(pipe)
    ramp = torch.linspace(0, 0.3, 16).expand(1, 1, 16, 16)
    depth = torch.cat([ramp, torch.zeros_like(ramp), torch.full_like(ramp, 0.7)])
    maps = told(prior, depth)[0]["control"]
    assert maps.shape == (3, 1, 8, 8)
    assert maps[0].min() == -1 and maps[0].max() == 1 and (maps[0].diff(dim=-1) > 0).all()
    assert (maps[1:] == -1).all()  # nothing in sight, or nothing but one plane


def test_every_order_gives_the_same_numbers():
    prior = DepthPrior(tiny.make_depth_pipeline(dtype=torch.float64))
    first, second = (sampled(prior, order=order) for order in ("sequential", "wavefront"))
    assert first.views.dtype == torch.float64 and relative(second.views, first.views) < 1e-10
    plain = fs.DiffusersPrior(tiny.make_pipeline())
    expected = sampled(plain, cond=plain.encode_prompt("a cat", "grey"), order="sequential").stats
    assert (first.stats.evaluations, first.stats.gradients) == (expected.evaluations, expected.gradients)


def test_a_depth_reaches_its_own_view_and_gradients_their_views(pipe):
    prior = DepthPrior(pipe)
    before, cond = sampled(prior, fs.Independent()), told(prior)
    control = cond[0]["control"].clone()
    control[1] = -control[1]
    after = sampled(prior, fs.Independent(), cond=[c.updated(control=control) for c in cond])
    changed = [relative(new, old) for new, old in zip(after.views, before.views, strict=True)]
    assert changed[1] > 1e-3 and changed[0] < 1e-6 and changed[2] < 1e-6
    x = torch.randn(3, 4, 8, 8, requires_grad=True)
    raw = prior.raw(x, torch.tensor([500]).expand(3), cond[0], None)
    [gradient] = torch.autograd.grad(raw[1].sum(), x)
    assert gradient[1].abs().max() > 0 and not gradient[[0, 2]].any()


def test_features_may_be_reused_and_half_precision_used(pipe):
    out = sampled(DepthPrior(pipe), fs.SyncVC(iterations=2, feature_reuse=True))
    assert torch.isfinite(out.views).all() and out.stats.shallow > 0
    out = sampled(DepthPrior(tiny.make_depth_pipeline(dtype=torch.bfloat16)))
    assert torch.isfinite(out.views).all()


def test_sentences(pipe):
    prior = DepthPrior(pipe)
    with pytest.raises(ValueError, match=r"cond is Conditions.text.*, .*\[N, 1, 8, 8\].*with_control"):
        sampled(prior, cond=prior.encode_prompt("a cat"))
    with pytest.raises(ValueError, match=r"the control must be \[N, 1, 8, 8\], got \[1, 1, 16, 16\]"):
        sampled(prior, cond=(fs.Conditions({"text": prior.encode_prompt("a cat")[0], "control": depths(1)}), None))
    with pytest.raises(ValueError, match="takes 5 channels .*priors.wrap"):
        fs.DiffusersPrior(pipe)
    with pytest.raises(ValueError, match="takes 4 channels .* DepthPrior adds 1"):
        DepthPrior(tiny.make_pipeline())
