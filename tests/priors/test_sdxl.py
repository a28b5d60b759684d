"""Stable Diffusion XL, probed: diffusers' own pictures, crops that know their place, VAEs that overflow."""

import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from exact_priors import randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.priors import ViewRequest

TEXT, POOLED, IDS = (
    f"unet.{name}" for name in ("encoder_hidden_states", "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids")
)
WINDOW = fs.WideCanvas((8, 8), (8, 8), 8)
SCHEDULERS = {
    "euler": families.make_xl_scheduler,
    "euler-karras": lambda: families.make_xl_scheduler(EulerDiscreteScheduler, use_karras_sigmas=True),
    "ddim": lambda: families.make_xl_scheduler(DDIMScheduler, clip_sample=False, set_alpha_to_one=False),
    "dpmsolver++": lambda: families.make_xl_scheduler(DPMSolverMultistepScheduler),
}


@pytest.fixture(scope="module")
def pipe():
    return families.make_xl_pipeline()


def generator():
    return torch.Generator().manual_seed(5)


# ---- the pipeline's own numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_window_is_the_pipelines_own_picture(scheduler, guidance):
    pipe = families.make_xl_pipeline(scheduler=SCHEDULERS[scheduler]())
    settings = {"negative_prompt": "grey", "num_inference_steps": 6, "guidance_scale": guidance}
    expected = pipe("a cat", generator=generator(), output_type="latent", **settings).images
    sync = fs.SyncPipeline(pipe)
    for method in ("independent", "syncvc"):
        out = sync.wide(
            "a cat", width=tiny.PIXELS, method=method, generator=generator(), output_type="latent", progress=False,
            **settings,
        )  # fmt: skip
        assert relative(out.latents, expected) < 1e-4
        assert out.parameters["scheduler"] == type(pipe.scheduler).__name__
    prior = priors.wrap(pipe)
    cond, uncond = prior.encode_prompt("a cat", "grey")
    out = fs.sample(
        prior, WINDOW, fs.MultiDiffusion(), cond=cond, uncond=uncond, guidance_scale=guidance, num_inference_steps=6,
        generator=generator(),
    )  # fmt: skip
    assert relative(out.canvas, expected) < 1e-4


@pytest.mark.parametrize("zeros", [True, False])
def test_defaults_are_the_pipelines_own(zeros):
    """No negative prompt is zeros or the empty prompt, as the config says; guidance_scale is 5."""
    pipe = families.make_xl_pipeline()
    pipe.register_to_config(force_zeros_for_empty_prompt=zeros)
    expected = pipe("a cat", generator=generator(), num_inference_steps=4, output_type="np").images
    sync = fs.SyncPipeline(pipe)
    out = sync.wide(
        "a cat", width=16, generator=generator(), num_inference_steps=4, output_type="np", progress=False
    )  # fmt: skip
    assert abs(out.images - expected).max() < 1e-4 and out.parameters["guidance_scale"] == 5.0
    assert expected.std() > 0.05
    assert fs.SyncPipeline(pipe, guidance_scale=3.0).guidance_scale == 3.0
    assert fs.SyncPipeline(pipe).guidance_scale is None  # the pipeline's own


