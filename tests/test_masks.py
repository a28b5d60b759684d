"""Masks from files, images, arrays and tensors."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastsync.masks import read_masks


@pytest.fixture
def half() -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    return mask


def test_every_form_of_a_mask_is_the_same_mask(tmp_path, half: np.ndarray) -> None:
    path = tmp_path / "half.png"
    Image.fromarray(half).save(path)
    rgba = Image.merge("RGBA", [*(Image.new("L", (32, 32), 200),) * 3, Image.fromarray(half)])
    forms = [
        path, str(path), Image.fromarray(half), Image.fromarray(half).convert("RGB"), rgba, half, half > 0,
        half / 255.0, torch.from_numpy(half), torch.from_numpy(half)[None], torch.from_numpy(half / 255.0),
    ]  # fmt: skip
    masks = read_masks(forms, (8, 8))
    assert masks.shape == (len(forms), 1, 8, 8) and masks.dtype == torch.float32
    expected = torch.zeros(8, 8)
    expected[:, :4] = 1.0
    torch.testing.assert_close(masks, expected.expand_as(masks))


def test_scaling_takes_the_mean_of_the_pixels_under_a_cell(half: np.ndarray) -> None:
    half[:, 16:20] = 255
    masks = read_masks([half], (4, 4))
    torch.testing.assert_close(masks[0, 0, 0], torch.tensor([1.0, 1.0, 0.5, 0.0]))
    assert read_masks([half], (64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("nosuch.png", FileNotFoundError, "there is no file"),
        (__file__, ValueError, "no picture that Pillow can read"),
        (np.full((8, 8), 7.0), ValueError, "divide bytes"),
        (np.zeros((8, 8, 3)), ValueError, r"must be \[H, W\]"),
        (np.zeros((8, 16)), ValueError, "proportions"),
        (3, TypeError, "must be a file"),
    ],
)
def test_bad_masks_get_a_sentence(given: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_masks([given], (8, 8))
