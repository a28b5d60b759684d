"""Every prior keeps the contract."""

import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch
from contracts.prior import VIEWS, FunctionContract, PriorContract
from exact_priors import ddim, flow, nonlinear, randn

import fastsync as fs
from fastsync.priors import BackdropPrior


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


class TestSDXL(PriorContract):
    names = ("text", "pooled", "time_ids")

    def make_pipe(self, dtype=torch.float32):
        return families.make_xl_pipeline(dtype=dtype)


class TestFlux(PriorContract):
    names = ("text", "pooled", "guidance", "text_ids", "image_ids")
    networks = ("transformer",)
    switches = ("compile",)  # no convolutions, and attention of its own kind

    @pytest.fixture(autouse=True)
    def double_rotation(self, monkeypatch):
        """diffusers rotates queries and keys in float32, whatever the network computes in."""
        from diffusers.models.transformers import transformer_flux

        def rotated(x, angles, **_):
            cos, sin = (part.to(x.dtype)[None, :, None] for part in angles)
            real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
            return x * cos + torch.stack([-imaginary, real], -1).flatten(-2) * sin

        monkeypatch.setattr(transformer_flux, "apply_rotary_emb", rotated)

    def make_pipe(self, dtype=torch.float32):
        return families.make_flux_pipeline(dtype=dtype)

    def times_of_ones_own(self, pipe):
        return {"mu": 0.7}


class TestSchnell(TestFlux):
    names = ("text", "pooled", "text_ids", "image_ids")

    def make_pipe(self, dtype=torch.float32):
        scheduler = families.make_flux_scheduler(shift=1.0, use_dynamic_shifting=False)
        return families.make_flux_pipeline(scheduler=scheduler, guidance_embeds=False, dtype=dtype)

    def times_of_ones_own(self, pipe):
        return {}


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
    return isinstance(value, type) and issubclass(value, PriorContract) and value is not PriorContract
