"""Options that every task takes: windows, control images, arguments of the pipeline's own call, and their records."""

import json

import numpy as np
import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch
from exact_priors import relative
from PIL import Image
from shapes import cube

import fastsync as fs
from fastsync import controls, priors
from fastsync.priors import Told

P = tiny.PIXELS
SETTINGS = {"num_inference_steps": 2, "seed": 0, "progress": False, "method": "independent"}
REGIONS = [(np.eye(P), "a cat")]


class AskedPrior(fs.DiffusersPrior):
    """A prior that stands for one that makes the pipeline's own call: it takes all that a task may ask for."""

    takes_control, way = True, "probe"
    asked: list = []  # requests, shared by all

    def told(self, request):
        self.asked.append(request)
        cond, uncond = self.encode_prompt(request.prompts or "embedded", request.negative_prompt)
        guidance = request.guidance or fs.Guidance(4.5)
        return Told(cond, uncond, guidance, scale=guidance.scale)


@pytest.fixture
def asked(monkeypatch):
    """Tasks ask an ``AskedPrior``; its requests."""
    wrap = priors.wrap

    def wrapped(pipe, *, pipe_kwargs=None, conditioning_scale=None, example=None, num_inference_steps=None, **settings):
        return AskedPrior(pipe, window=wrap(pipe, **settings).window, runtime=settings["runtime"])

    monkeypatch.setattr(priors, "wrap", wrapped)
    AskedPrior.asked = []
    return AskedPrior.asked


@pytest.fixture(scope="module")
def pipe():
    return tiny.make_pipeline()


@pytest.fixture(scope="module")
def control():
    return fs.SyncPipeline(tiny.make_control_pipeline())


TASKS = {
    "wide": lambda sync, **given: sync.wide(given.pop("prompt", "a cat"), **given),
    "panorama": lambda sync, **given: sync.panorama(given.pop("prompt", "a cat"), **given),
    "illusion": lambda sync, **given: sync.illusion(
        [(view, given.get("prompt", "a cat")) for view in ("identity", "flip")],
        **{name: value for name, value in given.items() if name != "prompt"},
    ),
    "compose": lambda sync, **given: sync.compose(
        regions=[(mask, given.get("prompt", text)) for mask, text in REGIONS],
        **{name: value for name, value in given.items() if name != "prompt"},
    ),
    "texture": lambda sync, **given: sync.texture(
        cube(), given.pop("prompt", "a cat"), cameras=[(0, 0), (120, 0)], texture_size=16, **given
    ),
}
NAMES = [name for name in TASKS if name != "texture"]


# ---- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_a_window_in_pixels(asked, pipe, task):
    window = (20, 20) if task in ("illusion", "compose") else (20, 12)
    out = TASKS[task](fs.SyncPipeline(pipe), window=window, **SETTINGS)
    assert tuple(out.views.shape[2:]) == (window[0] // 2, window[1] // 2)
    assert out.parameters["window"] == list(window)
    assert TASKS[task](fs.SyncPipeline(pipe), **SETTINGS).parameters["window"] == [P, P]


def test_a_window_of_another_size_is_the_pipelines_own_picture(pipe):
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0}
    own = pipe("a cat", height=24, width=32, generator=torch.Generator().manual_seed(0), output_type="np", **settings)
    sync = fs.SyncPipeline(pipe)
    out = sync.wide(
        "a cat", window=(24, 32), height=24, width=32, seed=0, method="multidiffusion", output_type="np",
        progress=False, **settings,
    )  # fmt: skip
    np.testing.assert_allclose(out.images, own.images, atol=1e-5)


def test_compose_at_a_height_and_width_is_compose_in_a_window(pipe):
    sync, mask = fs.SyncPipeline(pipe), np.ones((20, 28))
    mask[:, :10] = 0
    one = sync.compose([mask], ["a cat"], height=20, width=28, **SETTINGS)
    other = sync.compose([mask], ["a cat"], window=(20, 28), **SETTINGS)
    assert torch.equal(one.latents, other.latents) and one.parameters == other.parameters
    for given in ({"height": 20}, {"width": 28}):
        with pytest.raises(ValueError, match="window and height or width were both given"):
            sync.compose([mask], ["a cat"], window=(20, 28), **given, **SETTINGS)


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize(
    "window, error, message",
    [
        ((18, 16), ValueError, "the window's height must be a multiple of 4 pixels .*, got 18: use 16 or 20"),
        ((16, 3), ValueError, "the window's width must be a multiple of 4 pixels .*, got 3: use 4"),
        ((0, 16), ValueError, "window.0. must be at least 1"),
        (16, TypeError, "window must be a pair"),
        ("big", TypeError, "window must be a pair"),
    ],
)
def test_windows_that_the_network_does_not_take(pipe, task, window, error, message):
    with pytest.raises(error, match=message):
        TASKS[task](fs.SyncPipeline(pipe), window=window, **SETTINGS)


