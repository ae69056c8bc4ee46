"""Second epi-derivatives by difference quotients, and the hypotheses of terminal normal hyperbolicity."""

from __future__ import annotations

import pytest
import torch

from proxflow.analysis.epiderivative import check_second_epi_derivative, directional_prox, second_epi_quotients
from proxflow.analysis.hypotheses import TerminalHypotheses, Verdict, check_terminal_hypotheses
from proxflow.measures import Uniform
from proxflow.potentials import Ball, Discrete, GeneralizedQuadratic, Potential, Product, Quadratic, Quantile
from tests.laws.cases import CASES, VARIANTS, marked
from tests.marks import slow_beyond

f64 = torch.float64
# in 100 dimensions the same as in 5, only slower
POTENTIALS = {name: make for name, make in CASES.items() if name != "uniform ball in high dimension"}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def pairs(potential: Potential) -> tuple[torch.Tensor, torch.Tensor]:
    """Moreau pairs of queries near and far: on trajectories, in gaps and on faces."""
    queries = torch.cat([3 * normal(2, potential.dim, seed=1), 0.3 * normal(2, potential.dim, seed=2)])
    pair = potential.prox(queries, 1.0)
    return pair.point.detach(), pair.multiplier.detach()


# ------------------------------------------------------------------ every potential


FEW = ("ball", "ellipsoid", "singular gaussian", "grid", "sharp entropic", "product of line and shells")


QUICK = [name for name in POTENTIALS if name not in VARIANTS]
LATER = [(name, 0.3) for name in POTENTIALS if name in VARIANTS] + [(name, 5.0) for name in FEW]
RADII = slow_beyond(len(QUICK), [(name, 0.3) for name in QUICK] + LATER)


@pytest.mark.parametrize(("name", "radius"), RADII)
def test_the_derivative_of_the_prox_is_the_resolvent_of_the_form(name: str, radius: float) -> None:
    """D prox = P_L (I + lam H)^-1 P_L: differences against the potential's own second epi-derivative."""
    potential = POTENTIALS[name]()
    y, u = pairs(potential)
    found = check_second_epi_derivative(potential, y, u, radius=radius)
    # of second order: 1/255 of the change from 16 steps to one; and rounding over the step
    assert (found.error <= found.drift / 100 + 2e-9).all()
    assert found.error.max() <= 1e-4
    assert found.error.median() <= 1e-8
    assert found.nonlinearity.max() <= 1e-5
    values = torch.linalg.eigvalsh(found.analytic)
    felt, lost = (values > 1e-6).sum(1), (values > 1e-12).sum(1)
    assert ((felt <= found.subspace_dimension) & (found.subspace_dimension <= lost)).all()
    off = found.subspace - found.form.basis @ (found.form.basis.mT @ found.subspace)
    assert off.abs().max() <= 1e-4


@pytest.mark.parametrize("name", marked(POTENTIALS))
def test_quotients_over_nearby_directions_converge_to_the_form(name: str) -> None:
    potential = POTENTIALS[name]()
    y, u = pairs(potential)
    w = normal(len(y), potential.dim, seed=3)
    found = second_epi_quotients(potential, y, u, w, steps=(1e-3,), radii=(1.0, 0.1))
    error = (found.envelope[0] - found.limit).abs()
    size = 1 + found.limit
    allowed = 0.02 * size + found.rounding[0]
    assert (error <= allowed).all()
    assert (found.envelope >= -found.rounding[:, None]).all()
    assert found.envelope.shape == (1, 2, len(y))


# ------------------------------------------------------------------ single truths


def test_along_the_ray_a_sphere_looks_infinite_where_nearby_directions_do_not() -> None:
    """Indicator of the unit ball at y with u = c y: d2psi = c |w|^2 on tangents, and +inf on every ray off y."""
    y, w = torch.tensor([[0.0, 0.0, 1.0]], dtype=f64), torch.tensor([[1.0, 0.0, 0.0]], dtype=f64)
    found = second_epi_quotients(Ball(3), y, 2.5 * y, w, steps=(1e-2, 1e-4), radii=(1.0, 1e-2, 1e-4))
    assert torch.isinf(found.ray).all()
    # min c |w'|^2 + |w' - w|^2 / r = c / (1 + r c)
    for column, radius in enumerate((1.0, 1e-2, 1e-4)):
        wanted = 2.5 / (1 + 2.5 * radius)
        assert float(found.limit[column]) == pytest.approx(wanted, rel=1e-9)
        assert float(found.envelope[1, column]) == pytest.approx(wanted, rel=1e-4)
    assert float(found.nearby[1, 2]) == pytest.approx(2.5, rel=1e-3)
    assert float(found.distance[1, 2]) <= 1e-3


