"""How an op is declared: once, in its own file."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from . import dispatch
from .registry import OPS, Kernel, Op
from .samples import Draw


def define(
    name: str,
    *,
    reference: Kernel,
    fake: Callable[[Any], Any],
    samples: Callable[[Draw], Iterable[tuple[Any, ...]]],
    triton: str | None = None,
    native: Sequence[str] = (),
    dispatch_on: str | None = None,
    mutates: Sequence[str] = (),
    differentiable: Sequence[str] = (),
    setup_context: Callable[[Any, Any, Any], None] | None = None,
    backward: Callable[..., Sequence[torch.Tensor | None]] | None = None,
) -> Op:
    """Register an op with torch.library as ``fastsync::<name>``, and with the registry that dispatch reads.

    Args:
        name: also of the launcher in ``fastsync.kernels.<triton>`` and of the function in `fastsync._C`.
        reference: the eager form, which is the specification. Its annotated signature is the op's: all backends take
            these arguments by position.
        fake: from the arguments, as a named tuple, to empty results of the right shape and dtype.
        samples: from a :class:`Draw` to random argument tuples, for tests, gradients and the self-test of backends. The
            self-test takes the first, so that should hold every term. What must not be read should hold NaN.
        triton: file of `fastsync.kernels` with the launcher; None without one.
        native: device types ("cpu", "cuda") on which `fastsync._C` has the op.
        dispatch_on: the argument whose device and dtype decide which backend runs; the first if None.
        mutates: arguments that are changed in place.
        differentiable: arguments that a gradient flows to.
        setup_context: ``(ctx, inputs, output)``: keeps what ``backward`` needs; ``inputs`` is such a named tuple.
        backward: ``(ctx, *gradients of the outputs)`` to the gradients of ``differentiable``, in that order.

    Raises:
        ValueError: a name that is taken, an argument that the reference does not have, or one of ``differentiable``,
            ``setup_context`` and ``backward`` without the others.
    """
    signature = inspect.signature(reference, eval_str=True)
    parameters = tuple(signature.parameters)
    if name in OPS:
        raise ValueError(f"define: an op {name} is declared already: choose another name.")
    for argument in (*mutates, *differentiable, *([dispatch_on] if dispatch_on else [])):
        if argument not in parameters:
            raise ValueError(
                f"define: the reference of {name} has no argument {argument!r}: name one of {', '.join(parameters)}."
            )
    if not bool(differentiable) == (setup_context is not None) == (backward is not None):
        raise ValueError(f"define: {name} needs differentiable, setup_context and backward, or none of the three.")
    decisive = parameters.index(dispatch_on) if dispatch_on else 0

    def run(*arguments: Any) -> Any:
        return dispatch.choose(name, arguments[decisive])(*arguments)

    run.__signature__ = signature  # type: ignore[attr-defined]  # torch.library infers the schema from it
    registered = torch.library.custom_op(f"fastsync::{name}", run, mutates_args=mutates)
    named = namedtuple("Arguments", parameters)  # type: ignore[misc]
    registered.register_fake(lambda *arguments: fake(named(*arguments)))
    positions = tuple(parameters.index(argument) for argument in differentiable)
    if setup_context is not None and backward is not None:

        def remember(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
            setup_context(ctx, named._make(inputs), output)

        def gradients(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            found: list[torch.Tensor | None] = [None] * len(parameters)
            for position, gradient in zip(positions, backward(ctx, *given), strict=True):
                found[position] = gradient
            return tuple(found)

        registered.register_autograd(gradients, setup_context=remember)
    OPS[name] = Op(
        name=name,
        reference=reference,
        registered=registered,
        samples=samples,
        parameters=parameters,
        dispatch_on=decisive,
        mutates=tuple(parameters.index(argument) for argument in mutates),
        differentiable=positions,
        triton=triton,
        native=tuple(native),
    )
    return OPS[name]
