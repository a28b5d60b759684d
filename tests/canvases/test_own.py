"""Canvases that a user writes: cells are all that they have to name, and every method runs on them."""

import re
from pathlib import Path

import pytest
import torch
from contracts.canvases import CanvasContract
from exact_priors import ddim, nonlinear, randn, relative

import fastsync as fs


class Columns(fs.LinearCanvas):
    """Three views of half a picture's width: its even columns, its odd columns and its middle."""

    def __init__(self, height=4, width=12, **units):
        super().__init__((height, width), (height, width // 2), 3, **units)

    def cells(self, view):
        height, width = self.size
        cells = torch.arange(height * width).reshape(height, width)
        return cells[:, view::2] if view < 2 else cells[:, width // 4 : width // 4 + width // 2]


class Windows(fs.LinearCanvas):
    """A row of windows, written down once more."""

    def __init__(self, size, window, stride):
        self.stride = stride
        super().__init__(size, window, 1 + (size[1] - window[1]) // stride)

    def cells(self, view):
        height, width = self.size
        left = view * self.stride
        return torch.arange(height * width).reshape(height, width)[:, left : left + self.view_shape[1]]


class Negatives(Columns):
    """As Columns; the odd columns are shown with their sign turned."""

    signs = torch.tensor([1.0, -1.0, 1.0])


class Twice(Columns):
    """A view that shows one column everywhere beside one of all others."""

    def cells(self, view):
        return super().cells(view) if view else super().cells(0)[:, :1].expand(self.view_shape)


class TestOwn(CanvasContract):
    canvases = {
        "columns": Columns,
        "windows": lambda: Windows((4, 14), (4, 6), 4),
        "negatives": Negatives,
        "cells twice": Twice,
    }


METHODS = {
    "independent": fs.Independent(),
    "multidiffusion": fs.MultiDiffusion("gaussian"),
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(),
    "stochsync": fs.StochSync(steps=6, start=900, stop=300),
    "syncvc": fs.SyncVC(iterations=2),
}


def sampled(canvas, method, **options):
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, *canvas.view_shape), dtype=torch.float64)
    cond = 0.5 * randn(canvas.num_views, 2, *canvas.view_shape, seed=1)
    options = {"latents": randn(1, 2, *canvas.size, seed=2), **options}
    return fs.sample(
        prior, canvas, method, cond=cond, num_inference_steps=4, generator=torch.Generator().manual_seed(0), **options
    )


@pytest.mark.parametrize("kind", [Columns, Negatives])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_in_every_order(name, kind):
    canvas, method = kind(), METHODS[name]
    out = sampled(canvas, method)
    assert out.canvas.shape == (1, 2, *canvas.size) and out.views.shape == (3, 2, *canvas.view_shape)
    assert torch.isfinite(out.canvas).all() and out.canvas.std() > 0.01
    for order in method.orders:
        assert relative(sampled(canvas, method, order=order, max_batch=1).canvas, out.canvas) < 1e-10


def test_methods_make_its_views_agree():
    """Merged views are projections of one picture; SyncVC brings them nearer to one than they are alone."""
    canvas = Columns()
    for name in ("multidiffusion", "synctweedies"):
        out = sampled(canvas, METHODS[name], eta=0.5)
        if name == "multidiffusion":
            assert relative(canvas.project(out.canvas), out.views) < 1e-12
        assert relative(canvas.project(canvas.merge(out.views)), out.views) < 1e-12
    apart, synced = (
        relative(canvas.project(canvas.merge(views)), views)
        for views in (sampled(canvas, method).views for method in (fs.Independent(), fs.SyncVC(coupling="stable")))
    )
    assert synced < 0.5 * apart


@pytest.mark.parametrize("name", METHODS)
def test_windows_by_their_cells_give_the_numbers_of_a_wide_canvas(name):
    own, given = (
        sampled(canvas, METHODS[name], eta=0.0 if name == "stochsync" else 0.5)
        for canvas in (Windows((4, 14), (4, 6), 4), fs.WideCanvas((4, 14), (4, 6), 4))
    )
    assert relative(own.views, given.views) < 1e-10 and relative(own.canvas, given.canvas) < 1e-10


def test_the_example_of_the_docs_runs():
    text = (Path(__file__).parents[2] / "docs" / "how-it-works.md").read_text()
    code = re.search(r"```python\n(class Columns.*?)```", text, re.DOTALL).group(1)
    prior = fs.FunctionPrior(nonlinear, ddim(), (2, 64, 64))
    known = {"fs": fs, "torch": torch, "prior": prior, "cond": torch.zeros(1, 2, 64, 64), "uncond": None}
    exec(code, known)
    assert known["out"].canvas.shape == (1, 2, 64, 128) and known["out"].views.shape == (3, 2, 64, 64)


def test_whether_noise_stays_white_follows_from_the_cells():
    assert Columns().whiteness == Negatives().whiteness == "exact" and Twice().whiteness == "none"
    with pytest.raises(ValueError, match="MultiDiffusion merges noisy states"):
        sampled(Twice(), fs.MultiDiffusion())
    assert torch.isfinite(sampled(Twice(), fs.SyncTweedies(), latents=None).canvas).all()


class Crooked(Columns):
    """As many as one likes of the mistakes that cells can have."""

    def __init__(self, cells):
        super().__init__()
        self.given = cells

    def cells(self, view):
        return self.given


@pytest.mark.parametrize(
    ("cells", "error", "sentence"),
    [
        (torch.zeros(4, 6), TypeError, r"cells\(0\) must give int64 \[4, 6\], got \[4, 6\]"),
        (torch.zeros(24, dtype=torch.int64), TypeError, r"cells\(0\) must give int64 \[4, 6\], got torch.int64 \[24\]"),
        (None, TypeError, r"cells\(0\) must give int64 \[4, 6\], got NoneType"),
        (torch.arange(24).reshape(4, 6) + 30, ValueError, r"cells\(0\) must show cells 0 to 47, and shows 30 to 53"),
        (torch.arange(24).reshape(4, 6) - 1, ValueError, r"cells\(0\) must show cells 0 to 47, and shows -1 to 22"),
    ],
)
def test_wrong_cells_are_told(cells, error, sentence):
    canvas, z, views = Crooked(cells), torch.zeros(1, 2, 4, 12), torch.zeros(3, 2, 4, 6)
    for call in (
        lambda: canvas.project(z),
        lambda: canvas.merge(views),
        lambda: canvas.neighbours([0, 1]),
        lambda: canvas.composite(views, [0]),
        lambda: canvas.whiteness,
    ):
        with pytest.raises(error, match=sentence):
            call()


def test_wrong_settings_are_told():
    for arguments, sentence in [
        (((4, 12), (4, 6), 0), "num_views must be at least 1"),
        (((4, 12), (2, 4, 6), 3), r"view_shape must be a pair \(height, width\)"),
        (((4.0, 12), (4, 6), 3), r"size\[0\] must be a whole number"),
    ]:
        with pytest.raises((TypeError, ValueError), match=sentence):
            fs.LinearCanvas.__init__(Columns(), *arguments)
    with pytest.raises(ValueError, match="units must be one of"):
        Columns(units="metres")
    with pytest.raises(TypeError, match="abstract"):
        fs.LinearCanvas((4, 12), (4, 6), 3)


class Seen(fs.Canvas):
    """A canvas that is no linear map: each view shows the picture through a curve of its own."""

    def __init__(self):
        super().__init__((4, 6), (4, 6), 2)

    @property
    def coverage(self):
        return torch.full((1, 1, *self.size), float(self.num_views))

    def _project(self, z):
        return torch.cat([torch.tanh(z), torch.sin(z)])


def test_a_canvas_that_is_only_seen_is_differentiable_and_checked():
    canvas, z = Seen(), randn(1, 2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(canvas.project, z) and canvas.chained() is canvas
    with pytest.raises(ValueError, match=r"z must be a canvas \[1, C, 4, 6\], got \[1, 2, 4, 7\]"):
        canvas.project(torch.zeros(1, 2, 4, 7))
    assert canvas.whiteness == "none" and canvas.units == "cells"
    with pytest.raises(ValueError, match="noise would not stay white in the views of this Seen"):
        canvas.project_noise(z)
    with pytest.raises(TypeError, match="SyncVC needs a canvas that views can be merged into, and Seen .*LinearCanvas"):
        sampled(canvas, fs.SyncVC())
