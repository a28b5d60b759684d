"""The tasks of SyncPipeline beside `wide`, on tiny real pipelines."""

import json

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch

import fastsync as fs
from fastsync.task import METHODS

SETTINGS = {"num_inference_steps": 3, "seed": 0, "output_type": "np", "progress": False, "guidance_scale": 3.0}
VIEWS = [("identity", "a cat"), ("rotate_180", "a dog")]


@pytest.fixture(scope="module")
def pixel():
    return fs.SyncPipeline(tiny.make_pixel_pipeline())


@pytest.fixture(scope="module")
def latent():
    return fs.SyncPipeline(tiny.make_pipeline())


def _masks(side: int) -> list[np.ndarray]:
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2, : side // 2] = 255
    return [mask, mask[::-1, ::-1].copy()]


# ---- illusions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name != "syncdiffusion"])
def test_illusion_gives_the_picture_and_what_each_view_shows(pixel, method) -> None:
    out = pixel.illusion(VIEWS, method=method, **SETTINGS)
    assert out.images.shape == (3, 16, 16, 3) and out.images.std() > 0.01
    assert np.array_equal(out.images[1], out.images[0])
    assert np.array_equal(out.images[2], out.images[0][::-1, ::-1])
    again = pixel.illusion(VIEWS, method=method, **SETTINGS)
    assert np.array_equal(again.images, out.images)
    assert out.parameters["views"] == ["identity", "rotate_180"] and out.parameters["prompt"] == ["a cat", "a dog"]
    json.dumps(out.parameters)


