"""The entropic potential against scipy's trust-region solver, closed forms, quadrature and the discrete limit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.datasets import load_digits

import proxflow as pf
from proxflow.potentials import Discrete, Entropic, Potential
from proxflow.results import Status
from tests.marks import slow_beyond
from tests.peak_memory import peak_bytes

f64 = torch.float64
EPSILONS = [1.0, 1e-1, 1e-2, 1e-3]  # of the data's variance
CLOUD_VARIANCE = 0.9


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = f64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cloud(epsilon: float, scale: float = 1.0) -> Entropic:
    """40 atoms in R^3; epsilon in units of their variance."""
    return Entropic(scale * normal(40, 3), scale * 0.3 * normal(40, seed=1), scale * CLOUD_VARIANCE * epsilon)


def digits(epsilon: float) -> Entropic:
    points = torch.unique(torch.from_numpy(load_digits().data), dim=0)
    variance = float(points.var(0).mean())
    centred = points - points.mean(0)
    heights = 0.19 * centred.square().sum(1) / math.sqrt(variance)
    return Entropic(points, heights, epsilon * variance)


def trust_region(potential: Entropic, x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """u = argmin alpha |u|^2 / 2 + beta phi(u) - <x, u> by scipy, from u = 0; then the point it maps to."""
    points, heights, eps = potential.points.numpy(), potential.heights.numpy(), potential.epsilon

    def law(u: np.ndarray) -> np.ndarray:
        scores = (points @ u - heights) / eps
        return np.exp(scores - logsumexp(scores))

    def value(u: np.ndarray) -> float:
        return float(0.5 * alpha * u @ u + beta * eps * logsumexp((points @ u - heights) / eps) - x @ u)

    def gradient(u: np.ndarray) -> np.ndarray:
        return alpha * u + beta * law(u) @ points - x

    def hessian(u: np.ndarray) -> np.ndarray:
        p = law(u)
        spread = points - p @ points
        return alpha * np.eye(len(u)) + beta / eps * (spread.T * p) @ spread

    found = minimize(
        value,
        np.zeros(len(x)),
        jac=gradient,
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-9, "maxiter": 5000},
    )
    u = found.x
    for _ in range(3):  # trust regions stop at the rounding of the objective: end on Newton's equation
        u = u - np.linalg.solve(hessian(u), gradient(u))
    assert np.linalg.norm(gradient(u)) < 1e-8 * (1 + np.linalg.norm(x))
    return (x - alpha * u) / beta


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("step", slow_beyond(1, [1e-3, 1.0, 1e-1, 1e3]))
def test_prox_agrees_with_a_trust_region_method(epsilon: float, step: float) -> None:
    potential = cloud(epsilon)
    z = torch.cat([0.5 * normal(6, 3, seed=2), 3 * normal(6, 3, seed=3)]) + step * normal(12, 3, seed=4)
    pair = potential.prox(z, step)
    expected = torch.from_numpy(np.stack([trust_region(potential, row, step, 1.0) for row in z.numpy()]))
    assert (pair.status == int(Status.converged)).all()
    # (x - alpha u) / beta loses digits of u, of size |z| / alpha, at large steps
    torch.testing.assert_close(pair.point, expected, rtol=0, atol=1e-9 * max(1.0, step))


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("ratio", [0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_ratio_scale_and_sharpness_is_solved_to_rounding(epsilon: float, ratio: float, scale: float) -> None:
    potential = cloud(epsilon, scale)
    inside = potential.points[:8] * 0.6 + potential.points[8:16] * 0.4
    z = torch.cat([inside, 1e-3 * inside, 1e3 * inside, inside + ratio * normal(8, 3, seed=2)])
    pair = potential.decompose(z, ratio, 1.0)
    radius = float(potential.points.norm(dim=1).max())
    assert (pair.status == int(Status.converged)).all()
    near = torch.ones(len(z), dtype=torch.bool)
    near[16:24] = False
    assert float(pair.error_bound[near].max()) <= 1e-9 * radius
    assert float(pair.error_bound.max()) <= 1e-5 * radius  # far away and sharp, scores lose digits
    assert int(pair.iterations.max()) <= 100
    if ratio == 0.0:
        assert torch.isnan(pair.multiplier).all()
        hull = Discrete(potential.points, 0 * potential.heights).decompose(z, 0.0, 1.0)
        torch.testing.assert_close(pair.point, hull.point, rtol=0, atol=1e-8 * radius)


@pytest.mark.slow
@pytest.mark.parametrize(
    "epsilon", [each if each == 0.1 else pytest.param(each, marks=pytest.mark.slow) for each in EPSILONS]
)
def test_digits_on_and_off_trajectories(epsilon: float) -> None:
    potential = digits(epsilon)
    u = normal(12, 64, seed=5)
    y = potential.brenier_map(u)
    for alpha in (1e-6, 1e-2, 0.5, 1.0):
        pair = potential.decompose(alpha * u + (1 - alpha) * y, alpha, 1 - alpha)
        assert (pair.status == int(Status.converged)).all()
        assert ((pair.point - y).norm(dim=1) <= pair.error_bound + 1e-12 * y.norm(dim=1)).all()
    # constant and rare pixels make most of these queries lie over a face of many atoms
    for size in (1e-2, 1.0, 10.0):
        over = 0.5 * (potential.points.mean(0) + y) + size * normal(12, 64, seed=6)
        for alpha in (0.0, 1e-6, 1e-3, 1.0):
            pair = potential.decompose(over, alpha, 1.0)
            assert (pair.status == int(Status.converged)).all()
            # a projection is certified by a gap, whose square root is the bound: half the digits
            assert float(pair.error_bound.max()) < (1e-7 if alpha else 1e-5)
            assert int(pair.iterations.max()) <= (200 if alpha else 1000)


def test_a_sharp_law_starts_from_the_discrete_solution() -> None:
    """Off the trajectories a cold start takes some 40 steps here."""
    potential = digits(1e-3)
    pair = potential.prox(0.6 * potential.points[:20] + 0.4 * potential.points[20:40] + normal(20, 64), 1.0)
    assert (pair.status == int(Status.converged)).all()
    assert int(pair.iterations.max()) <= 20


def test_deep_among_many_atoms_at_low_temperature() -> None:
    """A paraboloid of 1,000 atoms in R^32: hundreds of Newton steps from a cold start, fewer when annealed."""
    points = normal(1000, 32)
    potential = Entropic(points, 0.5 * points.square().sum(1), 1e-3)
    z = points.mean(0) + 1e-3 * normal(10, 32, seed=1)
    pair = potential.decompose(z, 1e-6, 1.0)
    assert (pair.status == int(Status.converged)).all()
    assert int(pair.iterations.max()) <= 120


@pytest.mark.slow
def test_the_certificate_covers_an_unfinished_run() -> None:
    points, heights = normal(200, 8), normal(200, seed=1)
    done = Entropic(points, heights, 1e-2)
    z = normal(30, 8, seed=2)
    exact = done.prox(z, 0.1)
    seen_unfinished = 0
    for steps in (1, 2, 3, 5):
        pair = Entropic(points, heights, 1e-2, max_iterations=steps).prox(z, 0.1)
        distance = (pair.point - exact.point).norm(dim=1)
        assert (distance <= pair.error_bound + exact.error_bound).all()
        gap = done.conjugate(pair.multiplier) + done.value(pair.point) - (pair.multiplier * pair.point).sum(1)
        assert (pair.gap >= gap - 1e-9 * (1 + gap.abs())).all()
        unfinished = pair.status == int(Status.max_iterations)
        seen_unfinished += int(unfinished.sum())
        assert (distance[~unfinished] < 1e-8).all()
    assert seen_unfinished > 30


def test_conjugate_is_the_log_sum_exp() -> None:
    points, heights, u = normal(50, 4), normal(50, seed=1), 3 * normal(20, 4, seed=2)
    weights = torch.rand(50, generator=torch.Generator().manual_seed(3), dtype=f64) + 0.1
    for epsilon in (1e-3, 0.1, 10.0):
        plain = epsilon * torch.logsumexp((u @ points.mT - heights) / epsilon, dim=1)
        torch.testing.assert_close(Entropic(points, heights, epsilon).conjugate(u), plain, rtol=1e-12, atol=1e-12)
        scores = (u @ points.mT - heights) / epsilon + (50 * weights / weights.sum()).log()
        weighted = epsilon * torch.logsumexp(scores, dim=1)
        torch.testing.assert_close(
            Entropic(points, heights, epsilon, weights).conjugate(u), weighted, rtol=1e-12, atol=1e-12
        )


def test_equal_weights_are_no_weights() -> None:
    points, heights, z = normal(50, 4), normal(50, seed=1), normal(20, 4, seed=2)
    without, equal = Entropic(points, heights, 0.1), Entropic(points, heights, 0.1, torch.full((50,), 3.0, dtype=f64))
    torch.testing.assert_close(equal.prox(z, 0.5).point, without.prox(z, 0.5).point, rtol=1e-12, atol=1e-12)


def test_small_epsilon_tends_to_the_discrete_potential() -> None:
    points, heights, z = normal(40, 3), 0.3 * normal(40, seed=1), 2 * normal(30, 3, seed=2)
    limit = Discrete(points, heights)
    for step in (0.1, 1.0, 10.0):
        errors = [
            (Entropic(points, heights, epsilon).prox(z, step).point - limit.prox(z, step).point).norm(dim=1).max()
            for epsilon in (1e-2, 1e-4, 1e-6)
        ]
        # psi changes by at most epsilon log N, so that the point moves by at most sqrt(2 step epsilon log N)
        for epsilon, error in zip((1e-2, 1e-4, 1e-6), errors, strict=True):
            assert float(error) <= math.sqrt(2 * step * epsilon * math.log(40))
        assert errors[2] < 0.02 * errors[0]


def test_value_of_two_atoms_is_the_binary_entropy() -> None:
    """At +-1 with heights 0: psi(y) = epsilon (p log p + q log q), p = (1 + y) / 2, finite at the ends."""
    for epsilon in (1e-3, 1.0, 50.0):
        potential = Entropic(torch.tensor([[-1.0], [1.0]], dtype=f64), torch.zeros(2, dtype=f64), epsilon)
        p = torch.tensor([0.0, 1e-12, 1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9, 1.0], dtype=f64)
        expected = epsilon * (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
        value = potential.value((2 * p - 1)[:, None])
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-9 * epsilon)
        beyond = potential.value(torch.tensor([[1.0 + 1e-6], [-2.0]], dtype=f64))
        assert torch.isinf(beyond).all()


def test_value_on_the_boundary_is_the_value_of_the_face() -> None:
    """On a face of the hull psi is the entropic psi of the face's atoms alone."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.2, 1.0], [0.7, 0.6]], dtype=f64)
    heights = torch.tensor([0.1, -0.2, 0.3, 0.0, -0.4], dtype=f64)
    whole = Entropic(corners, heights, 0.2)
    edge = Entropic(corners[:3, :1], heights[:3], 0.2)
    y = torch.tensor([0.0, 0.1, 0.5, 0.77, 1.0], dtype=f64)[:, None]
    on_edge = torch.cat([y, torch.zeros_like(y)], dim=1)
    torch.testing.assert_close(whole.value(on_edge), edge.value(y), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("epsilon", slow_beyond(1, [0.1, 0.3, 1.0]))
def test_density_integrates_to_one_on_a_line(epsilon: float) -> None:
    points = torch.tensor([[-1.0], [-0.2], [0.5], [1.3]], dtype=f64)
    potential = Entropic(points, 0.3 * normal(4), epsilon)
    # in the source's coordinate the density is smooth up to the ends of the hull
    u = torch.linspace(-9, 9, 4001, dtype=f64)[:, None]
    y = potential.brenier_map(u)
    inside = (y[:, 0] > -1 + 1e-7) & (y[:, 0] < 1.3 - 1e-7)
    density = potential.log_density(y[inside]).exp()
    mass = torch.trapezoid(density, y[inside][:, 0])
    missing = 1 - (torch.special.ndtr(u[inside][-1]) - torch.special.ndtr(u[inside][0]))
    assert abs(float(mass + missing) - 1) < 5e-4  # the rule's error where the density is steep
    assert torch.isneginf(potential.log_density(torch.tensor([[1.5], [-1.01]], dtype=f64))).all()


@pytest.mark.slow
def test_density_integrates_to_one_in_the_plane() -> None:
    potential = Entropic(2 * normal(30, 2), 0.3 * normal(30, seed=1), 8.0)
    side = torch.linspace(-3.5, 3.5, 81, dtype=f64)
    grid = torch.cartesian_prod(side, side)
    density = potential.log_density(grid).exp()
    assert abs(float(density.sum()) * float(side[1] - side[0]) ** 2 - 1) < 1e-3


def test_density_agrees_with_the_change_of_variables_by_autograd() -> None:
    potential = cloud(0.5)
    u = normal(10, 3, seed=2)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: potential.brenier_map(v[None])[0]))(u)
    expected = potential.source.log_prob(u) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(potential.log_density(potential.brenier_map(u)), expected, rtol=1e-7, atol=1e-7)


