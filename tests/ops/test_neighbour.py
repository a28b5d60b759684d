import pytest
import torch

from fastsync.ops import neighbour, overlap_loss
from fastsync.ops.samples import SHAPES, Draw


def by_hand(source, place, index, mask, period, shape):
    """(y, M) cell by cell, from the words of DESIGN's addressing."""
    batch, channels, height, width = shape
    rows, columns = source.shape[2:]
    target, weight = torch.zeros(shape, dtype=source.dtype), torch.zeros(batch, 1, height, width, dtype=source.dtype)
    for b in range(batch):
        slot, dy, dx = place[b].tolist()
        if slot < 0:
            continue
        for y in range(height):
            for x in range(width):
                if index is not None:
                    at = int(index[b, y, x])
                    if at < 0:
                        continue
                    s, v, u = slot + at // (rows * columns), at % (rows * columns) // columns, at % columns
                else:
                    s, v, u = slot, y + dy, x + dx
                    v, u = (v % period[0] if period[0] else v), (u % period[1] if period[1] else u)
                    if not (0 <= v < rows and 0 <= u < columns):
                        continue
                weight[b, 0, y, x] = 1.0 if mask is None else mask[b, 0, y, x]
                if weight[b, 0, y, x] != 0:
                    target[b, :, y, x] = source[s, :, v, u]
    return target, weight


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_read_is_what_the_words_say(shape):
    draw = Draw(torch.float64, "cpu", 3)
    like = torch.empty(shape, dtype=torch.float64)
    covered = []
    for address in neighbour.samples(draw, shape):
        got, expected = neighbour.read(*address, like), by_hand(*address, shape)
        for mine, right in zip(got, expected, strict=True):
            assert torch.equal(mine, right)
        covered.append(float(expected[1].mean()))
    # The cases hold an empty overlap and partial ones.
    assert min(covered) == 0.0 and max(covered) > 0.3


def test_a_period_of_the_sources_size_covers_every_cell():
    draw = Draw(torch.float64, "cpu", 4)
    x, source = draw.normal(2, 3, 5, 7), draw.normal(2, 3, 5, 7)
    place = torch.tensor([[0, 13, -22], [1, -4, 5]])
    target, weight = neighbour.read(source, place, None, None, (5, 7), x)
    assert bool((weight == 1).all())
    for b, (slot, dy, dx) in enumerate(place.tolist()):
        assert torch.equal(target[b], source[slot].roll((-dy, -dx), (1, 2)))


def test_scatter_is_the_adjoint_of_read():
    draw = Draw(torch.float64, "cpu", 5)
    for source, place, index, _, period in neighbour.samples(draw, (2, 3, 7, 13)):
        gradient = draw.normal(2, 3, 7, 13)
        target, weight = neighbour.read(source.nan_to_num(0.3), place, index, None, period, gradient)
        back = neighbour.scatter(weight * gradient, source, place, index, period)
        assert torch.allclose((target * gradient).sum(), (source.nan_to_num(0.3) * back).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.zeros(2, 2, 4, 4)}, r"source must be \[S, 3, h', w'\], got \[2, 2, 4, 4\]"),
        ({"place": torch.zeros(1, 2, dtype=torch.int64)}, r"place must be int64 \[1, 3\]"),
        ({"place": torch.zeros(1, 3)}, r"place must be int64 \[1, 3\], got torch.float32"),
        ({"index": torch.zeros(1, 4, 5, dtype=torch.int64)}, r"index must be int64 \[1, 4, 4\]"),
        ({"mask": torch.zeros(1, 3, 4, 4)}, r"mask must be \[1, 1, 4, 4\], got \[1, 3, 4, 4\]"),
        (
            {"period": (0, 3)},
            r"period must be two numbers, each 0 or at least the source's side \(4, 4\), got \(0, 3\)",
        ),
        ({"period": (0, -5)}, "period must be two numbers"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, message):
    given = {"source": torch.zeros(2, 3, 4, 4), "place": torch.zeros(1, 3, dtype=torch.int64), **change}
    with pytest.raises(ValueError, match=message):
        overlap_loss(torch.zeros(1, 3, 4, 4), **given)
