import itertools

import pytest
import torch
from exact_priors import randn

from fastsync import ops

SIZE, WINDOW = (5, 9), (3, 4)


def windows(loop=False):
    """Windows 3x4 on a canvas 5x9; with a loop the last wraps around its right border."""
    return torch.tensor([(0, 0), (0, 3), (2, 1), (2, 7 if loop else 5)])


def cells(origin):
    """(canvas cell, window cell) pairs, wrapped by hand."""
    y, x = origin.tolist()
    for r, s in itertools.product(range(WINDOW[0]), range(WINDOW[1])):
        yield ((y + r) % SIZE[0], (x + s) % SIZE[1]), (r, s)


def test_crop_reads_windows_around_the_borders():
    z = randn(1, 2, *SIZE)
    origins = torch.tensor([[0, 0], [4, 7], [-1, 20]])
    got = ops.crop(z, origins, WINDOW)
    assert got.shape == (3, 2, *WINDOW)
    for i, origin in enumerate(origins):
        for (y, x), (r, s) in cells(origin):
            assert torch.equal(got[i, :, r, s], z[0, :, y, x])


@pytest.mark.parametrize("loop", [False, True])
def test_accumulate_is_the_adjoint_of_cropping(loop):
    z, views = randn(1, 2, *SIZE), randn(4, 2, *WINDOW, seed=1)
    total = ops.accumulate(views, windows(loop), SIZE)
    cropped = ops.crop(z, windows(loop), WINDOW)
    assert float((cropped * views).sum()) == pytest.approx(float((z * total).sum()), rel=1e-12)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("per_view", [False, True])
def test_merge_is_the_weighted_mean(loop, per_view):
    views, previous = randn(4, 2, *WINDOW, seed=1), randn(1, 2, *SIZE, seed=2)
    weights = torch.rand(4 if per_view else 1, 1, *WINDOW, generator=torch.Generator().manual_seed(3)).double() + 0.1
    weights[0, 0, 1, 1] = 0.0
    top, bottom = torch.zeros(2, *SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    for i, origin in enumerate(windows(loop)):
        for (y, x), (r, s) in cells(origin):
            weight = weights[i if per_view else 0, 0, r, s]
            top[:, y, x] += weight * views[i, :, r, s]
            bottom[y, x] += weight
    assert not bool((bottom > 0).all())
    for given, background in ((previous, previous[0]), (None, torch.zeros(2, *SIZE))):
        merged = ops.merge(views, weights, windows(loop), SIZE, given)
        assert torch.allclose(merged[0], torch.where(bottom > 0, top / bottom, background), rtol=1e-12)


def test_merging_crops_gives_the_canvas_back():
    z = randn(1, 2, *SIZE, seed=5)
    covered = ops.accumulate(torch.ones(4, 1, *WINDOW), windows(), SIZE) > 0
    again = ops.merge(ops.crop(z, windows(), WINDOW), torch.ones(1, 1, *WINDOW), windows(), SIZE)
    assert torch.allclose(again, torch.where(covered, z, 0), rtol=1e-12)


def test_sums_are_in_the_order_of_the_views():
    # 1e16 + 1 - 1e16 is 0 in float64 in this order, and 1 in the other.
    views = torch.tensor([1e16, 1.0, -1e16], dtype=torch.float64).reshape(3, 1, 1, 1)
    origins = torch.zeros(3, 2, dtype=torch.int64)
    assert float(ops.accumulate(views, origins, (1, 1))) == 0.0
    assert float(ops.accumulate(views[[0, 2, 1]], origins, (1, 1))) == 1.0


def test_half_precision_adds_up_in_float32():
    views = torch.full((3000, 1, 1, 1), 1.0, dtype=torch.float16)
    origins = torch.zeros(3000, 2, dtype=torch.int64)
    assert float(ops.accumulate(views, origins, (1, 1))) == 3000.0
    assert float(ops.merge(views, torch.ones(1, 1, 1, 1), origins, (1, 1))) == 1.0


def test_nan_stays_in_its_cell_and_without_weight_is_not_read():
    views, weights = randn(2, 1, *WINDOW), torch.ones(2, 1, *WINDOW, dtype=torch.float64)
    origins = torch.tensor([[0, 0], [2, 4]])
    views[1, 0, 0, 0] = float("nan")
    assert ops.accumulate(views, origins, SIZE).isnan().nonzero().tolist() == [[0, 0, 2, 4]]
    assert ops.merge(views, weights, origins, SIZE).isnan().nonzero().tolist() == [[0, 0, 2, 4]]
    weights[1, 0, 0, 0] = 0.0
    assert not bool(ops.merge(views, weights, origins, SIZE).isnan().any())


def test_what_does_not_fit_is_one_sentence():
    views, origins = torch.zeros(4, 2, *WINDOW), windows()
    with pytest.raises(ValueError, match=r"origins int64 \[N, 2\], got \[4, 2, 3, 4\] and torch.int64 \[3, 2\]"):
        ops.accumulate(views, origins[:3], SIZE)
    with pytest.raises(ValueError, match="origins int64"):
        ops.accumulate(views, origins.float(), SIZE)
    with pytest.raises(ValueError, match=r"a canvas of \(2, 9\) is smaller than its windows \(3, 4\)"):
        ops.accumulate(views, origins, (2, 9))
    with pytest.raises(ValueError, match=r"weights must be \['4 or 1', 1, 3, 4\], got \[2, 1, 3, 4\]"):
        ops.merge(views, torch.ones(2, 1, *WINDOW), origins, SIZE)
    with pytest.raises(ValueError, match=r"previous must be \[1, 2, 5, 9\]"):
        ops.merge(views, torch.ones(1, 1, *WINDOW), origins, SIZE, torch.zeros(1, 1, *SIZE))
