"""Kernels of a GPU without one: run by Triton's interpreter, and compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest


def interpreted(script: str) -> Any:
    """What a script prints last, read as JSON; Triton decides when it is imported, so that it has a process."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    if "only 0-dimensional arrays can be converted" in result.stderr:
        pytest.skip("the interpreter of this Triton does not run with numpy 2.4 or later")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def compiled(kernel: Any, constants: dict[str, Any], types: dict[str, str], capability: int, warps: int = 8) -> str:
    """PTX of a kernel for GPUs of this capability; arguments that have no type here are int32."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {key: "constexpr" if key in constants else types.get(key, "i32") for key in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}).asm["ptx"]
    return str(code)
