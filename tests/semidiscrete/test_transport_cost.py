"""W2^2 and its interval against closed forms."""

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from proxflow.errors import ConvergenceWarning
from proxflow.measures import Gaussian
from proxflow.semidiscrete import fit
from tests.semidiscrete.closed_forms import line_cost, two_atom_cost

pytestmark = pytest.mark.usefixtures("noise_only")

SEEDS = 200


@pytest.mark.slow
def test_the_interval_covers_the_cost_of_two_atoms_as_often_as_it_says() -> None:
    a = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    exact = two_atom_cost(2, 1.0, 0.3)
    covered = 0
    for seed in range(SEEDS):
        result = fit(torch.cat([a, -a]), torch.tensor([0.3, 0.7]), seed=seed)
        low, high = result.transport_cost_interval
        assert high - low < 0.02 * exact
        assert low <= result.transport_cost <= high
        covered += low <= exact <= high
    assert 180 <= covered <= 198


def test_the_closed_form_of_two_atoms_agrees_with_its_semi_dual() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4_000_000, generator=generator, dtype=torch.float64)
    height = -ndtri(0.3)  # +a has score |a| u - |a| height and wins when u > height
    semi_dual = (first - height).abs().mean() + (0.3 - 0.7) * height
    assert 2 + 1 - 2 * float(semi_dual) == pytest.approx(two_atom_cost(2, 1.0, 0.3), abs=4e-3)


@pytest.mark.slow
def test_the_bias_of_noisy_heights_is_removed() -> None:
    # 40 atoms on a line, where the dual value alone is low by several of its standard errors
    points = np.linspace(-2, 2, 40)
    exact = line_cost(points, np.full(40, 1 / 40))
    results = [fit(torch.tensor(points)[:, None], seed=seed) for seed in range(20)]
    covered = sum(low <= exact <= high for low, high in (r.transport_cost_interval for r in results))
    assert covered >= 17
    assert np.mean([r.transport_cost for r in results]) == pytest.approx(exact, rel=0.01)


def test_the_interval_of_a_fit_cut_short_covers_whatever_is_missing() -> None:
    points = np.linspace(-2, 2, 40)
    exact = line_cost(points, np.full(40, 1 / 40))
    for seed in range(10):
        far_away = torch.zeros(40)
        cap = 2000 * (1 + seed)
        with pytest.warns(ConvergenceWarning):
            result = fit(torch.tensor(points)[:, None], seed=seed, max_samples=cap, tol=1e-3, warm_start=far_away)
        low, high = result.transport_cost_interval
        assert low <= exact <= high
        assert low <= result.transport_cost <= high


class UniformOnUnitInterval:
    """A user's source: not centred, no second moment offered."""

    dim = 1

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        return torch.rand(n, 1, generator=generator, dtype=dtype, device=device)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(((x >= 0) & (x <= 1)).all(1), 0.0, -torch.inf)


@pytest.mark.parametrize(("atoms", "exact"), [([0.0, 1.0], 1 / 12), ([5.0, 6.0], 25 + 1 / 12), ([0.5], 1 / 12)])
def test_a_source_of_the_users_own(atoms: list[float], exact: float) -> None:
    result = fit(torch.tensor(atoms, dtype=torch.float64)[:, None], source=UniformOnUnitInterval())
    low, high = result.transport_cost_interval
    half = (high - low) / 2
    assert result.transport_cost == pytest.approx(exact, abs=2 * half)
    assert half < 0.01 * exact
    if len(atoms) == 2:
        assert float(result.potential.heights.diff()) == pytest.approx(0.5, abs=0.02)


def test_data_far_from_the_origin_keep_a_tight_interval() -> None:
    points = torch.tensor([[1000.0 - 1], [1000.0 + 1]], dtype=torch.float64)
    exact = 1000.0**2 + line_cost(np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
    result = fit(points, source=Gaussian(1))
    low, high = result.transport_cost_interval
    assert high - low < 0.02
    assert result.transport_cost == pytest.approx(exact, abs=high - low)
