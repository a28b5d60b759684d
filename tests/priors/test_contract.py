"""Every prior keeps the contract."""

import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch
from contracts.prior import VIEWS, FunctionContract, PriorContract
from exact_priors import ddim, flow, nonlinear, randn
from families import FAMILIES

import fastsync as fs
from fastsync.priors import BackdropPrior, ProbedPrior


class TestFunction(FunctionContract):
    names = ("cond",)
    scheduler = ddim()

    def make(self, dtype=torch.float32):
        return fs.FunctionPrior(nonlinear, self.scheduler, (3, 8, 8), dtype=dtype)

    def conditions(self, prior, count=VIEWS):
        return tuple(0.5 * randn(count, *prior.view_shape, seed=seed, dtype=prior.dtype) for seed in (8, 9))


class TestFunctionOfV(TestFunction):
    scheduler = ddim(prediction_type="v_prediction")


class TestFunctionOfSamples(TestFunction):
    scheduler = ddim(prediction_type="sample")


class TestFunctionOfFlow(TestFunction):
    scheduler = flow()


class TestBackdropOfAFunction(TestFunction):
    names = ("cond", "backdrop", "beside")

    def make(self, dtype=torch.float32):
        return BackdropPrior(super().make(dtype))

    def conditions(self, prior, count=VIEWS):
        return with_backdrop(super().conditions(prior, count), prior, count)


class TestDiffusers(PriorContract):
    prediction = "epsilon"

    def make_pipe(self, dtype=torch.float32):
        return tiny.make_pipeline(scheduler=tiny.make_scheduler(prediction_type=self.prediction), dtype=dtype)


class TestDiffusersOfV(TestDiffusers):
    prediction = "v_prediction"


class TestBackdropOfDiffusers(TestDiffusers):
    names = ("text", "backdrop", "beside")

    def make_prior(self, pipe, **settings):
        return BackdropPrior(super().make_prior(pipe, **settings))

    def conditions(self, prior, count=VIEWS):
        return with_backdrop(super().conditions(prior, count), prior, count)


class TestControlNet(PriorContract):
    names = ("text", "control")
    networks = ("unet", "controlnet")

    def make_pipe(self, dtype=torch.float32):
        return tiny.make_control_pipeline(dtype=dtype)

    def conditions(self, prior, count=VIEWS):
        depth = torch.rand(count, 1, tiny.PIXELS, tiny.PIXELS, generator=torch.Generator().manual_seed(0))
        return prior.with_control(*super().conditions(prior, count), depth)


class TestDepth(TestControlNet):
    networks = ("unet",)

    def make_pipe(self, dtype=torch.float32):
        return tiny.make_depth_pipeline(dtype=dtype)


class TestDeepFloyd(PriorContract):
    def make_pipe(self, dtype=torch.float32):
        pipe = tiny.make_pixel_pipeline()
        return pipe if dtype == torch.float32 else pipe.to(dtype)


class ProbedContract(PriorContract):
    """What probing has learnt keeps the contract of adapters."""

    window = None
    pipe_kwargs: dict = {}
    of_texts: tuple[str, ...] = ()

    def make_prior(self, pipe, **settings):
        prior = super().make_prior(pipe, **{"window": self.window, "pipe_kwargs": self.pipe_kwargs, **settings})
        assert type(prior) is ProbedPrior
        return prior

    def texts(self, prior, conditions):
        return [conditions[name] for name in self.of_texts]

    def test_conditions_have_names(self):
        prior = self.make()
        for c in self.conditions(prior):
            assert set(c) - {"rule"} == set(self.names)  # of guidance, where there is any


class TestSDXL(ProbedContract):
    of_texts = ("unet.encoder_hidden_states", "unet.added_cond_kwargs.text_embeds")
    names = (*of_texts, "unet.added_cond_kwargs.time_ids", "recipes")

    def make_pipe(self, dtype=torch.float32):
        return families.make_xl_pipeline(dtype=dtype)