# ---- control images -----------------------------------------------------------------------------------------------


def shown(sync, task, **settings):
    """What the network was shown of the views: its conditions' controls."""
    seen = []
    prepare = priors.ControlNetPrior.prepare_conditions

    def watched(self, cond, uncond, num_views):
        seen.append(cond["control"])
        return prepare(self, cond, uncond, num_views)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors.ControlNetPrior, "prepare_conditions", watched)
        out = TASKS[task](sync, **settings, **SETTINGS)
    return seen[0], out


def test_windows_are_shown_their_part(control):
    image = torch.rand(3, 20, 36)
    given = {"height": 20, "width": 36, "overlap": 4, "loop": "x"}
    seen, out = shown(control, "wide", control_image=image, **given)
    assert torch.equal(seen, controls.of_windows(image, out.canvas, 2, (20, 36)))
    other = control.wide("a cat", control_image=1 - image, **given, **SETTINGS)
    assert relative(other.latents, out.latents) > 1e-3


def test_one_window_is_the_pipelines_own_picture(control, tmp_path):
    values = (255 * torch.rand(P, P, 3)).byte().numpy()
    Image.fromarray(values).save(tmp_path / "a.png")
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}
    own = control.pipe("a cat", image=Image.fromarray(values), generator=torch.Generator().manual_seed(0), **settings)
    for image in (values, Image.fromarray(values), tmp_path / "a.png"):
        out = control.wide("a cat", width=P, control_image=image, seed=0, method="syncvc", progress=False, **settings)
        np.testing.assert_allclose(out.images, own.images, atol=1e-5)


def test_cameras_are_shown_where_they_look(control):
    image = torch.rand(1, 50, 100)
    seen, out = shown(control, "panorama", control_image=image)
    expected = controls.of_cameras(image, out.canvas, (P, P))
    assert torch.equal(seen, expected.expand(-1, 3, -1, -1)) and len(seen) == len(out.views)


def test_views_of_an_illusion_are_shown_it_transformed(control):
    image = torch.rand(3, P, P)
    seen, _ = shown(control, "illusion", control_image=image)
    torch.testing.assert_close(seen, torch.stack([image, image.flip(1)]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["multidiffusion", "syncsde"])
def test_all_regions_are_shown_the_whole(control, method):
    image = torch.rand(3, P, P)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "method", method)
        seen, _ = shown(control, "compose", control_image=image)
    assert torch.equal(seen, image[None])


