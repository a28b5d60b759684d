"""WideCanvas: exact maps between the plane and its windows, at any legal size."""

import itertools

import drawn_canvases
import numpy as np
import pytest
import torch
from exact_priors import ddim, nonlinear, relative
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsync as fs
from bench import reference
from fastsync import WideCanvas

ORDER_SEEDS = st.integers(0, 2**16)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(count, seed):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def cells(canvas, view):
    """Canvas cells of a window, (row, column) -> (canvas row, canvas column), from its origin alone."""
    (top, left), (height, width) = canvas.origins[view], canvas.size
    return {
        (r, c): ((top + r) % height, (left + c) % width)
        for r, c in itertools.product(range(canvas.window[0]), range(canvas.window[1]))
    }


@given(drawn_canvases.wide())
@settings(max_examples=30, deadline=None)
def test_maps_are_exact_for_every_legal_size(canvas):
    z, x = randn(1, 2, *canvas.size), randn(canvas.num_views, 2, *canvas.window, seed=1)
    views = canvas.project(z)
    assert views.shape == x.shape and views.dtype == z.dtype
    assert canvas.coverage.shape == (1, 1, *canvas.size) and canvas.coverage.dtype == torch.float32
    assert (canvas.coverage >= 1).all()
    assert canvas.coverage.sum() == canvas.num_views * canvas.window[0] * canvas.window[1]
    torch.testing.assert_close((views * x).sum(), (z * canvas.adjoint(x)).sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(canvas.merge(views), z, rtol=1e-14, atol=1e-14)
    once = canvas.project(canvas.merge(x))
    torch.testing.assert_close(canvas.project(canvas.merge(once)), once, rtol=1e-13, atol=1e-13)


@given(drawn_canvases.wide())
@settings(max_examples=30, deadline=None)
def test_windows_are_where_their_origins_say(canvas):
    z = torch.arange(canvas.size[0] * canvas.size[1], dtype=torch.float64).reshape(1, 1, *canvas.size)
    views = canvas.project(z)
    for i in range(canvas.num_views):
        for (r, c), (y, x) in cells(canvas, i).items():
            assert views[i, 0, r, c] == z[0, 0, y, x]
    assert canvas.origins == sorted(canvas.origins)  # row-major
    bottom = canvas.origins[-1][0] + canvas.window[0]
    right = canvas.origins[-1][1] + canvas.window[1]
    in_y, in_x = canvas.loop in ("y", "xy"), canvas.loop in (True, "x", "xy")
    assert bottom >= canvas.size[0] if in_y else bottom == canvas.size[0]  # flush
    assert right >= canvas.size[1] if in_x else right == canvas.size[1]
    assert canvas.period == (in_y * canvas.size[0], in_x * canvas.size[1])


@given(drawn_canvases.wide())
@settings(max_examples=20, deadline=None)
def test_merge_is_the_least_squares_solution(canvas):
    x = randn(canvas.num_views, 1, *canvas.window)
    weights = randn(canvas.num_views, 1, *canvas.window, seed=2).abs() + 0.1
    # The matrix of P, column by column, from unit canvases.
    count = canvas.size[0] * canvas.size[1]
    P = torch.stack(
        [canvas.project(e.reshape(1, 1, *canvas.size)).flatten() for e in torch.eye(count, dtype=torch.float64)], 1
    )
    root = weights.flatten().sqrt()
    solution = torch.linalg.lstsq(root[:, None] * P, (root * x.flatten())[:, None]).solution
    torch.testing.assert_close(canvas.merge(x, weights).flatten(), solution[:, 0], rtol=1e-9, atol=1e-9)


@given(drawn_canvases.wide(), ORDER_SEEDS)
@settings(max_examples=30, deadline=None)
def test_neighbours_take_the_latest_earlier_view(canvas, seed):
    order = shuffled(canvas.num_views, seed)
    views = randn(canvas.num_views, 2, *canvas.window)
    neighbours = canvas.neighbours(order)
    painted = {}  # canvas cell -> (view, row, column) that was laid on it last
    for i in order:
        mask = torch.zeros(1, *canvas.window)
        target = torch.zeros_like(views[i])
        sources = set()
        for (r, c), cell in cells(canvas, i).items():
            if cell in painted:
                j, row, column = painted[cell]
                mask[0, r, c] = 1.0
                target[:, r, c] = views[j, :, row, column]
                sources.add(j)
        assert sorted(neighbours.sources[i]) == sorted(sources)
        assert torch.equal(neighbours.mask(i), mask)
        assert torch.equal(neighbours.target(i, views), target)
        painted |= {cell: (i, *local) for local, cell in cells(canvas, i).items()}
        if neighbours.shift[i] is not None:
            # The shift says the same as the tables.
            source, dy, dx = neighbours.shift[i]
            py, px = neighbours.period
            h, w = canvas.window
            for r in range(h):
                for c in range(w):
                    y, x = (r + dy) % py if py else r + dy, (c + dx) % px if px else c + dx
                    inside = source >= 0 and 0 <= y < h and 0 <= x < w
                    assert bool(mask[0, r, c]) == inside
                    assert not inside or torch.equal(target[:, r, c], views[source, :, y, x])


def test_chains_are_read_by_plain_shifts():
    assert WideCanvas((4, 16), (4, 6), 4).neighbours(range(4)).shift == [(-1, 0, 0), (0, 0, 4), (1, 0, 4), (2, 0, 2)]
    loop = WideCanvas((4, 12), (4, 6), 4, loop=True).neighbours([1, 2, 0])
    assert loop.shift[1:] == [(-1, 0, 0), (1, 0, 4)] and loop.shift[0] is None and loop.period == (0, 12)


@given(drawn_canvases.wide(), ORDER_SEEDS)
@settings(max_examples=20, deadline=None)
def test_composite_paints_in_the_given_order(canvas, seed):
    order = shuffled(canvas.num_views, seed)
    views = randn(canvas.num_views, 2, *canvas.window)
    expected = torch.full((1, 2, *canvas.size), torch.nan, dtype=torch.float64)
    for i in order:
        for (r, c), (y, x) in cells(canvas, i).items():
            expected[0, :, y, x] = views[i, :, r, c]
    assert torch.equal(canvas.composite(views, order), expected)


def test_row_major_and_flush_by_hand():
    canvas = WideCanvas((5, 10), (4, 4), (3, 4))
    assert canvas.origins == [(0, 0), (0, 4), (0, 6), (1, 0), (1, 4), (1, 6)]
    assert canvas.num_views == 6 and canvas.view_shape == (4, 4)
    assert WideCanvas((4, 12), (4, 4), 4).origins == [(0, 0), (0, 4), (0, 8)]
    assert WideCanvas((4, 4), (4, 4), 4).num_views == 1


def test_a_loop_covers_the_seam():
    canvas = WideCanvas((2, 8), (2, 4), 3, loop=True)
    assert canvas.origins == [(0, 0), (0, 3), (0, 6)]
    z = torch.arange(16.0).reshape(1, 1, 2, 8)
    assert canvas.project(z)[2, 0, 0].tolist() == [6.0, 7.0, 0.0, 1.0]
    # Some window holds each pair of neighbouring columns, the pair (7, 0) too.
    pairs = {((x + k) % 8, (x + k + 1) % 8) for _, x in canvas.origins for k in range(3)}
    assert pairs >= {(k, (k + 1) % 8) for k in range(8)}
    # The closing window meets both its neighbours.
    assert sorted(canvas.neighbours(range(3)).sources[2]) == [0, 1]
    assert sorted(WideCanvas((2, 8), (2, 4), 3).neighbours(range(3)).sources[2]) == [1]


def test_true_is_a_loop_in_x():
    plain, named = (WideCanvas((5, 9), (4, 4), 3, loop=loop) for loop in (True, "x"))
    assert plain.origins == named.origins and plain.period == named.period == (0, 9)
    assert plain.neighbours(range(6)).shift == named.neighbours(range(6)).shift


def test_loops_in_y_and_in_both_directions_by_hand():
    canvas = WideCanvas((6, 4), (4, 4), (2, 4), loop="y")
    assert canvas.origins == [(0, 0), (2, 0), (4, 0)]
    z = torch.arange(24.0).reshape(1, 1, 6, 4)
    assert canvas.project(z)[2, 0, :, 0].tolist() == [16.0, 20.0, 0.0, 4.0]
    # The closing window meets both its neighbours, the one before it by a plain shift that wraps.
    assert sorted(canvas.neighbours(range(3)).sources[2]) == [0, 1]
    assert canvas.neighbours([2, 0, 1]).shift[0] == (2, -4, 0) and canvas.neighbours([2, 0, 1]).period == (6, 0)
    torus = WideCanvas((6, 6), (4, 4), 3, loop="xy")
    assert torus.origins == [(0, 0), (0, 3), (3, 0), (3, 3)]
    assert torus.coverage[0, 0].tolist() == [[4, 2, 2, 4, 2, 2], [2, 1, 1, 2, 1, 1], [2, 1, 1, 2, 1, 1]] * 2
    # Some window holds each cell together with the cells right of and below it, those across the borders too.
    held = [set(cells(torus, i).values()) for i in range(4)]
    for y, x in itertools.product(range(6), range(6)):
        for other in ((y, (x + 1) % 6), ((y + 1) % 6, x)):
            assert any({(y, x), other} <= window for window in held)


@pytest.mark.parametrize("loop", ["y", "xy"])
@pytest.mark.parametrize("method", [fs.MultiDiffusion, fs.SyncTweedies])
def test_a_closed_border_is_no_special_place(method, loop):
    # Moved by whole strides the same windows see the same noise, only in another order.
    canvas = WideCanvas((6, 8), (4, 4), 2, loop=loop)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 4, 4), dtype=torch.float64)
    common = {"cond": 0.5 * randn(1, 2, 4, 4, seed=1), "num_inference_steps": 4}
    z = randn(1, 2, *canvas.size)
    still = fs.sample(prior, canvas, method(), latents=z, **common).canvas
    for turn in [(2, 0), (4, 0)] + [(0, 6), (4, 2)] * (loop == "xy"):
        moved = fs.sample(prior, canvas, method(), latents=z.roll(turn, (2, 3)), **common).canvas
        assert relative(moved, still.roll(turn, (2, 3))) < 1e-12


