"""Random arguments for every op, which the tests of each backend share, and the comparison with the reference.

``CASES[op](dtype, device, seed)`` lists argument tuples of ``torch.ops.fastsync.<op>`` (and of its reference and
kernels). State tensors are in ``dtype``, per-sample coefficients in float64, weights of taps in float32 at least. The
cases hold odd sizes, empty and full overlaps, strided and channels-last layouts. Cells that must not be read hold NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastsync.ops import dispatch, neighbour
from fastsync.ops.taps import Taps, sort_reference

Arguments = tuple[Any, ...]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = ((3, 4, 16, 16), (2, 3, 7, 13), (1, 1, 1, 1), (2, 4, 24, 37))  # (B, C, h, w)
MUTATED = {"control_update": (0, 1, 2)}


class Draw:
    """Random tensors of one seed: the same numbers for every dtype and device, up to rounding."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str, seed: int) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, layout: str = "contiguous") -> torch.Tensor:
        """Standard normal, ``layout`` contiguous, channels_last or strided (every second column of a wider tensor)."""
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)
        return lay_out(drawn, layout)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Float64, for per-sample coefficients."""
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * drawn).to(self.device)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """Int64 from low to high - 1."""
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)

    def mask(self, *shape: int) -> torch.Tensor:
        """Weights in [0, 1], a third of them 0 and a third of them 1."""
        return self.uniform(*shape, low=-1.0, high=2.0).clamp(0, 1).to(self.dtype)


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values [B, C, h, w] in another memory layout."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan")).to(tensor)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor


# ---- neighbours -------------------------------------------------------------------------------------------------


def addresses(draw: Draw, shape: Sequence[int]) -> list[tuple[Any, ...]]:
    """``(source, place, index, mask, period)`` of many kinds for views of a shape (B, C, h, w)."""
    batch, channels, height, width = shape
    slots, rows, columns = 3, height + 2, max(1, width - 1)
    cells = rows * columns

    def place(dy: tuple[int, int], dx: tuple[int, int]) -> torch.Tensor:
        parts = [draw.integers(0, slots, batch), draw.integers(*dy, batch), draw.integers(*dx, batch)]
        return torch.stack(parts, 1)

    def source(layout: str = "contiguous") -> torch.Tensor:
        return draw.normal(slots, channels, rows, columns, layout=layout)

    shift, half = place((-2, 3), (0, width)), place((-height, height), (-width, width))
    partly = shift.clone()
    partly[0, 0] = -1
    far = shift + torch.tensor([0, 1000, 0], device=shift.device)
    onward = draw.integers(-cells, 2 * cells, batch, height, width).clamp_min(-1)
    first = torch.zeros_like(shift)
    first[:, 0] = draw.integers(0, 2, batch)  # the index may reach into the next slot
    nowhere = first.clone()
    nowhere[-1, 0] = -1
    found = [
        (source(), shift, None, None, [0, 0]),
        (source("channels_last"), half, None, None, [0, 0]),
        (source(), partly, None, draw.mask(batch, 1, height, width), [0, 0]),
        (source(), half, None, draw.mask(batch, 1, height, width), [rows, columns]),
        (source("channels_last"), half, None, None, [0, columns + 3]),
        (source(), half, None, None, [rows + 1, 0]),
        (source(), far, None, None, [0, 0]),
        (source(), first, onward, None, [0, 0]),
        (source("channels_last"), nowhere, onward, draw.mask(batch, 1, height, width), [0, 0]),
    ]
    return [poisoned(address, torch.empty(shape, dtype=draw.dtype, device=draw.device)) for address in found]


def poisoned(address: tuple[Any, ...], like: torch.Tensor) -> tuple[Any, ...]:
    """The same address with NaN wherever source and mask must not be read."""
    source, place, index, mask, period = address
    inside, flat = neighbour.cells(source, place, index, period, like)
    read = torch.zeros(source.shape[0] * source.shape[2] * source.shape[3], dtype=torch.bool, device=source.device)
    weighs = inside if mask is None else inside & (mask[:, 0] != 0)
    read[flat[weighs]] = True
    read = read.reshape(source.shape[0], 1, *source.shape[2:])
    source = source.masked_fill(~read, float("nan"))
    mask = None if mask is None else mask.masked_fill(~inside[:, None], float("nan"))
    return source, place, index, mask, period


def overlap_loss(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw = Draw(dtype, device, seed)
    layouts = ("contiguous", "channels_last", "strided")
    return [
        (draw.normal(*shape, layout=layouts[i % 3]), *address)
        for shape in SHAPES
        for i, address in enumerate(addresses(draw, shape))
    ]


def ddim_step(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    layouts = ("contiguous", "channels_last", "strided")
    for shape in SHAPES:
        for i, layout in enumerate(layouts):
            x0, eps, noise = (draw.normal(*shape, layout=layout) for _ in range(3))
            numbers = [draw.uniform(shape[0]) for _ in range(3)]
            cases.append((x0, eps, *numbers, noise if i else None, *[None] * 6, [0, 0]))
        for i, address in enumerate(addresses(draw, shape)):
            x0, eps, noise, x = (draw.normal(*shape, layout=layouts[i % 3]) for _ in range(4))
            numbers = [draw.uniform(shape[0]) for _ in range(3)]
            pull = draw.uniform(shape[0], high=2.0)
            cases.append((x0, eps, *numbers, noise if i % 2 else None, pull, x, *address))
    return cases


def control_grad(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    layouts = ("contiguous", "channels_last", "strided")
    kinds = ("epsilon", "v_prediction", "sample", "flow", "estimates")
    for shape in SHAPES:
        for i, address in enumerate(addresses(draw, shape)):
            kind = kinds[i % 5]
            tensors = [draw.normal(*shape, layout=layouts[i % 3]) for _ in range(6)]
            if i % 2:
                tensors[5] = None  # type: ignore[call-overload]
            a, b = draw.uniform(shape[0], low=0.3), draw.uniform(shape[0], low=0.3)
            if kind == "v_prediction":
                a, b = (c / (a.square() + b.square()).sqrt() for c in (a, b))
            coupling, kl = draw.uniform(shape[0], high=1.5), draw.uniform(shape[0], high=0.5)
            guidance = draw.uniform(shape[0], low=1.0, high=7.5)
            numbers = (coupling, a, b, guidance, kl, 1.7, 0.2 if i % 3 else 0.0)
            cases.append((*tensors, *address[:4], *numbers, address[4], kind, bool(i % 2)))
    return cases


# ---- elementwise ------------------------------------------------------------------------------------------------


def cfg_tweedie(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    layouts = ("contiguous", "channels_last", "strided")
    for shape in SHAPES:
        for i, kind in enumerate(("epsilon", "v_prediction", "sample", "flow") * 2):
            raw, uncond, x = (draw.normal(*shape, layout=layouts[i % 3]) for _ in range(3))
            if i == 5:  # a half-precision network beside states of more precision
                raw, uncond = raw.half(), uncond.half()
            a, b = draw.uniform(shape[0], low=0.2), draw.uniform(shape[0], low=0.2)
            guidance = draw.uniform(shape[0], low=1.0, high=8.0)
            cases.append((raw, uncond if i >= 3 else None, x, a, b, guidance, kind))
    return cases


def scale_cotangent(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for batch, *view in SHAPES:
        for halves, layout in ((1, "contiguous"), (2, "channels_last"), (2, "strided")):
            g_raw = draw.normal(halves * batch, *view, layout=layout)
            peak = g_raw.abs().reshape(halves, batch, -1).amax((0, 2))
            g_raw[0], peak[0] = 0.0, 0.0  # nothing to steer: 0, not 0 / 0
            if halves == 2:
                g_raw[batch] = 0.0
            cases.append((g_raw, peak, dtype))
    return cases


def control_update(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for shape in SHAPES:
        for i, layout in enumerate(("contiguous", "channels_last", "contiguous", "contiguous")):
            control, first, direct, x = (draw.normal(*shape, layout=layout) for _ in range(4))
            second = draw.normal(*shape, layout=layout).square() + 0.1
            # What comes out of the network may have another layout and dtype.
            vjp = draw.normal(*shape, layout="strided" if i == 2 else "channels_last")
            vjp = vjp.half() if i == 3 else vjp
            scale = draw.uniform(shape[0], low=0.5, high=2.0) if i % 2 else None
            cases.append((control, first, second, vjp, scale, direct, x, i, 0.02, 1.0 if i < 2 else 0.3))
    return cases


# ---- maps -------------------------------------------------------------------------------------------------------


def transform(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for batch, channels, height, width in SHAPES:
        cells = height * width
        permutation = torch.randperm(cells, generator=draw.generator).to(device).reshape(1, height, width)
        anything = draw.integers(-2, cells, batch, height + 1, width).clamp_min(-1)
        for index, layout in ((permutation, "contiguous"), (anything, "channels_last"), (anything[:1], "strided")):
            for factor in (None, draw.uniform(batch, low=-1.0)):
                cases.append((draw.normal(batch, channels, height, width, layout=layout), index, factor))
    return cases


# Window (C, h, w), canvas (H, W), origins: one window, a row, a grid with gaps, a loop over both borders.
WINDOWS = (
    ((1, 1, 1), (1, 1), [(0, 0)]),
    ((4, 16, 16), (16, 40), [(0, 0), (0, 12), (0, 24)]),
    ((3, 7, 5), (19, 23), [(0, 0), (0, 3), (5, 1), (12, 18), (9, 9)]),
    ((2, 8, 8), (13, 17), [(0, 0), (11, 4), (7, 14), (12, 16), (0, 9)]),
    ((2, 24, 37), (24, 37), [(0, 0), (5, 30), (23, 36)]),
)


def accumulate(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for window, size, origins in WINDOWS:
        for layout in ("contiguous", "channels_last", "strided"):
            views = draw.normal(len(origins), *window, layout=layout)
            cases.append((views, torch.tensor(origins, device=device), list(size)))
    return cases


def merge(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for views, origins, size in accumulate(dtype, device, seed):
        previous = draw.normal(1, views.shape[1], *size)
        for shared, kept in ((True, None), (False, previous)):
            weights = draw.mask(1 if shared else len(views), 1, *views.shape[2:])
            # Without weight a view is not read.
            unread = views.masked_fill(weights == 0, float("nan"))
            cases.append((unread, weights, origins, size, kept))
    return cases


def tables(draw: Draw, views: int, window: tuple[int, int], size: tuple[int, int], taps: int) -> Taps:
    """Random taps: some unused, some cells read by nobody, one cell by many."""
    cells = size[0] * size[1]
    index = draw.integers(-cells // 4 - 1, cells, views, *window, taps).clamp_min(-1)
    index[:, 0, 0, 0] = 0
    weight = draw.uniform(views, *window, taps).to(torch.promote_types(draw.dtype, torch.float32))
    return Taps(index.int(), weight, size)


# Views, window, canvas, taps a pixel, channels.
TABLES = (
    (1, (1, 1), (1, 1), 1, 1),
    (3, (7, 5), (6, 11), 4, 3),
    (2, (16, 16), (9, 31), 4, 4),
    (2, (13, 24), (40, 40), 1, 3),
    (5, (8, 8), (2, 2), 4, 2),
)


def resample(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for views, window, size, taps, channels in TABLES:
        for layout in ("contiguous", "channels_last", "strided"):
            table = tables(draw, views, window, size, taps)
            cases.append((draw.normal(1, channels, *size, layout=layout), table.index, table.weight))
    return cases


def splat(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for views, window, size, taps, channels in TABLES:
        for layout in ("contiguous", "channels_last", "strided"):
            table = tables(draw, views, window, size, taps)
            colours = draw.normal(views, channels, *window, layout=layout)
            order = sort_reference(table.index, table.weight, size[0] * size[1])
            for csr in ((None, None, None), order):
                cases.append((colours, table.index, table.weight, *csr, list(size)))
    return cases


def uv_accumulate(dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Arguments]:
    draw, cases = Draw(dtype, device, seed), []
    for colours, *rest in splat(dtype, device, seed):
        confidence = draw.mask(len(colours), 1, *colours.shape[2:])
        # Without confidence a pixel is not read.
        cases.append((colours.masked_fill(confidence == 0, float("nan")), confidence, *rest))
    return cases


CASES: dict[str, Callable[[torch.dtype, torch.device | str, int], list[Arguments]]] = {
    "cfg_tweedie": cfg_tweedie,
    "ddim_step": ddim_step,
    "overlap_loss": overlap_loss,
    "control_grad": control_grad,
    "scale_cotangent": scale_cotangent,
    "control_update": control_update,
    "transform": transform,
    "accumulate": accumulate,
    "merge": merge,
    "resample": resample,
    "splat": splat,
    "uv_accumulate": uv_accumulate,
}


# ---- comparison -------------------------------------------------------------------------------------------------


def reference(op: str) -> Callable[..., Any]:
    """The eager specification of an op, which takes the op's own arguments."""
    return dispatch.kernel(op, "eager")


