"""Arguments and outputs of networks as trees: lists, tuples, dictionaries and diffusers' outputs of values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with ``function`` applied to each leaf; containers are new."""
    if isinstance(tree, dict):  # diffusers' outputs are ordered dictionaries with attributes
        return type(tree)(**{key: mapped(function, value) for key, value in tree.items()})
    if type(tree) in (list, tuple):
        return type(tree)(mapped(function, value) for value in tree)
    return function(tree)


def kept(tree: Any) -> Any:
    """The tree with new containers and the same leaves: pipelines write into the containers that they pass."""
    return mapped(lambda leaf: leaf, tree)


def cloned(tree: Any) -> Any:
    """The tree with new containers and copies of its tensors, which nobody else writes into."""
    return mapped(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def leaves(tree: Any) -> Iterator[Any]:
    """All leaves, in order."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)
    elif type(tree) in (list, tuple):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold equal values; NaN equals NaN, and what cannot be compared is equal to itself alone."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            return False
        return bool(torch.equal(a, b) or ((a == b) | ((a != a) & (b != b))).all())
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


def first(output: Any) -> Any:
    """The first value of a network's output, which is its prediction: a tensor, or a list with one a row."""
    while isinstance(output, (dict, tuple)):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output