@pytest.mark.parametrize(("loop", "size"), [("y", (7, 7)), ("xy", (7, 7)), ("xy", (6, 4)), ("y", (9, 4))])
@pytest.mark.parametrize("iterations", [0, 2])
def test_chains_on_grids_that_close(loop, size, iterations):
    canvas, steps = WideCanvas(size, (4, 4), 3, loop=loop), 3
    assert not bool((canvas.coverage == 0).any())
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 4, 4), dtype=torch.float64)
    cond, z = 0.5 * randn(canvas.num_views, 2, 4, 4, seed=1), randn(1, 2, *size)
    generator = torch.Generator().manual_seed(2)
    noise = [torch.randn(1, 2, *size, generator=generator, dtype=torch.float64) for _ in range(steps)]
    model = reference.Model(nonlinear, ddim(steps_offset=1), cond)
    place = reference.Cells.of_windows(canvas.origins, canvas.window, size)
    painted, expected = reference.syncvc(
        model, canvas.project(z), place, steps, iterations=iterations, eta=0.5, noise=noise
    )
    # SyncVC without iterations is SyncSDE.
    for method in [fs.SyncVC(iterations=iterations)] + [fs.SyncSDE()] * (iterations == 0):
        for order in method.orders:
            out = fs.sample(
                prior, canvas, method, cond=cond, latents=z, num_inference_steps=steps, eta=0.5, order=order,
                generator=torch.Generator().manual_seed(2),
            )  # fmt: skip
            assert relative(out.views, expected) < 1e-9 and relative(out.canvas, painted) < 1e-9


