"""The references of the benchmark and the package compute the same numbers, and spend what they are said to."""

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import relative

import fastsync as fs
from bench import reference

SIZE, WINDOW, STRIDE, STEPS, SCALE = (8, 20), (8, 8), 4, 4, 3.0


def mean_colour(a, b):
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def setting(request):
    pipe = tiny.make_pipeline(scheduler=tiny.make_scheduler(prediction_type=request.param)).to(torch.float64)
    pipe.unet.requires_grad_(False)
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt("a cat")
    canvas = fs.WideCanvas(SIZE, WINDOW, STRIDE)
    z = torch.randn(1, 4, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def ours(method, **options):
        return fs.sample(
            prior, canvas, method, cond=cond, uncond=uncond, guidance_scale=SCALE,
            **{"num_inference_steps": STEPS, "latents": z, **options},
        )  # fmt: skip

    def theirs(function, *arguments, **options):
        model = reference.Model(pipe.unet, pipe.scheduler, cond, uncond, SCALE)
        return function(model, z, canvas.origins, WINDOW, *arguments, **options), model.rows

    return ours, theirs, prior


@pytest.mark.parametrize("name", ["multidiffusion", "multidiffusion_batched", "synctweedies", "syncsde", "syncvc"])
def test_the_same_numbers_for_the_same_rows(setting, name):
    ours, theirs, _ = setting
    methods = {"multidiffusion": fs.MultiDiffusion, "synctweedies": fs.SyncTweedies, "syncsde": fs.SyncSDE}
    out = ours(methods.get(name.removesuffix("_batched"), fs.SyncVC)())
    expected, rows = theirs(getattr(reference, name), STEPS)
    assert relative(out.canvas, expected) < 1e-6
    assert rows == out.stats.evaluations


def test_syncvc_with_other_settings(setting):
    ours, theirs, _ = setting
    settings = {"iterations": 2, "lr": 0.1, "reward_weight": 3.0, "kl_weight": 0.5, "inv_lambda": 1.0}
    expected, _ = theirs(reference.syncvc, STEPS, **settings)
    assert relative(ours(fs.SyncVC(**settings)).canvas, expected) < 1e-6
    assert relative(ours(fs.SyncVC()).canvas, expected) > 1e-3


def test_syncdiffusion(setting):
    ours, theirs, prior = setting
    out = ours(fs.SyncDiffusion(perceptual=mean_colour))
    expected, rows = theirs(reference.syncdiffusion, STEPS, prior.decode, mean_colour)
    assert relative(out.canvas, expected) < 1e-6
    # Theirs predicts the anchor twice.
    assert rows == out.stats.evaluations + 2 * STEPS
    assert relative(ours(fs.MultiDiffusion()).canvas, expected) > 1e-6


def test_stochsync(setting):
    ours, _, prior = setting
    method = fs.StochSync(steps=4, start=900, stop=300, blend_steps=0)
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randn(1, 4, *SIZE, generator=generator, dtype=torch.float64) for _ in range(4)]
    out = ours(method, latents=None, generator=torch.Generator().manual_seed(5), num_inference_steps=10)
    cond, uncond = prior.encode_prompt("a cat")
    model = reference.Model(prior.pipe.unet, prior.pipe.scheduler, cond, uncond, SCALE)
    origins = fs.WideCanvas(SIZE, WINDOW, STRIDE).origins
    expected = reference.stochsync(model, drawn.__getitem__, origins, WINDOW, 10, [900, 700, 500, 300])
    assert relative(out.canvas, expected) < 1e-6
    assert model.rows == out.stats.evaluations