def test_off_the_subspace_the_envelope_grows_like_one_over_the_radius() -> None:
    potential = Quadratic(torch.zeros(2, dtype=f64), torch.diag(torch.tensor([4.0, 0.0], dtype=f64)))
    y, w = torch.tensor([[1.0, 0.0]], dtype=f64), torch.tensor([[1.0, 1.0]], dtype=f64)
    found = second_epi_quotients(potential, y, torch.tensor([[0.5, 3.0]], dtype=f64), w, radii=(1e-1, 1e-2, 1e-3))
    # <w, (I - D) w> / r = eta / (1 + r eta) + 1 / r with eta = 1 / 2
    wanted = torch.tensor([0.5 / (1 + 0.5 * r) + 1 / r for r in (1e-1, 1e-2, 1e-3)], dtype=f64)
    torch.testing.assert_close(found.limit[:, 0], wanted, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.envelope[2, :, 0], wanted, rtol=1e-6, atol=0)


def test_the_ends_of_a_segment_have_a_cone_not_a_subspace() -> None:
    """Two atoms +-a, u on the edge of the cell of a: d2psi is 0 on the ray towards -a and +inf elsewhere."""
    a = torch.tensor([[2.0, 0.0]], dtype=f64)
    potential = Discrete(torch.cat([a, -a]), torch.zeros(2, dtype=f64))
    u = torch.tensor([[0.0, 0.7]], dtype=f64)
    for w, wanted in (
        ([-1.0, 0.0], [-1.0, 0.0]),
        ([1.0, 0.0], [0.0, 0.0]),
        ([-0.6, 0.8], [-0.6, 0.0]),
        ([0.0, 1.0], [0.0, 0.0]),
    ):
        direction, target = (torch.tensor([v], dtype=f64) for v in (w, wanted))
        for radius in (0.2, 3.0):
            moved = directional_prox(potential, a, u, direction, radius=radius)
            torch.testing.assert_close(moved, target, rtol=0, atol=1e-9)
    found = check_second_epi_derivative(potential, a, u)
    assert found.nonlinearity > 0.1
    inside = check_second_epi_derivative(potential, 0.3 * a, u)
    assert inside.nonlinearity <= 1e-9
    assert inside.subspace_dimension == 1
    # across the cell's boundary but inside the cell of a: L = {0}
    assert check_second_epi_derivative(potential, a, u + torch.tensor([[0.2, 0.0]], dtype=f64)).subspace_dimension == 0


class ThreeHalves(Quantile):
    """psi(y) = (2/3) |y|^(3/2), whose transport is u |u|."""

    def __init__(self) -> None:
        super().__init__(lambda level: torch.special.ndtri(level) * torch.special.ndtri(level).abs())


def test_a_curvature_that_grows_without_end_is_seen() -> None:
    """Quotients at 0 are (4/3) |w|^(3/2) / sqrt(s): L = {0}, though dpsi(0) is a point."""
    zero, one = torch.zeros(1, 1, dtype=f64), torch.ones(1, 1, dtype=f64)
    found = check_second_epi_derivative(ThreeHalves(), zero, zero)
    assert found.subspace_dimension == 0
    assert check_second_epi_derivative(ThreeHalves(), one, one).subspace_dimension == 1
    rays = second_epi_quotients(ThreeHalves(), zero, zero, one, steps=(1e-2, 1e-4)).ray[:, 0]
    torch.testing.assert_close(rays, 4 / 3 / torch.tensor([1e-2, 1e-4], dtype=f64).sqrt(), rtol=1e-6, atol=0)


