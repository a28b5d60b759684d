"""The views of an illusion: each shows the canvas's own cells in another order, one of them with its sign turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

IndexMap = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class View:
    """``view[p] = sign * canvas[index[p]]``.

    Attributes:
        name: what messages call it.
        index: ``index(h, w)`` gives the flat cells int64 [h, w] that the view shows.
        sign: 1, or -1 for a negative.
    """

    name: str
    index: IndexMap
    sign: int = 1


def _grid(h: int, w: int) -> torch.Tensor:
    return torch.arange(h * w).reshape(h, w)


def _squares(name: str, h: int, w: int, side: int) -> None:
    if h % side or w % side or h != w:
        raise ValueError(f"the view {name!r} needs a square whose side is a multiple of {side}, got {h} x {w}.")


def _turned(name: str, quarters: int) -> IndexMap:
    def index(h: int, w: int) -> torch.Tensor:
        if quarters % 2:
            _squares(name, h, w, 1)
        return _grid(h, w).rot90(quarters)

    return index


def _skewed(h: int, w: int) -> torch.Tensor:
    """Column j rolls down by int(1.5 (j - w / 2))."""
    down = torch.tensor([int(1.5 * (j - w / 2)) for j in range(w)])
    return _grid(h, w).gather(0, (torch.arange(h)[:, None] - down) % h)


def _inner_circle(h: int, w: int) -> torch.Tensor:
    """A disc of radius 24 of 64 turns by 180 degrees."""
    y, x = torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2
    inside = y[:, None] ** 2 + x**2 < (min(h, w) * 24 / 64) ** 2
    return torch.where(inside, _grid(h, w).flip(0, 1), _grid(h, w))


def _inner_square(h: int, w: int) -> torch.Tensor:
    """The middle square of half the side turns clockwise by 90 degrees."""
    _squares("inner_rotate", h, w, 4)
    index, middle = _grid(h, w), slice(h // 4, 3 * h // 4)
    index[middle, middle] = index[middle, middle].rot90(-1)
    return index


def _patches(h: int, w: int) -> torch.Tensor:
    """8 x 8 patches change places at random, always in the same way."""
    _squares("patch_permute", h, w, 8)
    places = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    tiles = _grid(h, w).reshape(8, h // 8, 8, w // 8).transpose(1, 2).flatten(0, 1)[places]
    return tiles.reshape(8, 8, h // 8, w // 8).transpose(1, 2).reshape(h, w)


def _pixels(h: int, w: int) -> torch.Tensor:
    """Every cell moves somewhere at random, always in the same way."""
    return torch.randperm(h * w, generator=torch.Generator().manual_seed(0)).reshape(h, w)


def _hinged(h: int, w: int) -> torch.Tensor:
    """4 x 4 squares, hinged at their corners, fold over: each turns by 90 degrees against its neighbours."""
    _squares("square_hinge", h, w, 4)
    index, side = _grid(h, w), h // 4
    for row in range(4):
        for column in range(4):
            tile = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            index[tile] = index[tile].rot90(1 if (row + column) % 2 else -1)
    return index


def _jigsaw(h: int, w: int) -> torch.Tensor:
    """4 x 4 pieces with knobs change places and turn, always in the same way.

    The knobs of a piece lie in the middle of its inner edges and are even, pieces of one colour of the checkerboard
    have them outside and the others inside: so all corners of a colour have one shape, as have all edges and all inner
    pieces, and cells go to cells.
    """
    _squares("jigsaw", h, w, 16)
    side, index = h // 4, _grid(h, w)
    generator = torch.Generator().manual_seed(0)
    shapes = {(row, column): _piece(row, column, side) for row in range(4) for column in range(4)}
    groups: dict[tuple[bool, int], list[tuple[int, int]]] = {}
    for row, column in shapes:
        borders = (row in (0, 3)) + (column in (0, 3))
        groups.setdefault(((row + column) % 2 == 0, borders), []).append((row, column))
    for pieces in groups.values():
        order = torch.randperm(len(pieces), generator=generator).tolist()
        for place, source in zip(pieces, (pieces[n] for n in order), strict=True):
            turns = torch.randperm(4, generator=generator).tolist()
            quarters = next(q for q in turns if torch.equal(shapes[source].rot90(q), shapes[place]))
            at, cells = _cells(place, side, shapes[place]), _window(source, side, h).rot90(quarters)
            index.view(-1)[at] = cells[shapes[place]]
    return index


def _piece(row: int, column: int, side: int) -> torch.Tensor:
    """Which cells of a window of twice the side around a piece belong to it."""
    inside = torch.zeros(2 * side, 2 * side, dtype=torch.bool)
    half, knob = side // 2, max(1, side // 4)
    inside[half : half + side, half : half + side] = True
    y = torch.arange(2 * side)[:, None] - (2 * side - 1) / 2
    x = torch.arange(2 * side) - half + 0.5
    disc = y**2 + x**2 < knob**2  # around the middle of the left edge
    for quarters, border in enumerate((column == 0, row == 3, column == 3, row == 0)):
        if not border:
            inside[disc.rot90(quarters)] = (row + column) % 2 == 0
    return inside


def _window(piece: tuple[int, int], side: int, h: int) -> torch.Tensor:
    """Flat cells [2 side, 2 side] around a piece, -1 outside the picture."""
    padded = torch.nn.functional.pad(_grid(h, h), [side // 2] * 4, value=-1)
    row, column = piece
    return padded[row * side : (row + 2) * side, column * side : (column + 2) * side]


def _cells(piece: tuple[int, int], side: int, shape: torch.Tensor) -> torch.Tensor:
    return _window(piece, side, 4 * side)[shape]


VIEWS = {
    view.name: view
    for view in (
        View("identity", _grid),
        View("rotate_cw", _turned("rotate_cw", -1)),
        View("rotate_ccw", _turned("rotate_ccw", 1)),
        View("rotate_180", _turned("rotate_180", 2)),
        View("flip", lambda h, w: _grid(h, w).flip(0)),
        View("flip_horizontal", lambda h, w: _grid(h, w).flip(1)),
        View("skew", _skewed),
        View("negate", _grid, sign=-1),
        View("inner_circle", _inner_circle),
        View("inner_rotate", _inner_square),
        View("patch_permute", _patches),
        View("pixel_permute", _pixels),
        View("jigsaw", _jigsaw),
        View("square_hinge", _hinged),
    )
}
