"""Guidance as a value: diffusers' formulas and rules, what they cost, and gradients through them."""

import pytest
import tiny_pipelines as tiny
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from exact_priors import Counting, ddim, flow, nonlinear, randn, relative

import fastsync as fs
from bench import reference
from fastsync.guidance import rescaled
from fastsync.run import Query

SHAPE = (2, 4, 6)
CANVAS = fs.WideCanvas((4, 14), (4, 6), 4)
VIEWS = CANVAS.num_views
COND, UNCOND = 0.5 * randn(VIEWS, *SHAPE, seed=1), 0.5 * randn(VIEWS, *SHAPE, seed=2)


def prior_of(eps_fn=nonlinear, scheduler=None, dtype=torch.float64):
    return fs.FunctionPrior(eps_fn, scheduler or ddim(steps_offset=1), SHAPE, dtype=dtype)


def sampled(guidance, prior=None, method=None, **settings):
    given = {
        "cond": COND, "uncond": UNCOND, "num_inference_steps": 5, "latents": randn(1, 2, *CANVAS.size, seed=3),
        "order": "sequential" if isinstance(method, fs.SyncVC) else "batched",
    }  # fmt: skip
    prior = prior_of() if prior is None else prior
    return fs.sample(prior, CANVAS, method or fs.Independent(), guidance_scale=guidance, **{**given, **settings})


# ---- rescaling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_is_diffusers_formula(rescale):
    guided, conditional = 3 * randn(3, 4, 8, 8), 1 + randn(3, 4, 8, 8, seed=1)
    expected = rescale_noise_cfg(guided, conditional, guidance_rescale=rescale)
    assert relative(rescaled(guided, conditional, rescale), expected) < 1e-12
    # Each sample has a contrast of its own.
    alone = torch.cat([rescaled(g, c, rescale) for g, c in zip(guided.split(1), conditional.split(1), strict=True)])
    assert relative(alone, expected) < 1e-12
    if rescale == 1.0:
        deviations = [values.std((1, 2, 3)) for values in (rescaled(guided, conditional, 1.0), conditional)]
        assert relative(*deviations) < 1e-12


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_estimates_are_those_of_the_rescaled_prediction(kind):
    scheduler = flow() if kind == "flow" else ddim(prediction_type=kind)
    prior = prior_of(scheduler=scheduler)
    t = torch.tensor([801, 300, 41]).to(torch.float32 if kind == "flow" else torch.int64)
    x = randn(3, *SHAPE, seed=5)
    a, b = prior.schedule.coefficients(t)
    scale = torch.tensor([4.0, 1.0, 2.5], dtype=torch.float64)  # in the middle nothing is guided, so nothing rescaled
    halves = (fs.Conditions({"cond": half}) for half in (COND, UNCOND))
    query = Query(prior, prior.device, fs.Stats(), None, 0.7, t, a, b, scale, *halves)
    raw = [nonlinear(x, t, c) for c in (UNCOND, COND)]
    guided = raw[0] + scale[:, None, None, None] * (raw[1] - raw[0])
    expected = torch.where(
        scale[:, None, None, None] == 1.0, raw[1], rescale_noise_cfg(guided, raw[1], guidance_rescale=0.7)
    )
    wanted = prior.estimates(expected, x, a, b, 1.0)
    for got in (query.predict(x), query.evaluate(x)):
        assert relative(got.x0, wanted.x0) < 1e-12 and relative(got.eps, wanted.eps) < 1e-12
    assert relative(prior.estimates(guided, x, a, b, 1.0).eps, wanted.eps) > 1e-3