def test_projected_noise_stays_white():
    canvas = WideCanvas((24, 70), (16, 16), 11, loop=True)
    views = torch.cat([canvas.project(randn(1, 4, *canvas.size, seed=s)) for s in range(12)])
    assert abs(views.std().item() - 1.0) < 0.01
    assert abs((views[..., 1:] * views[..., :-1]).mean().item()) < 0.01
    assert abs((views[..., 1:, :] * views[..., :-1, :]).mean().item()) < 0.01


def test_weights_of_both_shapes():
    canvas = WideCanvas((1, 3), (1, 2), 1)
    views = torch.tensor([[[[1.0, 2.0]]], [[[4.0, 8.0]]]])
    shared = canvas.merge(views, torch.tensor([[1.0, 3.0]]))
    assert shared.flatten().tolist() == [1.0, 2.5, 8.0]
    own = canvas.merge(views, torch.tensor([[[[1.0, 1.0]]], [[[3.0, 1.0]]]]))
    assert own.flatten().tolist() == [1.0, 3.5, 8.0]


def test_cells_without_weight_keep_what_was_there():
    canvas = WideCanvas((1, 3), (1, 2), 1)
    views = torch.tensor([[[[1.0, 2.0]]], [[[4.0, 8.0]]]])
    weights = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 0.0]]]])
    previous = torch.tensor([[[[-7.0, -7.0, -9.0]]]])
    assert canvas.merge(views, weights, previous).flatten().tolist() == [-7.0, 3.0, -9.0]
    assert canvas.merge(views, weights).flatten().tolist() == [0.0, 3.0, 0.0]


