"""The references of the benchmark and the package compute the same numbers, and spend what they are said to."""

import ast
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import flow, nonlinear, randn, relative

import fastsync as fs
from bench import reference

SIZE, WINDOW, STRIDE, STEPS, SCALE = (8, 20), (8, 8), 4, 4, 3.0
CANVAS = fs.WideCanvas(SIZE, WINDOW, STRIDE)
PLACE = reference.Windows(CANVAS.origins, WINDOW, SIZE)


def mean_colour(a, b):
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()


def test_they_know_nothing_of_the_package():
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "fastsync"], path.name


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def setting(request):
    pipe = tiny.make_pipeline(scheduler=tiny.make_scheduler(prediction_type=request.param)).to(torch.float64)
    pipe.unet.requires_grad_(False)
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt("a cat")
    z = torch.randn(1, 4, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def ours(method, **options):
        return fs.sample(
            prior, CANVAS, method, cond=cond, uncond=uncond, guidance_scale=SCALE,
            **{"num_inference_steps": STEPS, "latents": z, **options},
        )  # fmt: skip

    def network(x, t, states):
        return pipe.unet(x, t, encoder_hidden_states=states, return_dict=False)[0]

    def theirs(name, *arguments, noise=None, **options):
        """The picture of a reference, and the rows that it asked the network about."""
        model = reference.Model(network, pipe.scheduler, cond, uncond, SCALE)
        start = CANVAS.project(z) if name in ("syncsde", "syncvc") else z if noise is None else noise
        picture = getattr(reference, name)(model, start, PLACE, *arguments, **options)
        return picture[0] if isinstance(picture, tuple) else picture, model.rows

    return ours, theirs, prior


@pytest.mark.parametrize("name", ["multidiffusion", "multidiffusion_batched", "synctweedies", "syncsde", "syncvc"])
def test_the_same_numbers_for_the_same_rows(setting, name):
    ours, theirs, _ = setting
    methods = {"multidiffusion": fs.MultiDiffusion, "synctweedies": fs.SyncTweedies, "syncsde": fs.SyncSDE}
    out = ours(methods.get(name.removesuffix("_batched"), fs.SyncVC)())
    expected, rows = theirs(name, STEPS)
    assert relative(out.canvas, expected) < 1e-6
    assert rows == out.stats.evaluations


def test_syncvc_with_other_settings(setting):
    ours, theirs, _ = setting
    settings = {"iterations": 2, "lr": 0.1, "reward_weight": 3.0, "kl_weight": 0.5, "inv_lambda": 1.0}
    expected, _ = theirs("syncvc", STEPS, **settings)
    assert relative(ours(fs.SyncVC(**settings)).canvas, expected) < 1e-6
    assert relative(ours(fs.SyncVC()).canvas, expected) > 1e-3


@pytest.mark.parametrize("every", [1, 2])
def test_syncdiffusion(setting, every):
    ours, theirs, prior = setting
    out = ours(fs.SyncDiffusion(perceptual=mean_colour, every=every))
    expected, rows = theirs("syncdiffusion", STEPS, prior.decode, mean_colour, every=every)
    assert relative(out.canvas, expected) < 1e-6
    # Theirs predicts the anchor twice where views move.
    assert rows == out.stats.evaluations + 2 * (STEPS // every)
    assert relative(ours(fs.MultiDiffusion()).canvas, expected) > 1e-6


def test_stochsync(setting):
    ours, theirs, _ = setting
    method = fs.StochSync(steps=4, start=900, stop=300, blend_steps=0)
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randn(1, 4, *SIZE, generator=generator, dtype=torch.float64) for _ in range(4)]
    out = ours(method, latents=None, generator=torch.Generator().manual_seed(5), num_inference_steps=10)
    expected, rows = theirs("stochsync", 10, [900, 700, 500, 300], noise=drawn.__getitem__)
    assert relative(out.canvas, expected) < 1e-6
    assert rows == out.stats.evaluations


def test_both_places_are_the_same_windows():
    cells = reference.Cells.of_windows(CANVAS.origins, WINDOW, SIZE)
    views = dict(enumerate(randn(len(PLACE), 4, *WINDOW).split(1)))
    for i in range(len(PLACE)):
        assert torch.equal(cells.view(randn(1, 4, *SIZE, seed=1), i), PLACE.view(randn(1, 4, *SIZE, seed=1), i))
        if i:
            seen = PLACE.shown(i, views, range(i)), cells.shown(i, views, range(i))
            assert torch.equal(*(part.flatten(2) for part in seen))
            assert torch.equal(*(views[0][place.seen(i, range(i))].flatten(2) for place in (PLACE, cells)))
    assert torch.equal(cells.painted(views, range(len(PLACE))), PLACE.painted(views, range(len(PLACE))))


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("place", ["windows", "loop"])
def test_on_flows(place, eta):
    """From a = 0, where only the stable coupling exists."""
    canvas = CANVAS if place == "windows" else fs.WideCanvas((4, 12), (4, 6), 4, loop=True)
    where = PLACE if place == "windows" else reference.Cells.of_windows(canvas.origins, canvas.window, canvas.size)
    shape = (2, *canvas.window)
    prior = fs.FunctionPrior(nonlinear, flow(shift=2.0), shape, dtype=torch.float64)
    cond, uncond, z = 0.5 * randn(canvas.num_views, *shape, seed=1), randn(1, *shape, seed=2), randn(1, 2, *canvas.size)
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(1, 2, *canvas.size, generator=generator, dtype=torch.float64) for _ in range(STEPS)]
    for method, function in ((fs.SyncVC(iterations=2), reference.syncvc), (fs.SyncSDE(), reference.syncsde)):
        out = fs.sample(
            prior, canvas, method, cond=cond, uncond=uncond, guidance_scale=2.0, num_inference_steps=STEPS, eta=eta,
            latents=z, generator=torch.Generator().manual_seed(7),
        )  # fmt: skip
        model = reference.Model(nonlinear, flow(shift=2.0), cond, uncond, 2.0)
        settings = {"iterations": 2} if function is reference.syncvc else {}
        picture, views = function(
            model, canvas.project(z), where, STEPS, coupling="stable", eta=eta, noise=noise, **settings
        )
        # diffusers keeps a flow's sigmas in float32.
        assert relative(out.views, views) < 1e-6 and relative(out.canvas, picture) < 1e-6
        assert model.rows == out.stats.evaluations