@pytest.mark.parametrize("rescale, scale", [(0.7, 7.5), (1.0, 3.0), (0.7, 1.0)])
def test_one_view_is_the_pipelines_own_picture(rescale, scale):
    pipe = tiny.make_pipeline()
    settings = {"negative_prompt": "a dog", "num_inference_steps": 4, "output_type": "latent"}
    expected = pipe(
        "a cat", generator=torch.Generator().manual_seed(5), guidance_scale=scale, guidance_rescale=rescale, **settings
    ).images
    for method in ("independent", "syncvc"):
        out = fs.SyncPipeline(pipe).wide(
            "a cat", width=tiny.PIXELS, method=method, guidance_scale=fs.Guidance(scale, rescale=rescale),
            generator=torch.Generator().manual_seed(5), progress=False, **settings,
        )  # fmt: skip
        assert relative(out.latents, expected) < 1e-5
        assert (out.parameters["guidance_scale"], out.parameters["guidance_rescale"]) == (scale, rescale)
        assert out.parameters["guidance_interval"] == [0.0, 1.0]
    plain = pipe("a cat", generator=torch.Generator().manual_seed(5), guidance_scale=scale, **settings).images
    assert (relative(plain, expected) > 1e-3) == (scale > 1)


# ---- the interval -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.8), (0.0, 0.5), (0.33, 0.34), (0.25, 1.0), (0.1, 0.75)])
@pytest.mark.parametrize("steps", [1, 4, 7, 50])
def test_the_interval_is_diffusers_rule(interval, steps):
    guider = ClassifierFreeGuidance(guidance_scale=4.0, start=interval[0], stop=interval[1])
    expected = []
    for step in range(steps):
        guider.set_state(step, steps, torch.tensor(0))
        expected.append(4.0 if guider.num_conditions == 2 else 1.0)
    assert fs.Guidance(4.0, interval=interval).scales(steps) == expected


def test_outside_the_interval_the_pipeline_is_not_guided_either():
    """diffusers' recipe: a callback that switches guidance off."""
    pipe = tiny.make_pipeline()

    def off(pipe, step, t, values):
        if step == 1 and pipe.do_classifier_free_guidance:
            pipe._guidance_scale = 0.0
            values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[1]
        return values

    settings = {"num_inference_steps": 4, "output_type": "latent"}
    expected = pipe(
        "a cat", negative_prompt="grey", generator=torch.Generator().manual_seed(5), callback_on_step_end=off,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"], **settings,
    ).images  # fmt: skip
    out = fs.SyncPipeline(pipe).wide(
        "a cat", negative_prompt="grey", width=tiny.PIXELS, guidance_scale=fs.Guidance(7.5, interval=(0.0, 0.5)),
        generator=torch.Generator().manual_seed(5), progress=False, **settings,
    )  # fmt: skip
    assert relative(out.latents, expected) < 1e-5 and out.parameters["guidance_interval"] == [0.0, 0.5]
    assert out.stats.evaluations == 2 * 2 + 2 * 1


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("method", [fs.Independent(), fs.MultiDiffusion(), fs.SyncVC(iterations=2)], ids=str)
def test_outside_of_it_nothing_unconditional_is_evaluated(method, rescale):
    counting = Counting(nonlinear)
    out = sampled(fs.Guidance(4.0, rescale, (0.2, 0.6)), prior_of(counting), method)
    halves = {}
    for t, cond in counting.seen:
        [time] = set(t.tolist())
        halves.setdefault(time, set()).add(bool((cond[:, None] == UNCOND).flatten(2).all(2).any()))
    assert list(halves.values()) == [{False}, {True}, {True}, {False}, {False}]
    calls = out.stats.evaluations / (3 + 2 * 2)  # of rows at each step, halves counted
    assert calls == (VIEWS if not isinstance(method, fs.SyncVC) else 1 + 3 * (VIEWS - 1))
    assert counting.rows == out.stats.evaluations


def test_inside_of_it_the_numbers_are_those_of_each_step():
    """The run, taken apart: guided steps as with a number, the others as without uncond."""
    steps = 5
    guided = sampled(fs.Guidance(4.0, interval=(0.4, 0.8)), num_inference_steps=steps)
    prior = prior_of()
    table = prior.schedule.steps(steps)
    x = CANVAS.project(randn(1, 2, *CANVAS.size, seed=3))
    for k in range(steps):
        t = table.timesteps[k].expand(VIEWS)
        prediction = prior.predict(x, t, COND, UNCOND if 2 <= k < 4 else None, 4.0)
        x = table.a_next[k] * prediction.x0 + table.direction[k] * prediction.eps
    assert relative(guided.views, x) < 1e-12
    assert relative(sampled(4.0).views, x) > 1e-3 < relative(sampled(1.0).views, x)


