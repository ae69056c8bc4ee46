"""Potentials on shortlists: their cells, against all scores in float64; what they take, and how they are kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.checks import STORED
from proxflow.kernels.shortlist import Shortlist
from proxflow.potentials import Discrete, Shortlisted

f64 = torch.float64


def shortlist_of(points: Tensor, groups: int = 12, count: int = 3) -> Shortlist:
    """Groups of points by their order."""
    group = torch.arange(len(points)) % groups
    exact = points.double()
    centres = torch.stack([exact[group == number].mean(0) for number in range(groups)])
    levels = 0.1 * torch.arange(groups, dtype=f64)
    return Shortlist(group, centres, levels, count)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = f64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64).to(dtype)


def cells(potential: Shortlisted, u: Tensor) -> Tensor:
    """By all scores in float64, about the mean of the points."""
    shortlist, points = potential.shortlist, potential.points.double()
    scores = u.double() @ shortlist.centres.double().mT - shortlist.levels.double()
    listed = (scores >= scores.topk(shortlist.count, dim=1).values[:, -1:])[:, shortlist.group]
    values = u.double() @ (points - points.mean(0)).mT - potential.heights.double()
    return torch.where(listed, values, -torch.inf).argmax(1)


def test_noise_goes_to_the_best_atom_of_its_list() -> None:
    points, heights = normal(300, 5), 0.3 * normal(300, seed=1)
    potential = Shortlisted(points, heights, shortlist_of(points))
    u = normal(500, 5, seed=2)
    atom = cells(potential, u)
    assert torch.equal(potential.nearest_atom(u), atom)
    assert torch.equal(potential.sample_atom(u), atom)
    torch.testing.assert_close(potential.conjugate(u), (u * points[atom]).sum(1) - heights[atom])
    over_all = potential.over_all_atoms()
    assert isinstance(over_all, Discrete)
    assert bool((over_all.conjugate(u) >= potential.conjugate(u)).all())
    assert bool((over_all.conjugate(u) > potential.conjugate(u)).any())


def test_changed_heights_are_seen() -> None:
    points = normal(300, 5)
    potential = Shortlisted(points, 0.3 * normal(300, seed=1), shortlist_of(points))
    u = normal(500, 5, seed=2)
    before = potential.nearest_atom(u)
    potential.heights.copy_(0.3 * normal(300, seed=3))
    assert not torch.equal(potential.nearest_atom(u), before)
    assert torch.equal(potential.nearest_atom(u), cells(potential, u))


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_stored_rows_give_the_cells_of_their_float32_copy(dtype: torch.dtype) -> None:
    points = (40 * normal(300, 5)).clamp(0, 100).to(dtype)
    points = torch.unique(points, dim=0)
    heights = normal(len(points), seed=1, dtype=torch.float32)
    u, shortlist = normal(500, 5, seed=2, dtype=torch.float32), shortlist_of(points)
    own = Shortlisted(points, heights, shortlist).nearest_atom(u)
    assert torch.equal(own, Shortlisted(points.float(), heights, shortlist).nearest_atom(u))


def test_rows_far_from_the_origin_keep_their_digits() -> None:
    """A score of 1e6 in float32 is rounded to 1/16; about a centre it is not."""
    near, heights = normal(300, 5, dtype=torch.float32), normal(300, seed=1, dtype=torch.float32)
    far = (near.double() + 1e5).float()
    potential = Shortlisted(far, heights, shortlist_of(far))
    u = normal(500, 5, seed=2, dtype=torch.float32)
    exact = (far.double() - 1e5).clone()
    listed_alike = Shortlisted(exact, heights.double(), _about(potential.shortlist, 1e5))
    agree = potential.nearest_atom(u) == listed_alike.nearest_atom(u.double())
    assert float(agree.double().mean()) > 0.99


def _about(shortlist: Shortlist, offset: float) -> Shortlist:
    return Shortlist(shortlist.group, shortlist.centres - offset, shortlist.levels, shortlist.count)


def test_heights_of_more_digits_than_the_points() -> None:
    points, heights = normal(300, 5, dtype=torch.float32), normal(300, seed=1)
    potential = Shortlisted(points, heights, shortlist_of(points))
    u = normal(500, 5, seed=2, dtype=torch.float32)
    assert torch.equal(potential.nearest_atom(u), cells(potential, u))
    assert potential.conjugate(u).dtype == torch.float32


def test_what_is_saved_gives_the_same_cells(tmp_path: Path) -> None:
    points = normal(300, 5, dtype=torch.float32)
    source = pf.measures.Uniform(5, -1.0, 1.0)
    weights = torch.linspace(1, 2, 300)
    potential = Shortlisted(
        points, normal(300, seed=1, dtype=torch.float32), shortlist_of(points), weights, source=source
    )
    pf.save(potential, tmp_path / "potential.safetensors")
    for again in (pf.load(tmp_path / "potential.safetensors"), copy.deepcopy(potential)):
        u = normal(500, 5, seed=2, dtype=torch.float32)
        assert torch.equal(again.nearest_atom(u), potential.nearest_atom(u))
        assert isinstance(again.source, pf.measures.Uniform)
        assert again.source.low == -1.0
        torch.testing.assert_close(again.weights, weights / weights.sum())
    assert copy.deepcopy(potential).double().nearest_atom(u.double()).shape == (500,)
    assert potential.dim == 5
    assert potential.epsilon == 0.0


def with_shortlist(**changes: Any) -> Shortlist:
    own = shortlist_of(normal(30, 2))
    fields: dict[str, Any] = {"group": own.group, "centres": own.centres, "levels": own.levels, "count": own.count}
    return Shortlist(**(fields | changes))


@pytest.mark.parametrize(
    ("shortlist", "message"),
    [
        (with_shortlist(group=torch.zeros(29, dtype=torch.int64)), "group must have shape"),
        (with_shortlist(group=torch.zeros(30)), "be int64"),
        (with_shortlist(group=torch.zeros(30, dtype=torch.int64)), "each of the 12 groups must have an atom"),
        (with_shortlist(group=torch.arange(30) % 13), "each of the 12 groups must have an atom"),
        (with_shortlist(group=torch.arange(30) % 12 - 1), "each of the 12 groups must have an atom"),
        (with_shortlist(centres=torch.zeros(12, 3)), "centres and levels must have shapes"),
        (with_shortlist(levels=torch.zeros(11)), "centres and levels must have shapes"),
        (with_shortlist(levels=torch.full((12,), torch.inf)), "must be finite"),
        (with_shortlist(count=13), "count must be between 1 and the 12 groups, got 13"),
        (with_shortlist(count=0), "count must be between 1"),
        (with_shortlist(count=1.5), "count must be between 1"),
    ],
)
def test_shortlists_that_are_none_are_refused(shortlist: Shortlist, message: str) -> None:
    points = normal(30, 2)
    with pytest.raises(ValueError, match=f"Shortlisted: .*{message}"):
        Shortlisted(points, torch.zeros(30, dtype=f64), shortlist)


def test_bad_atoms_and_queries_are_refused() -> None:
    points, shortlist = normal(30, 2), shortlist_of(normal(30, 2))
    with pytest.raises(ValueError, match="Shortlisted: the source has dimension 3, the points 2"):
        Shortlisted(points, torch.zeros(30, dtype=f64), shortlist, source=pf.measures.Gaussian(3))
    with pytest.raises(ValueError, match="Shortlisted: heights must have shape"):
        Shortlisted(points, torch.zeros(29, dtype=f64), shortlist)
    potential = Shortlisted(points, torch.zeros(30, dtype=f64), shortlist)
    with pytest.raises(ValueError, match=r"Shortlisted: u must have shape \(B, 2\), got \(4, 3\)"):
        potential.nearest_atom(torch.zeros(4, 3, dtype=f64))
    with pytest.raises(ValueError, match=r"Shortlisted: u is torch\.float32"):
        potential.nearest_atom(torch.zeros(4, 2))


def test_the_atom_is_found_in_full_precision_under_autocast() -> None:
    points, u = normal(60, 3).float(), normal(200, 3, seed=5).float()
    potential = Shortlisted(points, torch.zeros(60), shortlist_of(points))
    atoms = potential.nearest_atom(u)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(potential.nearest_atom(u), atoms)
