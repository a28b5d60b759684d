"""The prior of a DeepFloyd-IF-class pipeline: its own network, its own steps, its own prompts."""

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DDIMScheduler, DDPMScheduler

import fastsync as fs
from fastsync import priors

PROMPT = "a cat"


@pytest.fixture(scope="module")
def pipe():
    return tiny.make_pixel_pipeline()


def test_wrap_takes_the_adapter_of_the_family(pipe) -> None:
    assert isinstance(priors.wrap(pipe), fs.DeepFloydPrior)
    assert isinstance(priors.wrap(tiny.make_pipeline()), fs.DiffusersPrior)
    prior = priors.wrap(pipe, window=(8, 16))
    assert prior.view_shape == (3, 8, 16) and prior.scale == 1 and prior.dtype == torch.float32


def test_prompts_are_encoded_as_the_pipeline_does(pipe) -> None:
    prior = fs.DeepFloydPrior(pipe)
    cond, uncond = prior.encode_prompt(PROMPT, "a dog")
    expected, negative = pipe.encode_prompt(PROMPT, True, 1, "cpu", "a dog")
    assert torch.equal(cond, expected) and torch.equal(uncond, negative)
    assert not torch.equal(cond, uncond)
    assert torch.equal(prior.encode_prompt([PROMPT, "a dog"])[0][1:], negative)
    with pytest.raises(TypeError, match="prompt must be a string"):
        prior.encode_prompt(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative_prompt must be one or 1"):
        prior.encode_prompt(PROMPT, ["a", "b"])


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_single_view_is_the_pipelines_own_picture(guidance: float) -> None:
    """With deterministic steps: IFPipeline itself draws noise at each of DDPM's."""

    class Scheduler(DDIMScheduler):  # IFPipeline asks every scheduler for its kind of variance
        def step(self, model_output, *args, **kwargs):
            return super().step(model_output[:, :3], *args, **kwargs)

    Scheduler.__name__ = "DDIMScheduler"
    config = dict(tiny.make_pixel_pipeline().scheduler.config)
    scheduler = Scheduler.from_config(config, clip_sample=False)
    scheduler.register_to_config(variance_type="learned")  # or it cuts the variance off itself
    pipe = tiny.make_pixel_pipeline(scheduler=scheduler)
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    pipe.prepare_intermediate_images = lambda *_: noise * scheduler.init_noise_sigma
    expected = pipe(
        PROMPT, num_inference_steps=5, guidance_scale=guidance, output_type="pt", clean_caption=False
    ).images
    prior = fs.DeepFloydPrior(pipe)
    cond, uncond = prior.encode_prompt(PROMPT)
    out = fs.sample(
        prior, fs.WideCanvas((16, 16), (16, 16), 16), fs.Independent(), cond=cond,
        uncond=None if guidance == 1.0 else uncond, guidance_scale=guidance, num_inference_steps=5, latents=noise,
    )  # fmt: skip
    torch.testing.assert_close(out.canvas, expected, atol=1e-5, rtol=1e-4)
    assert expected.std() > 0.05


def test_pixels_are_the_priors_own_units_and_weights_are_frozen_only_while_sampling(pipe) -> None:
    prior = fs.DeepFloydPrior(pipe)
    x = torch.randn(2, 3, 16, 16)
    assert prior.decode(x) is x and prior.encode(x) is x
    flags = [p.requires_grad for p in pipe.unet.parameters()]
    with prior.sampling():
        assert not any(p.requires_grad for p in pipe.unet.parameters())
    assert flags == [p.requires_grad for p in pipe.unet.parameters()]


def test_dynamic_thresholding_is_honoured() -> None:
    scheduler = DDPMScheduler(thresholding=True, sample_max_value=1.5, prediction_type="epsilon")
    prior = fs.DeepFloydPrior(tiny.make_pixel_pipeline(scheduler=scheduler))
    cond, uncond = prior.encode_prompt(PROMPT)
    x = 3 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x0 = prior.predict(x, torch.tensor([900, 500]), cond.expand(2, -1, -1), uncond.expand(2, -1, -1), 7.0).x0
    assert float(x0.detach().abs().max()) <= 1.0 + 1e-6


def test_other_pipelines_get_a_sentence(pipe) -> None:
    with pytest.raises(ValueError, match="is not a first-stage IFPipeline"):
        fs.DeepFloydPrior(tiny.make_pipeline())
    wrong = tiny.make_pixel_pipeline()
    wrong.unet.register_to_config(in_channels=6, class_embed_type="timestep")
    with pytest.raises(ValueError, match="upscaling stages"):
        fs.DeepFloydPrior(wrong)
    with pytest.raises(ValueError, match="cond is None"):
        fs.DeepFloydPrior(pipe).network(torch.zeros(1, 3, 16, 16), torch.tensor([1]), None)