def test_all_orders_agree_inside_and_outside_of_the_interval():
    guidance = fs.Guidance(4.0, 0.5, (0.2, 0.6))
    first = sampled(guidance, method=fs.SyncVC(iterations=2))
    for settings in ({"order": "wavefront"}, {"order": "wavefront", "max_batch": 2, "fixed_batches": True}):
        assert relative(sampled(guidance, method=fs.SyncVC(iterations=2), **settings).views, first.views) < 1e-10
    assert relative(sampled(4.0, method=fs.SyncVC(iterations=2)).views, first.views) > 1e-3


# ---- a number is guidance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.5])
@pytest.mark.parametrize("method", [fs.Independent(), fs.SyncVC(iterations=2), fs.StochSync(steps=3)], ids=str)
def test_a_number_and_guidance_of_it_are_bit_equal(method, scale):
    settings = {"generator": torch.Generator().manual_seed(1), "order": None}
    plain = sampled(scale, method=method, **settings)
    settings["generator"].manual_seed(1)
    given = sampled(fs.Guidance(scale), method=method, **settings)
    assert torch.equal(given.views, plain.views) and torch.equal(given.canvas, plain.canvas)
    assert given.stats.evaluations == plain.stats.evaluations
    assert fs.Guidance.of(fs.Guidance(scale)) == fs.Guidance.of(scale) == fs.Guidance(float(scale))


def test_each_view_may_have_an_uncond_of_its_own():
    mixed = sampled(fs.Guidance(4.0, 0.5)).views
    for i in range(VIEWS):
        single = sampled(fs.Guidance(4.0, 0.5), uncond=UNCOND[i : i + 1]).views
        same = [relative(*pair) < 1e-12 for pair in zip(single, mixed, strict=True)]
        assert same == [i == j for j in range(VIEWS)]


# ---- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [None, [4]], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_gradients_through_rescaled_guidance_are_those_of_finite_differences(kind, buckets):
    scheduler = flow() if kind == "flow" else ddim(prediction_type=kind)
    prior = prior_of(scheduler=scheduler)
    t = torch.tensor([801, 300, 41]).to(torch.float32 if kind == "flow" else torch.int64)
    a, b = prior.schedule.coefficients(t)
    scale = torch.tensor([4.0, 1.0, 2.5], dtype=torch.float64)
    halves = [fs.Conditions({"cond": c}) for c in (COND, UNCOND)]
    query = Query(prior, prior.device, fs.Stats(), buckets, 0.7, t, a, b, scale, *halves)
    x, weights = randn(3, *SHAPE, seed=5), randn(6, *SHAPE, seed=6)

    def value(x):
        prediction = query.predict(x)
        return (weights * torch.cat([prediction.x0, prediction.eps])).sum()

    evaluation = query.evaluate(x)
    gradient, factor = query.pullback(evaluation, weights, torch.ones(3, dtype=torch.float64))
    assert factor is None and evaluation.kind == "estimates"
    for seed in (7, 8, 9):
        direction = randn(3, *SHAPE, seed=seed)
        slope = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
        assert relative((gradient * direction).sum(), slope) < 1e-6


