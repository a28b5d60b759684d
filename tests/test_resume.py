"""A session that is saved and goes on elsewhere: bit for bit as if it had never been stopped."""

import io
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import ddim, flow, nonlinear, randn
from scheduler_cases import ancestral, ddpm, dpm, euler, lcm, unipc

import fastsync as fs

SHAPE, VIEWS, STEPS = (3, 4, 6), 4, 4
MASKS = torch.zeros(2, 1, 4, 6)
MASKS[0, :, :2, :4], MASKS[1, :, 1:, 3:] = 1.0, 0.7


def spread(a, b):
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()


def wide():
    return fs.WideCanvas((4, 6 + 4 * (VIEWS - 1)), SHAPE[1:], 4)


def masked():
    return fs.MaskCanvas(MASKS)


def turned():
    return fs.IllusionCanvas(["identity", "negate", "rotate_180", "flip"], SHAPE)


def small(
    method, canvas=wide, *, scheduler=None, network=nonlinear, dtype=torch.float64, seed=0, guided=True, **options
):
    """A session of a made-up network; ``seed`` None draws from the global generator."""
    prior = fs.FunctionPrior(network, scheduler or ddim(steps_offset=1), SHAPE, dtype=dtype)
    canvas = canvas()
    views = canvas.num_views + (isinstance(canvas, fs.MaskCanvas) and method.noise_use == "read")
    cond = 0.5 * torch.sin(torch.arange(views * 72, dtype=dtype)).reshape(views, *SHAPE)
    given = {"cond": cond, "uncond": torch.zeros_like(cond[:1]) if guided else None, "guidance_scale": 2.0}
    given |= {"num_inference_steps": STEPS, "generator": None if seed is None else torch.Generator().manual_seed(seed)}
    return fs.Session(prior, canvas, method, **{**given, **options})


PIPE = tiny.make_pipeline()


def real(method, units="cells", scheduler=None, **options):
    """A session of a tiny Stable Diffusion pipeline; its canvas may be in pixels."""
    pipe = PIPE if scheduler is None else tiny.make_pipeline(scheduler=scheduler)
    prior, f = fs.DiffusersPrior(pipe), tiny.SCALE if units == "pixels" else 1
    canvas = fs.WideCanvas((8 * f, 16 * f), (8 * f, 8 * f), 4 * f, units=units)
    cond, uncond = prior.encode_prompt("a cat")
    return fs.Session(
        prior, canvas, method, cond=cond, uncond=uncond, num_inference_steps=3,
        generator=torch.Generator().manual_seed(0), **options,
    )  # fmt: skip


class Colours(fs.rewards.Reward):
    """Decoded pictures have the colours of those of all earlier views."""

    pixels, scores_first_view = True, False

    def __call__(self, x0, earlier, i):
        return -sum((x0.mean((1, 2)) - picture.mean((1, 2))).square().sum() for picture in earlier)


def rewarded(**settings):
    return fs.SyncVC(iterations=2, rewards=[Colours()], **settings)


def out_of_memory():
    """A network with room for five rows, of which the wavefront needs more from its third front on."""

    def network(x, t, cond):
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return nonlinear(x, t, cond)

    return network


