"""Pipelines whose step cannot be learnt, entered at one of their steps for each evaluation."""

import pytest
import torch
from families import FAMILIES
from families.awkward import AWKWARD, OwnLoop, loop
from families.running import spied
from families.state import assert_same, snapshot

import fastsync as fs
from fastsync.priors.probe.refusal import CannotProbe
from fastsync.priors.reentry import ReenteredPrior, unasked
from fastsync.priors.request import ViewRequest

ALL = {**FAMILIES, **AWKWARD}
OPTIONS = ("prompt", "negative_prompt", "height", "width", "guidance_scale")
# What changes from step to step, or is otherwise not to be learnt.
ENTERED = [
    "sd-controlnet-end",
    "sd-controlnet-guess",
    "flux-controlnet-end",
    "sdxl-t2i-adapter-half",
    "sd-pag-adaptive",
    "sdxl-pag",
    "sd3-skip-layers",
    "z-image-truncated",
    "lumina2-truncated",
    "lumina",
    "hunyuan-image-meanflow",
    "bria-clipped",
    "prx-pixel",
    "gligen",
    "sd-latent-upscale",
    "other-second-step",
    "changing-guidance",
    "last-step-differs",
    "step-input",
    "hidden-input",
    "doubled",
    "clamped",
    "permuted",
]
# What would do as well by probing: other layouts, schedulers, starts.
ALIKE = ["sd", "sd-v", "sd-img2img", "flux", "qwen-image", "if", "sd-inpaint-9", "sd3-controlnet"]
BLENDED = ["sd-inpaint-4", "flux-inpaint", "sd3-inpaint", "changed-state"]


def entered(name, index=0, *, dtype=torch.float32, views=1, pipe=None):
    """(prior, told, pipeline, call): a prior of a family, told of pictures that differ in their prompts alone."""
    family = ALL[name]
    pipe = family.make(dtype=dtype) if pipe is None else pipe
    call = family.call(index, dtype=dtype)
    rest = {argument: value for argument, value in call.items() if argument not in OPTIONS}
    window = (call["height"], call["width"]) if "height" in call else None
    prior = ReenteredPrior(pipe, window=window, pipe_kwargs=rest)
    prompts = [family.call(index + view)["prompt"] for view in range(views)] if "prompt" in call else None
    guidance = fs.Guidance(call["guidance_scale"]) if "guidance_scale" in call else None
    told = prior.told(ViewRequest(views, prompts, call.get("negative_prompt"), guidance))
    return prior, told, pipe, call


def own_steps(prior, pipe, call, steps):
    """For each step of the pipeline's own run what the network is shown and what the scheduler gets, as views."""
    run = spied(pipe, call, steps=steps)
    for sample, scaled, output in zip(run.samples, run.inputs, run.outputs, strict=True):
        shape, shown = sample.shape[1:], sample if scaled is None else scaled
        shown = shown[:, : shape[0]].reshape(1, *shape)
        channels = output if output.shape[1:] == shape else output[:, : shape[0]]
        yield prior.layout.unpacked(shown), prior.layout.unpacked(channels)


@pytest.mark.parametrize("name", [*ENTERED, *ALIKE])
def test_the_pipelines_own_model_output_at_every_step(name):
    prior, told, pipe, call = entered(name)
    steps = ALL[name].steps
    times = prior.steps(steps).timesteps
    seen = 0
    for t, (x, wanted) in zip(times, own_steps(prior, pipe, call, steps), strict=True):
        got = prior.network(x, t[None], told.cond)
        # Nothing is computed otherwise, but where a loop uses states x0 + sigma eps beside their scaled form.
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=2e-6 * float(wanted.abs().max()))
        seen += 1
    assert seen == len(times) and told.uncond is None


@pytest.mark.parametrize("name", ["sd-v", "sd-controlnet-end", "flux-controlnet-end", "sd3-skip-layers"])
def test_half_precision_is_the_pipelines_own(name):
    prior, told, pipe, call = entered(name, dtype=torch.bfloat16)
    for t, (x, wanted) in zip(prior.steps(4).timesteps, own_steps(prior, pipe, call, 4), strict=True):
        assert wanted.dtype == torch.bfloat16 and torch.equal(prior.network(x.float(), t[None], told.cond), wanted)


