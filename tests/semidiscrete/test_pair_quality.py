"""How near to optimal pairs by shortlists are said to be, beside what many draws tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.potentials import Shortlisted
from proxflow.semidiscrete import fit_shortlisted, pair_quality
from tests.semidiscrete.test_shortlist_fit import cloud, own_pairs

f64 = torch.float64


@pytest.fixture(scope="module")
def potential() -> Shortlisted:
    return fit_shortlisted(cloud(200, 5), count=2, tol=0.05, progress=False).potential


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def excess_by_many_draws(potential: Shortlisted) -> float:
    """2 E[phi - phi_C] on 400,000 draws."""
    noise = torch.randn(400_000, potential.dim, generator=generator(8), dtype=f64)
    return 2 * float((potential.over_all_atoms().conjugate(noise) - potential.conjugate(noise)).mean())


def test_it_is_below_the_bound_of_many_draws_as_often_as_it_says(potential: Shortlisted) -> None:
    """A lower end of a two-sided interval of 95% is above the truth in 2.5% of cases."""
    excess, saved = excess_by_many_draws(potential), own_pairs(potential).saved
    truth = saved / (saved + excess)
    told = [pair_quality.pair_quality(potential, generator(k)) for k in range(200)]
    shares, excesses = (torch.tensor([getattr(each, name) for each in told]) for name in ("optimality", "excess"))
    assert 0.97 < truth < 0.995
    for outside in (shares > truth, excesses < excess):
        assert float(outside.double().mean()) < 0.025 + 4 * (0.025 / 200) ** 0.5
    assert float((shares - truth).abs().max()) < 0.01
    assert float(excesses.mean()) < 1.5 * excess


def test_blocks_of_draws_tell_what_all_of_them_do(potential: Shortlisted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of noise far from 0 too, whose mean the first block does not tell."""
    far = pf.measures.Empirical(torch.randn(4000, 5, generator=generator(), dtype=f64) + 30)
    shifted = fit_shortlisted(cloud(200, 5), count=2, source=far, tol=0.05, progress=False).potential
    for each in (potential, shifted):
        whole = pair_quality.pair_quality(each, generator())
        with monkeypatch.context() as patched:
            patched.setattr(pair_quality, "_BLOCK_NUMBERS", 600)
            parts = pair_quality.pair_quality(each, generator())
        assert parts.excess == pytest.approx(whole.excess, rel=0.2)  # other draws, since blocks are drawn apart
        assert parts.optimality == pytest.approx(whole.optimality, abs=0.003)


def test_what_is_saved_is_a_covariance_whatever_the_first_block_says(
    potential: Shortlisted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cells of masses far from the weights, and blocks of 16 draws, whose mean is off by a quarter."""
    tilt = potential.points @ torch.tensor([3.0, -2.0, 1.0, 0.0, 2.0], dtype=f64)
    tilted = Shortlisted(potential.points, potential.heights - tilt, potential.shortlist)
    units, heights, radius = pair_quality._in_units(tilted)
    monkeypatch.setattr(pair_quality, "_BLOCK_NUMBERS", 16 * 5)
    gained, _ = pair_quality._gains_and_losses(tilted, units, heights, generator(2))
    stderr = float(gained.std()) / len(gained) ** 0.5
    assert float(gained.mean()) == pytest.approx(own_pairs(tilted).saved / 2 / radius, abs=4 * stderr)


def test_nothing_is_claimed_where_nothing_is_seen() -> None:
    """Pairs of which hardly any leave one heavy atom save nothing that the draws tell."""
    points: Tensor = cloud(20, 4)
    weights = torch.full((20,), 1e-7, dtype=f64)
    weights[0] = 1.0
    result = fit_shortlisted(points, weights, count=2, tol=0.05, progress=False)
    assert result.optimality == 0.0
    assert fit_shortlisted(points[:1], progress=False).optimality == 1.0
