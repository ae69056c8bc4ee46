"""Fits under a symmetry: the law "a row by its weight, moved by a random element of the group"."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.errors import ConvergenceWarning
from proxflow.semidiscrete import fit
from proxflow.semidiscrete.damped_newton import DampedNewton
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.start import carried_heights
from proxflow.symmetry import Group, HorizontalFlip, Shifts
from tests.semidiscrete.sources import Interrupted, PlainNormal
from tests.semidiscrete.test_checkpoint import same
from tests.test_symmetry import sign_changes, turns

f64 = torch.float64


def cloud(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=f64)


def exact_chi2(potential: pf.potentials.SymmetricDiscrete) -> float:
    """Of all images of atoms in the plane, from closed forms of their cells' masses."""
    plain = potential.expanded()
    problem = SemiDual(plain.points.double(), plain.weights.double(), plain.source, 0.0, 1 << 24)
    return DampedNewton(problem, plain.heights.double() / problem.radius).chi2


@pytest.mark.parametrize("group", [Group(turns(4)), Group(turns(3)), Group(sign_changes(2))], ids=str)
def test_in_the_plane_exact_masses_of_all_images_confirm_the_certificate(group: Group) -> None:
    rows, weights = cloud(12, 2) + 0.5, torch.arange(1.0, 13.0)
    result = fit(rows, weights, symmetry=group, tol=1e-2)
    assert result.method == "averaged gradient"
    assert result.converged
    assert isinstance(result.potential, pf.potentials.SymmetricDiscrete)
    assert exact_chi2(result.potential) <= 1e-2
    images = torch.cat([group.apply(rows, g) for g in range(len(group))])
    truth = fit(images, weights.repeat(len(group)))
    assert truth.method == "damped Newton"
    low, high = result.transport_cost_interval
    margin = 0.5 * (high - low)  # 4 standard errors in all
    assert low - margin <= truth.transport_cost <= high + margin


def test_a_row_that_is_its_own_image_keeps_its_weight() -> None:
    """0 with weight 1/2 and -1, 1 with 1/4 each: on the line the border is the normal quantile at 3/4."""
    mirror = Group(torch.tensor([[[1.0]], [[-1.0]]], dtype=f64))
    tol = 1e-3
    for rows, weights in (
        ([[0.0], [1.0]], [1.0, 1.0]),
        ([[1.0], [0.0], [-1.0]], [0.1, 0.5, 0.4]),
        ([[-1.0], [0.0], [-1.0], [-0.0], [1.0]], [1.0, 2.0, 1.0, 2.0, 2.0]),
    ):
        result = fit(torch.tensor(rows, dtype=f64), torch.tensor(weights), symmetry=mirror, tol=tol, max_samples=20_000)
        points, heights = result.potential.points[:, 0].abs(), result.potential.heights
        assert sorted(points.tolist()) == [0.0, 1.0]
        assert result.potential.weights.tolist() == pytest.approx([0.5, 0.5])
        assert torch.equal(points[result.atom_of_row], torch.tensor(rows, dtype=f64)[:, 0].abs())
        border = float(heights[points == 1] - heights[points == 0])
        beyond = 1 - math.erf(border / math.sqrt(2))
        assert 4 * (beyond - 0.5) ** 2 <= tol  # chi2, in closed form; at a border for halved weights it is 0.1


def digits(count: int) -> Tensor:
    return pf.data.load("digits").points[:count].flatten(1)


def test_mirror_images_need_half_of_the_draws_and_give_the_same_potential() -> None:
    rows, flip, tol = digits(100), HorizontalFlip((8, 8)), 2e-2
    both = torch.cat([rows, flip.apply(rows, 1)])
    plain = fit(both, tol=tol, max_samples=30_000, max_memory=2**24)
    short = fit(rows, symmetry=flip, tol=tol, max_samples=15_000, max_memory=2**24)
    assert plain.converged
    assert short.converged
    assert 1.9 * short.samples_used <= plain.samples_used
    assert isinstance(short.potential, pf.potentials.SymmetricDiscrete)
    images = short.potential.expanded()
    assert len(images.points) == len(plain.potential.points) == 200
    noise = torch.randn(1 << 14, 64, generator=torch.Generator().manual_seed(5))
    counts = torch.bincount(images.nearest_atom(noise), minlength=200).double()
    # chi2 of the counts themselves: that of the masses, and of 2^14 draws 199 / 2^14 with a spread of 1.3e-3
    assert float(((counts / 2**14 - images.weights).square() / images.weights).sum()) <= tol + 199 / 2**14 + 4 * 1.3e-3
    values = plain.potential.conjugate(noise)
    # how far the fit with all images is from the invariance of the optimum is the difference of two of its own errors;
    # so is how far apart the fits are, up to what either error happens to be
    own = float((values - plain.potential.conjugate(flip.apply(noise, 1))).std())
    assert float((values - short.potential.conjugate(noise)).std()) <= 1.25 * own
    low, high = plain.transport_cost_interval
    its_low, its_high = short.transport_cost_interval
    assert max(low, its_low) <= min(high, its_high)


def test_one_orbit_needs_no_heights_and_its_cost_is_that_of_the_nearest_image() -> None:
    """E min(|X - a|^2, |X + a|^2) = d + a^2 - 2 a sqrt(2 / pi) for a on the axis that is mirrored."""
    mirror = Group(torch.stack([torch.eye(2), torch.diag(torch.tensor([-1.0, 1.0]))]))
    result = fit(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), symmetry=mirror)
    assert result.cell_mass.tolist() == [1.0]
    half = result.transport_cost_interval[1] - result.transport_cost
    assert 0 < half < 0.05
    assert abs(result.transport_cost - (2 + 4 - 4 * math.sqrt(2 / math.pi))) <= 2 * half


