"""Principal axes of many rows against singular values in float64, by each of the three ways, and without a copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from proxflow.checks import STORED
from proxflow.kernels import geometry
from proxflow.kernels.geometry import largest_entry, principal_axes, principal_axes_about, weighted_sum
from tests.peak_memory import peak_bytes

WAYS = {"eigenvectors": (2048, 4096), "a covariance": (8, 4096), "products": (8, 8)}
"""The most coordinates for all eigenvectors, and for a covariance."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    dense, square = WAYS[request.param]
    for name, value in (("_DENSE", dense), ("_SQUARE", square), ("_BLOCK_NUMBERS", 1 << 12), ("_CACHED", 1 << 12)):
        monkeypatch.setattr(geometry, name, value)
    return str(request.param)


def cloud(count: int = 400, dim: int = 30) -> Tensor:
    """Rows (N, d) of unequal spread in all directions, far from the origin, in float64."""
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return rows * torch.logspace(0, -2, dim, dtype=torch.float64) @ turned + 5


def truth(rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """The leading right singular vectors, each with its largest entry positive."""
    exact = rows.double()
    axes = torch.linalg.svd(weights.sqrt()[:, None] * (exact - weights @ exact), full_matrices=False).Vh[:count].mT
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("unit", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("count", [1, 4])
def test_axes_are_singular_vectors(count: int, unit: float) -> None:
    rows = cloud()
    weights = torch.linspace(1, 3, len(rows), dtype=torch.float64)
    weights /= weights.sum()
    found = principal_axes_about(unit * rows, weights, unit * weighted_sum(weights, rows), count)
    torch.testing.assert_close(found, truth(rows, weights, count), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("way")
def test_a_far_coordinate_hides_no_other() -> None:
    """The squares of numbers in units of 2^560 are 0."""
    rows = cloud()
    rows[:, 0] = 2.0**560
    weights = torch.full((len(rows),), 2.0**-9, dtype=torch.float64)
    centre = weighted_sum(weights * 2**9 / len(rows), rows)
    centre[0] = 2.0**560
    found = principal_axes_about(rows, weights, centre, 2)
    others = principal_axes_about(rows[:, 1:], weights, centre[1:], 2)
    torch.testing.assert_close(found[1:], others, rtol=0, atol=1e-9)
    assert float(found[0].abs().max()) < 1e-9


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, *STORED], ids=str)
def test_rows_of_any_dtype(dtype: torch.dtype) -> None:
    rows = (20 * cloud()).round().clamp(-128, 255)
    rows = (rows - rows.min() if dtype == torch.uint8 else rows.clamp(max=127)).to(dtype)
    weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    found = principal_axes_about(rows, weights, weighted_sum(weights, rows), 3)
    torch.testing.assert_close(found, truth(rows, weights, 3), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("count", "dim"), [(1, 30), (6, 30), (40, 200)])
def test_axes_of_few_rows_and_of_equal_ones_are_orthonormal(count: int, dim: int) -> None:
    for rows in (cloud(count, dim), torch.ones(count, dim, dtype=torch.float64)):
        axes = principal_axes(rows - rows.mean(0), 5)
        torch.testing.assert_close(axes.mT @ axes, torch.eye(5, dtype=torch.float64))


@pytest.mark.slow
def test_no_copy_of_the_rows(way: str) -> None:
    rows = (20 * cloud(30_000)).clamp(0, 255).to(torch.uint8)
    weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    mean = weighted_sum(weights, rows)
    assert peak_bytes(lambda: principal_axes_about(rows, weights, mean, 2)) < rows.nbytes / 4, way


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *STORED], ids=str)
def test_the_largest_entry(dtype: torch.dtype) -> None:
    """-128 has no negative in int8."""
    numbers = [[3, 128], [0, 7]] if dtype == torch.uint8 else [[3, -128], [0, 7]]
    found = largest_entry(torch.tensor(numbers).to(dtype))
    assert found.dtype == torch.float64
    assert float(found) == 128
