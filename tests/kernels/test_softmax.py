"""Softmax laws against plain formulas, and their memory."""

from __future__ import annotations

import pytest
import torch

from proxflow.kernels.softmax.law import covariance, draw, mean, probabilities, solve_shifted
from tests.peak_memory import peak_bytes

f64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("max_memory", [1, 2**12, 2**28])
def test_moments(sharpness: float, max_memory: int) -> None:
    """Rows from flat to sharp, so that the blocks of the covariance hold different numbers of atoms."""
    v, atoms, bias = sharpness * normal(50, 4) * torch.linspace(0.01, 1, 50)[:, None], normal(90, 4, seed=1), normal(90)
    law = torch.softmax(v @ atoms.mT + bias, dim=1)
    centre = law @ atoms
    spread = atoms - centre[:, None, :]
    expected = torch.einsum("bn,bnd,bne->bde", law, spread, spread)
    torch.testing.assert_close(mean(v, atoms, bias, max_memory), centre, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(covariance(law, centre, atoms, max_memory), expected, rtol=1e-12, atol=1e-14)


def test_a_covariance_gathers_no_more_atoms_than_memory_allows() -> None:
    v, atoms, bias = 6 * normal(60, 20), normal(3000, 20, seed=1), normal(3000)
    law = probabilities(v, atoms, bias)
    felt = (law > 1e-20).sum(1)
    assert 2 * int(felt.max()) < len(atoms)
    assert int(felt.sum()) * 20 * 8 > 2 * 2**19
    centre = law @ atoms
    peak = peak_bytes(lambda: covariance(law, centre, atoms, 2**19))
    masks = law.numel() + 32 * law.shape[1] * 8  # which atoms are felt, and one block of the law
    assert peak <= 2**19 + masks + 2 * 60 * 20 * 20 * 8


@pytest.mark.parametrize("shift", [1e-11, 1e-7, 1.0])
def test_a_shifted_solve_keeps_the_meaning_of_a_small_shift(shift: float) -> None:
    """Off the range of the matrix the solution is right / shift, on it nearly that of the matrix."""
    factor = normal(5, 6, 2)
    onto = factor @ torch.linalg.pinv(factor)
    right = normal(5, 6, 1, seed=1)
    shifts, factors = torch.full((5,), shift, dtype=f64), torch.full((5,), 3.0, dtype=f64)
    solved = solve_shifted(factor @ factor.mT, shifts, factors, right)
    torch.testing.assert_close(shift * (solved - onto @ solved), right - onto @ right, rtol=0, atol=1e-15 * 100 / shift)


def test_a_shift_that_rounding_drowns_still_gives_a_finite_solution() -> None:
    factor = normal(5, 6, 2)
    shifts, factors = torch.full((5,), 1e-25, dtype=f64), torch.ones(5, dtype=f64)
    assert torch.isfinite(solve_shifted(factor @ factor.mT, shifts, factors, normal(5, 6, 1, seed=1))).all()


def test_draws_at_the_ends_of_the_unit_interval_are_atoms_of_the_law() -> None:
    v, atoms = torch.zeros(2, 1, dtype=f64), torch.arange(4, dtype=f64)[:, None]
    bias = torch.tensor([-torch.inf, 0.0, 0.0, 0.0], dtype=f64)
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=f64)
    assert draw(v, atoms, bias, uniform, 2**20).tolist() == [1, 3]
