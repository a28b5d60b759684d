"""Animations of illusions: they begin with the picture, end with what the view shows, and move the right way."""

import numpy as np
import pytest
import torch
from PIL import Image

import fastsync as fs
from fastsync.animation import morph, save_animation, seen
from fastsync.canvases.illusion_views import VIEWS

SIDE = 32


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth, and different at every place."""
    y, x = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE), indexing="ij")
    return Image.fromarray((np.stack([y, x, y * x], -1) * 255).astype(np.uint8))


@pytest.mark.parametrize("name", VIEWS)
def test_from_the_picture_to_the_view(picture: Image.Image, name: str) -> None:
    frames = morph(picture, VIEWS[name], frames=7)
    assert len(frames) == 7 and {frame.size for frame in frames} == {picture.size}
    canvas = fs.IllusionCanvas([name], shape=(3, SIDE, SIDE))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 127.5 - 1
    expected = (canvas.project(pixels)[0].permute(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(np.array(frames[-1]), expected.numpy(), atol=0.51)
    assert np.array_equal(np.array(frames[0]), np.array(picture))


@pytest.mark.parametrize("name", ["rotate_cw", "rotate_ccw", "rotate_180", "inner_circle", "inner_rotate"])
def test_turns_arrive_where_the_view_is(picture: Image.Image, name: str) -> None:
    """The last turned frame, made by turning, is the view's own picture away from cut edges."""
    from fastsync.animation import _TURNS, _turned

    turned = np.array(_turned(picture, name, _TURNS[name])).astype(float)
    difference = np.abs(turned - np.array(seen(picture, VIEWS[name])))[2:-2, 2:-2]
    assert np.median(difference) < 4 and difference.mean() < 6


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_file_plays_there_and_back(tmp_path, picture: Image.Image, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save_animation(picture, [VIEWS["identity"], VIEWS["flip"], VIEWS["patch_permute"]], path, frames=5, side=64)
    with Image.open(path) as image:
        assert image.n_frames >= 16 and image.size == (64, 64)
        first = np.array(image.convert("RGB")).astype(float)
        small = np.array(picture.resize((64, 64), Image.Resampling.NEAREST)).astype(float)
        assert np.abs(first - small).mean() < 12  # a GIF has 256 colours
    assert list(tmp_path.iterdir()) == [path]


def test_bad_input_gets_a_sentence(tmp_path, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="an animation needs one of"):
        save_animation(picture, [VIEWS["flip"]], tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_animation(picture, [VIEWS["flip"]], tmp_path / "no" / "a.gif")
    with pytest.raises(ValueError, match="nothing to animate"):
        save_animation(picture, [VIEWS["identity"]], tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
