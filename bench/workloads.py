"""The cases of `bench/test_ops.py`: for each op and size the arguments, the ways to compute it, the bytes it must move.

Bytes are counted once: every input that the formula needs read once, every output written once, states and taps at the
size of their dtype. Where a neighbour is read, only the overlap counts.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from bench import baselines
from fastsync import ops
from fastsync.ops import dispatch
from fastsync.ops.registry import OPS
from fastsync.ops.samples import Draw

FLOAT = 4  # bytes; states are float32
OVERLAP = 4  # a view shares a quarter of its columns with its neighbour, as in 512 pixels with an overlap of 128
VIEWS = {
    "SD 1.5, 5 views": (5, 4, 64, 64),
    "SD 1.5, 25 views": (25, 4, 64, 64),
    "SDXL, 5 views": (5, 4, 128, 128),
    "pixels, 5 views": (5, 3, 512, 512),
}
LARGE = {"64 MB": (64, 4, 256, 256)}  # CUDA only: far beyond a GPU's cache, so that bandwidth shows
# Window (C, h, w), canvas, stride.
WINDOWS = {
    "SD 1.5, 5 views": ((4, 64, 64), (64, 256), 48),
    "SD 1.5, 25 views": ((4, 64, 64), (64, 256), 8),
    "SDXL, 5 views": ((4, 128, 128), (128, 512), 96),
    "pixels, 5 views": ((3, 512, 512), (512, 2048), 384),
}
# Views of 512 x 512 with three channels, side of the texture.
TEXTURES = {
    "texture 1024, 8 views": (8, 1024),
    "texture 1024, 10 views": (10, 1024),
    "texture 2048, 8 views": (8, 2048),
    "texture 2048, 10 views": (10, 2048),
}
VIEW_SIDE = 512


@dataclass(frozen=True)
class Variant:
    """One way to compute an op; ``backend`` forces one of ours, empty leaves the choice to dispatch.

    ``optional`` variants may fail on a machine (a compiler is missing), which is then part of the result.
    """

    name: str
    run: Callable[[], Any]
    backend: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Workload:
    """Variants of one op at one size, and the bytes that it must move."""

    op: str
    size: str
    moved: int
    variants: list[Variant]


def names(device: str) -> list[tuple[str, str]]:
    """All (op, size) of a device, in the order of the tables."""
    return [(op, size) for op, (_, sizes) in _workloads(device).items() for size in sizes]


def build(op: str, size: str, device: str) -> Workload:
    """The workload of an op at a size, on fresh random data of one seed."""
    draw = Draw(torch.float32, device, seed=0)
    builder, sizes = _workloads(device)[op]
    moved, variants = builder(draw, *sizes[size])
    copied = draw.normal(max(1, moved // (2 * FLOAT)))
    into = torch.empty_like(copied)
    return Workload(op, size, moved, [*variants, Variant("copy", lambda: into.copy_(copied))])


def _workloads(device: str) -> dict[str, tuple["_Build", Mapping[str, Sequence[Any]]]]:
    """Of each op what builds its workload, and with which arguments at which size."""
    views = VIEWS | LARGE if device == "cuda" else VIEWS
    groups = ((_ON_VIEWS, views), (_ON_WINDOWS, WINDOWS), (_ON_TAPS, TEXTURES))
    return {op: (builder, sizes) for builders, sizes in groups for op, builder in builders.items()}


def _ours(op: str, draw: Draw, run: Callable[[], Any], detail: str = "") -> list[Variant]:
    """The public op on every fast backend that runs here, the one that dispatch prefers first."""
    wish, device = os.environ.get("FASTSYNC_BACKEND"), torch.device(draw.device).type
    runs = [b for b in dispatch.RANKED if not dispatch.unavailable(op, b, device, torch.float32)]
    fast = [b for b in runs if b != "eager" and wish in (None, "", b)]
    detail = f", {detail}" if detail else ""
    return [Variant(f"fastsync ({b}{detail})", run, b) for b in fast or ["eager"]]


def _eager(op: str, *arguments: Any) -> list[Variant]:
    """The op's reference, as it is and compiled."""
    reference = OPS[op].reference
    compiled = torch.compile(reference, dynamic=False)
    return [
        Variant("eager", lambda: reference(*arguments)),
        Variant("compiled eager", lambda: compiled(*arguments), optional=True),
    ]


