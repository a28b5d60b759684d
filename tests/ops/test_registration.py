"""What every op promises to torch.library, on the shared cases: values, layout, gradients, fake form, compilation."""

import op_cases
import pytest
import torch

from fastsync.ops.registry import OPS


def registered(op):
    return getattr(torch.ops.fastsync, op).default


def cases(op, dtype=torch.float64, seed=0, largest=600):
    """Small cases, with gradients wanted where there are any."""
    for arguments in op_cases.cases(op, dtype, "cpu", seed):
        if max(a.numel() for a in arguments if isinstance(a, torch.Tensor)) > largest * 4:
            continue
        if op == "uv_accumulate":  # the gradient on a confidence of 0 reads the view
            arguments = (arguments[0].nan_to_num(0.5), *arguments[1:])
        yield tuple(
            a.requires_grad_() if i in OPS[op].differentiable and a is not None and a.dtype == dtype else a
            for i, a in enumerate(arguments)
        )


def some(op, **options):
    """Every third case: opcheck and compilation take long, and the kinds of cases repeat."""
    return list(cases(op, largest=150, **options))[1::3]


def tensors(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


@pytest.mark.parametrize("dtype", op_cases.TOLERANCE, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_op_is_its_reference(op, dtype):
    for arguments in op_cases.cases(op, dtype, "cpu", 1):
        op_cases.check(op, registered(op), arguments)


@pytest.mark.parametrize("op", OPS)
def test_the_cases_nans_are_never_read(op):
    for arguments in op_cases.cases(op, torch.float32, "cpu", 2):
        assert all(bool(out.isfinite().all()) for out in tensors(registered(op)(*arguments)))


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].differentiable])
def test_gradcheck(op):
    for arguments in cases(op):
        assert torch.autograd.gradcheck(registered(op), arguments, fast_mode=True)


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op):
    for arguments in some(op):
        torch.library.opcheck(registered(op), arguments)


@pytest.mark.parametrize("op", OPS)
def test_compiled_code_passes_through(op):
    kernel = registered(op)

    def around(*arguments):
        out = kernel(*arguments)
        return [2.0 * t for t in ((out,) if isinstance(out, torch.Tensor) else out)]

    torch.compiler.reset()  # each test starts with an empty cache: its size is limited
    compiled = torch.compile(around, fullgraph=True, backend="aot_eager")
    for arguments in some(op)[:2]:
        plain, other = op_cases.copied(arguments), op_cases.copied(arguments)
        for i in OPS[op].differentiable:
            for given in (plain, other):
                if given[i] is not None:
                    given[i].requires_grad_()
        results = []
        for function, given in ((around, plain), (compiled, other)):
            out = function(*given)
            leaves = [given[i] for i in OPS[op].differentiable if given[i] is not None]
            wanted = [t.square().sum() for t in out if t.requires_grad]
            results.append((*out, *(torch.autograd.grad(sum(wanted), leaves) if wanted else ())))
        for mine, expected in zip(*results, strict=True):
            assert torch.equal(mine.nan_to_num(7.0), expected.nan_to_num(7.0))
        for i in OPS[op].mutates:
            assert torch.equal(plain[i], other[i])


@pytest.mark.parametrize("op", OPS)
def test_half_precision_gradients_arrive_in_their_own_dtype(op):
    for arguments in list(cases(op, dtype=torch.float16, largest=150))[:4]:
        out = [t for t in tensors(registered(op)(*arguments)) if t.requires_grad]
        for a in [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]:
            (gradient,) = torch.autograd.grad([t.float().sum() for t in out], a, retain_graph=True)
            assert gradient.dtype == torch.float16 and gradient.shape == a.shape
