"""Gatys's losses against the formulas, their gradient, and pictures in every form."""

import numpy as np
import pytest
import torch
from exact_priors import randn
from PIL import Image

from fastsync.rewards import Style


def two_layers(pictures):
    fine = torch.tanh(pictures.roll(1, -1) - 0.5 * pictures + 0.2)
    return [fine, torch.cat([fine, fine.square()], 1)[..., ::2, ::2]]


def picture(*size, seed=0):
    return torch.sigmoid(randn(3, *size, seed=seed))


def test_by_hand():
    x, reference, content = picture(4, 6), picture(8, 10, seed=1), picture(4, 6, seed=2)
    layers = []
    for f, a in zip(two_layers(x[None]), two_layers(reference[None]), strict=True):
        count, total = f.shape[1], 0.0
        for i in range(count):
            for j in range(count):
                total += ((f[0, i] * f[0, j]).mean() - (a[0, i] * a[0, j]).mean()) ** 2
        layers.append(total / (4 * count**2))
    style = sum(layers) / 2
    deepest = (two_layers(x[None])[-1] - two_layers(content[None])[-1]).square().mean()
    assert float(Style(reference, style_weight=3.0, features=two_layers)(x, [], 0)) == pytest.approx(
        -3.0 * float(style)
    )
    both = Style(reference, content, 3.0, 0.5, two_layers)
    assert float(both(x, [], 0)) == pytest.approx(-float(3.0 * style + 0.5 * deepest))
    assert float(Style(x, features=two_layers)(x, [], 0)) == 0
    assert both.pixels and both.scores_first_view and not both.reads_earlier


def test_a_content_of_another_size_is_resized():
    x, content = picture(4, 6), picture(8, 12, seed=2)
    small = torch.nn.functional.interpolate(content[None], (4, 6), mode="bilinear", antialias=True)[0]
    scores = [float(Style(x, c, 1.0, 1.0, two_layers)(x, [], 0)) for c in (content, small)]
    assert scores[0] == pytest.approx(scores[1]) and scores[0] < 0


@pytest.mark.parametrize("features", [two_layers, None], ids=["given", "embedded"])
def test_gradient(features):
    reward = Style(picture(8, 10, seed=1), picture(8, 8, seed=2), 3.0, 0.5, features)
    x = picture(8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: reward(p, [], 0), x, fast_mode=True)


def test_one_picture_in_every_form(tmp_path):
    array = (255 * picture(8, 10).permute(1, 2, 0).numpy()).astype(np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "style.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    forms = [image, image.convert("RGBA"), tmp_path / "style.png", str(tmp_path / "style.png"), tensor]
    x = picture(8, 8, seed=1).float()
    scores = {float(Style(form, features=two_layers)(x, [], 0)) for form in forms}
    assert len(scores) == 1


def test_settings_are_checked(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    grey = torch.full((3, 4, 4), 0.5)
    cases = [
        (TypeError, "reference must be a PIL image, a path or a tensor", (3,)),
        (FileNotFoundError, "there is no file", (tmp_path / "none.png",)),
        (ValueError, "is none that PIL can read", (tmp_path / "text.png",)),
        (ValueError, r"must be one picture \[3, H, W\], got \[1, 3, 4, 4\]", (grey[None],)),
        (ValueError, r"must lie in \[0, 1\], got -1", (2 * grey - 2,)),
        (TypeError, "floating-point", (grey.int(),)),
        (ValueError, "style_weight must be at least 0", (grey, None, -1.0)),
        (ValueError, "do not fit together", (grey, grey)),
        (ValueError, "do not fit together", (grey, None, 1.0, 1.0)),
        (TypeError, "content must be a PIL image", (grey, 3, 1.0, 1.0)),
    ]
    for kind, sentence, arguments in cases:
        with pytest.raises(kind, match=sentence) as caught:
            Style(*arguments)
        assert "\n" not in str(caught.value)