def state_dtype(op: str, arguments: Arguments) -> torch.dtype:
    """The dtype that decides which kernels may run, and how exact they are."""
    return arguments[{"cfg_tweedie": 2, "control_update": 6}.get(op, 0)].dtype  # type: ignore[no-any-return]


def copied(arguments: Arguments) -> Arguments:
    """The same arguments with tensors of their own, in the same layout."""
    return tuple(
        torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device=a.device).copy_(a)
        if isinstance(a, torch.Tensor)
        else a
        for a in arguments
    )


def check(op: str, kernel: Callable[..., Any], arguments: Arguments) -> None:
    """Compare ``kernel(*arguments)`` with the reference in float64: values, dtypes, shapes, NaNs, what is mutated.

    Results must be contiguous, whatever the arguments' layout, and share no memory with each other or an argument.

    Raises:
        AssertionError: a difference, or an argument was changed that must not be.
    """
    exact = tuple(
        a.double()
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else torch.float64
        if isinstance(a, torch.dtype)
        else a
        for a in copied(arguments)
    )
    expected, plain, given = reference(op)(*exact), reference(op)(*copied(arguments)), copied(arguments)
    got = kernel(*given)
    outputs = [(value,) if isinstance(value, torch.Tensor) else tuple(value) for value in (got, expected, plain)]
    assert len(outputs[0]) == len(outputs[1])
    held = [t.untyped_storage().data_ptr() for t in (*outputs[0], *given) if isinstance(t, torch.Tensor)]
    for number, out in enumerate(outputs[0]):
        assert out.is_contiguous(), f"{op}, output {number} has strides {out.stride()}"
        assert held.count(out.untyped_storage().data_ptr()) == 1, f"{op}, output {number} shares memory"
    for position in MUTATED.get(op, ()):
        outputs[0] += (given[position],)
        outputs[1] += (exact[position],)
        outputs[2] += (arguments[position],)
    tolerance = TOLERANCE[state_dtype(op, arguments)]
    for number, (mine, right, like) in enumerate(zip(*outputs, strict=True)):
        assert mine.dtype == like.dtype and mine.shape == like.shape, (
            f"{op}, output {number}: {mine.dtype}, {mine.shape}"
        )
        size = right[right.isfinite()].abs().max() if bool(right.isfinite().any()) else 0.0
        torch.testing.assert_close(
            mine.double(),
            right,
            rtol=tolerance,
            atol=float(tolerance * size),
            equal_nan=True,
            msg=lambda text, number=number: f"{op}, output {number}: {text}",
        )
    for position, (before, after) in enumerate(zip(arguments, given, strict=True)):
        if isinstance(before, torch.Tensor) and position not in MUTATED.get(op, ()):
            assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0)), f"{op} changed argument {position}"
