"""Laws of every extended Brenier potential (docs/theory.md 1, 2, 5)."""

from __future__ import annotations

import math

import pytest
import torch

from proxflow.potentials import Potential
from proxflow.results import Status
from tests.laws.cases import CASES, marked
from tests.marks import slow_beyond

STEPS = slow_beyond(2, [1e-3, 1.0, 0.3, 50.0])
ONE_STEP = slow_beyond(1, [1.0, 1e-3, 0.3, 50.0])
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(params=marked(CASES), ids=str)
def potential(request: pytest.FixtureRequest) -> Potential:
    return CASES[request.param]()


@pytest.fixture
def queries(potential: Potential, generator: torch.Generator) -> torch.Tensor:
    wide = 3 * torch.randn(40, potential.dim, generator=generator, dtype=torch.float64)
    near = 0.3 * torch.randn(40, potential.dim, generator=generator, dtype=torch.float64)
    return torch.cat([wide, near])


def moves(potential: Potential, x: torch.Tensor) -> torch.Tensor:
    """Rounding of a query in data units."""
    return 100 * EPS * (1 + x.norm(dim=1))


@pytest.mark.parametrize("step", STEPS)
def test_moreau_pair_meets_fenchel_young_with_equality(
    potential: Potential, queries: torch.Tensor, step: float
) -> None:
    pair = potential.prox(queries, step)
    assert (pair.status == int(Status.converged)).all()
    torch.testing.assert_close(pair.point + step * pair.multiplier, queries, rtol=0, atol=1e-12 * max(step, 10))
    gap = potential.conjugate(pair.multiplier) + potential.value(pair.point) - (pair.multiplier * pair.point).sum(1)
    size = 1 + potential.conjugate(pair.multiplier).abs() + pair.multiplier.norm(dim=1) * pair.point.norm(dim=1)
    assert (gap.abs() <= 1e-9 * size).all()
    assert (pair.gap >= 0).all()
    assert (pair.gap <= 1e-9 * size).all()


def test_fenchel_young_inequality(potential: Potential, queries: torch.Tensor, generator: torch.Generator) -> None:
    y = potential.brenier_map(queries)
    other = y[torch.randperm(len(y), generator=generator)]
    gap = potential.conjugate(queries) + potential.value(other) - (queries * other).sum(1)
    assert (gap >= -1e-10 * (1 + potential.conjugate(queries).abs())).all()


def test_conjugate_is_convex(potential: Potential, queries: torch.Tensor) -> None:
    a, b = queries[:40], queries[40:]
    middle = potential.conjugate(0.5 * (a + b))
    ends = 0.5 * (potential.conjugate(a) + potential.conjugate(b))
    assert (middle <= ends + 1e-10 * (1 + ends.abs())).all()


def test_brenier_map_is_the_gradient_of_the_conjugate(potential: Potential, queries: torch.Tensor) -> None:
    u = queries.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(potential.conjugate(u).sum(), u)
    torch.testing.assert_close(potential.brenier_map(queries), gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("step", ONE_STEP)
def test_prox_is_firmly_nonexpansive(potential: Potential, queries: torch.Tensor, step: float) -> None:
    a, b = queries[:40], queries[40:]
    p, q = potential.prox(a, step).point, potential.prox(b, step).point
    inner = ((p - q) * (a - b)).sum(1)
    slack = (moves(potential, a) + moves(potential, b)) * (1 + (a - b).norm(dim=1))
    assert ((p - q).square().sum(1) <= inner + slack).all()


@pytest.mark.parametrize("step", ONE_STEP)
def test_prox_minimises_its_objective(
    potential: Potential, queries: torch.Tensor, step: float, generator: torch.Generator
) -> None:
    """No feasible rival point does better by more than rounding: strong convexity makes that a certificate."""
    pair = potential.prox(queries, step)
    rival = potential.brenier_map(pair.multiplier + torch.randn(queries.shape, generator=generator).double())
    weights = torch.tensor([1e-3, 0.1, 1.0], dtype=torch.float64)[:, None, None]
    y = (1 - weights) * pair.point + weights * rival
    best = potential.value(pair.point) + (pair.point - queries).square().sum(1) / (2 * step)
    other = potential.value(y.flatten(0, 1)).reshape(3, -1) + (y - queries).square().sum(2) / (2 * step)
    excess = other - best - (y - pair.point).square().sum(2) / (2 * step)
    assert (excess >= -1e-9 * (1 + best.abs() + other.abs())).all()


@pytest.mark.parametrize("step", slow_beyond(1, [0.3, 5.0]))
def test_jacobian_is_symmetric_with_spectrum_in_unit_interval(
    potential: Potential, queries: torch.Tensor, step: float
) -> None:
    jacobian = potential.prox_jacobian(queries, step)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-11)
    spectrum = torch.linalg.eigvalsh(jacobian)
    assert spectrum.min() >= -1e-10
    assert spectrum.max() <= 1 + 1e-10