@pytest.mark.parametrize("order", ["sequential", "wavefront"])
def test_a_run_of_syncvc_agrees_with_the_reference(order):
    steps, guidance = 4, fs.Guidance(3.0, 0.6, (0.25, 0.8))
    scales = guidance.scales(steps)
    assert scales == [1.0, 3.0, 3.0, 1.0]
    scheduler = ddim(steps_offset=1)

    def eps_fn(x, t, cond):
        """Guided and rescaled as the time says, by diffusers' formula; both conditions are in one tensor."""
        conditional, unconditional = (nonlinear(x, t, c) for c in cond.chunk(2, 1))
        [scale] = {scales[steps - 1 - int(time - 1) // (1000 // steps)] for time in t}
        if scale == 1.0:
            return conditional
        guided = unconditional + scale * (conditional - unconditional)
        return rescale_noise_cfg(guided, conditional, guidance_rescale=0.6)

    z = randn(1, 2, *CANVAS.size, seed=3)
    model = reference.Model(eps_fn, scheduler, torch.cat([COND, UNCOND], 1))
    place = reference.Cells.of_windows(CANVAS.origins, CANVAS.window, CANVAS.size)
    picture, expected = reference.syncvc(model, CANVAS.project(z), place, steps, iterations=4)
    method = fs.SyncVC(iterations=4, lr=0.02)
    out = sampled(guidance, method=method, num_inference_steps=steps, order=order)
    assert relative(out.views, expected) < 1e-9 and relative(out.canvas, picture) < 1e-9


# ---- sentences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: fs.Guidance("much"), TypeError, "guidance_scale must be a number, got 'much'"),
        (lambda: fs.Guidance(float("nan")), ValueError, "guidance_scale must be finite"),
        (lambda: fs.Guidance(True), TypeError, "guidance_scale must be a number"),
        (lambda: fs.Guidance(2.0, rescale=1.5), ValueError, "rescale must be at least 0 and at most 1, got 1.5"),
        (lambda: fs.Guidance(2.0, rescale=None), TypeError, "rescale must be a number"),
        (lambda: fs.Guidance(2.0, interval=0.5), TypeError, r"interval must be \(start, stop\)"),
        (lambda: fs.Guidance(2.0, interval=(0.1, 0.5, 0.9)), TypeError, r"interval must be \(start, stop\)"),
        (lambda: fs.Guidance(2.0, interval=(0.5, 0.5)), ValueError, "start below stop, .* guidance_scale=1 switches"),
        (lambda: fs.Guidance(2.0, interval=(-0.1, 0.5)), ValueError, "interval must be at least 0 and at most 1"),
        (lambda: fs.Guidance(2.0, interval=("a", 0.5)), TypeError, "interval must be a number"),
        (lambda: sampled([7.5]), TypeError, "guidance_scale must be a number"),
        (lambda: fs.SyncPipeline(tiny.make_pipeline()).wide("a", guidance_scale="much"), TypeError, "guidance_scale"),
    ],
)
def test_one_sentence_for_what_is_no_guidance(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


class Estimating(fs.Prior):
    """A prior without a raw output."""

    view_shape = SHAPE
    dtype = torch.float64

    def __init__(self):
        self.schedule = prior_of().schedule

    def predict(self, x, t, cond=None, uncond=None, guidance_scale=7.5):
        return prior_of().predict(x, t, cond["cond"], None if uncond is None else uncond["cond"], guidance_scale)


def test_what_rescaling_needs_is_said_in_one_sentence():
    plain = sampled(fs.Guidance(4.0), Estimating())
    assert relative(plain.views, sampled(4.0).views) < 1e-12
    with pytest.raises(
        ValueError, match=r"Guidance\(rescale=0.7\) needs .* Estimating gives estimates alone"
    ) as caught:
        sampled(fs.Guidance(4.0, 0.7), Estimating())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="guidance_gradient='cond' needs .* does not rescale it") as caught:
        sampled(fs.Guidance(4.0, 0.7), method=fs.SyncVC(iterations=1, guidance_gradient="cond"))
    assert "\n" not in str(caught.value)


def test_it_is_a_value():
    guidance = fs.Guidance(3, 1, [0, 1])
    assert guidance == fs.Guidance(3.0, 1.0, (0.0, 1.0)) and hash(guidance) == hash(fs.Guidance(3.0, 1.0))
    with pytest.raises(AttributeError):
        guidance.scale = 2.0
