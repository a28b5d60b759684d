import json
from xml.etree import ElementTree

import pytest
from PIL import Image

from fastsync.pictures import check_picture_path, read_metadata, save_picture


@pytest.fixture
def image():
    return Image.new("RGB", (6, 4), (10, 200, 30))


def test_png_gives_its_metadata_back(tmp_path, image):
    path = tmp_path / "picture.png"
    metadata = {"prompt": "Dünen, 夕暮れ", "seed": 3, "negative_prompt": None, "method": {"name": "syncvc", "lr": 0.02}}
    save_picture(image, path, metadata)
    assert read_metadata(path) == metadata
    with Image.open(path) as saved:
        assert saved.size == (6, 4)
        assert saved.getpixel((0, 0)) == (10, 200, 30)
        assert saved.text["parameters"] == f"prompt: Dünen, 夕暮れ, seed: 3, method: {metadata['method']}"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp"])
def test_other_formats(tmp_path, image, suffix):
    path = tmp_path / f"picture.{suffix}"
    save_picture(image, path, {"seed": 3})
    with Image.open(path) as saved:
        assert saved.size == (6, 4)
    with pytest.raises(ValueError, match="no metadata of fastsync"):
        read_metadata(path)


def photo_sphere(path):
    """The GPano properties that a picture carries, or None."""
    with Image.open(path) as image:
        packet = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    if packet is None:
        return None
    (description,) = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    name_space = "{http://ns.google.com/photos/1.0/panorama/}"
    return {name.removeprefix(name_space): text for name, text in description.items() if name.startswith(name_space)}


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp"])
@pytest.mark.parametrize(("height", "top"), [(16, 0), (9, 3)])
def test_panoramas_tell_viewers_what_they_are(tmp_path, suffix, height, top):
    path = tmp_path / f"around.{suffix}"
    save_picture(Image.new("RGB", (32, height), (10, 200, 30)), path, {"seed": 3}, panorama=True)
    assert photo_sphere(path) == {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "FullPanoWidthPixels": "32",
        "FullPanoHeightPixels": "16",
        "CroppedAreaImageWidthPixels": "32",
        "CroppedAreaImageHeightPixels": str(height),
        "CroppedAreaLeftPixels": "0",
        "CroppedAreaTopPixels": str(top),
    }
    if suffix == "png":
        assert read_metadata(path) == {"seed": 3}
    save_picture(Image.new("RGB", (32, height)), path, panorama=True)
    assert photo_sphere(path)["ProjectionType"] == "equirectangular"
    save_picture(Image.new("RGB", (32, height)), path, {"seed": 3})
    assert photo_sphere(path) is None


def test_a_panorama_is_at_most_half_as_high_as_wide(tmp_path):
    with pytest.raises(ValueError, match="at most half its width, got 32 x 17.*panorama=False"):
        save_picture(Image.new("RGB", (32, 17)), tmp_path / "around.png", panorama=True)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, image):
    path = tmp_path / "picture.png"
    save_picture(image, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_picture(image, path, {"seed": object()})
    image.save = lambda file, **_: (file.write_bytes(b"half"), 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_picture(image, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["picture", "picture.tiff", "picture.txt"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(ValueError, match=r"needs one of \.png, \.jpg"):
        check_picture_path(tmp_path / name)


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="there is no folder"):
        check_picture_path(tmp_path / "missing" / "picture.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match="is a folder"):
        check_picture_path(tmp_path / "folder.png")
    with pytest.raises(OSError, match="cannot be written"):
        check_picture_path(tmp_path / ("x" * 300 + ".png"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_the_check_leaves_an_existing_picture_alone(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text(json.dumps("old"))
    check_picture_path(path)
    assert path.read_text() == '"old"'
