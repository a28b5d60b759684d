"""Compile every Triton kernel for a GPU that is not there: ``python tests/compile_kernels.py 90`` for sm_90.

The interpreter accepts what the compiler does not (types that change in a loop, methods of numbers that are 1), so this
is the only look of a machine without a GPU at the kernels that run on one. In a process of its own: a process in which
Triton interprets cannot compile.
"""

import os
import sys

os.environ.pop("TRITON_INTERPRET", None)

import op_cases  # noqa: E402
import torch  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver, jit  # noqa: E402

from fastsync.ops import dispatch  # noqa: E402

OPS = [op for op in dispatch.OPS if not dispatch.unavailable(op, "triton", "cuda", torch.float32)]


class NoDevice:
    """A driver that only knows what to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def main(capability: int) -> None:
    driver.set_active(NoDevice(capability))
    run, compiled = jit.JITFunction.run, set()

    def compile_only(self, *args, **kwargs):
        kernel = run(self, *args, **{**kwargs, "warmup": True})
        compiled.add(kernel.hash)
        return kernel

    jit.JITFunction.run = compile_only
    for op in OPS:
        known = len(compiled)
        # Shapes of 1 (numbers that Triton makes constants) and of 16 (aligned), addresses of all kinds.
        for dtype, step in ((torch.float32, 1), (torch.bfloat16, 4)):
            for arguments in op_cases.cases(op, dtype, "cpu", 0)[::step]:
                if arguments[0].shape[-1] in (1, 16) or op in ("accumulate", "merge", "resample", "splat"):
                    dispatch.kernel(op, "triton")(*arguments)
        print(f"{op} {len(compiled) - known}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
