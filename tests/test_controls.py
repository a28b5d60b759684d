"""Control images: read as users have them, and made into what each view is shown."""

import numpy as np
import pytest
import torch
from PIL import Image

import fastsync as fs
from fastsync import controls
from fastsync.controls import read_control

SIZE = (16, 24)


def picture(channels=3, size=SIZE, seed=0):
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(seed))


def pil(mode, size=SIZE):
    values = (255 * picture(3, size)[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


# ---- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_images_of_colours_become_rgb(mode):
    image = pil(mode)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    assert torch.equal(read_control(image, SIZE), expected)


@pytest.mark.parametrize("mode, white", [("L", 255), ("1", 1), ("F", 1), ("I;16", 65535), ("I", 65535)])
def test_images_of_one_channel_stay_one(mode, white):
    values = np.array([[0.0, 0.25], [0.5, 1.0]]) * white
    kind = {"L": np.uint8, "1": bool, "F": np.float32, "I;16": np.uint16, "I": np.int32}[mode]
    image = Image.fromarray(values.astype(kind))
    assert image.mode == mode
    expected = torch.from_numpy(np.floor(values) if mode not in ("F", "1") else values.astype(kind) + 0.0) / white
    torch.testing.assert_close(read_control(image)[0, 0].double(), expected.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_files_and_images_of_the_same_proportions_are_resized(tmp_path, mode):
    image = pil(mode, (32, 48))
    image.save(tmp_path / "a.png")
    expected = image.convert("RGB" if mode == "P" else mode).resize((24, 16), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.array(expected)).float() / 255
    values = values[None, None] if mode == "L" else values.permute(2, 0, 1)[None]
    for given in (image, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(read_control(given, SIZE), values)


@pytest.mark.parametrize("mode, kind", [("I;16", np.uint16), ("F", np.float32), ("1", bool)])
def test_deep_images_are_resized_within_their_range(mode, kind):
    step = np.zeros((32, 48))
    step[:, 24:] = 65535 if mode == "I;16" else 1
    got = read_control(Image.fromarray(step.astype(kind)), SIZE)
    assert got.shape == (1, 1, *SIZE) and got.min() == 0 and got.max() == 1
    assert got[..., :8].max() < 0.01 and got[..., 16:].min() > 0.99


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_and_tensors_are_taken_as_they_are(channels):
    expected = picture(channels)
    array = expected[0].permute(1, 2, 0).numpy()
    given = [expected, expected[0], array, expected.double()]
    given += [expected[0, 0], array[..., 0]] if channels == 1 else []
    for image in given:
        assert torch.equal(read_control(image, SIZE), expected)
    half = expected > 0.5
    for image in (half, 255 * half.to(torch.uint8), half[0].permute(1, 2, 0).numpy()):
        assert torch.equal(read_control(image, SIZE), half.float())


@pytest.mark.parametrize(
    "image, error, message",
    [
        ("nowhere.png", FileNotFoundError, "control_image: there is no file nowhere.png"),
        (5, TypeError, "control_image must be a file, a PIL image, an array or a tensor, got 5"),
        (picture(2), ValueError, r"1 or 3 channels, .*got \[1, 2, 16, 24\]"),
        (torch.zeros(2, 3, *SIZE), ValueError, r"got \[2, 3, 16, 24\]"),
        (np.zeros((3, *SIZE)), ValueError, r"an array \[H, W\] or \[H, W, C\] .*got \[3, 16, 24\]"),
        (picture() + 1, ValueError, r"in \[0, 1\], got values from 1"),
        (picture() * float("nan"), ValueError, "NaN"),
        (picture(size=(32, 48)), ValueError, "the picture's size, 24 x 16 .*, got 48 x 32: resize it"),
        (pil("RGB", (16, 30)), ValueError, "the picture's size, 24 x 16 .*, got 30 x 16"),
    ],
)
def test_what_is_no_control_image_is_one_sentence(image, error, message):
    with pytest.raises(error, match=message) as caught:
        read_control(image, SIZE)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(ValueError, match="control_image: .*a.png is no picture that Pillow can read"):
        read_control(tmp_path / "a.png")


# ---- what each view is shown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [False, "x", "xy"])
def test_windows_are_crops_that_wrap_where_the_picture_is_closed(loop):
    canvas = fs.WideCanvas((10, 22), (8, 8), (6, 5), loop=loop)
    image = picture(size=(20, 44))
    got = controls.of_windows(image, canvas, 2, (20, 44))
    around = torch.cat([torch.cat([image, image], 2)] * 2, 3)
    expected = torch.cat([around[..., 2 * y : 2 * y + 16, 2 * x : 2 * x + 16] for y, x in canvas.origins])
    assert torch.equal(got, expected) and len(got) == canvas.num_views


def test_cells_beyond_the_picture_show_its_border():
    canvas = fs.WideCanvas((8, 23), (8, 8), 5)
    image = picture(size=(15, 45))
    last = controls.of_windows(image, canvas, 2, (15, 45))[-1]
    assert last.shape == (3, 16, 16)
    assert torch.equal(last[:, :15, :15], image[0, :, :, 30:]) and torch.equal(last[:, 15, :15], image[0, :, -1, 30:])
    assert torch.equal(last[:, :15, 15], image[0, :, :, -1])


def test_cameras_see_what_the_canvas_in_pixels_projects():
    cameras = fs.canvases.ring(4, fov=90.0) + [(10.0, 90.0, 80.0)]
    rows = fs.PanoramaCanvas.rows_for(cameras, (16, 16))
    fine = fs.PanoramaCanvas((rows, 2 * rows), cameras, (16, 16), units="pixels")
    canvas = fs.PanoramaCanvas((rows, 2 * rows), cameras, (8, 8))
    image = picture(size=(rows, 2 * rows))
    assert torch.equal(controls.of_cameras(image, canvas, (16, 16)), fine.project(image))


def test_pictures_of_any_size_around_the_viewer_show_the_same():
    """A smooth picture, drawn coarsely and finely."""
    cameras = fs.canvases.ring(3, elevation=20.0, fov=80.0)
    rows = fs.PanoramaCanvas.rows_for(cameras, (8, 8))
    canvas = fs.PanoramaCanvas((rows, 2 * rows), cameras, (8, 8))

    def drawn(height):
        up = (0.5 - (torch.arange(height) + 0.5) / height)[:, None] * np.pi
        around = ((torch.arange(2 * height) + 0.5) / height - 1) * np.pi
        return (0.5 + 0.4 * up.sin() * around.cos())[None, None]

    coarse, fine = (controls.of_cameras(drawn(height), canvas, (16, 16)) for height in (40, 800))
    assert coarse.shape == (3, 1, 16, 16) and (coarse - fine).abs().max() < 0.02
    with pytest.raises(ValueError, match="equirectangular, twice as wide as high, got 24 x 16"):
        controls.of_cameras(picture(), canvas, (16, 16))


def test_views_of_an_illusion_transform_it_and_negatives_negate_it():
    canvas = fs.IllusionCanvas(["identity", "rotate_180", "negate"], shape=(3, *SIZE), units="pixels")
    for channels in (1, 3):
        image = picture(channels)
        got = controls.of_views(image, canvas)
        expected = torch.cat([image, image.flip(2, 3), 1 - image])
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
        assert got.min() >= 0 and got.max() <= 1
