"""Contact sheets: every picture once, in its order."""

import numpy as np
import pytest
from PIL import Image

from fastsync.contact_sheet import contact_sheet


@pytest.mark.parametrize(
    "count, columns, shape", [(1, None, (1, 1)), (9, None, (3, 3)), (10, None, (3, 4)), (5, 2, (3, 2))]
)
def test_all_are_there_in_their_order(count, columns, shape):
    images = [Image.new("RGB", (32, 32), (20 * k, 0, 90)) for k in range(count)]
    sheet = contact_sheet(images, columns)
    assert sheet.size == (2 + 34 * shape[1], 2 + 34 * shape[0])
    middles = np.array(sheet)[18::34, 18::34].reshape(-1, 3)[:count]
    assert middles.tolist() == [[20 * k, 0, 90] for k in range(count)]


def test_smaller_ones_stand_in_the_middle():
    sheet = contact_sheet([Image.new("RGB", (64, 32), "red"), Image.new("L", (32, 16), 0)], columns=2)
    black = np.argwhere((np.array(sheet) == 0).all(-1))
    assert black.min(0).tolist() == [4 + 8, 4 + 68 + 16] and len(black) == 32 * 16


def test_bad_input_gets_a_sentence():
    with pytest.raises(ValueError, match="images must not be empty"):
        contact_sheet([])
    with pytest.raises(ValueError, match="columns must be at least 1"):
        contact_sheet([Image.new("RGB", (8, 8))], 0)
