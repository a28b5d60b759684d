"""Canvases of crops, permutations and masks, drawn at random for hypothesis."""

import torch
from hypothesis import strategies as st

import fastsync as fs
from fastsync.canvases.illusion_views import VIEWS

LOOPS = [False, True, "x", "y", "xy"]


@st.composite
def wide(draw):
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    size = (h + draw(st.integers(0, 7)), w + draw(st.integers(0, 7)))
    stride = (draw(st.integers(1, h)), draw(st.integers(1, w)))
    return fs.WideCanvas(size, (h, w), stride, loop=draw(st.sampled_from(LOOPS)))


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