def _coefficients(draw: Draw, batch: int) -> Tensor:
    """Per-sample coefficients as the sampler has them."""
    return draw.uniform(batch, low=0.3)


def _column(numbers: Tensor) -> Tensor:
    """[B] as baselines multiply it."""
    return numbers.float()[:, None, None, None]


def _chain(draw: Draw, *shape: int) -> tuple[Tensor, Tensor, int]:
    """Neighbours of a chain of windows: a pool with one view more than the batch, places in it, the stride."""
    batch, _, _, width = shape
    stride = width - width // OVERLAP
    place = torch.tensor([[slot, 0, stride] for slot in range(batch)], device=draw.device)
    return draw.normal(batch + 1, *shape[1:]), place, stride


def _state(shape: Sequence[int]) -> int:
    """Bytes of one state tensor."""
    return FLOAT * torch.Size(shape).numel()


def _cfg_tweedie(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    cond, uncond, x = (draw.normal(*shape) for _ in range(3))
    a, b, s = _coefficients(draw, shape[0]), _coefficients(draw, shape[0]), draw.uniform(shape[0], low=5.0, high=8.0)
    arguments = (cond, uncond, x, a, b, s, "epsilon")
    ours = _ours("cfg_tweedie", draw, lambda: ops.cfg_tweedie(*arguments))
    return 5 * _state(shape), [*ours, *_eager("cfg_tweedie", *arguments)]


def _ddim_step(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    x0, eps, x = (draw.normal(*shape) for _ in range(3))
    source, place, stride = _chain(draw, *shape)
    a, direction, sigma, pull = (_coefficients(draw, shape[0]) for _ in range(4))
    arguments = (x0, eps, a, direction, sigma, None, pull, x, source, place, None, None, [0, 0])
    sliced = (_column(a), _column(direction), _column(pull), x, source[:-1], stride)
    return 3 * _state(shape) + 2 * _state(shape) // OVERLAP, [
        *_ours("ddim_step", draw, lambda: ops.ddim_step(*arguments)),
        Variant("hand-sliced", lambda: baselines.ddim_sliced(x0, eps, *sliced)),
        *_eager("ddim_step", *arguments),
    ]


def _overlap_loss(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    x = draw.normal(*shape)
    source, place, stride = _chain(draw, *shape)
    arguments = (x, source, place, None, None, [0, 0])
    sliced = (x, source[:-1], stride)
    compiled = torch.compile(baselines.overlap_sliced, dynamic=False)
    return _state(shape) + 2 * _state(shape) // OVERLAP, [
        *_ours("overlap_loss", draw, lambda: ops.overlap_loss(*arguments)),
        Variant("autograd", lambda: baselines.overlap_autograd(*sliced)),
        Variant("hand-sliced", lambda: baselines.overlap_sliced(*sliced)),
        *_eager("overlap_loss", *arguments),
        Variant("compiled hand-sliced", lambda: compiled(*sliced), optional=True),
    ]


def _control_grad(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    states = [draw.normal(*shape) for _ in range(5)]
    source, place, _ = _chain(draw, *shape)
    numbers = [_coefficients(draw, shape[0]) for _ in range(5)]
    tensors = (*states, None, source, place, None, None)
    arguments: tuple[Any, ...] = (*tensors, *numbers, 1.0, 0.1, [0, 0], "epsilon", True)
    ours = _ours("control_grad", draw, lambda: ops.control_grad(*arguments))
    # Read: eps, eps_free, control, the overlap's gradient, and of x and source the overlap; written: g_raw, direct.
    return 7 * _state(shape) + 2 * _state(shape) // OVERLAP, [*ours, *_eager("control_grad", *arguments)]


def _control_update(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    vjp, direct, x = (draw.normal(*shape) for _ in range(3))

    def states() -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)

    def arguments() -> tuple[Any, ...]:
        return *states(), vjp, None, direct, x, 0, 0.02, 1.0

    mine, other = arguments(), states()
    reference, compiled_states = OPS["control_update"].reference, arguments()
    compiled, plain = torch.compile(reference, dynamic=False), arguments()
    return 10 * _state(shape), [
        *_ours("control_update", draw, lambda: ops.control_update(*mine)),
        Variant("hand-written", lambda: baselines.adam_in_place(*other, vjp + direct, x, 0, 0.02, 1.0)),
        Variant("eager", lambda: reference(*plain)),
        Variant("compiled eager", lambda: compiled(*compiled_states), optional=True),
    ]


def _control_iteration(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    """All of an iteration of SyncVC but the network, whose output and vector-Jacobian product are given."""
    batch, _, _, width = shape
    raw, vjp = draw.normal(2 * batch, *shape[1:]), draw.normal(*shape)
    start, x, eps_free = (draw.normal(*shape) for _ in range(3))
    noisy, place, stride = _chain(draw, *shape)
    clean = draw.normal(*noisy.shape)
    shared = width - stride
    numbers = {name: _coefficients(draw, batch) for name in ("a", "b", "kl", "coupling")}
    numbers["guidance"] = draw.uniform(batch, low=5.0, high=8.0)
    columns = {name: _column(c) for name, c in numbers.items()}
    reward, cost, lr = 1.0, 0.1, 0.02
    mask = torch.zeros(batch, 1, shape[2], width, device=draw.device)
    mask[..., :shared] = 1
    moved = (torch.zeros_like(x), torch.zeros_like(x))
    for target, pool in zip(moved, (clean, noisy), strict=True):
        target[..., :shared] = pool[:-1, ..., stride:]

    def composed(cfg_tweedie: Any, overlap_loss: Any, control_grad: Any, control_update: Any) -> Callable[[], Tensor]:
        state = [start.clone(), torch.zeros_like(x), torch.zeros_like(x)]
        address = (place, None, None, [0, 0])

        def run(control: Tensor, first: Tensor, second: Tensor) -> Tensor:
            a, b, s = numbers["a"], numbers["b"], numbers["guidance"]
            x0, eps = cfg_tweedie(raw[batch:], raw[:batch], x, a, b, s, "epsilon")
            _, gradient = overlap_loss(x0, clean, *address)
            tensors = (x, eps, eps_free, control, gradient, None, noisy, place, None, None)
            weights = (numbers["coupling"], a, b, s, numbers["kl"], reward, cost, [0, 0], "epsilon", True)
            _, _, direct, _ = control_grad(*tensors, *weights)
            return control_update(control, first, second, vjp, None, direct, x, 0, lr, 1.0)

        return lambda: run(*state)

    def compiled() -> Callable[[], Tensor]:
        run = composed(*eager)
        return torch.compile(run, dynamic=False)

    def with_adam(gradients: Callable[[Tensor], baselines.Results]) -> Callable[[], Tensor]:
        control, first, second = start.clone(), torch.zeros_like(x), torch.zeros_like(x)

        def run() -> Tensor:
            _, direct = gradients(control)
            return baselines.adam_in_place(control, first, second, vjp + direct, x, 0, lr, 1.0)

        return run

    eager = [OPS[op].reference for op in _ITERATION]
    fast = composed(*(getattr(ops, op) for op in _ITERATION))
    weights = (reward, cost)
    autograd = with_adam(
        lambda control: baselines.iteration_autograd(raw, x, eps_free, control, *moved, mask, columns, weights)
    )
    pools = (clean[:-1], noisy[:-1])
    sliced = with_adam(
        lambda control: baselines.iteration_sliced(raw, x, eps_free, control, *pools, stride, columns, weights)
    )
    counted = 5 + 1 + 7 + 10  # of cfg_tweedie, overlap_loss, control_grad, control_update, and the overlaps' reads
    return counted * _state(shape) + 4 * _state(shape) // OVERLAP, [
        Variant("fastsync", fast),
        Variant("autograd", autograd),
        Variant("hand-sliced", sliced),
        Variant("eager", composed(*eager)),
        Variant("compiled eager", compiled(), optional=True),
    ]


def _scale_cotangent(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    """Guidance's two halves, from float32 to float16."""
    g_raw = draw.normal(2 * shape[0], *shape[1:])
    peak = g_raw.unflatten(0, (2, -1)).abs().amax((0, 2, 3, 4))
    return 3 * _state(shape), [
        *_ours("scale_cotangent", draw, lambda: ops.scale_cotangent(g_raw, peak, torch.float16)),
        Variant("hand-written", lambda: (g_raw.unflatten(0, (2, -1)) / _column(peak)).half().flatten(0, 1)),
        *_eager("scale_cotangent", g_raw, peak, torch.float16),
    ]


def _transform(draw: Draw, *shape: int) -> tuple[int, list[Variant]]:
    x = draw.normal(*shape)
    cells = torch.arange(shape[2] * shape[3], device=draw.device).reshape(1, *shape[2:])
    index = cells.rot90(dims=(1, 2)).contiguous()
    flat = index.flatten()
    return 2 * _state(shape) + 8 * index.numel(), [
        *_ours("transform", draw, lambda: ops.transform(x, index)),
        Variant("index_select", lambda: baselines.transform_indexed(x, flat, shape[2])),
        *_eager("transform", x, index, None),
    ]


def _windows(
    draw: Draw, window: Sequence[int], size: Sequence[int], stride: int
) -> tuple[Tensor, list[tuple[int, int]], Tensor, int]:
    """Views of a row of windows, where each begins, the same as the ops take it, and the bytes of views and canvas."""
    starts = [(0, x) for x in range(0, size[1] - window[2] + 1, stride)]
    views = draw.normal(len(starts), *window)
    return views, starts, torch.tensor(starts, device=draw.device), _state(views.shape) + _state((window[0], *size))


def _accumulate(draw: Draw, window: Sequence[int], size: tuple[int, int], stride: int) -> tuple[int, list[Variant]]:
    views, starts, origins, moved = _windows(draw, window, size, stride)
    return moved, [
        *_ours("accumulate", draw, lambda: ops.accumulate(views, origins, size)),
        Variant("hand-sliced", lambda: baselines.accumulate_sliced(views, starts, size)),
        *_eager("accumulate", views, origins, list(size)),
    ]


def _merge(draw: Draw, window: Sequence[int], size: tuple[int, int], stride: int) -> tuple[int, list[Variant]]:
    views, starts, origins, moved = _windows(draw, window, size, stride)
    weights = draw.normal(1, 1, *window[1:]).sigmoid()
    return moved + _state(weights.shape), [
        *_ours("merge", draw, lambda: ops.merge(views, weights, origins, size)),
        Variant("hand-sliced", lambda: baselines.merge_sliced(views, weights, starts, size)),
        *_eager("merge", views, weights, origins, list(size), None),
    ]


def _texture_taps(draw: Draw, count: int, side: int) -> tuple[ops.Taps, Tensor]:
    """Bilinear taps of smooth maps, and the same as a grid of `grid_sample`.

    Each view looks at about two thirds of the texture's width, turned, bent and from its own place, like a camera at a
    part of an unwrapped surface.
    """
    steps = torch.linspace(-1, 1, VIEW_SIDE)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    grids = []
    for i in range(count):
        angle = torch.tensor(2 * torch.pi * i / count)
        bent_u, bent_v = u + 0.08 * torch.sin(3 * v + i), v + 0.08 * torch.sin(3 * u - i)
        turned = torch.cos(angle / 4) * bent_u - torch.sin(angle / 4) * bent_v
        across = torch.sin(angle / 4) * bent_u + torch.cos(angle / 4) * bent_v
        centre = 0.2 * torch.stack([torch.cos(angle), torch.sin(angle)])
        grids.append(torch.stack([0.5 * turned + centre[0], 0.5 * across + centre[1]], -1))
    grid = torch.stack(grids)
    at = (grid + 1) / 2 * (side - 1)
    low = at.floor().clamp(0, side - 2)
    part, low = at - low, low.long()
    index, weight = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            index.append((low[..., 1] + dy) * side + low[..., 0] + dx)
            weight.append((part[..., 0] if dx else 1 - part[..., 0]) * (part[..., 1] if dy else 1 - part[..., 1]))
    taps = ops.Taps(torch.stack(index, -1).int(), torch.stack(weight, -1), (side, side))
    return taps.to(draw.device), grid.to(draw.device)


def _table(taps: ops.Taps) -> int:
    """Bytes of a table of taps: cell or pixel, and weight."""
    return taps.index.numel() * (4 + FLOAT)


def _resample(draw: Draw, count: int, side: int) -> tuple[int, list[Variant]]:
    taps, grid = _texture_taps(draw, count, side)
    z = draw.normal(1, 3, side, side)
    wide = z.expand(count, -1, -1, -1)
    moved = _state(z.shape) + _table(taps) + _state((count, 3, VIEW_SIDE, VIEW_SIDE))
    return moved, [
        *_ours("resample", draw, lambda: ops.resample(z, taps)),
        Variant("grid_sample", lambda: grid_sample(wide, grid, align_corners=True)),
        *_eager("resample", z, taps.index, taps.weight),
    ]


def _both_forms(op: str, draw: Draw, taps: ops.Taps, run: Callable[[ops.Taps], Any]) -> list[Variant]:
    """An op on sorted taps (the deterministic form) and on taps as they come; on a CPU the two are one."""
    in_order = taps.sort()
    if torch.device(draw.device).type == "cpu":
        return _ours(op, draw, lambda: run(in_order))
    ours = _ours(op, draw, lambda: run(in_order), "sorted")
    return ours + _ours(op, draw, lambda: run(taps), "unsorted") if ours[0].backend != "eager" else ours


def _splat(draw: Draw, count: int, side: int) -> tuple[int, list[Variant]]:
    taps, _ = _texture_taps(draw, count, side)
    views, size = draw.normal(count, 3, VIEW_SIDE, VIEW_SIDE), taps.size
    flat = taps.index.flatten().long()
    products = (views.transpose(0, 1)[..., None] * taps.weight).flatten(1)
    return _state(views.shape) + _table(taps) + _state((3, *size)), [
        *_both_forms("splat", draw, taps, lambda table: ops.splat(views, table)),
        Variant("bare index_add_", lambda: baselines.splat_bare(products, flat, size)),
        Variant("usual form", lambda: baselines.splat_usual(views, taps.weight, flat, size)),
        *_eager("splat", views, taps.index, taps.weight, None, None, None, list(size)),
    ]


def _uv_accumulate(draw: Draw, count: int, side: int) -> tuple[int, list[Variant]]:
    taps, _ = _texture_taps(draw, count, side)
    views, size = draw.normal(count, 3, VIEW_SIDE, VIEW_SIDE), taps.size
    confidence = draw.normal(count, 1, VIEW_SIDE, VIEW_SIDE).sigmoid()
    flat = taps.index.flatten().long()
    both = confidence.transpose(0, 1)[..., None] * taps.weight
    products, weights = (views.transpose(0, 1)[..., None] * both).flatten(1), both.flatten(1)
    return _state(views.shape) + _state(confidence.shape) + _table(taps) + _state((4, *size)), [
        *_both_forms("uv_accumulate", draw, taps, lambda table: ops.uv_accumulate(views, confidence, table)),
        Variant("bare index_add_", lambda: baselines.uv_bare(products, weights, flat, size)),
        Variant("usual form", lambda: baselines.uv_usual(views, confidence, taps.weight, flat, size)),
        *_eager("uv_accumulate", views, confidence, taps.index, taps.weight, None, None, None, list(size)),
    ]


_Build = Callable[..., tuple[int, list[Variant]]]
_ITERATION = ("cfg_tweedie", "overlap_loss", "control_grad", "control_update")
_ON_VIEWS: dict[str, _Build] = {
    "control iteration": _control_iteration,
    "overlap_loss": _overlap_loss,
    "cfg_tweedie": _cfg_tweedie,
    "ddim_step": _ddim_step,
    "control_grad": _control_grad,
    "control_update": _control_update,
    "transform": _transform,
    "scale_cotangent": _scale_cotangent,
}
_ON_WINDOWS: dict[str, _Build] = {"merge": _merge, "accumulate": _accumulate}
_ON_TAPS: dict[str, _Build] = {"uv_accumulate": _uv_accumulate, "splat": _splat, "resample": _resample}