@pytest.mark.parametrize("step", slow_beyond(1, [0.3, 5.0]))
def test_jacobian_agrees_with_differences_and_autograd(
    potential: Potential, queries: torch.Tensor, step: float, generator: torch.Generator
) -> None:
    direction = torch.randn(queries.shape, generator=generator, dtype=torch.float64)
    h = 1e-7
    ahead = potential.prox(queries + h * direction, step).point
    behind = potential.prox(queries - h * direction, step).point
    difference = (ahead - behind) / (2 * h)
    analytic = (potential.prox_jacobian(queries, step) @ direction[..., None])[..., 0]
    smooth = ((ahead + behind - 2 * potential.prox(queries, step).point).norm(dim=1) / h) < 1e-4
    assert smooth.double().mean() > 0.9
    assert (difference - analytic)[smooth].abs().max() < 1e-5
    z = queries.clone().requires_grad_()
    point = potential.prox(z, step).point
    if point.requires_grad:
        (pulled,) = torch.autograd.grad((point * direction).sum(), z)
        assert (pulled - analytic)[smooth].abs().max() < 1e-7
    else:
        assert analytic.abs().max() == 0


def test_batched_function_transforms_agree_with_the_jacobian(potential: Potential, queries: torch.Tensor) -> None:
    few = queries[:5]
    by_rows = torch.func.vmap(torch.func.jacrev(lambda z: potential.prox(z[None], 0.7).point[0]))(few)
    torch.testing.assert_close(by_rows, potential.prox_jacobian(few, 0.7), rtol=1e-7, atol=1e-9)


def test_the_gradient_of_the_conjugate_by_function_transforms_is_the_brenier_map(
    potential: Potential, queries: torch.Tensor
) -> None:
    few = queries[:5]
    by_rows = torch.func.vmap(torch.func.grad(lambda u: potential.conjugate(u[None])[0]))(few)
    torch.testing.assert_close(by_rows, potential.brenier_map(few), rtol=1e-7, atol=1e-9)


def test_autocast_changes_no_answer(potential: Potential, queries: torch.Tensor) -> None:
    potential, x = potential.to(torch.float32), queries[:8].float()

    def answers() -> list[torch.Tensor]:
        pair = potential.prox(x, 0.7)
        moved = potential.prox_jacobian(x, 0.7)
        return [pair.point, pair.multiplier, moved, potential.conjugate(x), potential.value(pair.point)]

    plain = answers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = answers()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, inside, strict=True))


def test_error_bound_holds_between_precisions(potential: Potential, queries: torch.Tensor) -> None:
    """The float32 answer is within its own certificate of the float64 one (plus its input's rounding)."""
    low = potential.to(torch.float32).prox(queries.float(), 0.7)
    exact = potential.to(torch.float64).prox(queries.float().double(), 0.7)
    drift = 64 * torch.finfo(torch.float32).eps * (5 + queries.norm(dim=1))
    distance = (low.point.double() - exact.point).norm(dim=1)
    assert (distance <= low.error_bound.double() + exact.error_bound + drift).all()


@pytest.mark.parametrize("dtype", slow_beyond(1, [torch.float32, torch.float64]))
def test_dtype_is_kept(potential: Potential, queries: torch.Tensor, dtype: torch.dtype) -> None:
    potential = potential.to(dtype)
    x = queries.to(dtype)
    pair = potential.prox(x, 0.5)
    for tensor in (pair.point, pair.multiplier, pair.gap, pair.error_bound):
        assert tensor.dtype == dtype
    assert pair.iterations.dtype == pair.status.dtype == torch.int64
    for tensor in (potential.value(pair.point), potential.conjugate(x), potential.prox_jacobian(x, 0.5)):
        assert tensor.dtype == dtype
    assert torch.isfinite(potential.value(pair.point)).all()


def test_nan_row_stays_alone(potential: Potential, queries: torch.Tensor) -> None:
    clean = potential.prox(queries, 0.5)
    spoiled = queries.clone()
    spoiled[3, 0] = torch.nan
    spoiled[7] = torch.inf
    pair = potential.prox(spoiled, 0.5)
    hit = torch.zeros(len(queries), dtype=torch.bool)
    hit[[3, 7]] = True
    assert (pair.status[hit] == int(Status.non_finite)).all()
    assert torch.isnan(pair.point[hit]).all()
    assert torch.isnan(pair.error_bound[hit]).all()
    torch.testing.assert_close(pair.point[~hit], clean.point[~hit], rtol=0, atol=1e-12)
    assert (pair.status[~hit] == int(Status.converged)).all()