class WrongBall(Ball):
    """A ball that claims half of its curvature."""

    def second_epi_derivative(self, y: torch.Tensor, u: torch.Tensor) -> GeneralizedQuadratic:
        form = super().second_epi_derivative(y, u)
        return type(form)(form.basis, 0.5 * form.hessian)


def test_a_wrong_claim_is_found() -> None:
    potential, u = WrongBall(3), normal(4, 3, seed=4)
    y = potential.brenier_map(u)
    found = check_second_epi_derivative(potential, y, u)
    length = u.norm(dim=1)
    torch.testing.assert_close(found.error, 1 / (1 + length / 2) - 1 / (1 + length), rtol=1e-6, atol=0)
    verdict = check_terminal_hypotheses(potential, u)
    assert (verdict.quadratic_form == Verdict.failed).all()
    assert not verdict.holds.any()


# ------------------------------------------------------------------ the theorem's hypotheses

MANIFOLDS = {
    "ball": 2,
    "clifford torus": 2,
    "ellipsoid": 2,
    "singular gaussian": 2,
    "atoms": 0,
    "grid": 0,
    "gaussian": 3,
    "rotated ball": 2,
}


@pytest.mark.parametrize("name", MANIFOLDS)
def test_all_hypotheses_are_verified_on_manifolds(name: str) -> None:
    potential = CASES[name]()
    verdict = check_terminal_hypotheses(potential, normal(4, potential.dim, seed=5), manifold_dimension=MANIFOLDS[name])
    assert verdict.describe().count("verified") == 5
    assert verdict.holds.all()
    for part in (verdict.affine_hull, verdict.relative_interior, verdict.quadratic_form, verdict.finite_on_tangent):
        assert (part == Verdict.verified).all()
    assert (verdict.affine_dimension == potential.dim - MANIFOLDS[name]).all()


def measured(verdict: TerminalHypotheses) -> torch.Tensor:
    """What does not rest on the potential's word alone, (4, B)."""
    parts = (verdict.affine_hull, verdict.relative_interior, verdict.quadratic_form, verdict.finite_on_tangent)
    return torch.stack(parts)


@pytest.mark.parametrize("radius", [1e-12, 1e-8, 1e6, 1e12])
def test_hypotheses_hold_on_a_sphere_of_any_radius(radius: float) -> None:
    verdict = check_terminal_hypotheses(Ball(3, radius), normal(4, 3, seed=5), manifold_dimension=2)
    assert (measured(verdict) == Verdict.verified).all()
    assert verdict.holds.all()


@pytest.mark.parametrize("shift", [1e4, 1e6, 1e10, 1e14])
def test_far_from_the_origin_they_hold_or_are_assumed(shift: float) -> None:
    """The sphere's curvature is known to a few roundings of the shift over a step squared: to 1e-4 at 1e6."""
    away = Ball(3).rotate(torch.eye(3, dtype=f64), torch.full((3,), shift, dtype=f64))
    verdict = check_terminal_hypotheses(away, normal(4, 3, seed=5), manifold_dimension=2)
    assert (measured(verdict) == (Verdict.verified if shift <= 1e6 else Verdict.assumed)).all()


@pytest.mark.parametrize(("low", "high"), [(-1e-8, 1e-8), (-1e8, 1e8), (1e6, 1e6 + 1)])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_hypotheses_hold_at_atoms_for_noise_of_any_scale_and_place(low: float, high: float, scale: float) -> None:
    noise = low + (high - low) * torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=f64)
    atoms, heights = normal(20, 3), 0.3 * (high - low) * normal(20, seed=1)
    heights = heights + 0.5 * (low + high) * atoms.sum(1)  # cells about the middle of the box
    potential = Discrete(scale * atoms, scale * heights, source=Uniform(3, low, high))
    verdict = check_terminal_hypotheses(potential, noise, manifold_dimension=0)
    assert (measured(verdict) == Verdict.verified).all()
    wrong = check_terminal_hypotheses(potential, noise, manifold_dimension=1)
    assert (wrong.affine_hull == Verdict.failed).all()


