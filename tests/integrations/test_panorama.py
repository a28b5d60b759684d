"""fastsync's custom pipeline beside diffusers' deprecated one: the same call, the same numbers."""

import copy
import inspect
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import scheduler_cases as cases
import tiny_pipelines as tiny
import torch
from diffusers import DiffusionPipeline, StableDiffusionPanoramaPipeline, StableDiffusionPipeline
from exact_priors import randn, relative
from peft import LoraConfig

FOLDER = Path(__file__).parents[2] / "integrations" / "diffusers" / "panorama"
SAME = 2e-5
# 8 x 80 latent cells: three windows of 8 x 64 in a row, ten where the picture is closed.
WIDE = {"prompt": "a cat", "height": 64, "width": 640, "num_inference_steps": 4}
ONE = {**WIDE, "width": 512}


class Meant(StableDiffusionPanoramaPipeline):
    """The deprecated pipeline if it knew that it is guided: its property always says no, so it never rescales."""

    @property
    def do_classifier_free_guidance(self):
        return self.guidance_scale > 1


def components(**unet):
    """A tiny Stable Diffusion with eight pixels a cell, which the deprecated pipeline takes for granted."""
    vae = tiny.make_vae(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny.make_pipeline(vae=vae, unet=tiny.make_unet(**unet)).components


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The custom pipeline as users load it."""
    folder = tmp_path_factory.mktemp("model")
    StableDiffusionPipeline(**components(), requires_safety_checker=False).save_pretrained(folder)
    return quiet(DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(FOLDER), trust_remote_code=True))


@pytest.fixture
def pipes(loaded):
    """Theirs and ours, of the same parts."""
    return pair(loaded, **loaded.components)


def pair(loaded, kind=StableDiffusionPanoramaPipeline, **parts):
    return tuple(quiet(c(**parts, requires_safety_checker=False)) for c in (kind, type(loaded)))


def picture(pipe, seed=0, **arguments):
    generator = torch.Generator().manual_seed(seed)
    return pipe(**{**WIDE, "generator": generator, "output_type": "latent", **arguments}).images


def both(pipes, **arguments):
    return [picture(pipe, **copy.deepcopy(arguments)) for pipe in pipes]


def test_the_call_is_the_same():
    def parameters(kind):
        found = inspect.signature(kind.__call__).parameters.values()
        return [(p.name, p.kind, p.default) for p in found]

    ours = diffusers.utils.dynamic_modules_utils.get_class_from_dynamic_module(FOLDER, "pipeline.py")
    assert parameters(ours) == parameters(StableDiffusionPanoramaPipeline)
    defaults = ours.__init__.__wrapped__ if hasattr(ours.__init__, "__wrapped__") else ours.__init__
    assert list(inspect.signature(defaults).parameters) == list(
        inspect.signature(StableDiffusionPanoramaPipeline.__init__).parameters
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"prompt": ["a dog"]},
        {"negative_prompt": "rain"},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.5, "negative_prompt": "rain"},
        {"guidance_scale": 3.0, "num_inference_steps": 7},
        {"circular_padding": True},
        {"circular_padding": True, "width": 1024},
        {"height": 128, "width": 768},
        {"height": 576, "width": 512},
        {"height": 64, "width": 256},
        {"height": None, "width": 512},
        {"view_batch_size": 2},
        {"view_batch_size": 5, "circular_padding": True},
        {"latents": randn(1, 4, 8, 80).float()},
        {"prompt": None, "prompt_embeds": randn(1, 8, 16).float(), "negative_prompt_embeds": randn(1, 8, 16).float()},
        {"prompt": None, "prompt_embeds": randn(1, 8, 16).float(), "guidance_scale": 1.0},
        {"clip_skip": 1},
        {"eta": 0.7, "width": 512},
        {"generator": [torch.Generator().manual_seed(5)], "eta": 0.7, "width": 512},
        {"num_images_per_prompt": 2, "guidance_scale": 1.0},
        {"prompt": ["a cat", "a dog"], "guidance_scale": 1.0, "circular_padding": True},
        {"prompt": ["a", "b"], "generator": [torch.Generator().manual_seed(n) for n in (3, 4)], "guidance_scale": 1.0},
        {"num_images_per_prompt": 2, "guidance_scale": 1.0, "eta": 1.0, "width": 512},
    ],
    ids=lambda a: ", ".join(a) or "defaults",
)
def test_numbers_are_the_same(pipes, arguments):
    theirs, ours = both(pipes, **arguments)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert relative(ours, theirs) < SAME


@pytest.mark.parametrize("circular", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("kind", ["pt", "np", "pil"])
def test_pictures_are_the_same(pipes, kind, circular):
    theirs, ours = both(pipes, output_type=kind, circular_padding=circular)
    if kind == "pil":
        assert ours[0].size == theirs[0].size == (640, 64)
        theirs, ours = ([torch.tensor(list(p.getdata())) for p in ps] for ps in (theirs, ours))
        assert (ours[0] - theirs[0]).abs().max() <= 1
    else:
        assert type(ours) is type(theirs)
        assert relative(torch.as_tensor(ours), torch.as_tensor(theirs)) < SAME


@pytest.mark.parametrize(
    "scheduler",
    [
        cases.ddim(timestep_spacing="trailing", rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        cases.ddim(clip_sample=True),
        cases.ddim(steps_offset=0),
        cases.ddim(**cases.THRESHOLD),
        cases.euler(),
        cases.euler(timestep_spacing="leading", use_karras_sigmas=True),
        cases.euler(final_sigmas_type="sigma_min"),
        cases.dpm(),
        cases.dpm(use_karras_sigmas=True, final_sigmas_type="sigma_min", euler_at_final=True),
        cases.dpm(solver_order=1),
        cases.singlestep(),
        cases.unipc(),
    ],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("size", [3, 5], ids="batches of {}".format)
def test_schedulers(pipes, scheduler, size):
    for pipe in pipes:
        pipe.scheduler = copy.deepcopy(scheduler)
    theirs, ours = both(pipes, num_inference_steps=8, circular_padding=True, view_batch_size=size)
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    "scheduler",
    [cases.ddpm(), cases.ancestral(), cases.lcm(), cases.dpm(algorithm_type="sde-dpmsolver++")],
    ids=lambda s: type(s).__name__,
)
def test_schedulers_that_draw_noise_at_one_window(pipes, scheduler):
    for pipe in pipes:
        pipe.scheduler = copy.deepcopy(scheduler)
    theirs, ours = both(pipes, width=512)
    assert relative(ours, theirs) < 1e-4


def test_noise_of_steps_is_white_where_windows_overlap(pipes):
    """Theirs draws noise for each window and averages it: of eight windows a third is left."""

    def network(x, *args, **kwargs):
        return (
            SimpleNamespace(sample=torch.zeros_like(x)) if kwargs.get("return_dict", True) else (torch.zeros_like(x),)
        )

    spreads = []
    for pipe in pipes:
        pipe.scheduler = cases.ddpm()
        pipe.unet = copy.copy(pipe.unet)
        pipe.unet.forward = network
        steps = {}
        picture(
            pipe, width=1024, guidance_scale=1.0, num_inference_steps=50, eta=1.0,
            callback_on_step_end=lambda p, i, t, given, steps=steps: steps.update({i: given["latents"]}) or {},
        )  # fmt: skip
        table = pipe.scheduler.alphas_cumprod
        a, b = (table[t] ** 0.5 for t in (20, 0))
        spreads.append(float((steps[48] / a - steps[49] / b)[..., 56:72].std()))
    assert spreads[1] == pytest.approx(0.05, rel=5)


@pytest.mark.parametrize(
    "scheduler, words",
    [
        (diffusers.PNDMScheduler(), "PNDMScheduler"),
        (diffusers.HeunDiscreteScheduler(), "HeunDiscreteScheduler"),
        (diffusers.UniPCMultistepScheduler(), "corrector"),
        (diffusers.LMSDiscreteScheduler(), "LMSDiscreteScheduler"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_other_schedulers_are_refused_in_a_sentence(pipes, scheduler, words):
    pipes[1].scheduler = scheduler
    with pytest.raises(ValueError, match=words):
        picture(pipes[1])


@pytest.mark.parametrize("scheduler", [cases.euler(), cases.dpm()], ids=lambda s: type(s).__name__)
def test_times_of_ones_own(pipes, scheduler):
    for pipe in pipes:
        pipe.scheduler = copy.deepcopy(scheduler)
    theirs, ours = both(pipes, timesteps=[900, 600, 350, 20])
    assert relative(ours, theirs) < SAME


def test_times_that_the_scheduler_does_not_take(pipes):
    with pytest.raises(ValueError, match="timesteps"):
        picture(pipes[1], timesteps=[900, 600])
