"""The kernel of a GPU, in Triton's interpreter: the answers are those of float32, ties and shares included."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")

SCRIPT = """
import json

import torch

from proxflow.kernels import fused_search
from proxflow.kernels.search import argmax_affine

generator = torch.Generator().manual_seed(0)
fused_search._ROWS, fused_search._COLUMNS, fused_search._DEPTH = 16, 32, 16
searched = []
best_two = fused_search._searched


def counted(queries, slopes, offsets, precision):
    searched.append((precision, len(queries)))
    return best_two(queries, slopes, offsets, precision)


fused_search._searched = counted
same = []
SIZES = [(5, 7, 3, 512), (40, 300, 20, 4), (17, 65, 33, 512), (1, 1, 1, 1), (33, 1000, 8, 1)]
for rows, columns, depth, shares in SIZES:
    fused_search._PROGRAMS = shares
    table = torch.randn(columns, depth + 2, generator=generator)
    queries = torch.randn(rows, depth, generator=generator)
    for offsets in (table[:, -1], None):
        found = fused_search.fused_argmax(queries, table[:, :depth], offsets)
        same.append(torch.equal(found, argmax_affine(queries, table[:, :depth], offsets)))
fused_search._PROGRAMS = 8
queries = torch.randint(-3, 4, (50, 4), generator=generator).float()
slopes = torch.randint(-3, 4, (200, 4), generator=generator).float()
ties = torch.equal(fused_search.fused_argmax(queries, slopes), argmax_affine(queries, slopes))
queries[7, 0] = torch.nan
spoiled = fused_search.fused_argmax(queries, slopes)
others = torch.arange(50) != 7
alone = torch.equal(spoiled[others], argmax_affine(queries, slopes)[others]) and 0 <= int(spoiled[7]) < 200

slopes = torch.randn(400, 64, generator=generator)
queries = 1e3 * torch.randn(300, 64, generator=generator)

def cut(values):
    return (values.contiguous().view(torch.int32) & -8192).view(torch.float32)


off = (queries.double() @ slopes.double().T - cut(queries).double() @ cut(slopes).double().T).abs().amax(1)
ratio = (off / fused_search.score_error(queries, slopes)).max()
wide = torch.randn(70, 301, generator=generator) * torch.logspace(-6, 6, 70)[:, None]
sized = []
for rows in (wide, wide[:, :7], wide[:, ::3], wide.T):
    sizes = rows.norm(dim=1), (rows - cut(rows)).norm(dim=1)
    sized += [float((a / b - 1).abs().max()) for a, b in zip(fused_search._sizes_and_losses(rows), sizes)]
result = {"same": same, "ties": ties, "alone": alone, "ratio": float(ratio), "searched": searched, "sized": sized}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_answers_are_those_of_float32(found: dict[str, Any]) -> None:
    assert all(found["same"])
    assert found["ties"]


def test_a_nan_row_stays_alone(found: dict[str, Any]) -> None:
    assert found["alone"]


def test_what_tf32_loses_stays_within_its_bound(found: dict[str, Any]) -> None:
    assert 0.05 < found["ratio"] <= 1


def test_sizes_of_rows_and_of_what_tf32_loses_are_those_of_torch(found: dict[str, Any]) -> None:
    assert len(found["sized"]) == 8
    assert max(found["sized"]) < 1e-5


def test_rows_whose_best_scores_are_near_are_searched_again_in_float32(found: dict[str, Any]) -> None:
    assert {precision for precision, _ in found["searched"]} == {"tf32", "ieee"}
    assert ["ieee", 50] not in found["searched"]  # not all of the tied ones
