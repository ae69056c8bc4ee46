"""Gaussian targets: which directions have no variance, and casts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import proxflow as pf
from proxflow.potentials import Quadratic

f64 = torch.float64


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rank(covariance: torch.Tensor) -> int:
    d = len(covariance)
    origin = torch.zeros(1, d, dtype=f64)
    form = Quadratic(torch.zeros(d), covariance).second_epi_derivative(origin, origin)
    return int(form.subspace_dimension)


def test_a_cast_leaves_the_law() -> None:
    mean = torch.tensor([1e4 + 1e-4, 0.1], dtype=f64)
    potential = Quadratic(mean, torch.diag(torch.tensor([1.0, 1e-6], dtype=f64)))
    u = torch.tensor([[1.0, 1.0]], dtype=f64)
    expected = mean + u * torch.tensor([1.0, 1e-3], dtype=f64)
    torch.testing.assert_close(potential.float().brenier_map(u), expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(potential.double().brenier_map(u), expected, rtol=1e-15, atol=0)


def test_a_small_variance_is_kept_by_files_in_float32(tmp_path: Path) -> None:
    pf.save(Quadratic(torch.zeros(2), torch.diag(torch.tensor([1.0, 1e-10]))), tmp_path / "law.safetensors")
    loaded = pf.load(tmp_path / "law.safetensors")
    torch.testing.assert_close(loaded.brenier_map(torch.ones(1, 2)), torch.tensor([[1.0, 1e-5]]))


@pytest.mark.parametrize("condition", [2.6e4, 1e5])
def test_a_float32_covariance_keeps_its_rank(condition: float) -> None:
    axes = torch.linalg.qr(normal(100, 100, dtype=f64))[0]
    matrix = (axes * torch.logspace(0, 1, 100, base=1 / condition, dtype=f64)) @ axes.mT
    assert rank((0.5 * (matrix + matrix.mT)).float()) == 100


@pytest.mark.parametrize("width", [1.0, 1e4])
@pytest.mark.parametrize(("d", "n"), [(6, 3), (30, 29), (100, 50)])
def test_covariances_of_few_rows_have_their_rank(d: int, n: int, width: float) -> None:
    """Rounded in float32, also where coordinates are of different widths."""
    rows = normal(n, d) * torch.logspace(0, 1, d, base=width)
    assert rank(torch.cov(rows.mT)) == n - 1
