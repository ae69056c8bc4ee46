"""Whatever way noise comes to a trainer it is N(0, I), and the tests that say so see what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proxflow.couplings import Conditional, PairFile, Semidiscrete, Subspace
from proxflow.couplings.stream import batch_of
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, REJECTED, energy_p_value, normal_p_value

ROWS, PAIRS = 40, 800
LEAST = 1 / 400  # of the energy test, with 399 permutations


def points() -> Tensor:
    """Rows far from normal: two tight clusters in R^3."""
    rows = 0.3 * torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 0] += torch.where(torch.arange(ROWS) % 2 == 0, 2.0, -2.0)
    return rows


COUPLINGS: dict[str, Callable[[], Any]] = {
    "semidiscrete": lambda: Semidiscrete(fit(points()).potential, points()),
    "subspace": lambda: Subspace.fit(points(), dim=2, tol=1e-3),
    "conditional": lambda: Conditional.fit(points(), torch.arange(ROWS) % 2),
    "conditional in subspaces": lambda: Conditional.fit(points(), torch.arange(ROWS) % 2, directions=1),
}


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {name: make() for name, make in COUPLINGS.items()}


@pytest.mark.parametrize("name", COUPLINGS)
def test_noise_that_is_not_finite_has_no_row_and_no_noise_has_none(name: str, built: dict[str, Any]) -> None:
    """NaN went to row 0."""
    noise = torch.zeros(4, 3, dtype=torch.float64)
    noise[1, 2], noise[3, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"2 rows of noise hold NaN or inf, the first: \[1, 3\]"):
        built[name].rows_for(noise)
    assert built[name].rows_for(noise[:0]).shape == (0,)


def sample(coupling: Any, _: Path) -> Tensor:
    return coupling.sample(PAIRS, generator=torch.Generator().manual_seed(1)).source


def batches(coupling: Any, _: Path) -> Tensor:
    return torch.cat([batch_of(coupling, number, 16, 3).source for number in range(PAIRS // 16)])


def noise_for(coupling: Any, _: Path) -> Tensor:
    """One row at a time, in shuffled epochs."""
    generator = torch.Generator().manual_seed(2)
    visits = [torch.randperm(ROWS, generator=generator) for _ in range(PAIRS // ROWS)]
    return torch.cat([coupling.noise_for(row[None], generator=generator) for row in torch.cat(visits)])


def drawn_file(coupling: Any, folder: Path) -> Tensor:
    PairFile.write(coupling, folder / "pairs", pairs=PAIRS)
    return torch.stack([noise for noise, _ in PairFile(folder / "pairs", points()).__getitems__(range(PAIRS))])


def file_by_epochs(coupling: Any, folder: Path) -> Tensor:
    PairFile.write(coupling, folder / "pairs", epochs=PAIRS // ROWS)
    return torch.stack([noise for noise, _ in PairFile(folder / "pairs", points()).__getitems__(range(PAIRS))])


@pytest.mark.parametrize("route", [sample, batches, noise_for, drawn_file, file_by_epochs])
@pytest.mark.parametrize("name", COUPLINGS)
def test_noise_is_standard_normal(built: dict[str, Any], name: str, route: Callable[..., Any], tmp_path: Path) -> None:
    noise = route(built[name], tmp_path)
    assert noise.shape == (PAIRS, 3)
    assert normal_p_value(noise) > ALPHA
    assert energy_p_value(noise) > LEAST


@pytest.mark.parametrize("choices", [2, 4])
def test_the_nearest_of_several_noises_is_not(choices: int) -> None:
    """What some trainers do at batch size 1: draw a few vectors and keep the one nearest to the row.

    Here of rows about the origin: the noise is too short.
    """
    generator = torch.Generator().manual_seed(3)
    row = 0.2 * points().repeat(PAIRS // ROWS, 1)
    drawn = torch.randn(PAIRS, choices, 3, generator=generator, dtype=torch.float64)
    nearest = (drawn - row[:, None]).square().sum(2).argmin(1)
    noise = drawn[torch.arange(PAIRS), nearest]
    assert normal_p_value(noise) < REJECTED
    assert energy_p_value(noise) == LEAST
