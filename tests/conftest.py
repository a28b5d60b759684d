"""Where there is no GPU, Triton interprets the kernels. It decides when it is imported, so before any test."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.register_assert_rewrite("contracts")