def test_on_a_torus_one_signal_and_its_shifts_share_the_noise_evenly() -> None:
    """A single spike shifted 6 times: the potential is max_i u_i, whose cells are those of the largest entry."""
    rows = torch.cat([3 * torch.eye(6, dtype=f64)[:1], torch.ones(1, 6, dtype=f64)])
    result = fit(rows, symmetry=Shifts((6,)), tol=2e-3, max_samples=20_000)
    assert isinstance(result.potential, pf.potentials.SymmetricDiscrete)
    assert sorted(len(result.potential.symmetry) * result.potential.expanded().weights) == pytest.approx(
        [0.5] * 6 + [3]
    )
    plain = torch.cat([3 * torch.eye(6, dtype=f64), torch.ones(1, 6, dtype=f64)])
    truth = fit(plain, torch.tensor([1.0] * 6 + [6.0]), tol=2e-3, max_samples=20_000)
    low, high = truth.transport_cost_interval
    assert max(low, result.transport_cost_interval[0]) <= min(high, result.transport_cost_interval[1])


def test_cells_of_light_orbits_stay_below_their_weight() -> None:
    """A row of weight 1e-9 that fills a cell unless its height is bounded; its four images are bounded together."""
    rows = torch.cat([cloud(30, 2), torch.tensor([[0.3, 0.1]], dtype=f64)])
    weights = torch.cat([torch.ones(30), torch.tensor([1e-9])])
    result = fit(rows, weights, symmetry=Group(turns(4)), tol=2e-2, max_samples=20_000)
    assert isinstance(result.potential, pf.potentials.SymmetricDiscrete)
    plain = result.potential.expanded()
    problem = SemiDual(plain.points, plain.weights, plain.source, 0.0, 1 << 24)
    light = plain.weights < 1e-8
    noise = torch.randn(1 << 16, 2, generator=torch.Generator().manual_seed(1), dtype=f64)
    assert int(light.sum()) == 4
    assert not bool(torch.isin(plain.nearest_atom(noise), torch.nonzero(light)).any())
    assert DampedNewton(problem.restricted(~light), (plain.heights / problem.radius)[~light]).chi2 <= 2e-2


# ---------------------------------------------------------------- starting, stopping, resuming


def test_a_warm_start_knows_rows_by_any_of_their_images() -> None:
    flip, rows = HorizontalFlip((2, 3)), cloud(40, 6)
    earlier = fit(rows, symmetry=flip, tol=0.1, max_samples=5000).potential
    moved = torch.where(torch.arange(40)[:, None] % 2 == 0, earlier.points, flip.apply(earlier.points, 1))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(carried_heights(earlier, moved[order], flip), earlier.heights[order])
    again = fit(moved, symmetry=flip, warm_start=earlier, tol=0.1, max_samples=5000)
    assert again.converged


class InvariantNormal(PlainNormal):
    """Normal noise of which only its invariance is known."""

    rotation_invariant = True


class InterruptedInvariant(Interrupted):
    rotation_invariant = True


def test_a_resumed_run_ends_as_an_uninterrupted_one_and_no_other_group_resumes_it(tmp_path: Path) -> None:
    rows, path = cloud(60, 4), tmp_path / "run.safetensors"
    quarter = Group(torch.stack([torch.block_diag(turn, torch.eye(2)) for turn in turns(4)]))

    def run(source: PlainNormal, symmetry: pf.symmetry.Symmetry, checkpoint: Path | None) -> pf.semidiscrete.Fit:
        return fit(rows, symmetry=symmetry, source=source, checkpoint=checkpoint, tol=0.02, max_samples=20_000)

    whole = run(InvariantNormal(4), quarter, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stopped = run(InterruptedInvariant(4, 30), quarter, path)
    assert stopped.samples_used < whole.samples_used
    with pytest.raises(ValueError, match=r"another fit|other points, weights, source, epsilon, symmetry"):
        run(InvariantNormal(4), Group(sign_changes(4)), path)
    with pytest.raises(ValueError, match="other points, weights, source, epsilon, symmetry"):
        fit(rows, source=InvariantNormal(4), checkpoint=path)
    assert same(run(InvariantNormal(4), quarter, path), whole)


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_fitted_is_refused() -> None:
    rows, flip = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)), HorizontalFlip((2, 3))
    with pytest.raises(ValueError, match=r"fit: with a symmetry epsilon must be 0, got 0.1"):
        fit(rows, symmetry=flip, epsilon=0.1)
    with pytest.raises(ValueError, match=r"fit: the source Uniform.* must be rotation-invariant"):
        fit(rows, symmetry=flip, source=pf.measures.Uniform(6))
    with pytest.raises(ValueError, match="fit: the symmetry acts in dimension 4, the points have 6"):
        fit(rows, symmetry=HorizontalFlip((2, 2)))
    with pytest.raises(ValueError, match=r"acts on events of shape \(3, 2\), those of the points are \(2, 3\)"):
        fit(rows, symmetry=HorizontalFlip((3, 2)))
    with pytest.raises(ValueError, match=r"fit: symmetry must be a group of proxflow.symmetry, got Tensor"):
        fit(rows, symmetry=torch.eye(6)[None])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must give 5 finite heights"):
        fit(rows, symmetry=flip, warm_start=torch.zeros(6))