def test_empty_batch(potential: Potential) -> None:
    pair = potential.prox(torch.empty(0, potential.dim, dtype=torch.float64), 1.0)
    assert pair.point.shape == (0, potential.dim)
    assert pair.status.shape == (0,)


def test_state_dict_round_trip(potential: Potential, queries: torch.Tensor) -> None:
    before = potential.prox(queries, 0.5).point
    state = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    for tensor in potential.state_dict().values():
        tensor.zero_()
    potential.load_state_dict(state)
    torch.testing.assert_close(potential.prox(queries, 0.5).point, before, rtol=0, atol=0)


def test_value_is_infinite_off_the_domain(potential: Potential, queries: torch.Tensor) -> None:
    queries = queries[::8]
    far = 1e3 * (1 + queries.abs())
    value = potential.value(far)
    bounded = torch.isfinite(potential.value(potential.brenier_map(queries))).all()
    assert bounded
    whole_space = bool(torch.isfinite(value).all())
    assert whole_space or bool(torch.isinf(value).all())


def test_bad_steps_are_refused(potential: Potential, queries: torch.Tensor) -> None:
    for step in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step must be a positive finite number"):
            potential.prox(queries, step)


def test_bad_queries_are_refused(potential: Potential, queries: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, "):
        potential.prox(torch.zeros(4, potential.dim + 1, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        potential.prox(torch.zeros(4, potential.dim, dtype=torch.int64), 1.0)
    with pytest.raises(ValueError, match=r"step must be a scalar or have shape"):
        potential.prox(queries, torch.ones(3, dtype=torch.float64))


def difference_quotient(potential: Potential, y: torch.Tensor, u: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """psi(moved) - psi(y) - <u, moved - y>, twice: the numerator of a second epi-difference quotient."""
    return 2 * (potential.value(moved) - potential.value(y) - (u * (moved - y)).sum(1))


def test_second_epi_derivative_is_reached_by_difference_quotients(
    potential: Potential, queries: torch.Tensor, generator: torch.Generator
) -> None:
    """Along the directions that the subdifferential follows (docs/theory.md 5): a recovery sequence for the liminf."""
    pair = potential.prox(queries, 1.0)
    y, u = pair.point, pair.multiplier
    form = potential.second_epi_derivative(y, u)
    coordinates = torch.randn(form.basis.shape[0], form.basis.shape[2], generator=generator, dtype=torch.float64)
    w = (form.basis @ coordinates[..., None])[..., 0]
    image = (form.basis @ (form.hessian @ coordinates[..., None]))[..., 0]
    unit = 1 / (1 + w.norm(dim=1) + image.norm(dim=1))
    w, image = unit[:, None] * w, unit[:, None] * image
    wanted = (w * image).sum(1)
    step = 1e-3
    moved = potential.prox(y + step * w + u + step * image, 1.0).point
    quotient = difference_quotient(potential, y, u, moved) / step**2
    smooth = ((moved - y) / step - w).norm(dim=1) <= 1e-2 * w.norm(dim=1)
    size = 1 + potential.value(y).abs() + (u * y).sum(1).abs()
    error = (quotient - wanted).abs() - 100 * EPS * size / step**2
    felt = (w.norm(dim=1) > 1e-6) | (form.subspace_dimension == 0)  # elsewhere the curvature is too large to see
    assert (smooth | ~felt).double().mean() > 0.8
    assert (error <= 0.02 * (wanted + w.norm(dim=1)))[smooth].double().mean() > 0.95


@pytest.mark.slow
def test_second_epi_derivative_is_infinite_where_quotients_blow_up(
    potential: Potential, queries: torch.Tensor, generator: torch.Generator
) -> None:
    """Off the subspace a quotient grows like one over the step, for directions along which psi is finite at all."""
    pair = potential.prox(queries, 1.0)
    y, u = pair.point, pair.multiplier
    form = potential.second_epi_derivative(y, u)
    towards = potential.brenier_map(u + torch.randn(u.shape, generator=generator, dtype=torch.float64)) - y
    off = towards - (form.basis @ (form.basis.mT @ towards[..., None]))[..., 0]
    leaves = off.norm(dim=1) > 0.1 * towards.norm(dim=1) + 1e-6
    assert torch.isinf(form(towards))[leaves].all()
    coarse, fine = (difference_quotient(potential, y, u, y + s * towards) / s**2 for s in (1e-3, 1e-4))
    steep = leaves & (coarse * 1e-3 > 1e-6 * (1 + u.norm(dim=1)) * towards.norm(dim=1))
    assert (fine > 5 * coarse)[steep].sum() >= 0.9 * steep.sum()