def test_depth_images_reach_a_pipeline_of_depth():
    sync = fs.SyncPipeline(tiny.make_depth_pipeline())
    depth = Image.fromarray((255 * torch.rand(P, 28)).byte().numpy())
    one, other = (
        sync.wide("a cat", width=28, control_image=image, **SETTINGS)
        for image in (depth, depth.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    )
    assert relative(one.latents, other.latents) > 1e-3
    with pytest.raises(ValueError, match=r"control must be \[N, 1, 16, 16\].*render depth"):
        sync.wide("a cat", width=28, control_image=depth.convert("RGB"), **SETTINGS)


@pytest.mark.parametrize("task", NAMES)
def test_a_control_image_too_many_or_too_few(control, pipe, task):
    with pytest.raises(ValueError, match="StableDiffusionControlNetPipeline is shown a picture .* pass control_image="):
        TASKS[task](control, **SETTINGS)
    image = torch.zeros(32, 64) if task == "panorama" else torch.zeros(P, 4 * P if task == "wide" else P)
    with pytest.raises(ValueError, match="StableDiffusionPipeline is shown no picture"):
        TASKS[task](fs.SyncPipeline(pipe), control_image=image, **SETTINGS)
    with pytest.raises(ValueError, match="control_image must be"):
        TASKS[task](control, control_image=torch.zeros(P, 5), **SETTINGS)


def test_texture_shows_the_depth_of_the_mesh(control, asked, pipe):
    with pytest.raises(ValueError, match=r"control_image was given to texture\(\)"):
        TASKS["texture"](control, control_image=torch.zeros(P, P), **SETTINGS)
    TASKS["texture"](fs.SyncPipeline(pipe), **SETTINGS)
    depth = asked[-1].control
    assert depth.shape == (2, 1, P, P) and depth.min() == 0 and depth.max() == 1


# ---- what a prior is asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_request_says_all_that_the_caller_said(asked, pipe, task):
    sync, told = fs.SyncPipeline(pipe), fs.Guidance(3.0, rescale=0.5)
    out = TASKS[task](
        sync, prompt="a dog", negative_prompt="grey", guidance_scale=told, pipe_kwargs={"clip_skip": 1}, **SETTINGS
    )
    request = asked[-1]
    assert request.num_views == len(out.views) and request.negative_prompt == "grey" and request.guidance == told
    assert request.pipe_kwargs == {"clip_skip": 1} and all("a dog" in text for text in request.prompts if text)
    assert (request.places is None) == (request.size is None) == (task != "wide")
    assert out.parameters["guidance_scale"] == 3.0 and out.parameters["guidance_rescale"] == 0.5
    if task == "wide":
        assert request.places == [(2 * y, 2 * x) for y, x in out.canvas.origins] and request.size == (P, 4 * P)


@pytest.mark.parametrize("task", TASKS)
def test_no_guidance_is_the_pipelines_own_and_recorded(asked, pipe, task):
    out = TASKS[task](fs.SyncPipeline(pipe), **SETTINGS)
    assert asked[-1].guidance is None and out.parameters["guidance_scale"] == 4.5
    assert out.parameters["prior"] == "probe"
    TASKS[task](fs.SyncPipeline(pipe, guidance_scale=2.0), **SETTINGS)
    assert asked[-1].guidance == fs.Guidance(2.0)


def test_the_pipelines_own_guidance_is_recorded(pipe):
    xl, flux = families.make_xl_pipeline(), families.make_flux_pipeline()
    for made, scale, way in ((pipe, 7.5, "adapter"), (xl, 5.0, "probe"), (flux, 3.5, "probe")):
        parameters = fs.SyncPipeline(made).wide("a cat", width=28, **SETTINGS).parameters
        assert parameters["guidance_scale"] == scale and parameters["prior"] == way


@pytest.mark.parametrize("task", TASKS)
def test_embeddings_take_the_prompts_place(asked, pipe, task):
    sync = fs.SyncPipeline(pipe)
    embedded = {"prompt_embeds": torch.zeros(1, 8, 16)}
    out = TASKS[task](sync, prompt=None, pipe_kwargs=embedded, **SETTINGS)
    assert asked[-1].prompts is None
    written = out.parameters["prompts" if task == "compose" else "prompt"]
    assert written in (None, [None, None], [None])
    with pytest.raises((TypeError, ValueError), match="prompt"):
        TASKS[task](sync, prompt=None, **SETTINGS)
    with pytest.raises((TypeError, ValueError), match="prompt"):
        TASKS[task](sync, prompt=None, pipe_kwargs={"ip_adapter_image_embeds": []}, **SETTINGS)


def test_values_by_view_are_as_many_as_the_views(asked, pipe):
    sync = fs.SyncPipeline(pipe)
    seven = fs.ByView(list("abcdefg"))
    sync.wide("a cat", width=40, overlap=12, pipe_kwargs={"names": seven}, **SETTINGS)
    assert list(asked[-1].pipe_kwargs["names"]) == list("abcdefg") and asked[-1].num_views == 7
    few = {"names": fs.ByView(["a", "b"])}
    counts = {"wide": "5 windows", "panorama": "8 cameras", "compose": "2 views", "texture": "2 cameras"}
    for task, count in counts.items():
        if count.startswith("2"):
            TASKS[task](sync, pipe_kwargs=few, **SETTINGS)
            continue
        with pytest.raises(ValueError, match=rf"pipe_kwargs\['names'\] must have one value a .*, got 2.*has {count}"):
            TASKS[task](sync, pipe_kwargs=few, **SETTINGS)
    with pytest.raises(ValueError, match="the picture has 3 views"):  # the whole is one
        TASKS["compose"](sync, pipe_kwargs=few, **{**SETTINGS, "method": "syncsde"})


def test_what_a_prior_says_to_begin_from_is_begun_from(asked, pipe, monkeypatch):
    start, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    told = AskedPrior.told
    monkeypatch.setattr(AskedPrior, "told", lambda self, request: told(self, request)._replace(start=start))
    out = fs.SyncPipeline(pipe).wide("a cat", width=P, latents=noise, output_type="latent", **SETTINGS)
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt("a cat")
    expected = fs.sample(
        prior, fs.WideCanvas((8, 8), (8, 8), 8), fs.Independent(), cond=cond, uncond=uncond, guidance_scale=4.5,
        latents=noise, start=start, num_inference_steps=2,
    )  # fmt: skip
    assert torch.equal(out.latents, expected.canvas)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"height": 64}, ValueError, "pipe_kwargs has 'height', which the task .* use the task's own window="),
        ({"prompt": "a"}, ValueError, "use the task's own prompt="),
        ({"guidance_scale": 3}, ValueError, "use the task's own guidance_scale="),
        ([1], TypeError, "pipe_kwargs must be a dictionary"),
        ({1: 2}, TypeError, "pipe_kwargs must be a dictionary"),
    ],
)
def test_arguments_that_are_the_tasks_own(pipe, task, given, error, message):
    with pytest.raises(error, match=message):
        TASKS[task](fs.SyncPipeline(pipe), pipe_kwargs=given, **SETTINGS)


