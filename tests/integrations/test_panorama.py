"""fastsync's custom pipeline beside diffusers' deprecated one: the same call, the same numbers."""

import copy
import inspect
from pathlib import Path

import diffusers
import numpy as np
import pytest
import scheduler_cases as cases
import tiny_pipelines as tiny
import torch
from diffusers import DiffusionPipeline, StableDiffusionPanoramaPipeline, StableDiffusionPipeline
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from exact_priors import randn, relative

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


def test_the_call_is_the_same(loaded):
    def parameters(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    for name in ("__call__", "__init__"):
        assert parameters(getattr(type(loaded), name)) == parameters(getattr(StableDiffusionPanoramaPipeline, name))


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
        theirs, ours = ([np.asarray(p).astype(int) for p in ps] for ps in (theirs, ours))
        assert np.abs(ours[0] - theirs[0]).max() <= 1
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


def test_noise_of_steps_stays_white_where_windows_overlap(loaded):
    """Theirs draws noise for each window and averages it, so that of eight windows' a third is left."""

    class Nothing(diffusers.UNet2DConditionModel):
        def forward(self, sample, *arguments, return_dict=True, **further):
            return UNet2DConditionOutput(torch.zeros_like(sample)) if return_dict else (torch.zeros_like(sample),)

    unet = Nothing.from_config(loaded.unet.config)
    pipes = pair(loaded, **{**loaded.components, "unet": unet, "scheduler": cases.ddpm()})
    noise, spreads = randn(1, 4, 8, 128).float(), []
    for pipe in pipes:
        one, other = (picture(pipe, seed, width=1024, latents=noise, guidance_scale=1.0) for seed in (1, 2))
        spreads.append((one - other)[..., 56:72].std())
    assert spreads[1] / spreads[0] == pytest.approx(8**0.5, rel=0.1)


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


# ---- what the network is told --------------------------------------------------------------------------------------


def test_layers_of_the_text_encoder_left_out(pipes):
    encoder = pipes[0].text_encoder
    if not hasattr(encoder, "text_model"):
        object.__setattr__(encoder, "text_model", encoder)  # where diffusers looks for the last norm
    plain, (theirs, ours) = picture(pipes[1]), both(pipes, clip_skip=1)
    assert relative(ours, theirs) < SAME < relative(ours, plain)


def test_strength_of_lora(loaded):
    peft = pytest.importorskip("peft")
    pipes = pair(loaded, **components())
    pipes[0].unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    whole, (theirs, ours) = picture(pipes[1]), both(pipes, cross_attention_kwargs={"scale": 0.3})
    assert relative(ours, theirs) < SAME < relative(ours, whole)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_guidance_embedded_in_the_time(loaded, scale):
    pipes = pair(loaded, **{**components(time_cond_proj_dim=16), "scheduler": cases.ddim()})
    theirs, ours = both(pipes, guidance_scale=scale)
    assert relative(ours, theirs) < SAME


def test_guidance_is_rescaled(loaded, pipes):
    """Theirs never rescales; with the one property that is wrong there put right, it does what ours does."""
    assert torch.equal(*(picture(pipes[0], guidance_rescale=r) for r in (0.0, 0.7)))
    theirs, ours = both(pair(loaded, Meant, **loaded.components), guidance_rescale=0.7)
    assert relative(ours, theirs) < SAME < relative(ours, picture(pipes[1]))


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_guided_pictures_of_a_batch_are_those_that_each_prompt_gives_alone(pipes, closed):
    """Theirs pairs the rows of two pictures wrongly: one is guided from "rain" to "rain", the other not at all."""
    given = {"negative_prompt": "rain", "circular_padding": closed}
    noise = randn(2, 4, 8, 80).float()
    theirs, ours = both(pipes, num_images_per_prompt=2, latents=noise, **given)
    for k in range(2):
        alone = picture(pipes[0], latents=noise[k : k + 1], **given)
        assert relative(ours[k : k + 1], alone) < SAME
        assert relative(theirs[k : k + 1], alone) > 0.01
    negative = picture(pipes[0], latents=noise[:1], prompt="rain", guidance_scale=1.0, circular_padding=closed)
    assert relative(theirs[:1], negative) < SAME


def with_ip_adapter(loaded):
    """Parts whose UNet attends to one image embedding of 12 numbers beside the text."""
    parts = components()
    unet, width, tokens = parts["unet"], 16, 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        projection = {
            "proj.weight": torch.randn(tokens * width, 12), "proj.bias": torch.randn(tokens * width),
            "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width),
        }  # fmt: skip
        attention, number = {}, 1
        for name in unet.attn_processors:
            if "attn2" in name:
                block = unet.get_submodule(name.removesuffix(".processor"))
                for part in ("k", "v"):
                    attention[f"{number}.to_{part}_ip.weight"] = torch.randn(block.to_k.weight.shape)
                number += 2
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attention}])
    return parts