SYNCVC = fs.SyncVC(iterations=2)
CASES = {
    "independent, eta": lambda: small(fs.Independent(), eta=0.5),
    "independent, float32": lambda: small(fs.Independent(), eta=0.5, dtype=torch.float32),
    "multidiffusion, eta": lambda: small(fs.MultiDiffusion("gaussian"), eta=1.0),
    "multidiffusion, bootstrapped": lambda: small(fs.MultiDiffusion(bootstrapping=3), masked, eta=0.5),
    "multidiffusion, bootstrapped pipeline": lambda: real_masks(fs.MultiDiffusion(bootstrapping=2)),
    "synctweedies": lambda: small(fs.SyncTweedies(), eta=0.3, latents=randn(VIEWS, *SHAPE, seed=3)),
    "synctweedies, pixels": lambda: real(fs.SyncTweedies(), "pixels"),
    "syncsde": lambda: small(fs.SyncSDE(), eta=0.5),
    "syncsde, masks": lambda: small(fs.SyncSDE(coupling="stable"), masked),
    "syncdiffusion": lambda: small(fs.SyncDiffusion(0.1, every=2, perceptual=spread), eta=0.5),
    "syncdiffusion, pipeline": lambda: real(fs.SyncDiffusion(0.1, perceptual=spread)),
    "stochsync": lambda: small(fs.StochSync(steps=5, blend_steps=3)),
    "stochsync, illusion": lambda: small(fs.StochSync(steps=5), turned),
    "stochsync, fast pixels": lambda: real(fs.StochSync(steps=4, fast=True), "pixels"),
    "syncvc": lambda: small(SYNCVC, order="sequential"),
    "syncvc, wavefront": lambda: small(SYNCVC, order="wavefront", eta=0.7),
    "syncvc, wavefront without previews": lambda: small(SYNCVC, previews=False),
    "syncvc, illusion": lambda: small(SYNCVC, turned, order="wavefront"),
    "syncvc, masks": lambda: small(SYNCVC, masked, order="wavefront"),
    "syncvc, search": lambda: small(fs.SyncVC(search=3), order="wavefront", eta=0.5),
    "syncvc, rewards of pictures": lambda: real(rewarded(), order="wavefront"),
    "syncvc, rewards without previews": lambda: real(rewarded(), previews=False, max_batch=2),
    "syncvc, searched rewards": lambda: real(fs.SyncVC(search=2, rewards=[Colours()]), previews=False),
    "syncvc, tolerance": lambda: small(fs.SyncVC(iterations=5, tolerance=0.05), previews=False),
    "syncvc, window": lambda: small(fs.SyncVC(iterations=2, control_window=(900, 300)), previews=False),
    "syncvc, feature reuse": lambda: real(fs.SyncVC(iterations=3, feature_reuse=True), previews=False),
    "syncvc, half of the gradient": lambda: small(fs.SyncVC(iterations=2, guidance_gradient="cond"), previews=False),
    "interval": lambda: small(SYNCVC, previews=False, guidance_scale=fs.Guidance(3.0, 0.5, (0.2, 0.7))),
    "ddpm": lambda: small(SYNCVC, scheduler=ddpm(), previews=False),
    "euler": lambda: small(fs.SyncSDE(coupling="stable"), scheduler=euler(use_karras_sigmas=True)),
    "euler ancestral": lambda: small(fs.SyncTweedies(), scheduler=ancestral()),
    "lcm": lambda: small(fs.MultiDiffusion(), scheduler=lcm()),
    "2M": lambda: small(fs.MultiDiffusion(), scheduler=dpm(), num_inference_steps=6),
    "2M, syncvc": lambda: small(SYNCVC, scheduler=dpm(), num_inference_steps=6, previews=False),
    "2M, without previews": lambda: small(fs.Independent(), scheduler=dpm(), num_inference_steps=6, previews=False),
    "2M, sde": lambda: small(fs.SyncTweedies(), scheduler=dpm(algorithm_type="sde-dpmsolver++"), num_inference_steps=6),
    "2M, pipeline": lambda: real(SYNCVC, scheduler=dpm(), previews=False),
    "unipc": lambda: small(fs.SyncSDE(coupling="stable"), scheduler=unipc(), num_inference_steps=6),
    "flow": lambda: small(SYNCVC, scheduler=flow(stochastic_sampling=True), previews=False),
    "batches of 2": lambda: small(SYNCVC, order="wavefront", max_batch=2, eta=0.5),
    "fixed batches": lambda: small(SYNCVC, order="wavefront", fixed_batches=True, guided=False),
    "automatic batches": lambda: small(SYNCVC, network=out_of_memory(), previews=False, max_batch="auto"),
    "automatic fixed batches": lambda: small(
        SYNCVC, network=out_of_memory(), previews=False, max_batch="auto", fixed_batches=True
    ),
}


