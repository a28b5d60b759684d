"""What holds for every canvas of crops, permutations and masks, drawn at random."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsync as fs
from fastsync.canvases.illusion_views import VIEWS


@st.composite
def illusions(draw):
    names = draw(st.lists(st.sampled_from(sorted(VIEWS)), min_size=1, max_size=4))
    side = draw(st.sampled_from([16, 32]))
    return fs.IllusionCanvas(names, (2, side, side))


@st.composite
def scenes(draw):
    count, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    values = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=count * h * w, max_size=count * h * w))
    masks = torch.tensor(values).reshape(count, 1, h, w)
    masks[:, 0, 0, 0] = 1.0  # none is empty
    canvas = fs.MaskCanvas(masks)
    return canvas.chained() if draw(st.booleans()) else canvas


anything = st.one_of(illusions(), scenes())


def draw(canvas, seed, views=False):
    generator = torch.Generator().manual_seed(seed)
    shape = (canvas.num_views if views else 1, 2, *canvas.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(anything, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_adjoint_is_the_transpose(canvas, seed):
    z, views = draw(canvas, seed), draw(canvas, seed + 1, views=True)
    forward, backward = (canvas.project(z) * views).sum(), (z * canvas.adjoint(views)).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


@given(anything, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_is_projected_comes_back_and_merging_twice_changes_nothing(canvas, seed):
    z, views = draw(canvas, seed), draw(canvas, seed + 1, views=True)
    torch.testing.assert_close(canvas.merge(canvas.project(z)), z, rtol=1e-9, atol=1e-9)
    once = canvas.project(canvas.merge(views))
    torch.testing.assert_close(canvas.project(canvas.merge(once)), once, rtol=1e-9, atol=1e-9)


@given(anything)
@settings(max_examples=40, deadline=None)
def test_every_cell_is_covered(canvas):
    assert canvas.coverage.shape == (1, 1, *canvas.size) and (canvas.coverage > 0).all()


@given(anything, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_noise_keeps_its_values(canvas, seed):
    """A view of white noise that shows each cell once, whatever its sign, is white noise of the same strength."""
    z = draw(canvas, seed)
    for view in canvas.project_noise(z):
        torch.testing.assert_close(view.abs().flatten().sort().values, z[0].abs().flatten().sort().values)


@given(anything, st.randoms(use_true_random=False), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_who_reads_whom(canvas, random, seed):
    """Nobody reads a later view, or a cell without weight, and a consistent set of views reads what it shows itself."""
    order = list(range(canvas.num_views))
    random.shuffle(order)
    near, views = canvas.neighbours(order), canvas.project(draw(canvas, seed))
    for position, i in enumerate(order):
        assert set(near.sources[i]) <= set(order[:position])
        assert set(near.owner[i].unique().tolist()) <= {-1, *near.sources[i]}
        inside = near.mask(i).bool()
        assert torch.equal(inside[0], near.owner[i] >= 0)
        torch.testing.assert_close(near.target(i, views) * inside, views[i] * inside)
