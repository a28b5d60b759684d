"""Adapters of one's own: found by class or by what it inherits from, first in line, and held to the contract."""

import pytest
import tiny_pipelines as tiny
import torch
from contracts.prior import PriorContract
from diffusers import StableDiffusionPipeline
from exact_priors import relative

import fastsync as fs
from fastsync import priors
from fastsync.diffusion import NoiseSchedule
from fastsync.priors import PipelinePrior, Runtime, VaeCodec, register, registry


class OwnPipeline(StableDiffusionPipeline):
    """A pipeline of the user's own."""


class Tuned(OwnPipeline):
    """A subclass of it."""


class OwnPrior(PipelinePrior):
    """The least that an adapter has to say."""

    def __init__(self, pipe, *, window=None, runtime=None, solver="auto"):
        self.pipe, self.runtime = pipe, Runtime.of(pipe) if runtime is None else runtime
        self.window = fs.errors.check_pair("window", window or (8, 8))
        self.schedule, self.codec = NoiseSchedule(pipe.scheduler, solver), VaeCodec(pipe.vae)

    @property
    def view_shape(self):
        return (4, *self.window)

    def network(self, x, t, cond):
        text = self.checked(cond)["text"].to(self.dtype)
        return self.pipe.unet(x.to(self.dtype), t, encoder_hidden_states=text).sample

    def encode_prompt(self, prompt, negative_prompt=None):
        prompts, negatives = priors.base.strings(prompt, negative_prompt)
        with torch.no_grad():
            return self.pipe.encode_prompt(prompts, self.device, 1, True, negatives)


@pytest.fixture
def fresh(monkeypatch):
    """What is registered here is forgotten afterwards."""
    monkeypatch.setattr(registry, "_USERS", dict(registry._USERS))


def make(kind=OwnPipeline, dtype=torch.float32):
    pipe = kind(**tiny.make_pipeline().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


@pytest.mark.usefixtures("fresh")
class TestOwn(PriorContract):
    @pytest.fixture(autouse=True)
    def registered(self, fresh):
        register("OwnPipeline")(OwnPrior)

    def make_pipe(self, dtype=torch.float32):
        return make(dtype=dtype)

    def test_it_is_the_one_that_wrap_takes(self):
        assert type(self.make()) is OwnPrior


def test_the_nearest_class_decides(fresh):
    assert type(priors.wrap(make())) is fs.DiffusersPrior and type(priors.wrap(make(Tuned))) is fs.DiffusersPrior
    assert register("OwnPipeline")(OwnPrior) is OwnPrior
    assert type(priors.wrap(make())) is OwnPrior and type(priors.wrap(make(Tuned))) is OwnPrior
    assert type(priors.wrap(tiny.make_pipeline())) is fs.DiffusersPrior

    @register("Tuned", "NobodyKnows")
    def adapter(pipe, *, window=None, runtime=None, solver="auto"):
        prior = OwnPrior(pipe, window=window, runtime=runtime, solver=solver)
        prior.note = (window, solver)
        return prior

    assert priors.wrap(make(Tuned), window=(12, 16), solver="ddim").note == ((6, 8), "ddim")
    assert not hasattr(priors.wrap(make()), "note")


def test_later_registrations_replace_earlier_ones_and_fastsyncs_own(fresh):
    register("StableDiffusionPipeline")(OwnPrior)
    assert type(priors.wrap(tiny.make_pipeline())) is OwnPrior and type(priors.wrap(make())) is OwnPrior
    register("StableDiffusionPipeline")(fs.DiffusersPrior)
    assert type(priors.wrap(tiny.make_pipeline())) is fs.DiffusersPrior


@pytest.mark.parametrize("wrong", ["network", "guidance", "text"])
def test_an_adapter_must_give_the_pipelines_own_first_step(fresh, wrong):
    class Wrong(OwnPrior):
        default_guidance = 3.0 if wrong == "guidance" else OwnPrior.default_guidance

        def network(self, x, t, cond):
            return super().network(x, t, cond) * (1.01 if wrong == "network" else 1.0)

        def encode_prompt(self, prompt, negative_prompt=None):
            cond, uncond = super().encode_prompt(prompt, negative_prompt)
            return (cond, cond) if wrong == "text" else (cond, uncond)

    register("OwnPipeline")(Wrong)
    with pytest.raises(ValueError, match="Wrong, the adapter registered for OwnPipeline, differs from .* first step"):
        priors.wrap(make())


def test_an_adapter_is_compared_once_a_pipeline(fresh, monkeypatch):
    register("OwnPipeline")(OwnPrior)
    pipe, calls = make(), []
    priors.wrap(pipe)
    monkeypatch.setattr(OwnPrior, "network", lambda *a: calls.append(a))
    priors.wrap(pipe)
    assert not calls


def test_tasks_run_on_it(fresh):
    settings = {
        "width": 40, "overlap": 4, "num_inference_steps": 2, "seed": 0, "output_type": "latent", "progress": False,
    }  # fmt: skip
    expected = fs.SyncPipeline(make()).wide("a cat", **settings)
    register("OwnPipeline")(OwnPrior)
    sync = fs.SyncPipeline(make())
    assert type(sync._prior()) is OwnPrior
    assert relative(sync.wide("a cat", **settings).latents, expected.latents) < 1e-6
    out = sync.compose([torch.ones(14, 16)], ["a cat"], height=14, width=16, method="multidiffusion", **{
        name: settings[name] for name in ("num_inference_steps", "seed", "output_type", "progress")
    })  # fmt: skip
    assert out.latents.shape == (1, 4, 7, 8)  # windows of any size, as the adapter says nothing of them
    with pytest.raises(ValueError, match="neighbours shares the self-attention .* OwnPipeline"):
        priors.wrap(make(), neighbours=priors.view_ring(3))
    with pytest.raises(ValueError, match="texture\\(\\) needs a model that is shown the mesh's depth"):
        sync.texture("none.obj", "a cat")


def test_what_an_adapter_leaves_out_is_named(fresh):
    class Bare(PipelinePrior):
        pass

    prior = Bare()
    for name, call in {
        "view_shape": lambda: prior.view_shape,
        "encode_prompt": lambda: prior.encode_prompt("a cat"),
        "network() or predict()": lambda: prior.network(torch.zeros(1), torch.zeros(1), None),
    }.items():
        with pytest.raises(NotImplementedError, match="Bare must") as caught:
            call()
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: register(), "takes one name of a pipeline class or more, got none"),
        (lambda: register(StableDiffusionPipeline), "takes names of pipeline classes such as 'FluxPipeline'"),
        (lambda: register("OwnPipeline", 3), "names of pipeline classes .*, got 3"),
        (lambda: register("own.OwnPipeline"), "got 'own.OwnPipeline'"),
        (lambda: register("OwnPipeline")("adapter"), "decorates a class or a function, got 'adapter'"),
    ],
)
def test_names_and_adapters_are_checked(fresh, call, words):
    before = dict(registry._USERS)
    with pytest.raises(TypeError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and registry._USERS == before