@pytest.mark.parametrize("name", ["sd-controlnet-end", "z-image-truncated", "bria-clipped", "batch-coupled"])
def test_views_at_times_of_their_own_are_what_they_are_alone(name):
    prior, told, _, _ = entered(name, views=3)
    times = prior.steps(4).timesteps[[1, 3, 1, 0, 1]]
    x = torch.randn(5, *prior.view_shape, generator=torch.Generator().manual_seed(3))
    rows = told.cond.select([0, 1, 2, 0, 0])
    together = prior.network(x, times, rows)
    alone = [prior.network(x[k : k + 1], times[k : k + 1], rows.select([k])) for k in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not torch.equal(alone[0], alone[2])  # other prompts


def test_rows_of_one_time_are_one_call_of_the_network():
    prior, told, pipe, _ = entered("sd-controlnet-end", views=3)
    t = prior.steps(4).timesteps[1].expand(3)
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    prior.network(torch.randn(3, *prior.view_shape), t, told.cond)
    hook.remove()
    assert sizes == [6]


@pytest.mark.parametrize("name", ["sd-controlnet-end", "sd3-skip-layers", "sd-pag-adaptive", "other-second-step"])
@pytest.mark.parametrize("step", [0, 2])
def test_gradients_are_those_of_finite_differences(name, step):
    prior, told, _, _ = entered(name, dtype=torch.float64)
    t = prior.steps(4).timesteps[step : step + 1]
    random = torch.Generator().manual_seed(1)
    x, direction, weight = (torch.randn(1, *prior.view_shape, generator=random).double() for _ in range(3))

    def value(z):
        return (prior.network(z, t, told.cond) * weight).sum()

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    h = 1e-5
    with torch.no_grad():
        difference = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6)
    assert torch.is_grad_enabled()


def test_no_graph_where_no_gradients_are_wanted():
    prior, told, _, _ = entered("sd3-skip-layers")
    x = torch.randn(1, *prior.view_shape, requires_grad=True)
    for t in prior.steps(4).timesteps[[0, 2]]:
        with torch.no_grad():
            assert not prior.network(x, t[None], told.cond).requires_grad


def test_a_time_between_two_steps_is_what_the_network_is_told():
    prior, told, pipe, _ = entered("sd-controlnet-end")
    times = prior.steps(4).timesteps
    asked = int(times[2]) + 7
    told_times = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: told_times.append(float(args[1])))
    x = torch.randn(1, *prior.view_shape)
    between = prior.network(x, torch.tensor([asked]), told.cond)
    at_step = prior.network(x, times[2:3], told.cond)
    hook.remove()
    assert told_times == [asked, int(times[2])]
    assert not torch.equal(between, at_step)


@pytest.mark.parametrize("name", ["sd-controlnet-end", "z-image-truncated"])
def test_loops_of_other_lengths_do_not_disturb_each_other(name):
    prior, told, _, _ = entered(name)
    x = torch.randn(1, *prior.view_shape)
    t = prior.steps(5).timesteps[1:2]
    before = prior.network(x, t, told.cond)
    prior.steps(3)
    assert torch.equal(prior.network(x, t, told.cond), before)


@pytest.mark.parametrize("name", BLENDED)
def test_states_changed_between_the_steps_are_refused(name):
    with pytest.raises(CannotProbe, match="changes the state between two steps of its scheduler"):
        entered(name)


