"""How a pipeline's states lie in pictures: packing, scale and shift, found from what its tail makes of known states."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .refusal import CannotProbe

_DIGIT = 32  # small enough for bfloat16 to tell apart
_DIGITS = 5
PATTERNS = 2 + _DIGITS  # rows of a recording that tells the layout


def patterns(state: torch.Tensor) -> torch.Tensor:
    """Known states in the place of PATTERNS rows: zeros, ones, and the digits of each cell's number."""
    size = state[0].numel()
    if size > _DIGIT**_DIGITS:
        raise CannotProbe(f"its states of {size} numbers are larger than what can be told apart")
    number = torch.arange(size)
    digits = [(number // _DIGIT**k % _DIGIT).float() for k in range(_DIGITS)]
    rows = torch.stack([torch.zeros(size), torch.ones(size), *digits])
    return rows.reshape(PATTERNS, *state.shape[1:]).to(state.device)


@dataclass(frozen=True)
class Layout:
    """Between the pipeline's states and views [C, h, w].

    A view's axes are split into (c, y, p, x, q), p and q being cells of a patch, and permuted.

    Attributes:
        view_shape: (C, h, w).
        state_shape: of one state.
        patch: side of a patch in cells.
        order: the permutation; None where a state is a view but for its shape.
    """

    view_shape: tuple[int, int, int]
    state_shape: tuple[int, ...]
    patch: int = 1
    order: tuple[int, ...] | None = None

    def packed(self, views: torch.Tensor) -> torch.Tensor:
        """Views [B, C, h, w] as the pipeline's states [B, ...]."""
        if self.order is not None:
            axes = views.reshape(len(views), *self._split())
            views = axes.permute(0, *(1 + axis for axis in self.order))
        return views.reshape(len(views), *self.state_shape)

    def unpacked(self, states: torch.Tensor) -> torch.Tensor:
        """The pipeline's states [B, ...] as views [B, C, h, w]."""
        if self.order is None:
            return states.reshape(len(states), *self.view_shape)
        split = self._split()
        axes = states.reshape(len(states), *(split[axis] for axis in self.order))
        back = [self.order.index(axis) for axis in range(5)]
        return axes.permute(0, *(1 + axis for axis in back)).reshape(len(states), *self.view_shape)

    def _split(self) -> tuple[int, ...]:
        c, h, w = self.view_shape
        return (c, h // self.patch, self.patch, w // self.patch, self.patch)


@dataclass(frozen=True)
class Tail:
    """What a pipeline does with its last state: ``z = factor state + shift`` in the layout of the autoencoder.

    Attributes:
        layout: of views, whose cells are patches of the autoencoder's where ``patch`` is above 1.
        factor, shift: [C] or [C, patch, patch], C being the autoencoder's channels.
        patch: side in the autoencoder's cells of one cell of a view.
        dtype: what the autoencoder is cast to; None if it is not.
        decoding: further arguments of its ``decode``.
    """

    layout: Layout
    factor: torch.Tensor
    shift: torch.Tensor
    patch: int = 1
    dtype: torch.dtype | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)


def tail(decoded: torch.Tensor, state_shape: torch.Size, dtype: torch.dtype | None) -> Tail:
    """The tail that made ``decoded`` [PATTERNS, C, h, w] (or [.., C, 1, h, w]) of ``patterns``.

    Raises:
        CannotProbe: it is not made of the state's numbers, each scaled and shifted by its channel.
    """
    z = decoded.double().cpu()
    if z.ndim == 5 and z.shape[2] == 1:
        z = z[:, :, 0]
    if z.ndim != 4 or len(z) != PATTERNS or z[0].numel() != state_shape.numel():
        raise CannotProbe(
            f"it decodes {list(decoded.shape)} for {PATTERNS} states of {list(state_shape)}, not each state's numbers"
        )
    shift, factor = z[0], z[1] - z[0]
    if bool((factor.abs() < 1e-6).any()):
        raise CannotProbe("its decoder does not see all of the state")
    digits = ((z[2:] - shift) / factor).round().long()
    places = (digits * torch.tensor([_DIGIT**k for k in range(_DIGITS)])[:, None, None, None]).sum(0)
    if not torch.equal(places.flatten().sort().values, torch.arange(places.numel())):
        raise CannotProbe("its decoder does not see each number of the state once")
    exact = decoded.dtype in (torch.float32, torch.float64)
    if not exact:
        factor, shift = _refined(z, places)
    scales = _by_channel(factor, shift, 1e-5 if exact else 2e-2)
    patch = scales[0].shape[-1] if scales[0].ndim == 3 else 1
    if patch > 1:
        places = torch.nn.functional.pixel_unshuffle(places[None].double(), patch)[0].long()
    c, h, w = places.shape
    return Tail(_layout(places, (c, h, w), tuple(state_shape)), *scales, patch, dtype)


def _refined(z: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of each channel by least squares over all its numbers, whose rounding averages out."""
    number = places.double()
    x = torch.stack(
        [torch.zeros_like(number), torch.ones_like(number)]
        + [(places // _DIGIT**k % _DIGIT).double() for k in range(_DIGITS)]
    )
    x_mean, z_mean = x.mean((0, 2, 3), keepdim=True), z.mean((0, 2, 3), keepdim=True)
    factor = ((x - x_mean) * (z - z_mean)).sum((0, 2, 3), keepdim=True) / ((x - x_mean) ** 2).sum(
        (0, 2, 3), keepdim=True
    )
    shift = z_mean - factor * x_mean
    return factor[0].expand_as(number), shift[0].expand_as(number)


def _by_channel(factor: torch.Tensor, shift: torch.Tensor, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``factor`` and ``shift`` [C, h, w] as [C], or as [C, p, p] where they repeat in patches."""
    for patch in (1, 2, 4):
        if factor.shape[1] % patch or factor.shape[2] % patch:
            continue
        tiles = [x[:, :patch, :patch] for x in (factor, shift)]
        repeats = (1, factor.shape[1] // patch, factor.shape[2] // patch)
        bound = tolerance * max(1.0, float(factor.abs().max()), float(shift.abs().max()))
        if all(
            float((tile.repeat(repeats) - x).abs().max()) < bound
            for tile, x in zip(tiles, (factor, shift), strict=True)
        ):
            means = [x.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).mean((1, 3)) for x in (factor, shift)]
            flat = [m[:, 0, 0] if patch == 1 else m for m in means]
            return flat[0], flat[1]
    raise CannotProbe("its decoder's scale changes from place to place")


def _layout(places: torch.Tensor, view_shape: tuple[int, int, int], state_shape: tuple[int, ...]) -> Layout:
    """The layout in which cell ``places[c, y, x]`` of the flattened state lies at (c, y, x) of the view."""
    size = places.numel()
    if torch.equal(places.flatten(), torch.arange(size)):
        return Layout(view_shape, state_shape)
    numbers = torch.arange(size).reshape(1, *state_shape)
    for patch in (1, 2, 4):
        if view_shape[1] % patch or view_shape[2] % patch:
            continue
        for order in itertools.permutations(range(5)):
            layout = Layout(view_shape, state_shape, patch, order)
            if torch.equal(layout.unpacked(numbers)[0], places):
                return layout
    raise CannotProbe("its states lie in pictures in a way that is not known")


def snapped(tail_: Tail, config: Any, rounded: bool) -> Tail:
    """With factors and shifts of the autoencoder's config in the place of ones found.

    Args:
        tail_: what was found.
        config: of the autoencoder. A list with a value a channel is told apart from its other lists.
        rounded: whether it was found from numbers in half precision.
    """
    channels = len(tail_.factor)
    known: list[set[float]] = [{0.0} for _ in range(channels)]
    for value in dict(config).values():
        values = value if isinstance(value, (list, tuple)) else [value]
        for place, v in enumerate(values):
            if isinstance(v, (int, float)) and not isinstance(v, bool) and v:
                for channel in [place] if len(values) == channels else range(channels):
                    known[channel] |= {float(v), -float(v), 1 / float(v)}
    # bfloat16 has eight binary digits; a shift is found beside numbers some ten times as large.
    of_factor, of_shift = (4e-3, 2e-2) if rounded else (2e-5, 2e-5)

    def nearest(x: torch.Tensor, tolerance: float) -> torch.Tensor:
        rows = []
        for row, numbers in zip(x, known, strict=True):
            table = torch.tensor(sorted(numbers), dtype=torch.float64)
            closest = table[(row[..., None] - table).abs().argmin(-1)]
            rows.append(torch.where((closest - row).abs() < tolerance * row.abs().clamp_min(1), closest, row))
        return torch.stack(rows)

    factor, shift = nearest(tail_.factor, of_factor), nearest(tail_.shift, of_shift)
    return replace(tail_, factor=factor, shift=shift)
