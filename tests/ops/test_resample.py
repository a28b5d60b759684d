import pytest
import torch
from exact_priors import randn

from fastsync import ops
from fastsync.ops.taps import sort_reference

SIZE = (6, 7)


def table(views=2, window=(4, 5), taps=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(-8, SIZE[0] * SIZE[1], (views, *window, taps), generator=generator).clamp_min(-1).int()
    weight = torch.rand(views, *window, taps, generator=generator, dtype=torch.float64).to(dtype)
    return ops.Taps(index, weight, SIZE)


def matrix(taps):
    """The map as a dense matrix [pixels, cells]."""
    rows = torch.zeros(taps.index[..., 0].numel(), SIZE[0] * SIZE[1], dtype=torch.float64)
    for p, (index, weight) in enumerate(zip(taps.index.flatten(0, 2), taps.weight.flatten(0, 2), strict=True)):
        for cell, w in zip(index.tolist(), weight.tolist(), strict=True):
            if cell >= 0:
                rows[p, cell] += w
    return rows


def test_resample_is_the_matrix_and_splat_its_transpose():
    taps = table()
    z, views = randn(1, 3, *SIZE), randn(2, 3, 4, 5, seed=1)
    expected = (matrix(taps) @ z[0].flatten(1).T).reshape(2, 4, 5, 3).permute(0, 3, 1, 2)
    assert torch.allclose(ops.resample(z, taps), expected, rtol=1e-12)
    back = (matrix(taps).T @ views.permute(0, 2, 3, 1).reshape(-1, 3)).T.reshape(1, 3, *SIZE)
    for form in (taps, taps.sort()):
        assert torch.allclose(ops.splat(views, form), back, rtol=1e-12)


def test_whole_cells_of_the_canvas_come_back_unchanged():
    cells = torch.arange(42).reshape(1, *SIZE, 1).int()
    taps = ops.Taps(cells, torch.ones(1, *SIZE, 1), SIZE)
    z = randn(1, 2, *SIZE).float()
    assert torch.equal(ops.resample(z, taps), z) and torch.equal(ops.splat(z, taps.sort()), z)


def test_sorted_form_is_stable_and_complete():
    taps = table().sort()
    cells = SIZE[0] * SIZE[1]
    assert taps.start.shape == (cells + 1,) and int(taps.start[-1]) == len(taps.pixel) == int((taps.index >= 0).sum())
    for cell in range(cells):
        flat = (taps.index.flatten() == cell).nonzero()[:, 0]
        part = slice(int(taps.start[cell]), int(taps.start[cell + 1]))
        assert taps.pixel[part].tolist() == (flat // 3).tolist()
        assert taps.sorted_weight[part].tolist() == taps.weight.flatten()[flat].tolist()
    assert taps.sort() is taps
    given = sort_reference(taps.index, taps.weight, cells)
    assert all(torch.equal(a, b) for a, b in zip(given, (taps.start, taps.pixel, taps.sorted_weight), strict=True))


def test_a_table_without_any_tap():
    taps = ops.Taps(
        torch.full((1, 2, 2, 1), -1, dtype=torch.int32), torch.full((1, 2, 2, 1), float("nan")), SIZE
    ).sort()
    assert len(taps.pixel) == 0 and not bool(ops.splat(torch.full((1, 1, 2, 2), float("nan")), taps).any())
    assert not bool(ops.resample(torch.full((1, 1, *SIZE), float("nan")), taps).any())


def test_nan_reaches_what_reads_it_and_nothing_else():
    taps = table().sort()
    z, views = randn(1, 1, *SIZE), randn(2, 1, 4, 5, seed=1)
    z[0, 0, 2, 3], views[1, 0, 2, 2] = float("nan"), float("nan")
    readers = (matrix(taps) != 0)[:, 2 * SIZE[1] + 3]
    assert torch.equal(ops.resample(z, taps).isnan().flatten(), readers)
    read = (matrix(taps) != 0)[20 + 2 * 5 + 2]
    for form in (taps, table()):
        assert torch.equal(ops.splat(views, form).isnan().flatten(), read)


def test_moving_a_table_and_mixing_precisions():
    taps = table(dtype=torch.float32).sort()
    moved = taps.to("cpu", torch.float64)
    assert moved.weight.dtype == moved.sorted_weight.dtype == torch.float64 and moved.index.dtype == torch.int32
    views = randn(2, 1, 4, 5)
    assert torch.equal(ops.splat(views, taps), ops.splat(views, moved))
    half = ops.splat(views.half(), taps)
    assert half.dtype == torch.float16 and torch.allclose(half.double(), ops.splat(views, moved), atol=2e-2)


def test_what_does_not_fit_is_one_sentence():
    taps, index = table(), table().index
    with pytest.raises(ValueError, match=r"index reaches 4\d, but a canvas of \(5, 8\) has 40 cells: build the table"):
        ops.Taps(index, taps.weight, (5, 8))
    with pytest.raises(ValueError, match="index must be int32"):
        ops.Taps(index.long(), taps.weight, SIZE)
    with pytest.raises(ValueError, match="index must be int32 .* weight of its shape"):
        ops.Taps(index, taps.weight[..., :1], SIZE)
    with pytest.raises(ValueError, match="no sorted form of index: leave them to sort"):
        ops.Taps(index, taps.weight, SIZE, torch.zeros(43, dtype=torch.int64), index.flatten(), taps.weight.flatten())
    with pytest.raises(ValueError, match=r"z must be \[1, C, 6, 7\], got \[1, 2, 7, 6\]"):
        ops.resample(torch.zeros(1, 2, 7, 6), taps)
    with pytest.raises(ValueError, match=r"splat: views must be \[2, C, 4, 5\] as the table's, got \[1, 3, 4, 5\]"):
        ops.splat(torch.zeros(1, 3, 4, 5), taps)