@pytest.mark.parametrize(
    "name, why",
    [
        ("hunyuan-image-apg", "depends on those before"),
        ("interrupted", "at other times"),
        ("raising", "no more today"),
        ("global-noise", "global random generator"),
        ("not-finite", "made twice differs by nan"),
        ("always-interrupted", "before its first step"),
    ],
)
def test_what_cannot_be_entered_is_refused_in_one_sentence(name, why):
    pipe = ALL[name].make()
    before = snapshot(pipe)
    with pytest.raises(CannotProbe, match=why) as refusal:
        entered(name, pipe=pipe)
    assert str(refusal.value).startswith(type(pipe).__name__)
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize(
    "name", ["sd-controlnet-end", "sd-pag-adaptive", "hidden-input", "left-scaled", "z-image-truncated"]
)
def test_the_pipeline_is_as_it_was_after_every_evaluation(name):
    pipe = ALL[name].make()
    call = ALL[name].call()
    spied(pipe, call, steps=2)  # tables that networks make when they are first asked
    before = snapshot(pipe)
    prior, told, _, _ = entered(name, pipe=pipe)
    times = prior.steps(4).timesteps
    x = torch.randn(1, *prior.view_shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for t in times[[0, 2]]:
        prior.network(x, t[None], told.cond).sum().backward()
    pipe.unet.zero_grad() if getattr(pipe, "unet", None) is not None else pipe.transformer.zero_grad()
    if getattr(pipe, "controlnet", None) is not None:
        pipe.controlnet.zero_grad()
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize("name", ["sd-controlnet-end", "sd-pag-adaptive", "hidden-input", "left-scaled"])
@pytest.mark.parametrize("step", [0, 2])
def test_the_pipeline_is_as_it_was_after_an_interruption(name, step):
    pipe = ALL[name].make()
    spied(pipe, ALL[name].call(), steps=2)
    prior, told, _, _ = entered(name, pipe=pipe)
    t = prior.steps(4).timesteps[step : step + 1]
    x = torch.randn(1, *prior.view_shape, generator=torch.Generator().manual_seed(0))
    whole = prior.network(x, t, told.cond)

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = pipe.unet.conv_out.register_forward_pre_hook(interrupt)
    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        prior.network(x, t, told.cond)
    assert_same(before, snapshot(pipe))
    hook.remove()
    assert torch.equal(prior.network(x, t, told.cond), whole)


def test_what_the_network_raises_is_passed_on():
    prior, told, pipe, _ = entered("sd-controlnet-end")
    t = prior.steps(4).timesteps[2:3]

    def too_much(*_):
        raise torch.OutOfMemoryError("no memory left")

    pipe.unet.register_forward_pre_hook(too_much)
    with pytest.raises(torch.OutOfMemoryError):
        prior.network(torch.randn(1, *prior.view_shape), t, told.cond)


# ---- calls that are decorated, or not, in another way ----


def plain_loop(decorate, parts):
    """A pipeline of these parts whose guidance changes, with a call below another decorator than torch.no_grad."""

    class Decorated(OwnLoop):
        __call__ = decorate(OwnLoop.__call__.__wrapped__)

        def guide(self, i, uncond, cond):
            return uncond + self.guidance_scale / (i + 1) * (cond - uncond)

    return Decorated(**parts, requires_safety_checker=False)


def undecorated(call):
    return call


@pytest.mark.parametrize("decorate", [undecorated, torch.inference_mode(), torch.enable_grad()])
def test_gradients_pass_below_any_decorator(decorate):
    plain, plain_told, pipe, _ = entered("changing-guidance")
    prior, told, _, _ = entered("changing-guidance", pipe=plain_loop(decorate, pipe.components))
    t = prior.steps(4).timesteps[2:3]
    plain.steps(4)
    x = torch.randn(1, *prior.view_shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs = [prior.network(x, t, told.cond), plain.network(x, t, plain_told.cond)]
    gradients = [torch.autograd.grad(output.square().sum(), x)[0] for output in outputs]
    assert torch.equal(*outputs) and torch.equal(*gradients)


def test_a_loop_that_cuts_gradients_says_so_where_they_are_wanted():
    class Cutting(OwnLoop):
        def guide(self, i, uncond, cond):
            return (uncond + self.guidance_scale / (i + 1) * (cond - uncond)).detach()

    prior, told, _, _ = entered("changing-guidance", pipe=loop(Cutting))
    t = prior.steps(4).timesteps[2:3]
    x = torch.randn(1, *prior.view_shape)
    assert prior.network(x, t, told.cond).isfinite().all()
    with pytest.raises(ValueError, match="no gradient passes through the call of Cutting"):
        prior.network(x.requires_grad_(), t, told.cond)


def test_checkpointing_of_a_network_that_is_changed_for_the_call_is_refused():
    prior, told, pipe, _ = entered("sd-pag-adaptive")
    t = prior.steps(4).timesteps[2:3]
    x = torch.randn(1, *prior.view_shape, requires_grad=True)
    pipe.unet.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match=r"call pipe.unet.disable_gradient_checkpointing\(\)"):
        prior.network(x, t, told.cond)
    with torch.no_grad():
        prior.network(x, t, told.cond)


# ---- what is asked for ----


def test_guidance_goes_to_the_call():
    family = ALL["sd-controlnet-end"]
    pipe, call = family.make(), family.call()
    rest = {argument: value for argument, value in call.items() if argument not in OPTIONS}
    prior = ReenteredPrior(pipe, window=(16, 16), pipe_kwargs=rest)
    told = prior.told(ViewRequest(1, [call["prompt"]], call["negative_prompt"], fs.Guidance(2.5)))
    assert told.scale == 2.5 and told.guidance == fs.Guidance(1.0)  # which is inside of the call
    times = prior.steps(4).timesteps
    x, wanted = list(own_steps(prior, pipe, {**call, "guidance_scale": 2.5}, 4))[3]
    torch.testing.assert_close(prior.network(x, times[3:], told.cond), wanted, rtol=1e-4, atol=1e-5)
    own = prior.told(ViewRequest(1, [call["prompt"]]))
    assert own.scale == 7.5
    for guidance in (fs.Guidance(2.0, rescale=0.5), fs.Guidance(2.0, interval=(0.0, 0.5))):
        with pytest.raises(ValueError, match="guided inside of its own call"):
            prior.told(ViewRequest(1, [call["prompt"]], guidance=guidance))


def test_pictures_by_view():
    family = ALL["sd-controlnet-end"]
    pictures = [family.call(index)["image"] for index in range(2)]
    rest = {argument: value for argument, value in family.call().items() if argument not in OPTIONS}
    prior = ReenteredPrior(family.make(), window=(16, 16), pipe_kwargs={**rest, "image": fs.ByView(pictures)})
    told = prior.told(ViewRequest(2, ["a cat"]))
    t = prior.steps(4).timesteps[1:2]
    x = torch.randn(1, *prior.view_shape).expand(2, -1, -1, -1)
    both = prior.network(x, t, told.cond)
    for view, picture in enumerate(pictures):
        alone = ReenteredPrior(prior.pipe, window=(16, 16), pipe_kwargs={**rest, "image": picture})
        told_alone = alone.told(ViewRequest(1, ["a cat"]))
        alone.steps(4)
        assert torch.equal(alone.network(x[:1], t, told_alone.cond)[0], both[view])
    assert not torch.equal(both[0], both[1])


def test_a_start_from_a_picture():
    prior, told, pipe, call = entered("sd-img2img", views=2)
    assert told.start is not None and told.start.shape == (2, *prior.view_shape)
    table = prior.steps(5)
    assert len(table.timesteps) == 4
    with torch.no_grad():
        decoded = prior.decode(told.start)
    assert torch.equal(decoded[0], decoded[1])


def test_conditions_of_something_else_are_refused():
    prior, _, _, _ = entered("sd-controlnet-end")
    for cond in (None, fs.Conditions({"text": torch.zeros(1, 2)})):
        with pytest.raises(ValueError, match=r"pass what prior.told\(request\)"):
            prior.network(torch.zeros(1, *prior.view_shape), torch.tensor([1]), cond)


def test_shared_attention_is_refused():
    with pytest.raises(ValueError, match="neighbours shares the self-attention"):
        ReenteredPrior(ALL["sd-controlnet-end"].make(), window=(16, 16), neighbours=[[0]])


@pytest.mark.parametrize("name", ["sd-controlnet-end", "flux-controlnet-end", "z-image-truncated"])
def test_one_window_is_the_pipelines_own_picture(name):
    prior, told, pipe, call = entered(name)
    run = spied(pipe, call, steps=4)
    x = list(own_steps(prior, pipe, call, 4))[0][0]
    canvas = fs.WideCanvas(prior.view_shape[1:], prior.view_shape[1:], stride=prior.view_shape[1])
    out = fs.sample(
        prior,
        canvas,
        fs.MultiDiffusion(),
        cond=told.cond,
        guidance_scale=told.guidance,
        num_inference_steps=4,
        latents=x / prior.steps(4).start,
    )
    wanted = prior.layout.unpacked(run.final)
    torch.testing.assert_close(out.canvas, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [fs.SyncVC(iterations=2), fs.SyncTweedies(), fs.SyncSDE(), fs.StochSync()])
def test_methods_run(method):
    prior, told, _, _ = entered("sd-controlnet-end", views=3)
    h, w = prior.view_shape[1:]
    canvas = fs.WideCanvas((h, 2 * w), (h, w), stride=w // 2)
    out = fs.sample(prior, canvas, method, cond=told.cond, guidance_scale=told.guidance, num_inference_steps=4)
    assert out.canvas.isfinite().all()


def test_the_refusal_at_the_end_says_both_reasons_once():
    pipe = ALL["changed-state"].make()
    blended, other = CannotProbe("ChangedState: it blends"), CannotProbe("its times are its own")
    assert str(unasked(pipe, blended, CannotProbe("it blends"))) == (
        "ChangedState: it blends, and its __call__ cannot be entered again: register an adapter with "
        "fastsync.priors.register, or wrap its network with FunctionPrior."
    )
    assert "entered again (its times are its own): register" in str(unasked(pipe, blended, other))