def test_ip_adapter(loaded):
    """Theirs gives each half of a guided row half of the image's tokens; without guidance both do the same."""
    pipes = pair(loaded, **with_ip_adapter(loaded))
    image, other = randn(2, 1, 1, 12).float()[:, None]
    theirs, ours = both(pipes, ip_adapter_image_embeds=[image[0]], guidance_scale=1.0)
    assert (
        relative(ours, theirs)
        < SAME
        < relative(ours, picture(pipes[1], ip_adapter_image_embeds=[other[0]], guidance_scale=1.0))
    )
    single = quiet(StableDiffusionPipeline(**pipes[1].components, requires_safety_checker=False))
    guided = {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(image[0]), image[0]])], "width": 512}
    assert relative(picture(pipes[1], **guided), picture(single, **guided)) < SAME


# ---- callbacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [cases.ddim(), cases.euler(), cases.dpm()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("changes", ["nothing", "in place", "latents", "prompt", "interrupt"])
def test_callbacks(pipes, scheduler, changes):
    """They see the same tensors, and what they change has the same effect."""
    seen, noise = ([], []), randn(1, 4, 8, 80).float()
    pictures = []
    for pipe, tensors in zip(pipes, seen, strict=True):
        pipe.scheduler = copy.deepcopy(scheduler)

        def callback(owner, step, t, given, pipe=pipe, tensors=tensors):
            assert owner is pipe
            tensors.append((step, float(t), *(given[name].clone() for name in sorted(given))))
            if changes == "in place":
                given["latents"].add_(0.1 * noise)
                return {}
            if step == 2 and changes == "latents":
                return {"latents": given["latents"] + noise}
            if step == 1 and changes == "prompt":
                return {"prompt_embeds": given["prompt_embeds"].flip(0)}
            if step == 2 and changes == "interrupt":
                owner._interrupt = True
            return given

        names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
        pictures.append(
            picture(
                pipe, num_inference_steps=6, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names
            )
        )
    assert len(seen[0]) == len(seen[1]) == (3 if changes == "interrupt" else 6)
    for theirs, ours in zip(*seen, strict=True):
        assert ours[:2] == theirs[:2]
        assert max(relative(a, b) for a, b in zip(ours[2:], theirs[2:], strict=True)) < 1e-4
    assert relative(pictures[1], pictures[0]) < 1e-4
    assert pipes[1].num_timesteps == 6


def test_old_callbacks(pipes):
    seen = ([], [])
    for pipe, found in zip(pipes, seen, strict=True):
        with pytest.warns(FutureWarning, match="callback_on_step_end"):
            picture(
                pipe, callback=lambda step, t, latents, found=found: found.append((step, latents)), callback_steps=2
            )
    assert [step for step, _ in seen[1]] == [step for step, _ in seen[0]] == [0, 2]
    assert max(relative(a, b) for (_, a), (_, b) in zip(*seen, strict=True)) < SAME


# ---- around it -----------------------------------------------------------------------------------------------------


def test_results_and_the_safety_checker(pipes):
    def checker(images, clip_input):
        assert clip_input.shape == (1, 3, 2, 2)
        return torch.zeros_like(images), [True]

    class Extractor:
        def __call__(self, images, return_tensors):
            values = torch.zeros(len(images), 3, 2, 2)
            return type("Values", (dict,), {"pixel_values": values, "to": lambda self, device: self})()

    for pipe in pipes:
        plain = pipe(**WIDE, return_dict=False, output_type="np")
        assert isinstance(plain, tuple) and plain[1] is None
        pipe.safety_checker, pipe.feature_extractor = checker, Extractor()
    theirs, ours = (pipe(**WIDE, output_type="pt") for pipe in pipes)
    assert type(ours) is type(theirs)
    assert ours.nsfw_content_detected == theirs.nsfw_content_detected == [True]
    assert torch.equal(ours.images, theirs.images)


