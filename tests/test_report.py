"""The report: one page that shows the mesh in a real browser, loads nothing and runs nothing but its own script."""

import base64
import re

import browser
import numpy as np
import pytest
import shapes
from PIL import Image

from fastsync.geometry import TexturedMesh
from fastsync.report import write_report

SIDES = [(220, 40, 40), (40, 200, 60), (50, 80, 230), (230, 200, 40), (200, 60, 210), (40, 200, 210)]
OWN = "document.title='owned'"
HOSTILE = f"""</script></title><img src=x onerror="{OWN}"><script>{OWN}</script> "'&<!--"""


@pytest.fixture(scope="module")
def dice():
    """A cube whose sides have a colour each: -x, +x, -y, +y, -z, +z."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    for side, colour in enumerate(SIDES):
        row, column = 1 - side // 3, side % 3
        pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = colour
    return TexturedMesh(shapes.cube(), shapes.cube(), Image.fromarray(pixels))


@pytest.fixture(scope="module")
def chromium():
    if browser.CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with browser.Browser() as window:
        yield window


def shares(picture, tolerance=6):
    """How much of a picture each side's colour covers."""
    pixels = np.array(picture).astype(int)
    return [float((np.abs(pixels - colour).max(-1) <= tolerance).mean()) for colour in SIDES]


def stage(window):
    """What the canvas shows."""
    x, y, w, h = window.run(
        "(b => [b.x, b.y, b.width, b.height])(document.getElementById('canvas').getBoundingClientRect())"
    )
    return window.screenshot().crop((round(x), round(y), round(x + w), round(y + h)))


def seen(window):
    return {side for side, share in enumerate(shares(stage(window))) if share > 0.01}


def press(window, name):
    window.run(f"document.getElementById('{name}').click()")
    window.settle()


def test_the_mesh_is_shown_and_can_be_turned(chromium, dice, tmp_path):
    write_report(tmp_path / "dice.html", dice, [dice.texture] * 3, {"prompt": "a die", "seed": 7})
    chromium.open(tmp_path / "dice.html")
    assert not chromium.complaints() and not chromium.requests()
    press(chromium, "light")  # without it colours are the texture's own
    start = stage(chromium)
    assert seen(chromium) == {0, 3, 5} or seen(chromium) == {1, 3, 5}  # a side, the top and the front
    front = np.array(start)[start.height // 2, start.width // 2]
    assert np.abs(front.astype(int) - SIDES[5]).max() <= 6, "the front is in the middle"
    # The side of the mesh that points up in its own coordinates is up in the picture.
    rows = [np.nonzero((np.abs(np.array(start).astype(int) - SIDES[side]).max(-1) < 6).any(1))[0] for side in (3, 5)]
    assert rows[0].mean() < rows[1].mean()

    x, y, width, height = (round(v) for v in chromium.run(
        "(b => [b.x, b.y, b.width, b.height])(document.getElementById('canvas').getBoundingClientRect())"
    ))  # fmt: skip
    middle = (x + width // 2, y + height // 2)
    chromium.drag(middle, (middle[0] + round(np.pi / 0.008), middle[1]))  # half a turn
    assert 4 in seen(chromium) and 5 not in seen(chromium), "the back"
    chromium.drag(middle, (middle[0], middle[1] - 400))
    assert 2 in seen(chromium), "from below"
    press(chromium, "reset")
    assert np.abs(np.array(stage(chromium)).astype(int) - np.array(start)).mean() < 0.1

    chromium.run("document.getElementById('canvas').focus()")
    before = sum(shares(stage(chromium)))
    for key in ("+", "+", "ArrowLeft"):
        chromium.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if key == "+" else "")
    chromium.settle()
    assert sum(shares(stage(chromium))) > 1.2 * before, "nearer"
    chromium.call("Input.dispatchMouseEvent", type="mouseWheel", x=middle[0], y=middle[1], deltaX=0, deltaY=500)
    chromium.settle()
    assert not chromium.complaints()


def test_light_and_turning(chromium, dice, tmp_path):
    write_report(tmp_path / "dice.html", dice, [], {})
    chromium.open(tmp_path / "dice.html")
    lit = np.array(stage(chromium)).astype(float)
    press(chromium, "light")
    plain = np.array(stage(chromium)).astype(float)
    assert plain.mean() > lit.mean() + 1
    assert chromium.run("document.getElementById('turn').getAttribute('aria-pressed')") == "false"  # reduced motion
    press(chromium, "turn")
    chromium.settle()
    assert np.abs(np.array(stage(chromium)) - plain).mean() > 1
    press(chromium, "turn")
    assert not chromium.complaints()


def test_texts_stay_texts(chromium, dice, tmp_path):
    write_report(
        tmp_path / "a.html",
        dice,
        [],
        {"prompt": HOSTILE, HOSTILE: HOSTILE, "none": None, "number": 1 / 3, "two": {"a": 1, "b": 2}},
    )
    chromium.open(tmp_path / "a.html")
    assert chromium.run("document.title") == HOSTILE == chromium.run("document.querySelector('h1').textContent")
    rows = chromium.run("[...document.querySelectorAll('th, td')].map(cell => cell.textContent)")
    assert rows == ["prompt", HOSTILE, HOSTILE, HOSTILE, "number", "0.333333", "two", "a 1, b 2"]
    assert chromium.run("document.querySelectorAll('img').length") == 2  # the still picture and the texture
    assert seen(chromium) is not None and not chromium.complaints() and not chromium.requests()
    # Even a script that got in would not run.
    chromium.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.owned = 1'}))")
    assert chromium.run("window.owned") is None


def test_without_webgl_there_is_a_picture(dice, tmp_path):
    if browser.CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    frames = [Image.new("RGB", (128, 128), SIDES[0])] * 2
    write_report(tmp_path / "a.html", dice, [dice.texture], {}, turntable=frames)
    with browser.Browser(webgl=False) as window:
        window.open(tmp_path / "a.html")
        assert window.run("document.getElementById('canvas').hidden")
        assert "no WebGL" in window.run("document.getElementById('hint').textContent")
        assert shares(window.screenshot(), tolerance=12)[0] > 0.01  # the turntable's colour


def test_what_the_page_holds(dice, tmp_path):
    write_report(tmp_path / "a.html", dice, [dice.texture, dice.texture], {"seed": 7})
    page = (tmp_path / "a.html").read_text("utf-8")
    (glb,) = re.findall(r'href="data:model/gltf-binary;base64,([^"]+)"', page)
    assert base64.b64decode(glb) == dice.glb() and 'download="a.glb"' in page
    (texture,) = re.findall(r'id="texture" class="framed" src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(texture) == dice.png
    assert page.count('alt="View ') == 2 and "<td>7</td>" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and list(tmp_path.iterdir()) == [tmp_path / "a.html"]


def test_bad_input_gets_a_sentence(dice, tmp_path):
    with pytest.raises(ValueError, match="a report needs one of .html, .htm"):
        write_report(tmp_path / "a.pdf", dice, [], {})
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_report(tmp_path / "no" / "a.html", dice, [], {})
    broken = TexturedMesh(shapes.plates(0.0), dice.mesh, dice.texture)
    with pytest.raises(ValueError, match="not those of its source"):
        write_report(tmp_path / "a.html", broken, [], {})
    assert not list(tmp_path.iterdir())