def test_no_density_where_the_atoms_span_less() -> None:
    with pytest.raises(ValueError, match="span 2 of 5 dimensions"):
        Entropic(normal(3, 5), normal(3), 0.1).log_density(torch.zeros(1, 5, dtype=f64))


def test_second_epi_derivative_is_the_inverse_of_the_covariance_on_its_range() -> None:
    potential = Entropic(normal(3, 6), normal(3, seed=1), 0.2)
    u = normal(5, 6, seed=2)
    y = potential.brenier_map(u)
    form = potential.second_epi_derivative(y, u)
    assert form.subspace_dimension.tolist() == [2] * 5
    law = torch.softmax((u @ potential.points.mT - potential.heights) / 0.2, dim=1)
    spread = potential.points - (law @ potential.points)[:, None, :]
    hessian = torch.einsum("bn,bnd,bne->bde", law, spread, spread) / 0.2
    along = (hessian @ normal(5, 6, 1, seed=3))[..., 0]
    expected = torch.einsum("bi,bij,bj->b", along, torch.linalg.pinv(hessian, rtol=1e-10), along)
    torch.testing.assert_close(form(along), expected, rtol=1e-8, atol=1e-10)
    assert torch.isinf(form(normal(5, 6, seed=4))).all()


def test_drawn_atoms_have_the_softmax_law() -> None:
    potential = Entropic(normal(5, 2), normal(5, seed=1), 0.7, torch.tensor([1.0, 2.0, 3.0, 1.0, 0.5], dtype=f64))
    u = normal(1, 2, seed=2)
    drawn = potential.sample_atom(u.expand(200_000, 2), torch.Generator().manual_seed(0))
    frequency = torch.bincount(drawn, minlength=5).double() / len(drawn)
    law = potential.weights * torch.exp((u @ potential.points.mT - potential.heights)[0] / 0.7)
    law = law / law.sum()
    assert ((frequency - law).abs() <= 5 * (law * (1 - law) / len(drawn)).sqrt()).all()
    torch.testing.assert_close(law @ potential.points, potential.brenier_map(u)[0], rtol=1e-12, atol=1e-12)