def test_conditions_are_the_pipelines_own(pipe):
    prior = priors.wrap(pipe, window=(16, 24))
    assert type(prior) is priors.ProbedPrior
    cond, uncond = prior.encode_prompt(["a cat", "a dog"], "grey")
    with torch.no_grad():
        expected = pipe.encode_prompt(["a cat", "a dog"], negative_prompt=["grey", "grey"])
    for got, wanted in zip((cond[TEXT], uncond[TEXT], cond[POOLED], uncond[POOLED]), expected, strict=True):
        assert torch.equal(got, wanted)
    assert cond[IDS].tolist() == [[16, 24, 0, 0, 16, 24]] * 2 == uncond[IDS].tolist()
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda m, a, k: seen.append(k["added_cond_kwargs"]), with_kwargs=True)
    pipe("a cat", height=16, width=24, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    handle.remove()
    assert torch.equal(seen[0]["time_ids"], cond[IDS][:1])


# ---- windows of one picture -------------------------------------------------------------------------------------


def test_windows_of_a_wide_picture_know_their_places(pipe):
    seen = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    fs.SyncPipeline(pipe).wide(
        "a cat", height=22, width=41, overlap=4, method="multidiffusion", num_inference_steps=1, progress=False,
        output_type="latent", seed=0,
    )  # fmt: skip
    handle.remove()
    places = [[22, 41, y, x, 16, 16] for y in (0, 6) for x in (0, 12, 24, 26)]
    assert seen[-1].tolist() == places * 2  # in both of guidance's halves


def test_places_change_their_own_view_and_no_other(pipe):
    prior = priors.wrap(pipe)
    canvas, outs = fs.WideCanvas((8, 20), (8, 8), 6), []
    for places in ([(0, 0), (0, 12), (0, 24)], [(0, 0), (0, 300), (0, 24)]):
        told = prior.told(ViewRequest(3, ["a cat"], "grey", places=places, size=(16, 40)))
        cond, uncond = told.cond, told.uncond
        assert cond[IDS].tolist() == uncond[IDS].tolist() == [[16, 40, *place, 16, 16] for place in places]
        outs.append(
            fs.sample(
                prior, canvas, fs.Independent(), cond=cond, uncond=uncond, num_inference_steps=2, generator=generator()
            ).views
        )  # fmt: skip
    changed = [relative(*pair) for pair in zip(*outs, strict=True)]
    assert changed[1] > 1e-3 and changed[0] == changed[2] == 0


def test_priors_that_are_told_of_no_place_keep_their_conditions():
    prior = fs.DiffusersPrior(tiny.make_pipeline())
    cond, uncond = prior.encode_prompt("a cat")
    told = prior.with_places(cond, uncond, [(0, 0)], (16, 16))
    assert told[0] is cond and told[1] is uncond


# ---- what SD's adapter can do -----------------------------------------------------------------------------------


def test_deep_features_and_shared_attention_work(pipe):
    sync = fs.SyncPipeline(pipe)
    settings = {"width": 40, "overlap": 4, "num_inference_steps": 3, "seed": 0, "output_type": "latent"}
    whole, reused = (
        sync.wide("a cat", method=fs.SyncVC(iterations=2, feature_reuse=reuse), progress=False, **settings)
        for reuse in (False, True)
    )
    assert reused.stats.shallow > 0 == whole.stats.shallow
    assert 1e-6 < relative(reused.latents, whole.latents) < 0.5
    canvas, outs = fs.WideCanvas((8, 20), (8, 8), 6), []
    for neighbours in (None, [[], [], []], priors.view_ring(3)):
        prior = priors.wrap(pipe, neighbours=neighbours)
        cond, uncond = prior.encode_prompt("a cat", "grey")
        outs.append(
            fs.sample(
                prior, canvas, fs.SyncTweedies(), cond=cond, uncond=uncond, num_inference_steps=2, generator=generator()
            ).views
        )  # fmt: skip
    assert relative(outs[1], outs[0]) < 1e-5 < 1e-3 < relative(outs[2], outs[0])


def test_sizes_to_compose_are_those_that_the_pipeline_takes(pipe):
    sync = fs.SyncPipeline(pipe)
    settings = {"num_inference_steps": 1, "method": "multidiffusion", "progress": False, "output_type": "latent"}
    mask = torch.ones(24, 16)
    assert sync.compose([mask], ["a cat"], height=24, width=16, **settings).latents.shape == (1, 4, 12, 8)
    with pytest.raises(ValueError, match="StableDiffusionXLPipeline.* divisible by 8 but are 20 and 16"):
        sync.compose([mask], ["a cat"], height=20, width=16, **settings)


# ---- VAEs that overflow in float16 ------------------------------------------------------------------------------


def half(force_upcast, how=None):
    pipe = families.make_xl_pipeline()
    pipe.vae.register_to_config(force_upcast=force_upcast)
    pipe.vae.to(torch.float16)
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    if how == "sequential":
        import accelerate

        accelerate.cpu_offload(pipe.vae, torch.device("cpu"))
    return pipe


def rounded():
    """A float32 VAE whose weights are those of ``half``."""
    pipe = half(True)
    pipe.vae.to(torch.float32)
    return priors.wrap(pipe)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("how", [None, "model", "sequential"])
def test_they_compute_in_float32_and_stay_as_they_are(how, tiled):
    z, exact = randn(1, 4, 8, 8, dtype=torch.float32), rounded()
    pipe = half(True, how)
    if tiled:
        pipe.vae.enable_tiling()
    own = [(name, p, p.dtype, p.device) for name, p in pipe.vae.named_parameters()]
    values = {name: value.clone() for name, value in pipe.vae.state_dict().items() if value.device.type != "meta"}
    prior = priors.wrap(pipe)
    with torch.no_grad():
        pixels = prior.decode(z)
        latents = prior.encode(pixels.clamp(-1, 1))
        assert pixels.dtype == latents.dtype == torch.float32
        assert relative(pixels, exact.decode(z)) < 1e-6
        assert relative(latents, exact.encode(pixels.clamp(-1, 1))) < 1e-6
    for (name, before, dtype, device), (_, after) in zip(own, pipe.vae.named_parameters(), strict=True):
        assert after.dtype == dtype == torch.float16 and after.device == device, name
        assert after is before or how == "sequential", name
    assert all(torch.equal(pipe.vae.state_dict()[name], value) for name, value in values.items())


def test_gradients_go_through_them_whatever_happens_in_between():
    z, exact, prior = randn(1, 4, 8, 8, dtype=torch.float32), rounded(), priors.wrap(half(True))
    leaf, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    value = prior.decode(leaf).square().sum()
    with torch.no_grad():
        prior.decode(-z)  # another decode before the backward pass
    [gradient], [expected] = (
        torch.autograd.grad(v, x) for v, x in ((value, leaf), (exact.decode(other).square().sum(), other))
    )
    assert relative(gradient, expected) < 1e-5
    assert all(p.grad is None for p in prior.pipe.vae.parameters())


def test_other_vaes_compute_in_their_own_precision():
    z = randn(1, 4, 8, 8, dtype=torch.float32)
    assert priors.wrap(half(False)).decode(z).dtype == torch.float16
    plain = tiny.make_pipeline()
    plain.vae.to(torch.float16)  # Stable Diffusion's pipelines decode as they are
    assert plain.vae.config.force_upcast and fs.DiffusersPrior(plain).decode(z).dtype == torch.float16


# ---- sentences --------------------------------------------------------------------------------------------------


def test_a_unet_that_is_told_its_guidance():
    pipe = families.make_xl_pipeline(time_cond_proj_dim=8)
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    expected = pipe("a cat", generator=generator(), **settings).images
    out = fs.SyncPipeline(pipe).wide("a cat", width=16, generator=generator(), progress=False, **settings)
    assert relative(out.latents, expected) < 1e-4 and out.stats.evaluations == 4


def test_what_it_is_not_is_said_in_one_sentence(pipe):
    cases = [
        (lambda: fs.DiffusersPrior(pipe), ["DiffusersPrior", "addition_embed_type='text_time'"]),
        (lambda: priors.wrap(pipe, window=(18, 17)), ["StableDiffusionXLPipeline", "17"]),
    ]
    for wrap, words in cases:
        with pytest.raises(ValueError) as caught:
            wrap()
        message = str(caught.value)
        assert all(word in message for word in words) and "\n" not in message and len(message) < 320, message
