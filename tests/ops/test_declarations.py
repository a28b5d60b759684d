"""What an op's declaration promises is there: words, samples, kernels of its signature, a benchmark."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch

from bench import workloads
from fastsync import ops
from fastsync.ops.declare import define
from fastsync.ops.registry import OPS
from fastsync.ops.samples import Draw

ROOT = Path(__file__).parents[2]
KERNELS = sorted(path.stem for path in (ROOT / "kernels").glob("[!_]*.py"))


def launcher(op):
    """Names of the arguments of an op's Triton launcher; read, so that Triton need not be there."""
    tree = ast.parse((ROOT / "kernels" / f"{op.triton}.py").read_text())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == op.name]
    assert len(found) == 1, f"kernels/{op.triton}.py has no launcher {op.name}"
    return tuple(argument.arg for argument in found[0].args.args)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_an_op_has_all_that_it_claims(op):
    public = getattr(ops, op.name)
    for function in (public, op.reference):
        assert (function.__doc__ or "").strip(), f"{function} has no docstring"
    assert op.name in ops.__all__ and hasattr(torch.ops.fastsync, op.name)
    assert op.triton is None or launcher(op) == op.parameters
    bound = re.findall(r'm\.def\("(\w+)"', (ROOT / "csrc" / "bindings.cpp").read_text())
    assert not op.native or op.name in bound
    assert set(op.native) <= {"cpu", "cuda"}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_the_public_function_names_and_orders_its_arguments_like_the_op(op):
    public = tuple(inspect.signature(getattr(ops, op.name)).parameters)
    shared = [name for name in public if name in op.parameters]
    assert shared == [name for name in op.parameters if name in public] and shared[0] == op.parameters[0]


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_samples_are_arguments_of_the_op_and_the_same_at_each_draw(op):
    drawn = [list(op.samples(Draw(torch.float32, "cpu", 0))) for _ in range(2)]
    assert len(drawn[0]) == len(drawn[1]) >= 12
    for mine, again in zip(*drawn, strict=True):
        assert len(mine) == len(op.parameters)
        for a, b in zip(mine, again, strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_samples_come_in_the_sizes_asked_for(op):
    shape, size = (1, 2, 3, 5), (6, 11)
    sizes = {"shapes": [shape], "windows": [(shape[1:], size, [(0, 0)])], "tables": [(1, shape[2:], size, 4, 2)]}
    for arguments in op.samples(Draw(torch.float32, "cpu", 0, **sizes)):
        assert arguments[0].shape[-2:] in (shape[2:], size)


def test_every_kernel_belongs_to_an_op():
    assert KERNELS == sorted({op.triton for op in OPS.values() if op.triton})


def test_every_op_is_benchmarked():
    assert {op for op, _ in workloads.names("cpu")} == {*OPS, "control iteration"}


def reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Not an op."""
    return x + y


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "merge"}, "an op merge is declared already: choose another name"),
        ({"mutates": ("z",)}, "the reference of a_test has no argument 'z': name one of x, y"),
        ({"dispatch_on": "z"}, "the reference of a_test has no argument 'z'"),
        ({"differentiable": ("x",)}, "a_test needs differentiable, setup_context and backward, or none"),
        ({"backward": lambda ctx, g: (g,)}, "a_test needs differentiable, setup_context and backward, or none"),
    ],
)
def test_a_declaration_that_does_not_fit_is_one_sentence(declared, message):
    given = {"name": "a_test", "reference": reference, "fake": lambda given: given.x, "samples": lambda draw: []}
    given |= declared
    with pytest.raises(ValueError, match=message):
        define(given.pop("name"), **given)
    assert not hasattr(torch.ops.fastsync, "a_test")
