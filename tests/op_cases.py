"""The samples that every op declares, and the comparison of a backend with the reference, which all tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastsync.ops.registry import OPS
from fastsync.ops.samples import Draw

Arguments = tuple[Any, ...]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def cases(op: str, dtype: torch.dtype, device: torch.device | str, seed: int, **sizes: Any) -> list[Arguments]:
    """The samples of an op: arguments of ``torch.ops.fastsync.<op>``, its reference and kernels.

    ``sizes``: shapes, windows or tables in place of the usual ones, as :class:`Draw` takes them.
    """
    return list(OPS[op].samples(Draw(dtype, device, seed, **sizes)))


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
    reference = OPS[op].reference
    expected, plain, given = reference(*exact), reference(*copied(arguments)), copied(arguments)
    got = kernel(*given)
    outputs = [(value,) if isinstance(value, torch.Tensor) else tuple(value) for value in (got, expected, plain)]
    assert len(outputs[0]) == len(outputs[1])
    held = [t.untyped_storage().data_ptr() for t in (*outputs[0], *given) if isinstance(t, torch.Tensor)]
    for number, out in enumerate(outputs[0]):
        assert out.is_contiguous(), f"{op}, output {number} has strides {out.stride()}"
        assert held.count(out.untyped_storage().data_ptr()) == 1, f"{op}, output {number} shares memory"
    for position in OPS[op].mutates:
        outputs[0] += (given[position],)
        outputs[1] += (exact[position],)
        outputs[2] += (arguments[position],)
    tolerance = TOLERANCE[arguments[OPS[op].dispatch_on].dtype]
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
        if isinstance(before, torch.Tensor) and position not in OPS[op].mutates:
            assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0)), f"{op} changed argument {position}"
