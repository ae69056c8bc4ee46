"""Pairs by shortlists: laws, batches that are cut from blocks, and what refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import PairStream, Semidiscrete, Subspace, semidiscrete_coupling
from proxflow.potentials import Shortlisted
from proxflow.semidiscrete import fit_shortlisted
from proxflow.symmetry import HorizontalFlip
from tests.couplings.normality import normal_p_value
from tests.couplings.test_coupling_laws import same
from tests.marks import slow_beyond


@pytest.fixture(scope="module")
def points() -> Tensor:
    return torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2])


@pytest.fixture(scope="module")
def coupling(points: Tensor) -> Semidiscrete:
    return Semidiscrete(fit_shortlisted(points, count=4, tol=0.02, progress=False).potential, points)


@pytest.mark.slow
def test_batches_are_the_same_whatever_was_drawn_before(
    coupling: Semidiscrete, points: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of blocks of 64 pairs, which batches of 50 straddle."""
    monkeypatch.setattr(semidiscrete_coupling, "_LISTED_PAIRS", 64)
    first, second = (Semidiscrete(coupling.potential, points) for _ in range(2))
    ahead = [first.batch(number, 50, 7) for number in range(5)]
    back = [second.batch(number, 50, 7) for number in (4, 0, 3, 1, 2)]
    for number, pairs in zip((4, 0, 3, 1, 2), back, strict=True):
        assert same(pairs, ahead[number])
    noise = torch.cat([pairs.source for pairs in ahead])
    assert len(torch.unique(noise, dim=0)) == 250
    assert torch.equal(coupling.rows_for(noise), torch.cat([pairs.index for pairs in ahead]))
    assert not same(first.batch(0, 50, 8), ahead[0])
    with PairStream(first, 50, seed=7, position=2) as stream:
        assert same(next(stream), ahead[2])


def test_two_sequences_that_are_drawn_in_turn_keep_their_blocks(
    coupling: Semidiscrete, points: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    sample = Semidiscrete.sample

    def noted(self: Semidiscrete, n: int, **options: Any) -> Any:
        drawn.append(n)
        return sample(self, n, **options)

    monkeypatch.setattr(Semidiscrete, "sample", noted)
    own = Semidiscrete(coupling.potential, points)
    for number in range(4):
        for seed in (0, 1):
            own.batch(number, 100, seed)
    assert drawn == [16_384, 16_384]
    again = own.batch(3, 100, 0)
    again.source.add_(1)
    assert not torch.equal(own.batch(3, 100, 0).source, again.source)
    assert again.source.untyped_storage().nbytes() == 100 * 5 * 4
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        own.batch(0, 0, 0)
    with pytest.raises(ValueError, match=r"n must be at least 1, got 2\.5"):
        own.batch(0, 2.5, 0)  # type: ignore[arg-type]


def test_rows_come_by_their_weights_and_noise_is_normal(coupling: Semidiscrete) -> None:
    pairs = coupling.batch(0, 16_384, 0)
    assert normal_p_value(pairs.source) > 1e-4
    counts = torch.bincount(pairs.index, minlength=300).double()
    chi2 = float(((counts - counts.mean()).square() / counts.mean()).sum())
    assert chi2 < 300 + 0.03 * 16_384 + 5 * 600**0.5


def test_noise_for_rows_is_noise_that_goes_to_them(coupling: Semidiscrete) -> None:
    index = torch.arange(300).repeat(3)
    noise = coupling.noise_for(index, generator=torch.Generator().manual_seed(1))
    assert torch.equal(coupling.rows_for(noise), index)
    assert coupling.noise_law.approximated == 0


def test_pairs_in_a_subspace_are_those_of_the_coordinates(points: Tensor) -> None:
    fitted = Subspace.fit(points, 3, shortlist=4, tol=0.02, progress=False)
    assert isinstance(fitted.potential, Shortlisted)
    assert fitted.potential.count == 4
    assert isinstance(fitted.record, pf.semidiscrete.ShortlistedFit)
    assert 0.9 < fitted.record.optimality < 1
    assert fitted.record.converged
    pairs = fitted.batch(3, 500, 1)
    assert torch.equal(pairs.target, points[pairs.index])
    z = pairs.source @ fitted.directions
    assert float((fitted.rows_for(pairs.source) == pairs.index).double().mean()) > 0.99  # but for rounding of z
    assert float((fitted.potential.nearest_atom(z) == pairs.index).double().mean()) > 0.99
    cost = float((pairs.source - pairs.target).square().sum(1).mean())
    plain = Subspace.fit(points, 3, tol=0.02, progress=False).batch(3, 500, 1)
    independent = 5 + float(points.square().sum(1).mean())
    assert cost < 0.5 * (float((plain.source - plain.target).square().sum(1).mean()) + independent)


@pytest.mark.parametrize("shortlist", slow_beyond(1, [None, 4]))
def test_a_fit_in_a_subspace_goes_on_from_its_checkpoint(points: Tensor, tmp_path: Path, shortlist: int | None) -> None:
    options: dict[str, Any] = {"shortlist": shortlist, "tol": 0.02, "progress": False}
    whole = Subspace.fit(points, 4, **options)
    saved = Subspace.fit(points, 4, checkpoint=tmp_path / "fit", **options)
    assert (tmp_path / "fit").exists()
    again = Subspace.fit(points, 4, checkpoint=tmp_path / "fit", **options)
    for other in (saved, again):
        assert torch.equal(other.potential.heights, whole.potential.heights)


@pytest.mark.parametrize("options", [{"epsilon": 0.1}, {"symmetry": HorizontalFlip((1, 1, 5))}])
def test_a_shortlist_goes_with_neither_epsilon_nor_a_symmetry(points: Tensor, options: dict[str, Any]) -> None:
    rows = points.unflatten(1, (1, 1, 5))
    with pytest.raises(ValueError, match=r"Subspace\.fit: a shortlist goes with neither a symmetry nor epsilon"):
        Subspace.fit(rows, 2, shortlist=4, **options)


def test_what_needs_a_convex_potential_refuses_one_on_shortlists(coupling: Semidiscrete) -> None:
    with pytest.raises((TypeError, ValueError), match="Shortlisted"):
        pf.ProximalFlow(coupling.potential, pf.schedules.Linear())  # type: ignore[arg-type]
