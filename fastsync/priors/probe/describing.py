"""What was learnt of a pipeline, in words."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import shape_text, shown
from .guidance import Combination
from .layout import Layout
from .nested import leaves
from .template import CallTemplate, Fixed, Output, Rows, State, Time

_NAMED = 24  # characters of a constant that are shown


def call(template: CallTemplate) -> str:
    """How one network is asked, an argument after the other; constants that are None are left out."""
    named = [(str(i), node) for i, node in enumerate(template.args)] + list(template.kwargs.items())
    told = [f"{name}: {_tree(node)}" for name, node in named if not _is_nothing(node)]
    return f"{template.network}({', '.join(told)})"


def guidance(found: Combination) -> str:
    """What becomes of the answers."""
    sign = "" if found.sign == 1 else ", negated"
    if found.uncond is None:
        return f"none: the answer of call {found.cond.call + 1}{sign}"
    rule = "" if found.rule == "linear" else f", rescaled by {found.rule} ({found.strength:g})"
    halves = "two calls" if found.cond.call != found.uncond.call else "halves of one call"
    return f"u + {found.scale:.5g} (c - u) of {halves}{sign}{rule}"


def layout(found: Layout) -> str:
    """How states lie in views."""
    views, states = shape_text(found.view_shape), shape_text(found.state_shape)
    if found.order is None:
        return f"views {views}" + ("" if found.view_shape == found.state_shape else f", handed on as {states}")
    packed = "handed on as" if found.patch == 1 else f"packed by {found.patch} x {found.patch} cells to"
    return f"views {views}, {packed} {states}"


def _is_nothing(node: Any) -> bool:
    return all(isinstance(leaf, Fixed) and leaf.value is None for leaf in leaves(node))


def _tree(node: Any) -> str:
    if isinstance(node, dict):
        return "{" + ", ".join(f"{key}: {_tree(value)}" for key, value in node.items() if not _is_nothing(value)) + "}"
    if isinstance(node, (list, tuple)):
        kinds = list(dict.fromkeys(_tree(value) for value in node))
        alike = len(kinds) == 1 and len(node) > 1
        return f"{len(node)} of {kinds[0]}" if alike else f"[{', '.join(kinds)}]"
    if isinstance(node, State):
        beside = "" if node.beside is None else " beside constant rows"
        return f"state{beside} {'listed ' if node.listed else ''}{shape_text(node.shape)}"
    if isinstance(node, Time):
        return _time(node)
    if isinstance(node, Rows):
        return "a list of rows" if node.listed else "rows"
    if isinstance(node, Output):
        return f"an answer of call {node.call + 1}"
    value = node.value
    if isinstance(value, torch.Tensor):
        return f"shared {shape_text(value.shape)}"
    text = shown(value)
    return text if len(text) <= _NAMED else f"a constant {type(value).__name__}"


def _time(node: Time) -> str:
    alpha, beta = node.alpha, node.beta
    if not beta:
        return "t" if alpha == 1 else f"{alpha:g} t"
    return f"{beta:g} {'+' if alpha > 0 else '-'} {abs(alpha):g} t"