class ProbedTransformer(ProbedContract):
    networks = ("transformer",)
    switches = ("compile",)  # attention of its own kind, and hardly a convolution

    @pytest.fixture(autouse=True)
    def double(self, monkeypatch):
        """diffusers' transformers rotate queries and keys in float32, whatever they compute in."""
        own = torch.Tensor.float
        monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else own(x))


class ProbedSingle(ProbedTransformer):
    """Norms and attention are in float32 too."""

    @pytest.fixture(autouse=True)
    def double_everywhere(self, monkeypatch):
        own = torch.Tensor.to

        def to(x, *args, **kwargs):
            narrower = x.dtype == torch.float64 and x.ndim > 2 and torch.float32 in (*args, kwargs.get("dtype"))
            return x if narrower else own(x, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "to", to)


class TestSD3(ProbedTransformer):
    of_texts = ("transformer.encoder_hidden_states", "transformer.pooled_projections")
    names = (*of_texts, "recipes")
    switches = ()  # diffusers names no repeated blocks of it
    window, pipe_kwargs = (16, 16), {"max_sequence_length": 12}

    def make_pipe(self, dtype=torch.float32):
        return FAMILIES["sd3"].make(dtype=dtype)


class TestFlux(ProbedTransformer):
    of_texts = ("transformer.encoder_hidden_states", "transformer.pooled_projections")
    names = (*of_texts, "transformer.guidance", "recipes")
    pipe_kwargs = {"max_sequence_length": 12, "true_cfg_scale": 3.0}

    def make_pipe(self, dtype=torch.float32):
        return families.make_flux_pipeline(dtype=dtype)

    def times_of_ones_own(self, pipe):
        return {"mu": 0.7}


class TestSchnell(TestFlux):
    names = (*TestFlux.of_texts, "recipes")

    def make_pipe(self, dtype=torch.float32):
        scheduler = families.make_flux_scheduler(shift=1.0, use_dynamic_shifting=False)
        return families.make_flux_pipeline(scheduler=scheduler, guidance_embeds=False, dtype=dtype)

    def times_of_ones_own(self, pipe):
        return {}


class TestSana(ProbedSingle):
    of_texts = ("transformer.encoder_hidden_states",)
    names = (*of_texts, "transformer.encoder_attention_mask", "recipes")
    switches, sides = (), (16, 32)  # diffusers names no repeated blocks of it
    window, pipe_kwargs = (32, 32), {"complex_human_instruction": None, "max_sequence_length": 16}

    def make_pipe(self, dtype=torch.float32):
        pipe = FAMILIES["sana"].make()
        for part in (pipe.transformer, pipe.vae):  # the text encoder's padding is not a number in float64
            part.to(dtype)
        return pipe


class TestQwen(ProbedSingle):
    of_texts = ("transformer.encoder_hidden_states",)
    names = (*of_texts, "transformer.img_shapes", "recipes")
    few = 2  # of a single one it makes no time
    window, pipe_kwargs = (16, 16), {"max_sequence_length": 12}

    def make_pipe(self, dtype=torch.float32):
        return FAMILIES["qwen-image"].make(dtype=dtype)

    def times_of_ones_own(self, pipe):
        return {"mu": 0.7}

    def texts(self, prior, conditions):
        # A batch is as long as its longest text.
        return [torch.stack([row[:4] for row in rows]) for rows in super().texts(prior, conditions)]


def with_backdrop(told, prior, count):
    """Conditions whose upper third is known."""
    beside = torch.zeros(count, 1, *prior.view_shape[1:], dtype=torch.bool)
    beside[:, :, : prior.view_shape[1] // 3] = True
    backdrop = randn(count, *prior.view_shape, seed=7, dtype=prior.dtype)
    named = (fs.Conditions.of(c, prior.prior.condition_name) for c in told)
    return tuple(prior.with_backdrop(c, backdrop, beside) for c in named)


def test_no_family_is_left_out():
    """Each adapter that the package registers keeps the contract here."""
    from fastsync.priors import registry

    made = {type(case().make_pipe()).__name__ for case in globals().values() if _is_case(case)}
    assert {name for name, adapter in registry._OWN.items()} <= made


def _is_case(value):
    return isinstance(value, type) and issubclass(value, PriorContract) and value.__name__.startswith("Test")
