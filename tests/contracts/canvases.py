"""What every LinearCanvas promises, as tests that a canvas's own file inherits."""

import math

import pytest
import torch
from exact_priors import randn, relative


def shuffled(count, seed=0):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def numbered(canvas):
    """float64 [1, 1, H, W], each cell's own number, from 1 on: a sign does not hide it."""
    return torch.arange(1.0, math.prod(canvas.size) + 1, dtype=torch.float64).reshape(1, 1, *canvas.size)


class CanvasContract:
    """Derive a test class from it and name its canvases.

    Attributes:
        canvases: name -> function without arguments that builds one.
        repeats: how far, relatively, ``project(merge(views))`` of projected views may be from them where maps resample
            and the solver is ``"cg"``.
        mixed: share of the painted cells in which ``composite`` may mix views where maps resample.
    """

    canvases = {}
    repeats = 1e-3
    mixed = 0.0

    def pytest_generate_tests(self, metafunc):
        if "canvas" in metafunc.fixturenames:
            metafunc.parametrize("canvas", list(self.canvases), indirect=True)

    @pytest.fixture
    def canvas(self, request):
        return self.canvases[request.param]()

    @classmethod
    def check_all(cls, canvas):
        """The whole contract, for a canvas that hypothesis has drawn."""
        for name in dir(cls):
            if name.startswith("test_"):
                getattr(cls(), name)(canvas)

    def draw(self, canvas, seed=0, channels=2):
        """A canvas and views, float64."""
        z = randn(1, channels, *canvas.size, seed=seed)
        return z, randn(canvas.num_views, channels, *canvas.view_shape, seed=seed + 1)

    # ---- what it says of itself -------------------------------------------------------------------------------------

    def test_attributes(self, canvas):
        n, shape = canvas.num_views, canvas.view_shape
        for pair in (canvas.size, shape):
            assert isinstance(pair, tuple) and len(pair) == 2 and all(type(side) is int for side in pair)
        assert canvas.units in ("cells", "pixels") and canvas.whiteness in ("exact", "nearest", "none")
        assert canvas.channels is None or type(canvas.channels) is int
        assert canvas.coverage.shape == (1, 1, *canvas.size) and canvas.coverage.dtype == torch.float32
        assert (canvas.coverage >= 0).all() and (canvas.coverage > 0).any()
        for i in range(n):
            assert canvas.cells(i).shape == shape and canvas.cells(i).dtype == torch.int64
        if canvas.signs is not None:
            assert canvas.signs.shape == (n,) and set(canvas.signs.tolist()) <= {1.0, -1.0}
        if canvas.foreground is not None:
            assert canvas.foreground.shape == (n, 1, *shape) and canvas.foreground.dtype == torch.bool
            beside = canvas.project(self.draw(canvas)[0]).masked_select(~canvas.foreground)
            assert not beside.any()
        if canvas.regions is not None:
            assert canvas.regions.shape == (n, 1, *shape) and canvas.regions.dtype == torch.float32
        chained = canvas.chained()
        assert chained.size == canvas.size and chained.units == canvas.units and chained.num_views >= n

    # ---- maps -------------------------------------------------------------------------------------------------------

    def test_adjoint_is_the_transpose(self, canvas):
        z, x = self.draw(canvas)
        forward, backward = (canvas.project(z) * x).sum(), (z * canvas.adjoint(x)).sum()
        torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)

    def test_maps_are_linear_and_differentiable(self, canvas):
        z, x = self.draw(canvas, channels=1)
        other, views = self.draw(canvas, seed=2, channels=1)
        weights = randn(canvas.num_views, 1, *canvas.view_shape, seed=4).abs()
        rules = [(canvas.project, z, other), (canvas.adjoint, x, views), (canvas.merge, x, views)]
        for rule, a, b in [*rules, (lambda x: canvas.merge(x, weights), x, views)]:
            torch.testing.assert_close(rule(a + 2 * b), rule(a) + 2 * rule(b), rtol=1e-9, atol=1e-9)
            assert torch.autograd.gradcheck(rule, a.clone().requires_grad_(), fast_mode=True)
        leaf = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((canvas.project(leaf) * x).sum(), leaf)
        torch.testing.assert_close(gradient, canvas.adjoint(x), rtol=1e-10, atol=1e-10)

    def test_precision_stays(self, canvas):
        z, x = self.draw(canvas)
        order = range(canvas.num_views)
        for dtype in (torch.float32, torch.float64):
            results = [canvas.project(z.to(dtype)), canvas.adjoint(x.to(dtype)), canvas.merge(x.to(dtype))]
            results += [canvas.merge(x.to(dtype), None, z.to(dtype)), canvas.composite(x.to(dtype), order)]
            if canvas.whiteness != "none":
                results.append(canvas.project_noise(z.to(dtype)))
            assert [result.dtype for result in results] == [dtype] * len(results)

    def test_what_is_projected_comes_back(self, canvas):
        z, x = self.draw(canvas)
        views = canvas.project(z)
        if canvas.whiteness == "nearest":
            for given in (views, canvas.project(canvas.merge(x, solver="cg", iterations=200))):
                again = canvas.project(canvas.merge(given, solver="cg", iterations=200))
                assert relative(again, given) < self.repeats
            covered = canvas.coverage > 0
            ones = canvas.merge(canvas.project(torch.ones_like(z[:, :1])))[covered]
            torch.testing.assert_close(ones, torch.ones_like(ones), rtol=1e-6, atol=1e-6)
            return
        covered = (canvas.coverage > 0).expand_as(z)
        torch.testing.assert_close(canvas.merge(views)[covered], z[covered], rtol=1e-9, atol=1e-9)
        once = canvas.project(canvas.merge(x))
        torch.testing.assert_close(canvas.project(canvas.merge(once)), once, rtol=1e-9, atol=1e-9)

    def test_merge_is_the_weighted_mean(self, canvas):
        z, x = self.draw(canvas)
        weights = (randn(canvas.num_views, 1, *canvas.view_shape, seed=3) - 0.5).clamp_min(0)
        previous, merged = randn(1, 2, *canvas.size, seed=4), canvas.merge(x, weights)
        assert torch.isfinite(merged).all()
        assert relative(canvas.merge(x, torch.ones_like(weights)), canvas.merge(x)) < 1e-12
        shared = weights[0, 0]
        for alike in (shared[None, None], shared.expand_as(weights)):
            assert torch.equal(canvas.merge(x, alike, previous), canvas.merge(x, shared, previous))
        nothing = canvas.merge(x, torch.zeros_like(weights), previous)
        assert torch.equal(nothing, previous) and not canvas.merge(x, torch.zeros_like(weights)).any()
        covered = (canvas.coverage > 1e-4).expand_as(z)
        assert torch.equal(canvas.merge(x, None, math.nan * z)[covered], canvas.merge(x)[covered])
        if canvas.whiteness == "nearest":
            return
        # Pixel by pixel, from where each shows what.
        total, weight = torch.zeros_like(z), torch.zeros_like(z[:, :1])
        numbers = canvas.project(numbered(canvas))
        where, signs = numbers.abs().long() - 1, numbers.sign()
        own = weights if canvas.regions is None else weights * canvas.regions
        for i in range(canvas.num_views):
            total.flatten(2).index_add_(2, where[i].flatten(), (own[i] * signs[i] * x[i]).flatten(1)[None])
            weight.flatten(2).index_add_(2, where[i].flatten(), own[i].flatten(1)[None])
        expected = torch.where(weight > 0, total / weight.where(weight > 0, 1), previous)
        torch.testing.assert_close(canvas.merge(x, weights, previous), expected, rtol=1e-9, atol=1e-9)

    def test_noise_keeps_its_values_or_is_refused(self, canvas):
        """A view of white noise whose cells are all different, whatever their sign, is white noise."""
        if canvas.whiteness == "none":
            with pytest.raises(ValueError, match="noise would not stay white"):
                canvas.project_noise(numbered(canvas))
            return
        noise = canvas.project_noise(numbered(canvas)).abs()
        assert all(len(view.unique()) == view.numel() for view in noise)
        assert set(noise.unique().tolist()) <= set(numbered(canvas).flatten().tolist())
        for i, view in enumerate(noise):
            assert torch.equal(view[0].long() - 1, canvas.cells(i))

    # ---- who paints over whom ---------------------------------------------------------------------------------------

    def test_neighbours_read_earlier_views(self, canvas):
        order = shuffled(canvas.num_views)
        near = canvas.neighbours(order)
        views = canvas.project(self.draw(canvas)[0])
        assert near.owner.shape == near.cell.shape == (canvas.num_views, *canvas.view_shape)
        for position, i in enumerate(order):
            owner, inside = near.owner[i], near.mask(i)[0].bool()
            assert set(near.sources[i]) <= set(order[:position])
            assert set(owner.unique().tolist()) - {-1} == set(near.sources[i])
            assert torch.equal(inside, owner >= 0)
            if canvas.foreground is not None:
                assert not inside[~canvas.foreground[i, 0]].any()
            if canvas.whiteness == "exact":
                # Views of one canvas read what they show themselves.
                torch.testing.assert_close(near.target(i, views) * inside, views[i] * inside)
            if near.shift[i] is not None:
                self.check_shift(canvas, near, i)

    def check_shift(self, canvas, near, i):
        """The shift says the same as the tables."""
        (source, *move), (h, w) = near.shift[i], canvas.view_shape
        y, x = torch.arange(h)[:, None] + move[0], torch.arange(w) + move[1]
        y, x = (at % period if period else at for at, period in zip((y, x), near.period, strict=True))
        inside = (source >= 0) & (0 <= y) & (y < h) & (0 <= x) & (x < w)
        assert torch.equal(near.owner[i], torch.where(inside, source, -1))
        assert torch.equal((y * w + x)[inside], near.cell[i][inside])

    def test_neighbours_are_a_naive_painting(self, canvas):
        if canvas.regions is not None:
            return  # soft regions are painted otherwise
        order = shuffled(canvas.num_views, seed=1)
        near, pixels = canvas.neighbours(order), math.prod(canvas.view_shape)
        for position, i in enumerate(order):
            owner, cell = torch.full(canvas.view_shape, -1), torch.zeros(canvas.view_shape, dtype=torch.long)
            for j in order[:position]:
                pair = canvas.neighbours([j, i])
                read = pair.owner[i] == j
                owner[read], cell[read] = j, pair.cell[i][read]
            assert torch.equal(near.owner[i], owner) and torch.equal(near.cell[i][owner >= 0], cell[owner >= 0])
        if canvas.whiteness != "exact":
            return
        where = canvas.project(numbered(canvas)).abs().long().flatten(1) - 1
        painted = {}
        for i in order:
            cells = where[i].tolist()
            found = [painted.get(cell, (-1, 0)) for cell in cells]
            expected = torch.tensor(found).reshape(*canvas.view_shape, 2)
            read = expected[..., 0] >= 0
            assert torch.equal(near.owner[i], expected[..., 0])
            assert torch.equal(near.cell[i][read], expected[..., 1][read])
            painted |= {cell: (i, p) for p, cell in zip(range(pixels), cells, strict=True)}

    def test_composite_is_a_naive_painting(self, canvas):
        z, x = self.draw(canvas)
        order = shuffled(canvas.num_views, seed=2)
        if canvas.whiteness == "exact":
            torch.testing.assert_close(canvas.composite(canvas.project(z), order), z * (canvas.coverage > 0))
        if canvas.whiteness == "exact" and canvas.regions is None:
            numbers, expected = canvas.project(numbered(canvas)), torch.zeros_like(z)
            for i in order:
                expected[0].flatten(1)[:, numbers[i].abs().long().flatten() - 1] = (numbers[i].sign() * x[i]).flatten(1)
            assert torch.equal(canvas.composite(x, order), expected)
        if canvas.whiteness == "nearest":
            # Views of one colour each, laid over one another.
            colours = torch.arange(1.0, canvas.num_views + 1, dtype=torch.float64)[:, None, None, None]
            views = colours.expand(-1, 1, *canvas.view_shape)
            painted, expected = canvas.composite(views, order), torch.zeros_like(z[:, :1])
            for i in order:
                alone = canvas.composite(views, [i])
                expected = torch.where(alone != 0, alone, expected)
            assert torch.equal(painted != 0, expected != 0)
            wrong = (painted - expected).abs() > 1e-6
            assert int(wrong.sum()) <= self.mixed * int((painted != 0).sum())
        assert torch.isfinite(canvas.composite(x, order)).all() and not canvas.composite(x, order).requires_grad

    # ---- what is refused --------------------------------------------------------------------------------------------

    def test_what_does_not_fit_is_one_sentence(self, canvas):
        n, (h, w), (height, width) = canvas.num_views, canvas.view_shape, canvas.size
        z, x = self.draw(canvas)
        canvas_text, views_text = f"[1, C, {height}, {width}]", f"[{n}, C, {h}, {w}]"
        cases = [
            (lambda: canvas.project(z[0]), ["z must be a canvas", canvas_text, f"[2, {height}, {width}]"]),
            (lambda: canvas.project(torch.cat([z, z])), ["z must be", canvas_text, f"[2, 2, {height}, {width}]"]),
            (
                lambda: canvas.project(torch.cat([z, z], 3)),
                ["z must be", canvas_text, f"[1, 2, {height}, {2 * width}]"],
            ),
            (lambda: canvas.project([1.0]), ["z must be", canvas_text, "list"]),
            (lambda: canvas.project(z.long()), ["z must be", canvas_text, "got torch.int64"]),
            (lambda: canvas.merge(x > 0), ["views must be", views_text, "got torch.bool"]),
            (lambda: canvas.adjoint(x[0]), ["views must be", views_text, f"[2, {h}, {w}]"]),
            (lambda: canvas.adjoint(torch.cat([x, x[:1]])), ["views must be", views_text, f"[{n + 1}, 2, {h}, {w}]"]),
            (lambda: canvas.merge(torch.cat([x, x], 2)), ["views must be", views_text, f"[{n}, 2, {2 * h}, {w}]"]),
            (lambda: canvas.composite(None, [0]), ["views must be", views_text, "NoneType"]),
            (lambda: canvas.merge(x, torch.ones(h + 1, w)), ["weights must be", f"[{h}, {w}]", f"[{h + 1}, {w}]"]),
            (lambda: canvas.merge(x, torch.ones(n + 1, 1, h, w)), ["weights must be", f"[{n}, 1, {h}, {w}]"]),
            (lambda: canvas.merge(x, torch.ones(3)), ["weights must be", "[3]"]),
            (lambda: canvas.merge(x, [1.0]), ["weights must be a torch.Tensor", "list"]),
            (lambda: canvas.merge(x, -torch.ones(h, w)), ["weights must be at least 0", "-1"]),
            (lambda: canvas.merge(x, torch.full((h, w), math.nan)), ["weights", "NaN"]),
            (lambda: canvas.merge(x, None, z[:, :1]), ["previous must be a canvas", f"[1, 1, {height}, {width}]"]),
            (lambda: canvas.merge(x, previous=0.0), ["previous must be a canvas", "float"]),
            (lambda: canvas.composite(x, [n]), ["order must name views", f"0 to {n - 1}", f"[{n}]"]),
            (lambda: canvas.neighbours([0, 0]), ["order must name views", "none of them twice", "[0, 0]"]),
            (lambda: canvas.neighbours([-1]), ["order", "at least 0", "-1"]),
            (lambda: canvas.neighbours(0), ["order must be a list of views", "0"]),
            (lambda: canvas.neighbours([0.5]), ["order", "whole number", "0.5"]),
        ]
        if canvas.whiteness != "none":
            cases.append((lambda: canvas.project_noise(z[0]), ["z must be a canvas", canvas_text]))
        for call, words in cases:
            with pytest.raises((ValueError, TypeError)) as caught:
                call()
            message = str(caught.value)
            assert "\n" not in message and 20 < len(message) < 300 and message.endswith("."), message
            missing = [word for word in words if word not in message]
            assert not missing, f"{message!r} does not say {missing}"
