"""Sums of softmax laws: by blocks on a CPU, and by the kernels of a GPU in Triton's interpreter, those of float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from proxflow.kernels.softmax.sums import log_sums, summed_laws
from tests.kernels.interpreted import compiled, interpreted

CASES = """
import itertools
import json

import torch

from proxflow.kernels import fused_softmax, triton_support
from proxflow.kernels.fused_softmax import _Tile, fused_log_sums, fused_summed_laws
from proxflow.kernels.softmax import sums

fused_softmax._TILE = _Tile(16, 32, 16, 4)
generator = torch.Generator().manual_seed(0)


def errors(rows, columns, depth, processors=1, scale=1.0, bias=None):
    # the largest, relative, over the size of scores, which rounding goes by
    fused_softmax.processors = lambda device: processors
    v, atoms = scale * torch.randn(rows, depth, generator=generator), torch.randn(columns, depth, generator=generator)
    bias = scale * torch.randn(columns, generator=generator) if bias is None else bias
    scores = v.double() @ atoms.double().T + bias.double()
    level, law = scores.logsumexp(1), scores.softmax(1)
    found, again = fused_summed_laws(v, atoms, bias), fused_summed_laws(v, atoms, bias)
    errors = [(fused_log_sums(v, atoms, bias) - level).abs().max()]
    for sums, true in zip(found, (law.sum(0), law.square().sum(0))):
        errors.append(((sums - true).abs() / true)[true > 1e-30].max())
    size = 1 + v.norm(dim=1).max() * atoms.norm(dim=1).max() + level.abs().max()
    same = all(torch.equal(*both) for both in zip(found, again))
    none = float(found[0][law.sum(0) == 0].abs().sum())
    return {"errors": [float(each / size) for each in errors], "none": none, "same": same}


result = {}
result["sizes"] = [
    errors(*shape, processors)
    for shape in ((1, 1, 1), (17, 33, 3), (40, 700, 20), (200, 50, 33), (33, 65, 16))
    for processors in (1, 7)  # several programs share the atoms, or the rows
]
result["cold"] = [errors(40, 300, 20, 3, scale) for scale in (1e-3, 30.0, 1e3)]
gone = torch.randn(100, generator=generator)
gone[:64], gone[70] = -torch.inf, -torch.inf  # whole tiles, and one of a tile
result["gone"] = [errors(20, 100, 5, processors, bias=gone) for processors in (1, 4)]
fused_softmax.processors = lambda device: 3
twice = torch.randn(30, 16, generator=generator).repeat(2, 1)
result["mass of 64 rows"] = []
for scale in (1.0, 1e3, 1e5):
    total, _ = fused_summed_laws(scale * torch.randn(64, 16, generator=generator), twice, torch.zeros(60))
    result["mass of 64 rows"].append(float(total.sum()))
endless = torch.zeros(60)
endless[40] = torch.inf
given = torch.randn(20, 16, generator=generator), twice
result["endless"] = [fused_log_sums(*given, bias).tolist() for bias in (endless, torch.full((60,), -torch.inf))]
v, atoms, bias = torch.randn(20, 5), torch.randn(400, 5), torch.randn(400)
plain = sums.log_sums(v, atoms, bias), *sums.summed_laws(v, atoms, bias)
calls = []
sums.has_kernels, sums._LEAST_FUSED = lambda device: True, 0
for name in ("fused_log_sums", "fused_summed_laws"):
    kernel = getattr(fused_softmax, name)
    setattr(fused_softmax, name, lambda *given, name=name, kernel=kernel: calls.append(name) or kernel(*given))
fused = sums.log_sums(v, atoms, bias), *sums.summed_laws(v, atoms, bias)
result["routed"] = all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(plain, fused)), sorted(set(calls))
calls.clear()
sums.log_sums(v.double(), atoms.double(), bias.double())
result["called in float64"] = calls
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return dict(interpreted(CASES))


@pytest.mark.parametrize("inputs", ["sizes", "cold", "gone"])
def test_kernels_give_the_sums_of_float64(found: dict[str, Any], inputs: str) -> None:
    rounding = torch.finfo(torch.float32).eps
    for case in found[inputs]:
        level, total, squares = case["errors"]
        assert level <= rounding
        assert total <= 2 * rounding
        assert squares <= 4 * rounding
        assert case["none"] == 0
        assert case["same"]


def test_laws_of_large_scores_have_mass_one(found: dict[str, Any]) -> None:
    """Of two equal scores a level rounded at their size would make probabilities that all err to one side."""
    assert found["mass of 64 rows"] == pytest.approx([64, 64, 64], rel=1e-6)


def test_scores_without_end_have_no_other_level(found: dict[str, Any]) -> None:
    assert found["endless"] == [20 * [math.inf], 20 * [-math.inf]]


def test_kernels_are_used_where_they_run_and_only_in_float32(found: dict[str, Any]) -> None:
    alike, called = found["routed"]
    assert alike
    assert called == ["fused_log_sums", "fused_summed_laws"]
    assert found["called in float64"] == []


@pytest.mark.parametrize("capability", [80, 90], ids=["Ampere", "Hopper"])
@pytest.mark.parametrize("name", ["_levels", "_laws"])
def test_kernels_compile_for_gpus(name: str, capability: int) -> None:
    from proxflow.kernels import fused_softmax

    tile = fused_softmax._TILE
    constants = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    numbers = dict.fromkeys(("v", "atoms", "bias", "tops", "sums", "rests", "totals", "squares"), "*fp32")
    code = compiled(getattr(fused_softmax, name), constants, numbers, capability, tile.warps)
    assert ("wgmma.mma_async" if capability == 90 else "mma.sync") in code
    assert "tf32" in code


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (70, 9), (40, 60_000)])
def test_blocks_give_the_sums_of_all_scores(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    v, atoms, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, 6), (columns, 6), (columns,)))
    scores = v.double() @ atoms.double().T + bias.double()
    torch.testing.assert_close(log_sums(v, atoms, bias).double(), scores.logsumexp(1), rtol=1e-5, atol=1e-5)
    total, squares = summed_laws(v, atoms, bias)
    _close(total, scores.softmax(1).sum(0))
    _close(squares, scores.softmax(1).square().sum(0))
    assert total.sum() == pytest.approx(rows, rel=1e-5)


def _close(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=3e-5, atol=0)
