"""Atoms and a group against the same potential with every image as an atom."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.potentials import Discrete, SymmetricDiscrete
from proxflow.potentials.orbits import orbit_distances, orbit_of_row
from proxflow.symmetry import Group, HorizontalFlip, Symmetry
from tests.test_symmetry import GROUPS, rows, sign_changes, turns

f64 = torch.float64


def all_images(points: Tensor, group: Symmetry) -> Tensor:
    return torch.cat([group.apply(points, g) for g in range(len(group))])


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS.keys())
def test_queries_agree_with_a_potential_of_all_images(group: Symmetry) -> None:
    points, heights = rows(7, group.dim) + 0.3, 0.5 * rows(7)
    symmetric = SymmetricDiscrete(points, heights, group)
    plain = Discrete(all_images(points, group), heights.repeat(len(group)))
    u = torch.randn(200, group.dim, generator=torch.Generator().manual_seed(1), dtype=f64)
    torch.testing.assert_close(symmetric.conjugate(u), plain.conjugate(u))
    torch.testing.assert_close(symmetric.brenier_map(u), plain.brenier_map(u))
    assert torch.equal(symmetric.nearest_atom(u), plain.nearest_atom(u) % 7)
    torch.testing.assert_close(symmetric.prox(u, 0.7).point, plain.prox(u, 0.7).point, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(symmetric.conjugate(group.apply(u, len(group) - 1)), symmetric.conjugate(u))
    nearest = symmetric.nearest_image(u)
    again = symmetric.nearest_image_of(u, nearest.atom)
    torch.testing.assert_close(symmetric.image(again), symmetric.image(nearest))


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_an_orbit_has_as_many_points_as_it_has_whatever_the_rounding(dtype: torch.dtype) -> None:
    """A centre of rotation has an orbit of 1, a point on an axis one of 2."""
    three = Group(turns(3, dtype))
    points = torch.tensor([[0.0, 0.0], [1.0, 0.2]], dtype=dtype)
    expanded = SymmetricDiscrete(points, torch.zeros(2, dtype=dtype), three).expanded()
    assert len(expanded.points) == 4
    torch.testing.assert_close(expanded.weights, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6], dtype=dtype))
    signs = Group(sign_changes(2))
    on_axes = SymmetricDiscrete(torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=f64), torch.zeros(2, dtype=f64), signs)
    assert len(on_axes.expanded().points) == 6


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS.keys())
def test_rows_of_one_orbit_are_found_among_others(group: Symmetry) -> None:
    points = rows(40, group.dim)
    mixed = torch.cat([points, group.apply(points, len(group) - 1)[::2], group.apply(points, 1)[:5], 1.001 * points])
    expected = torch.cat([torch.arange(40), torch.arange(0, 40, 2), torch.arange(5), torch.arange(65, 105)])
    assert torch.equal(orbit_of_row(mixed, group), expected)


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS.keys())
def test_orbits_are_as_far_apart_as_their_nearest_images(group: Symmetry) -> None:
    """Over the images of both, while the library moves one of them: light atoms are bounded by these distances."""
    ours, others = rows(5, group.dim) + 0.3, 2 * rows(4, group.dim) - 0.1
    apart = all_images(ours, group)[:, None] - all_images(others, group)
    nearest = apart.norm(dim=2).reshape(len(group), 5, len(group), 4).amin((0, 2))
    torch.testing.assert_close(orbit_distances(group, ours, others), nearest, rtol=1e-12, atol=1e-12)


def test_a_flow_ends_on_images_and_is_equivariant() -> None:
    group = HorizontalFlip((2, 3))
    points = rows(10, 6)
    flow = pf.ProximalFlow(SymmetricDiscrete(points, 0.1 * rows(10), group))
    x0 = rows(50, 6)
    ends = flow.transport(x0)
    assert bool((ends[:, None] == all_images(points, group)).all(2).any(1).all())
    torch.testing.assert_close(flow.transport(group.apply(x0, 1)), group.apply(ends, 1))
    x = flow.interpolate(0.5, x0)
    torch.testing.assert_close(flow.velocity(0.5, group.apply(x, 1)), group.apply(flow.velocity(0.5, x), 1))


def test_what_does_not_go_together_is_refused() -> None:
    points, heights, flip = rows(4, 6), torch.zeros(4, dtype=f64), HorizontalFlip((2, 3))
    with pytest.raises(ValueError, match="row 3 of row 1; keep one of each orbit"):
        SymmetricDiscrete(torch.cat([points[:3], flip.apply(points[1:2], 1)]), heights, flip)
    with pytest.raises(ValueError, match="acts in dimension 6, the points have 4"):
        SymmetricDiscrete(points[:, :4], heights, flip)
    with pytest.raises(ValueError, match=r"must be a group of proxflow.symmetry, got str"):
        SymmetricDiscrete(points, heights, "flip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be rotation-invariant"):
        SymmetricDiscrete(points, heights, flip, source=pf.measures.Uniform(6, -1.0, 1.0))


def test_images_are_found_and_made_in_full_precision_under_autocast() -> None:
    potential = SymmetricDiscrete(rows(30, 2).float(), torch.zeros(30), Group(turns(3, torch.float32)))
    coupling = pf.couplings.Semidiscrete(potential, potential.points)
    u = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    images, drawn = potential.brenier_map(u), coupling.sample(5, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(potential.brenier_map(u), images)
        again = coupling.sample(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.target, drawn.target)