def real_masks(method):
    prior = fs.DiffusersPrior(PIPE)
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., 2:6, 2:6] = 1.0
    cond, uncond = prior.encode_prompt(["sky", "cat"])
    return fs.Session(
        prior, fs.MaskCanvas(masks), method, cond=cond, uncond=uncond, num_inference_steps=3, eta=0.5,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def saved(run):
    """The state, through a file."""
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def spent(out):
    return {name: value for name, value in asdict(out.stats).items() if name not in ("seconds", "peak_memory")}


def rest(run):
    return [(state.step, state.views, state.x0) if run._previews else (state.step,) for state in run]


def alike(some, others):
    return all(
        a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        for a, b in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_bit_for_bit_the_same(name):
    build, states, steps = CASES[name], [], []
    unbroken = build()
    states.append(saved(unbroken))
    for state in unbroken:
        steps.append((state.step, state.views, state.x0) if unbroken._previews else (state.step,))
        states.append(saved(unbroken))
    expected = unbroken.result()
    assert [step for step, *_ in steps] == list(range(len(unbroken))) and torch.isfinite(expected.canvas).all()
    for done, state in enumerate(states):
        run = build()
        run.load_state_dict(state)
        assert alike(rest(run), steps[done:])
        out = run.result()
        assert torch.equal(out.canvas, expected.canvas) and torch.equal(out.views, expected.views), f"step {done}"
        assert spent(out) == spent(expected) and out.solver == expected.solver


@pytest.mark.parametrize("method", [SYNCVC, fs.Independent()], ids=["syncvc", "independent"])
@pytest.mark.parametrize("room", [5, 100])
def test_what_fitted_is_taken_along(room, method):
    """Where the network is known to have little room already, and where it has more than it had."""
    rooms = [5]

    def network(x, t, cond):
        if len(x) > rooms[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return nonlinear(x, t, cond)

    known = fs.FunctionPrior(network, ddim(steps_offset=1), SHAPE, dtype=torch.float64)

    def build(prior):
        return fs.Session(
            prior, wide(), method, cond=torch.zeros(1, *SHAPE), uncond=torch.ones(1, *SHAPE), num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0), max_batch="auto", fixed_batches=True, previews=False,
        )  # fmt: skip

    unbroken = build(known)
    states = [saved(unbroken) for _ in unbroken]
    expected = unbroken.result()
    assert expected.stats.max_batch == build(known)._batches.most == 2
    rooms.append(room)
    for state in states:
        run = build(known if room == 5 else fs.FunctionPrior(network, ddim(steps_offset=1), SHAPE, dtype=torch.float64))
        run.load_state_dict(state)
        rest(run)
        assert torch.equal(run.result().canvas, expected.canvas) and spent(run.result()) == spent(expected)


def test_pictures_of_rewards_are_not_decoded_again():
    """A decoder whose numbers depend on the batch, as those of convolutions may in their last bits."""

    class Decoding(fs.FunctionPrior):
        def decode(self, latents):
            return latents * (1 + 1e-6 * len(latents))

    def build():
        return fs.Session(
            Decoding(nonlinear, ddim(steps_offset=1), SHAPE, dtype=torch.float64), wide(), rewarded(), previews=False,
            cond=torch.zeros(1, *SHAPE), num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    unbroken = build()
    states = [saved(unbroken) for _ in unbroken]
    assert all(state["method"]["pictures"] for state in states[:-1])
    for state in states:
        run = build()
        run.load_state_dict(state)
        rest(run)
        assert torch.equal(run.result().canvas, unbroken.result().canvas)


@pytest.mark.parametrize("method", [fs.MultiDiffusion(), SYNCVC, fs.SyncVC(search=2), fs.StochSync(steps=4)])
def test_the_global_generator_is_not_needed_again(method):
    torch.manual_seed(7)
    unbroken = small(method, seed=None, eta=0.0 if isinstance(method, fs.StochSync) else 0.5)
    states = [saved(unbroken) for _ in unbroken]
    expected = unbroken.result()
    for state in states:
        torch.manual_seed(11)
        run = small(method, seed=None, eta=0.0 if isinstance(method, fs.StochSync) else 0.5)
        run.load_state_dict(state)
        before = torch.get_rng_state()
        next(run, None)
        again = small(method, seed=None, eta=0.0 if isinstance(method, fs.StochSync) else 0.5)  # and once more
        again.load_state_dict(saved(run))
        torch.set_rng_state(before)
        rest(again)
        assert torch.equal(again.result().canvas, expected.canvas)
        assert torch.equal(torch.get_rng_state(), before)


def test_edits_are_taken_along():
    for method in (fs.StochSync(steps=4), fs.Independent(), fs.SyncTweedies()):
        unbroken, state = small(method, scheduler=dpm(), num_inference_steps=6), None
        for step in unbroken:
            if step.step == 1:
                step.views = step.views + 0.1
                state = saved(unbroken)
        run = small(method, scheduler=dpm(), num_inference_steps=6)
        run.load_state_dict(state)
        rest(run)
        assert torch.equal(run.result().canvas, unbroken.result().canvas)


@pytest.mark.parametrize("name", ["stochsync", "multidiffusion, bootstrapped", "syncdiffusion, pipeline"])
def test_a_session_goes_back(name):
    """Nothing is left of the steps that were taken, nor of one that an error ended."""
    run, states = CASES[name](), []
    for _ in run:
        states.append(saved(run))
    expected = run.result()
    for state in states[::-1]:
        run.load_state_dict(state)
        rest(run)
        assert torch.equal(run.result().canvas, expected.canvas) and spent(run.result()) == spent(expected)
    other = CASES[name]()
    other.run.states.noisy.mul_(0.9)
    for done, _ in enumerate(other):
        if done == 1:
            other.run.network._query = None
            with pytest.raises(TypeError):
                next(other)
            del other.run.network._query
            other.load_state_dict(states[1])
    assert torch.equal(other.result().canvas, expected.canvas)


CHILD = """
import sys, torch
sys.path[:0] = sys.argv[1:3]
import test_resume as here
run = here.CASES[sys.argv[3]]()
run.load_state_dict(torch.load(sys.argv[4], weights_only=True))
here.rest(run)
torch.save([run.result().canvas, here.spent(run.result())], sys.argv[5])
"""


def test_in_another_process(tmp_path):
    name, tests = "syncvc, rewards without previews", Path(__file__).parent
    unbroken = CASES[name]()
    next(unbroken)
    torch.save(unbroken.state_dict(), tmp_path / "state.pt")
    rest(unbroken)
    arguments = [tests.parent, tests, name, tmp_path / "state.pt", tmp_path / "result.pt"]
    subprocess.run([sys.executable, "-c", CHILD, *map(str, arguments)], check=True, cwd=tests.parent)
    canvas, stats = torch.load(tmp_path / "result.pt", weights_only=True)
    assert torch.equal(canvas, unbroken.result().canvas) and stats == spent(unbroken.result())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": fs.Independent()}, "there method is 'SyncVC', and here 'Independent'"),
        ({"method": fs.SyncVC(iterations=3)}, "there iterations is 2, and here 3"),
        ({"method": fs.SyncVC(iterations=2, view_order=[1, 0, 2, 3])}, "there view_order is None, and here"),
        ({"method": fs.SyncVC(iterations=2, rewards=[Colours()])}, r"there rewards is \[\], and here \['Colours'\]"),
        ({"canvas": lambda: fs.WideCanvas((4, 17), (4, 6), 4)}, "there canvas is 'WideCanvas of 4 views, .4, 18.'"),
        ({"canvas": lambda: fs.WideCanvas((4, 18), (4, 6), 5)}, r"there where views lie is \[\["),
        ({"canvas": lambda: fs.WideCanvas((4, 18), (4, 6), 4, loop=True)}, "there "),
        ({"num_inference_steps": 5}, r"there times is \[751, 501, 251, 1\], and here \[801,"),
        ({"eta": 0.5}, r"there noise of the steps is \[0.0, 0.0, 0.0, 0.0\], and here"),
        ({"scheduler": ddpm()}, "there solver is 'ddim', and here 'ddpm'"),
        ({"guidance_scale": 3.0}, r"there guidance is 'Guidance\(scale=2.0,"),
        ({"order": "sequential"}, "there order is 'wavefront', and here 'sequential'"),
        ({"max_batch": 2}, "there max_batch is None, and here 2"),
        ({"fixed_batches": True}, "there fixed_batches is False, and here True"),
        ({"dtype": torch.float32}, "there precision is 'torch.float64', and here 'torch.float32'"),
        ({"previews": True}, "there previews is False, and here True"),
    ],
)
def test_a_state_of_another_run_is_refused(changes, sentence):
    common = {"method": SYNCVC, "order": "wavefront", "previews": False}
    if isinstance(changes.get("method"), fs.Independent):
        common["order"] = "sequential"
    run = small(**common)
    next(run)
    state = saved(run)
    other = small(**{**common, **changes})
    before = saved(other)["states"]
    with pytest.raises(ValueError, match=f"the state is of another run: {sentence}.*: build the session by the call"):
        other.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in saved(other)["states"].items())


def test_what_is_no_state_is_refused():
    run = small(fs.Independent())
    for state in (None, {}, run.state_dict()["states"], {"format": 0}, {"format": 1}):
        with pytest.raises(ValueError, match=r"the state must be what Session.state_dict\(\) gave \(format 1\), got"):
            run.load_state_dict(state)