def test_what_is_not_told_is_assumed() -> None:
    verdict = check_terminal_hypotheses(CASES["entropic"](), normal(2, 4, seed=6))
    assert (verdict.affine_hull == Verdict.assumed).all()
    assert (verdict.smooth_support == Verdict.assumed).all()
    assert (verdict.manifold_dimension == 4).all()
    assert verdict.holds.all()


def test_a_wrong_dimension_or_tangent_space_fails() -> None:
    u = normal(3, 3, seed=7)
    wrong = check_terminal_hypotheses(Ball(3), u, manifold_dimension=1)
    assert (wrong.affine_hull == Verdict.failed).all()
    assert (wrong.finite_on_tangent == Verdict.failed).all()
    tangent = torch.linalg.svd(u[:, None, :])[2][:, 1:].mT
    assert (check_terminal_hypotheses(Ball(3), u, tangent=tangent).finite_on_tangent == Verdict.verified).all()
    turned = tangent + 0.1 * u[:, :, None]
    assert (check_terminal_hypotheses(Ball(3), u, tangent=turned).finite_on_tangent == Verdict.failed).all()


def test_the_relative_boundary_fails() -> None:
    """Two atoms at u on the edge of both cells; and inside a cell, where all is well."""
    atoms = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=f64)
    u = torch.tensor([[0.0, 0.3], [0.5, 0.2]], dtype=f64)
    y = atoms[:1].expand(2, -1)
    potential = Discrete(atoms, torch.zeros(2, dtype=f64))
    verdict = check_terminal_hypotheses(potential, u, y, manifold_dimension=0)
    assert verdict.affine_dimension.tolist() == [2, 2]
    assert verdict.relative_interior.tolist() == [Verdict.failed, Verdict.verified]
    assert verdict.quadratic_form.tolist() == [Verdict.failed, Verdict.verified]
    assert verdict.holds.tolist() == [False, True]


def test_three_halves_meets_all_but_a_finite_form() -> None:
    """The example of docs/theory.md 6: psi = (2/3) |y|^(3/2) at 0."""
    verdict = check_terminal_hypotheses(ThreeHalves(), torch.zeros(1, 1, dtype=f64), manifold_dimension=1)
    names = ("affine_hull", "relative_interior", "quadratic_form")
    assert all(int(getattr(verdict, name)) == Verdict.verified for name in names)
    assert int(verdict.finite_on_tangent) == Verdict.failed
    assert "finite on tangent: failed" in verdict.describe()


# ------------------------------------------------------------------ refusals


def test_bad_arguments_are_refused() -> None:
    y, u = torch.tensor([[0.0, 0.0, 1.0]], dtype=f64), torch.tensor([[0.0, 0.0, 2.0]], dtype=f64)
    with pytest.raises(ValueError, match="must have shape"):
        check_second_epi_derivative(Ball(3), y[:, :2], u)
    with pytest.raises(ValueError, match="u must be like y"):
        second_epi_quotients(Ball(3), y, u.repeat(2, 1), y)
    with pytest.raises(ValueError, match="radius must be positive"):
        check_second_epi_derivative(Ball(3), y, u, radius=0.0)
    with pytest.raises(ValueError, match="steps must be positive"):
        second_epi_quotients(Ball(3), y, u, y, steps=(0.1, -0.1))
    with pytest.raises(ValueError, match="float64"):
        check_second_epi_derivative(Ball(3), y.float(), u.float())
    with pytest.raises(ValueError, match="u is not in dpsi"):
        check_terminal_hypotheses(Ball(3), torch.tensor([[1.0, 0.0, 0.0]], dtype=f64), y)
    with pytest.raises(ValueError, match="tangent must be"):
        check_terminal_hypotheses(Ball(3), u, tangent=torch.zeros(1, 2, 1, dtype=f64))
    with pytest.raises(ValueError, match="manifold_dimension is 1, the tangent space has 2"):
        check_terminal_hypotheses(Ball(3), u, manifold_dimension=1, tangent=torch.zeros(1, 3, 2, dtype=f64))
    with pytest.raises(ValueError, match="manifold_dimension must be in"):
        check_terminal_hypotheses(Product([Ball(2)]), u[:, :2] + 1, manifold_dimension=5)
