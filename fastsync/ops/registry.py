"""What is known of every op: the entries that :func:`fastsync.ops.declare.define` makes and everyone else reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .samples import Draw

Kernel = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Op:
    """One op. Arguments are known by their position in the reference's signature, which is that of all backends.

    Attributes:
        name: of ``torch.ops.fastsync.<name>``, of the launcher in `fastsync.kernels` and the function in `fastsync._C`.
        reference: the eager form, which is the specification.
        registered: the form that torch.library knows.
        samples: random arguments, the first of them with every term of the formula that an op has.
        parameters: names of the arguments.
        dispatch_on: the tensor whose device and dtype decide which backend runs.
        mutates: what is changed in place.
        differentiable: what a gradient flows to.
        triton: file of `fastsync.kernels`, None without a Triton form.
        native: device types on which `fastsync._C` has the op.
    """

    name: str
    reference: Kernel
    registered: Kernel
    samples: Callable[[Draw], Iterable[tuple[Any, ...]]]
    parameters: tuple[str, ...]
    dispatch_on: int
    mutates: tuple[int, ...]
    differentiable: tuple[int, ...]
    triton: str | None
    native: tuple[str, ...]

    def position(self, name: str) -> int:
        """Where an argument stands."""
        return self.parameters.index(name)


OPS: dict[str, Op] = {}  # by name, in the order of declaration