def test_one_window_is_the_pipelines_own_picture(pipes):
    single = quiet(StableDiffusionPipeline(**pipes[1].components, requires_safety_checker=False))
    arguments = {**ONE, "height": 512, "guidance_rescale": 0.3}
    assert relative(picture(pipes[1], **arguments), picture(single, **arguments)) < SAME


def test_half_precision(loaded):
    parts = components()
    pipes = [pipe.to(torch.bfloat16) for pipe in pair(loaded, **parts)]
    theirs, ours = both(pipes)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert relative(ours.float(), theirs.float()) < 0.05


def test_the_pipeline_is_left_as_it_was(pipes):
    """Older schedulers keep their config, and a run changes nothing of theirs."""
    scheduler = cases.ddim(steps_offset=0, clip_sample=True)
    _, pipe = pair(pipes[1], **{**pipes[1].components, "scheduler": scheduler})
    before, state = dict(scheduler.config), copy.deepcopy(scheduler.__dict__)
    weights = [p.requires_grad for p in pipe.unet.parameters()]
    picture(pipe)
    assert pipe.scheduler is scheduler and dict(scheduler.config) == before
    assert str(scheduler.__dict__) == str(state) and [p.requires_grad for p in pipe.unet.parameters()] == weights


def test_every_size_is_covered(pipes):
    """Theirs leaves what its stride does not reach at zero."""
    theirs, ours = both(pipes, width=616)
    assert not theirs[..., 72:].any() and ours[..., 72:].std() > 0.1


def test_closed_pictures_may_be_high_and_narrow(pipes):
    """Theirs cannot merge windows that are both low and across the seam, and does not close what is one window wide."""
    with pytest.raises(RuntimeError, match="size"):
        picture(pipes[0], height=576, num_inference_steps=1, circular_padding=True)
    assert picture(pipes[1], height=576, num_inference_steps=1, circular_padding=True).shape == (1, 4, 72, 80)
    shift = {"latents": randn(1, 4, 8, 32).float(), "width": 256, "circular_padding": True}
    one = picture(pipes[1], **shift)
    other = picture(pipes[1], **{**shift, "latents": shift["latents"].roll(8, -1)})
    assert relative(other.roll(-8, -1), one) < SAME


def test_a_callback_may_switch_guidance_off(pipes):
    """By leaving the unconditional half of the rows out, as in diffusers' other pipelines."""
    pipe, rows = pipes[1], []
    handle = pipe.unet.register_forward_pre_hook(lambda unet, given: rows.append(len(given[0])))
    embeddings = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    picture(
        pipe, callback_on_step_end=lambda p, i, t, given: {"prompt_embeds": given["prompt_embeds"][-1:]}, **embeddings
    )
    handle.remove()
    assert rows == [6, 3, 3, 3]


def test_windows_of_another_size(pipes):
    """For models that were trained on smaller pictures."""
    ours = pipes[1]
    ours.window_size, ours.window_stride = 8, 4
    assert picture(ours, height=64, width=128).shape == (1, 4, 8, 16)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"view_batch": 3}, "no argument 'view_batch'"),
        ({"latents": randn(1, 4, 8, 64)}, "latents"),
        ({"height": 60}, "divisible by 8"),
        ({"prompt_embeds": randn(1, 8, 16)}, "prompt_embeds"),
        ({"view_batch_size": 0}, "max_batch"),
        ({"eta": 2.0}, "eta"),
        ({"guidance_rescale": 1.5}, "rescale"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"generator": [torch.Generator()] * 2}, "one for each of the 1 pictures"),
        ({"callback_on_step_end": lambda *told: {"latents": randn(2, 4, 8, 80)}}, "shape"),
        ({"callback_on_step_end": lambda *told: {"prompt_embeds": randn(3, 8, 16)}}, "prompt_embeds"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callback_on_step_end_tensor_inputs"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_bad_input(pipes, arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        picture(pipes[1], **arguments)