def test_draws_do_not_depend_on_the_memory_allowed() -> None:
    points, heights, u = normal(50, 2), 0.1 * normal(50, seed=1), normal(100, 2, seed=2)
    draws = [
        Entropic(points, heights, 0.3, max_memory=memory).sample_atom(u, torch.Generator().manual_seed(1))
        for memory in (1, 2**28)
    ]
    assert torch.equal(draws[0], draws[1])
    assert len(draws[0].unique()) > 10


def test_a_row_that_is_not_finite_cannot_be_drawn_from() -> None:
    u = normal(4, 3)
    u[2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 row of u is not finite, the first: \[2\]"):
        cloud(0.1).sample_atom(u)


def test_results_do_not_depend_on_the_memory_allowed() -> None:
    points, heights, z = normal(60, 5), normal(60, seed=1), normal(33, 5, seed=2)
    one_row = Entropic(points, heights, 0.1, max_memory=1)
    whole = Entropic(points, heights, 0.1)
    torch.testing.assert_close(one_row.prox(z, 0.3).point, whole.prox(z, 0.3).point, rtol=0, atol=1e-12)
    torch.testing.assert_close(one_row.conjugate(z), whole.conjugate(z), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(one_row.prox_jacobian(z, 0.3), whole.prox_jacobian(z, 0.3), rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("atoms", "dim", "rows"), [(1000, 3, 70), pytest.param(200, 40, 45, marks=pytest.mark.slow)])
def test_memory_stays_within_what_is_allowed(atoms: int, dim: int, rows: int) -> None:
    budget = 2**18
    potential = Entropic(normal(atoms, dim), normal(atoms, seed=1), 5.0, max_memory=budget)
    u = normal(rows, dim, seed=2)
    assert max(atoms, dim**2) * rows * 8 > 2 * budget  # the whole does not fit

    def trained(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        function(u.clone().requires_grad_()).sum().backward()

    of_data = 3 * (potential.points.nbytes + u.nbytes)
    for task in (
        lambda: potential.decompose(u[:2], 0.0, 1.0),
        lambda: potential.sample_atom(u),
        lambda: trained(lambda x: potential.prox(x, 0.3).point),
        lambda: trained(potential.conjugate),
        lambda: trained(potential.brenier_map),
    ):
        assert peak_bytes(task) <= 1.1 * budget + of_data


def test_float32_is_solved_as_well_as_its_data_allow() -> None:
    points, heights, z = normal(40, 3), normal(40, seed=1), normal(20, 3, seed=2)
    low = Entropic(points.float(), heights.float(), 1e-2)
    high = Entropic(points.float().double(), heights.float().double(), 1e-2)
    pair = low.prox(z.float(), 0.5)
    assert pair.point.dtype == torch.float32
    distance = (pair.point.double() - high.prox(z.float().double(), 0.5).point).norm(dim=1)
    assert (distance <= pair.error_bound).all()
    assert float(pair.error_bound.max()) < 1e-5


# ---------------------------------------------------------------- PyTorch


@pytest.mark.slow
def test_gradients_of_every_argument() -> None:
    points, heights = normal(7, 3).requires_grad_(), (0.3 * normal(7, seed=1)).requires_grad_()
    x, alpha, beta = normal(4, 3, seed=2), torch.rand(4, dtype=f64) + 0.2, torch.rand(4, dtype=f64) + 0.2

    class Solved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Entropic(points, heights, 0.4)

        def forward(self, x: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> pf.ProxResult:
            return self.inner.decompose(x, alpha, beta)

    solved = Solved()

    def function(
        x: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor, points: torch.Tensor, heights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        swapped = {"inner.points": points, "inner.heights": heights}
        found = torch.func.functional_call(solved, swapped, (x, alpha, beta))
        return found.point, found.multiplier

    arguments = [t.detach().requires_grad_() for t in (x, alpha, beta, points, heights)]
    assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, rtol=1e-5, atol=1e-6)

    def conjugate(u: torch.Tensor, points: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
        swapped = {"inner.points": points, "inner.heights": heights}
        return torch.func.functional_call(Conjugate(solved.inner), swapped, (u,))

    assert torch.autograd.gradcheck(conjugate, [arguments[0], *arguments[3:]], check_forward_ad=True)


class Conjugate(torch.nn.Module):
    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.inner.conjugate(u)


def test_gradients_do_not_reach_through_the_solver_twice() -> None:
    z = normal(3, 3, seed=2).requires_grad_()
    (first,) = torch.autograd.grad(cloud(0.5).prox(z, 0.7).point.square().sum(), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(first.sum(), z)


def test_the_hessian_of_the_conjugate_is_the_covariance() -> None:
    potential = cloud(0.5)
    u = normal(1, 3, seed=2)
    hessian = torch.func.hessian(lambda v: potential.conjugate(v[None])[0])(u[0])
    torch.testing.assert_close(hessian, potential.decompose_jacobian(u, 1.0, 0.0)[0], rtol=1e-9, atol=1e-10)


def test_gradient_of_the_value_is_the_source_point() -> None:
    potential = cloud(0.5)
    u = normal(5, 3, seed=2)
    y = potential.brenier_map(u)
    leaf = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(potential.value(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, u, rtol=1e-7, atol=1e-7)
    by_rows = torch.func.vmap(torch.func.grad(lambda row: potential.value(row[None])[0]))(y)
    torch.testing.assert_close(by_rows, u, rtol=1e-7, atol=1e-7)


def test_score_of_the_density_agrees_with_differences() -> None:
    potential = cloud(0.5)
    y = potential.brenier_map(0.5 * normal(4, 3, seed=2))
    leaf = y.clone().requires_grad_()
    (score,) = torch.autograd.grad(potential.log_density(leaf).sum(), leaf)
    direction, h = normal(4, 3, seed=3), 1e-6
    ahead, behind = potential.log_density(y + h * direction), potential.log_density(y - h * direction)
    torch.testing.assert_close((score * direction).sum(1), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def test_score_of_a_sharp_flow_agrees_with_differences() -> None:
    """It was NaN in rows where the probability of an atom is 0 in float64."""
    potential = Entropic(normal(20, 3), 0.1 * normal(20, seed=1), 1e-3)
    flow = pf.ProximalFlow(potential)
    x = flow.interpolate(0.5, normal(100, 3, seed=4))
    steps = 1e-6 * torch.eye(3, dtype=f64)
    ahead, behind = ([flow.marginal_log_prob(0.5, x + sign * step) for step in steps] for sign in (1, -1))
    differences = (torch.stack(ahead, 1) - torch.stack(behind, 1)) / 2e-6
    assert int((potential.atom_probabilities(flow.recover_source(0.5, x)) == 0).any(1).sum()) > 20
    torch.testing.assert_close(flow.score(0.5, x), differences, rtol=1e-5, atol=1e-5)


def test_forward_mode_agrees_with_the_jacobian() -> None:
    potential = cloud(0.1)
    z, direction = normal(30, 3, seed=2), normal(30, 3, seed=3)
    pushed = torch.func.jvp(lambda z: potential.prox(z, 0.7).point, (z,), (direction,))[1]
    expected = (potential.prox_jacobian(z, 0.7) @ direction[..., None])[..., 0]
    torch.testing.assert_close(pushed, expected, rtol=1e-8, atol=1e-9)


def test_compiled_without_graph_breaks() -> None:
    flow = pf.ProximalFlow(cloud(0.1))
    x = normal(20, 3, seed=2)
    compiled = torch.compile(
        lambda x: flow.velocity(torch.tensor(0.4, dtype=f64), x), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), flow.velocity(0.4, x), rtol=1e-12, atol=1e-12)


def test_compiled_with_gradients() -> None:
    flow = pf.ProximalFlow(cloud(0.1))
    x = normal(20, 3, seed=2).requires_grad_()
    compiled = torch.compile(
        lambda x: flow.recover_target(torch.tensor(0.4, dtype=f64), x).square().sum(),
        backend="aot_eager",
        fullgraph=True,
    )
    (gradient,) = torch.autograd.grad(compiled(x), x)
    (expected,) = torch.autograd.grad(flow.recover_target(0.4, x).square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_the_state_is_points_heights_and_weights_and_survives_a_copy_and_a_file(tmp_path: Path) -> None:
    potential = Entropic(normal(9, 2), normal(9, seed=1), 0.3, torch.rand(9, dtype=f64) + 0.1)
    assert sorted(potential.state_dict()) == ["heights", "points", "weights"]
    z = normal(5, 2, seed=2)
    assert torch.equal(copy.deepcopy(potential).prox(z, 1.0).point, potential.prox(z, 1.0).point)
    pf.save(potential, tmp_path / "entropic.safetensors")
    loaded = pf.load(tmp_path / "entropic.safetensors")
    assert loaded.epsilon == 0.3
    assert torch.equal(loaded.prox(z, 1.0).point, potential.prox(z, 1.0).point)


def test_the_flow_recovers_both_ends() -> None:
    flow = pf.ProximalFlow(cloud(1e-2))
    x0 = normal(50, 3, seed=2)
    target = flow.transport(x0)
    for t in (0.0, 1e-6, 0.3, 0.9, 1 - 1e-6):
        x = flow.interpolate(t, x0)
        torch.testing.assert_close(flow.recover_target(t, x), target, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.recover_target(1.0, target), target, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_epsilon_must_be_positive(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be a positive finite number"):
        Entropic(torch.eye(3), torch.zeros(3), epsilon)


@pytest.mark.parametrize("name", ["max_iterations", "max_memory"])
def test_caps_must_be_positive(name: str) -> None:
    for wrong in (0, 2.5, "x", True):
        caps: dict[str, Any] = {name: wrong}
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
            Entropic(torch.eye(3), torch.zeros(3), 0.1, **caps)
        if name == "max_iterations":
            with pytest.raises(ValueError, match="Discrete: max_iterations must be an integer of at least 1"):
                Discrete(torch.eye(3), torch.zeros(3), **caps)


@pytest.mark.parametrize(
    ("points", "heights", "weights", "said"),
    [
        (torch.zeros(3), torch.zeros(3), None, r"Entropic: points must be a non-empty \(N, d\) tensor"),
        (torch.eye(3).long(), torch.zeros(3), None, "float32 or float64, got torch.int64"),
        (torch.eye(3), torch.zeros(2), None, r"heights must have shape \(3,\), got \(2,\)"),
        (torch.eye(3), torch.tensor([0.0, torch.nan, 0.0]), None, "heights must be finite"),
        (torch.ones(2, 2), torch.zeros(2), None, "distinct; merge equal rows"),
        (torch.eye(2), torch.zeros(2), torch.tensor([1.0, 0.0]), "weights must be positive"),
    ],
)
def test_bad_atoms_are_refused(points: torch.Tensor, heights: torch.Tensor, weights: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Entropic(points, heights, 0.1, weights)


def test_a_query_of_another_dtype_is_refused_with_both_named() -> None:
    with pytest.raises(ValueError, match=r"Entropic: z|x is torch\.float32 on cpu, the points are torch\.float64"):
        cloud(0.1).prox(torch.zeros(2, 3), 1.0)
