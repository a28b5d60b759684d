"""Pipelines that once were learnt wrongly without a word: each is now followed, or refused."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionPipeline
from exact_priors import relative
from families import FAMILIES
from families.awkward import OwnLoop, loop
from families.stable_diffusion import euler

import fastsync as fs
from fastsync import priors
from fastsync.priors import ViewRequest
from fastsync.priors.probed import ProbedPrior
from fastsync.priors.reentry import ReenteredPrior

STEPS, WINDOW, TEXT = 6, (16, 16), "unet.encoder_hidden_states"
CAT = ViewRequest(1, ["a cat"])


def replayed(pipe: Any, **known: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The prior, the last state by its network and the pipeline's own scheduler, and the pipeline's own."""
    prior = priors.wrap(pipe, window=WINDOW, **known)
    told, scheduler = prior.told(CAT), copy.deepcopy(pipe.scheduler)
    prior.steps(STEPS)
    noise = torch.randn((1, *prior.view_shape), generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(STEPS)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with torch.no_grad(), prior.sampling():
            raw = prior.raw(scheduler.scale_model_input(x, t), t.reshape(1), told.cond, told.uncond)
        if told.uncond is not None:
            raw = raw[:1] + told.guidance.scale * (raw[1:] - raw[:1])
        x = scheduler.step(raw, t, x, return_dict=False)[0]
    call = {"prompt": "a cat", "height": 16, "width": 16, "latents": noise, "num_inference_steps": STEPS}
    pipe.set_progress_bar_config(disable=True)
    return prior, x, pipe(**call, output_type="latent")[0]


class ByLength(OwnLoop):
    """Tells its network how many steps the run has."""

    def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return super().network(i, t, x, states * (1 + 0.05 * len(self.scheduler.timesteps)))


def test_what_depends_on_the_number_of_steps_is_entered_or_refused():
    prior, got, own = replayed(loop(ByLength, scheduler=tiny.make_scheduler()), num_inference_steps=STEPS)
    assert isinstance(prior, ReenteredPrior) and relative(got, own) < 1e-5
    with pytest.raises(ValueError, match="what it tells its networks depends on the number of steps"):
        priors.wrap(loop(ByLength, scheduler=tiny.make_scheduler()), window=WINDOW).steps(STEPS)


def test_states_that_the_scheduler_has_not_scaled():
    class Unscaled(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return self.unet(torch.cat([x] * 2), t, encoder_hidden_states=states, return_dict=False)[0]

    prior, got, own = replayed(loop(Unscaled, scheduler=euler()))
    assert isinstance(prior, ReenteredPrior) and relative(got, own) < 1e-5


def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
    cond, uncond = type(self).encode_prompt(self, *args, **kwargs)
    return 2 * cond, uncond


def test_a_method_that_the_pipeline_was_given_itself():
    pipe = loop(scheduler=tiny.make_scheduler())
    pipe.encode_prompt = types.MethodType(doubled, pipe)
    prior, got, own = replayed(pipe)
    assert isinstance(prior, ProbedPrior) and relative(got, own) < 1e-5
    assert pipe.encode_prompt.__self__ is pipe


def test_adapters_leave_a_class_alone_that_overrides_what_its_call_uses():
    class Unguided(StableDiffusionPipeline):
        @property
        def do_classifier_free_guidance(self) -> bool:
            return False

    pipe = Unguided(**tiny.make_pipeline().components, requires_safety_checker=False)
    prior, got, own = replayed(pipe)
    assert isinstance(prior, ProbedPrior) and relative(got, own) < 1e-5


class Styled(OwnLoop):
    """Its texts depend on an argument that encode_prompt is not given."""

    @torch.no_grad()
    def __call__(self, prompt: Any = None, style: float = 1.0, **kwargs: Any) -> Any:
        self._style = style
        return OwnLoop.__call__.__wrapped__(self, prompt, **kwargs)

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        cond, uncond = super().encode_prompt(*args, **kwargs)
        return cond * self._style, uncond


def test_texts_are_remembered_with_what_encoding_them_read():
    class Named(Styled):
        @torch.no_grad()
        def __call__(
            self, prompt: Any = None, height: int = 16, width: int = 16, num_inference_steps: int = 4,
            negative_prompt: Any = None, generator: Any = None, latents: Any = None, output_type: str = "pil",
            style: float = 1.0,
        ) -> Any:  # fmt: skip
            named = {"height": height, "width": width, "num_inference_steps": num_inference_steps}
            named |= {"negative_prompt": negative_prompt, "generator": generator, "latents": latents}
            return Styled.__call__.__wrapped__(self, prompt, style, output_type=output_type, **named)

    pipe = loop(Named, scheduler=tiny.make_scheduler())
    prior = priors.wrap(pipe, window=WINDOW, pipe_kwargs={"style": fs.ByView([1.0, 2.0])})
    rows = prior.told(ViewRequest(2, ["a cat"])).cond[TEXT]
    assert torch.equal(rows[1], 2 * rows[0])


def test_texts_that_change_those_beside_them_are_encoded_alone():
    class Coupled(OwnLoop):
        def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
            cond, uncond = super().encode_prompt(*args, **kwargs)
            return cond - 0.5 * cond.mean(0, keepdim=True), uncond

    prior = priors.wrap(loop(Coupled, scheduler=tiny.make_scheduler()), window=WINDOW)
    both = prior.told(ViewRequest(2, ["a cat", "a dog"])).cond[TEXT]
    for view, prompt in enumerate(("a cat", "a dog")):
        assert torch.equal(both[view], prior.told(ViewRequest(1, [prompt])).cond[TEXT][0])


def test_a_rule_of_guidance_stays_with_the_conditions_that_it_is_for():
    class Bounded(OwnLoop):
        def guide(self, i: int, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            mixed = super().guide(i, uncond, cond)
            if self.guidance_scale < 4:
                return mixed
            return mixed * (cond.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True))

    prior = priors.wrap(loop(Bounded, scheduler=tiny.make_scheduler()), window=WINDOW)
    first = prior.told(ViewRequest(1, ["a cat"], guidance=fs.Guidance(6.0)))
    assert not prior.mixes_linearly
    x, t = torch.zeros(1, *prior.view_shape), torch.tensor([500])
    prior.told(ViewRequest(1, ["a cat"], guidance=fs.Guidance(3.0)))
    assert prior.mixes_linearly
    with pytest.raises(ValueError, match="cond is of an earlier told\\(\\) of this prior"):
        prior.raw(x, t, first.cond, first.uncond)


@pytest.mark.parametrize("name", ["flux-img2img", "qwen-image-img2img", "sd-img2img"])
def test_pictures_to_begin_from_lie_as_views_do(name, monkeypatch):
    noised, own = [], fs.priors.probe.recording._Run._noised

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        noised.append(args[1])
        return own(self, *args, **kwargs)

    monkeypatch.setattr(fs.priors.probe.recording._Run, "_noised", noting)
    family = FAMILIES[name]
    call = family.call()
    size = {side: call.pop(side, None) for side in ("height", "width")}
    prompt, _ = call.pop("prompt"), (call.pop("negative_prompt", None), call.pop("guidance_scale", None))
    window = None if size["height"] is None else (size["height"], size["width"])
    prior = priors.wrap(family.make(), window=window, pipe_kwargs=call)
    told = prior.told(ViewRequest(1, [prompt]))
    assert told.start is not None and told.start.shape[1:] == prior.view_shape
    assert torch.equal(told.start.flatten(), noised[-1].flatten())


def test_pictures_are_decoded_by_the_arguments_of_the_pipelines_own_decoding():
    family = FAMILIES["kandinsky22"]
    pipe, call = family.make(), family.call()
    window = (call.pop("height"), call.pop("width"))
    prior = priors.wrap(pipe, window=window, solver="ddim", pipe_kwargs=call)
    latents = torch.randn(1, *prior.view_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = pipe.movq.decode(latents, force_not_quantize=True).sample
        assert relative(prior.decode(latents), own) < 1e-6