def test_illusion_is_sample_with_the_views_conditions(pixel) -> None:
    out = pixel.illusion(VIEWS, method="synctweedies", **{**SETTINGS, "output_type": "latent"})
    prior = fs.DeepFloydPrior(pixel.pipe)
    cond, uncond = prior.encode_prompt(["a cat", "a dog"])
    expected = fs.sample(
        prior, fs.IllusionCanvas(["identity", "rotate_180"], shape=(3, 16, 16)), fs.SyncTweedies(), cond=cond,
        uncond=uncond, guidance_scale=3.0, num_inference_steps=3, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.equal(out.images, expected.canvas)


def test_illusion_in_latents_shows_pixels_turned(latent) -> None:
    out = latent.illusion(VIEWS, method="multidiffusion", **SETTINGS)
    assert out.images.shape == (3, tiny.PIXELS, tiny.PIXELS, 3)
    assert np.array_equal(out.images[2], out.images[0][::-1, ::-1])


@pytest.mark.parametrize(
    ("views", "error", "words"),
    [
        ([("identity", "a cat")], ValueError, "two or more pairs"),
        ("identity", ValueError, "two or more pairs"),
        (["identity", "flip"], TypeError, "must be pairs"),
        ([("identity", "a cat"), ("upside", "a dog")], ValueError, "views must be of"),
        ([("identity", "a cat"), ("skew", 3)], TypeError, "prompt must be"),
    ],
)
def test_bad_views_get_a_sentence(pixel, views, error, words) -> None:
    with pytest.raises(error, match=words):
        pixel.illusion(views, **SETTINGS)


# ---- regions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name != "syncdiffusion"])
def test_compose_paints_every_region(latent, method) -> None:
    masks = _masks(tiny.PIXELS)
    out = latent.compose(masks, ["a cat", "a dog"], background="a sky", method=method, **SETTINGS)
    assert out.images.shape == (1, tiny.PIXELS, tiny.PIXELS, 3) and out.images.std() > 0.01
    again = latent.compose(
        regions=list(zip(masks, ["a cat", "a dog"], strict=True)), background="a sky", method=method, **SETTINGS
    )
    assert np.array_equal(out.images, again.images)
    other = latent.compose(masks, ["a cat", "a cat"], background="a sky", method=method, **SETTINGS)
    changed = np.abs(other.images - out.images)[0].max(-1)
    assert changed[tiny.PIXELS // 2 :, tiny.PIXELS // 2 :].max() > 1e-3
    json.dumps(out.parameters)


def test_compose_gives_the_whole_a_prompt_where_the_method_has_a_view_of_it(latent) -> None:
    asked: list[list[str]] = []
    encode = latent.pipe.encode_prompt

    def watched(prompts, **settings):
        asked.append(list(prompts))
        return encode(prompts, **settings)

    latent.pipe.encode_prompt = watched
    try:
        for method, whole in (("syncsde", None), ("syncvc", "all"), ("multidiffusion", None)):
            latent.compose(_masks(16), ["a cat", "a dog"], background="sky", prompt=whole, method=method, **SETTINGS)
    finally:
        del latent.pipe.encode_prompt
    parts = ["sky", "a cat", "a dog"]
    assert asked == [[*parts, "sky, a cat, a dog"], [*parts, "all"], parts]


def test_compose_at_other_sizes(latent) -> None:
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 16:] = 255
    out = latent.compose([mask], ["a cat"], height=16, width=32, method="multidiffusion", **SETTINGS)
    assert out.images.shape == (1, 16, 32, 3)
    with pytest.raises(ValueError, match="width must be a multiple of 4 pixels"):
        latent.compose([mask], ["a cat"], width=34, **SETTINGS)


def test_bad_regions_get_a_sentence(latent) -> None:
    with pytest.raises(ValueError, match="2 masks and 1 prompts"):
        latent.compose(_masks(16), ["a cat"], **SETTINGS)
    with pytest.raises(ValueError, match="equally many"):
        latent.compose(**SETTINGS)
    with pytest.raises(ValueError, match="both given"):
        latent.compose(_masks(16), ["a cat"], regions=[(_masks(16)[0], "a cat")], **SETTINGS)
    with pytest.raises(ValueError, match="mask 0 is empty"):
        latent.compose([np.zeros((16, 16))], ["a cat"], **SETTINGS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        latent.compose(_masks(16), ["a cat", "a dog"], colour=1, **SETTINGS)


# ---- panoramas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("syncdiffusion", "multidiffusion")])
def test_panorama_is_the_band_that_all_azimuths_show(latent, method) -> None:
    out = latent.panorama("a cat", method=method, **{**SETTINGS, "num_inference_steps": 2})
    _, height, width, _ = out.images.shape
    fov = min(camera[2] for camera in out.canvas.cameras)
    assert width == 2 * round(np.pi * tiny.PIXELS / 2 / np.tan(np.radians(fov) / 2))
    assert 0 < height < width / 3 and out.images.std() > 0.01
    assert (out.images.std(axis=(1, 3)) > 0).all()  # no empty column
    again = latent.panorama("a cat", method=method, **{**SETTINGS, "num_inference_steps": 2})
    assert np.array_equal(out.images, again.images)
    json.dumps(out.parameters)


def test_panorama_with_poles_is_the_whole_sphere(latent) -> None:
    out = latent.panorama("a cat", poles=True, width=64, method="independent", **SETTINGS)
    assert out.images.shape == (1, 32, 64, 3) and len(out.views) == 16
    assert (out.canvas.paint(torch.ones(16, 1, 8, 8), (32, 64))[1]).all()


def test_paint_puts_pictures_where_the_cameras_look() -> None:
    cameras = fs.canvases.ring(6, fov=80.0) + fs.canvases.POLES
    rows = fs.PanoramaCanvas.rows_for(cameras, (16, 16))
    canvas = fs.PanoramaCanvas((rows, 2 * rows), cameras, (16, 16))
    fine = fs.PanoramaCanvas((256, 512), cameras, (64, 64))
    up = ((0.5 - (torch.arange(256) + 0.5) / 256) * np.pi)[:, None]
    around = ((torch.arange(512) + 0.5) / 512 - 0.5) * 2 * np.pi
    z = torch.stack([up.sin().expand(256, 512), up.cos() * around.cos()])[None]
    painted, seen = canvas.paint(fine.project(z), (64, 128))
    assert seen.all()
    expected = torch.nn.functional.interpolate(z, (64, 128), mode="area")
    assert float((painted - expected).abs().mean()) < 0.01 and float((painted - expected).abs().max()) < 0.08


def test_bad_panoramas_get_a_sentence(latent) -> None:
    with pytest.raises(ValueError, match="width must be even"):
        latent.panorama("a cat", width=33, **SETTINGS)
    with pytest.raises(ValueError, match="both given"):
        latent.panorama("a cat", poles=True, cameras=[(0, 0, 90)], **SETTINGS)
    with pytest.raises(ValueError, match="merges noisy states"):
        latent.panorama("a cat", method="multidiffusion", **SETTINGS)
    with pytest.raises(ValueError, match="one a camera"):
        latent.panorama(["a cat", "a dog"], **SETTINGS)