def test_numpy_integers_and_lists_are_whole_numbers():
    canvas = WideCanvas([np.int64(4), np.int32(9)], (np.int64(4), 4), np.int64(3))
    assert canvas.origins == WideCanvas((4, 9), (4, 4), 3).origins
    assert all(type(n) is int for n in (*canvas.size, *canvas.window, *canvas.stride))


def test_dtypes_stay():
    canvas = WideCanvas((4, 9), (4, 4), 3)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        views = canvas.project(torch.ones(1, 1, 4, 9, dtype=dtype))
        assert views.dtype == canvas.merge(views).dtype == canvas.composite(views, range(3)).dtype == dtype


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda c: c.project(torch.zeros(1, 1, 4, 8)), "[1, C, 4, 9]"),
        (lambda c: c.project(torch.zeros(2, 1, 4, 9)), "[1, C, 4, 9]"),
        (lambda c: c.project([1]), "list"),
        (lambda c: c.merge(torch.zeros(2, 1, 4, 4)), "[3, C, 4, 4], got [2, 1, 4, 4]"),
        (lambda c: c.merge(torch.zeros(3, 1, 4, 5)), "[3, C, 4, 4], got [3, 1, 4, 5]"),
        (lambda c: c.merge(torch.zeros(3, 1, 4, 4), torch.ones(4)), "weights"),
        (lambda c: c.merge(torch.zeros(3, 1, 4, 4), [1.0]), "weights"),
        (lambda c: c.merge(torch.zeros(3, 1, 4, 4), None, torch.zeros(1, 1, 4, 8)), "previous"),
        (lambda c: c.adjoint(torch.zeros(3, 4, 4)), "views"),
        (lambda c: c.composite(None, [0]), "NoneType"),
    ],
)
def test_wrong_tensors_are_named(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(WideCanvas((4, 9), (4, 4), 3))
    assert words in str(caught.value)
