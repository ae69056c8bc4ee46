"""GPUs that Triton does not compile for: searches go on by products, with one warning; other errors stay errors."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from types import ModuleType

import pytest
import torch

from proxflow.kernels import search, triton_support
from proxflow.kernels.search import argmax_affine
from proxflow.kernels.triton_support import has_kernels


class TritonError(Exception):
    """As Triton's own."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Kernels that raise the one error of this list, and a CPU that passes for a GPU that should run them."""
    errors: list[Exception] = []

    def fused_best(*_: object) -> None:
        raise errors[0]

    fused, triton, known = ModuleType("fused_search"), ModuleType("triton"), ModuleType("triton.errors")
    vars(fused).update(fused_best=fused_best, KeptSlopes=type(None))
    vars(known).update(TritonError=TritonError)
    monkeypatch.setitem(sys.modules, "proxflow.kernels.fused_search", fused)
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.errors", known)
    monkeypatch.setattr(triton_support, "_should_have", lambda device: True)
    monkeypatch.setattr(triton_support, "_WITHOUT", set())
    monkeypatch.setattr(search, "_LEAST_FUSED", 0)
    return errors


@pytest.mark.parametrize(
    "error",
    [
        TritonError("out of resource: shared memory"),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
        subprocess.CalledProcessError(1, "gcc"),
        PermissionError("no folder to keep kernels in"),
        AssertionError("libcuda.so cannot found!"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        ImportError("cannot import name 'TensorDescriptor'"),
    ],
    ids=["kernel", "no compiler", "no headers", "no folder", "no driver", "old driver", "old Triton"],
)
def test_searches_go_on_by_products_and_warn_once(broken: list[Exception], error: Exception) -> None:
    broken.append(error)
    queries, slopes = torch.randn(4, 3), torch.randn(9, 3)
    with pytest.warns(RuntimeWarning, match="products in blocks.*could not compile") as told:
        found = argmax_affine(queries, slopes)
    assert len(told) == 1
    assert torch.equal(found, (queries @ slopes.T).argmax(1))
    assert not has_kernels(torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(argmax_affine(queries, slopes), found)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        ValueError("ours"),
    ],
    ids=["memory", "access", "ours"],
)
def test_other_errors_are_raised(broken: list[Exception], error: Exception) -> None:
    broken.append(error)
    with pytest.raises(type(error), match=re.escape(str(error))):
        argmax_affine(torch.randn(4, 3), torch.randn(9, 3))
    assert has_kernels(torch.device("cpu"))