def test_further_arguments_go_to_the_pipelines_own_call(pipe):
    sync = fs.SyncPipeline(pipe)
    with pytest.raises(
        ValueError, match="'colour', which the call of StableDiffusionPipeline does not take: it takes time"
    ):
        sync.wide("a cat", pipe_kwargs={"colour": 1}, **SETTINGS)
    plain = sync.wide("a cat", **SETTINGS)
    same = sync.wide("a cat", pipe_kwargs={"guidance_rescale": 0.0}, **SETTINGS)
    other = sync.wide("a cat", pipe_kwargs={"guidance_rescale": 0.7}, **SETTINGS)
    assert plain.parameters["prior"] == "adapter" and other.parameters["prior"] == "probe"
    assert other.parameters["guidance_rescale"] == 0.7 and other.parameters["pipe_kwargs"] == {"guidance_rescale": 0.7}
    torch.testing.assert_close(same.latents, plain.latents, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(other.latents, plain.latents, atol=1e-3)


# ---- records ------------------------------------------------------------------------------------------------------


def test_records_hold_what_json_can_and_describe_the_rest(asked, pipe, tmp_path):
    image = Image.new("RGB", (4 * P, P))
    image.save(tmp_path / "a.png")
    given = {
        "clip_skip": np.int64(2), "strength": np.float32(0.5), "flag": True, "nothing": None,
        "cross_attention_kwargs": {"scale": 0.5}, "sizes": (1, 2), "prompt_embeds": torch.zeros(1, 8, 16),
        "image": fs.ByView([image] * 5), "pictures": [image], "file": tmp_path,
    }  # fmt: skip
    out = fs.SyncPipeline(pipe).wide("a cat", pipe_kwargs=given, control_image=tmp_path / "a.png", **SETTINGS)
    record = json.loads(json.dumps(out.parameters))
    assert record["pipe_kwargs"] == {
        "clip_skip": 2, "strength": 0.5, "flag": True, "nothing": None, "cross_attention_kwargs": {"scale": 0.5},
        "sizes": [1, 2], "prompt_embeds": "Tensor [1, 8, 16]", "image": "ByView of 5: Image 64 x 16",
        "pictures": ["Image 64 x 16"], "file": str(tmp_path),
    }  # fmt: skip
    assert record["control_image"] == str(tmp_path / "a.png")
    for shown_as, value in {"Image 64 x 16": image, "Tensor [16, 64]": torch.zeros(P, 4 * P)}.items():
        out = fs.SyncPipeline(pipe).wide("a cat", control_image=value, **SETTINGS)
        assert out.parameters["control_image"] == shown_as
    plain = fs.SyncPipeline(pipe).wide("a cat", **SETTINGS).parameters
    assert plain["pipe_kwargs"] == {} and plain["control_image"] is None
