"""Potentials made of others, beyond the laws that all of them obey."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from scipy.linalg import hadamard

import proxflow as pf
from proxflow.potentials import (
    Ball,
    Discrete,
    Ellipsoid,
    Entropic,
    Potential,
    Product,
    Quadratic,
    Quantile,
    Radial,
    SymmetricDiscrete,
)
from proxflow.potentials.base import GeneralizedQuadratic
from proxflow.results import Verdict
from proxflow.symmetry import Group
from tests.marks import slow_beyond

f64 = torch.float64


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(d: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed=5, dtype=dtype))[0]


def ball(dtype: torch.dtype) -> Potential:
    return Ball(3, 2.0)


def flat(dtype: torch.dtype) -> Potential:
    return Quadratic(torch.zeros(3, dtype=dtype), torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=dtype)))


@pytest.mark.parametrize("inner", [ball, flat])
@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e4), (torch.float64, 1e9)])
def test_rounding_by_a_large_shift_does_not_leave_the_domain(
    inner: Callable[..., Any], dtype: torch.dtype, shift: float, generator: torch.Generator
) -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q.to(dtype)
    potential = inner(dtype).rotate(rotation, torch.full((3,), shift, dtype=dtype))
    y = potential.brenier_map(torch.randn(200, 3, generator=generator, dtype=dtype))
    assert torch.isfinite(potential.value(y)).all()
    assert torch.isinf(potential.value(y + 1e-2 * shift * torch.ones(3, dtype=dtype))).all()


# ------------------------------------------------------------------ certificates


SHARP: dict[str, Callable[[], Potential]] = {
    "smoothed atoms": lambda: Entropic(normal(50, 64), torch.zeros(50), 1e-3),
    "atoms": lambda: Discrete(normal(50, 64), torch.zeros(50, dtype=f64)),
    "a long ellipsoid": lambda: Ellipsoid([100.0] + [1.0] * 63),
}


@pytest.mark.parametrize("name", SHARP)
@pytest.mark.parametrize("t", slow_beyond(1, [1e-4, 1e-3, 0.5]))
@pytest.mark.parametrize("turn", [torch.tensor(hadamard(64)) / 8, rotation(64)], ids=["exact", "rounded"])
def test_a_rotated_answer_is_within_its_bounds_of_the_one_in_float64(name: str, t: float, turn: torch.Tensor) -> None:
    """A query that is rounded after it was rotated is off by up to 1 / beta roundings."""
    flow = pf.ProximalFlow(SHARP[name]().rotate(turn))
    x = normal(200, 64, seed=1) * torch.linspace(0, 1, 200)[:, None]
    exact = copy.deepcopy(flow).double()
    low, high = flow.solve(t, x), exact.solve(t, x.double())
    off = (low.point.double() - high.point).norm(dim=1)
    assert (off <= low.error_bound.double() + high.error_bound).all()
    assert low.velocity_error_bound is not None
    assert high.velocity_error_bound is not None
    off = (flow.velocity(t, x).double() - exact.velocity(t, x.double())).norm(dim=1)
    assert (off <= low.velocity_error_bound.double() + high.velocity_error_bound).all()


def test_scaled_atoms_are_rounded() -> None:
    """Atoms themselves are exact, a tenth of them is not."""
    points, u = 1000 + normal(20, 3), normal(50, 3, seed=1)
    heights = 0.5 * points.double().square().sum(1)  # so that an atom is in its own cell
    atoms, u = Discrete(points, heights), u + points.mean(0)
    potential = atoms.scale(0.1)
    target = 0.1 * points.double()[atoms.nearest_atom(u)]
    pair = potential.decompose(0.5 * u + 0.5 * target.float(), 0.5, 0.5)
    within = (pair.point.double() - target).norm(dim=1) <= pair.error_bound
    assert within.double().mean() > 0.9  # a query may leave its cell by rounding


# ------------------------------------------------------------------ rotations that are not quite orthogonal


def test_a_float32_rotation_is_the_nearest_orthogonal_one() -> None:
    turn, x = rotation(64), normal(5, 64, seed=1, dtype=f64)
    left, _, right = torch.linalg.svd(turn.double())
    atoms = Discrete(normal(50, 64, dtype=f64), torch.zeros(50, dtype=f64))
    potential, expected = atoms.rotate(turn), atoms.rotate(left @ right)
    pair, other = potential.prox(x, 0.5), expected.prox(x, 0.5)
    torch.testing.assert_close(pair.point, other.point, rtol=0, atol=1e-13)
    torch.testing.assert_close(x, pair.point + 0.5 * pair.multiplier, rtol=0, atol=1e-13)
    assert torch.isfinite(potential.value(pair.point)).all()
    assert torch.equal(potential.rotation, turn)


@pytest.mark.parametrize("turn", [rotation(3), rotation(3, f64)], ids=["float32", "float64"])
def test_a_cast_changes_neither_rotation_nor_shift(turn: torch.Tensor, tmp_path: Path) -> None:
    shift = normal(3, seed=2, dtype=turn.dtype)
    potential, x = Ball(3).rotate(turn, shift), normal(5, 3, seed=1, dtype=f64)
    expected = potential.prox(x, 0.5).point
    assert torch.equal(potential.float().prox(x, 0.5).point, expected)
    assert torch.equal(potential.double().prox(x, 0.5).point, expected)
    pf.save(potential, tmp_path / "potential.safetensors")
    loaded = pf.load(tmp_path / "potential.safetensors")
    torch.testing.assert_close(loaded.prox(x, 0.5).point, expected, rtol=0, atol=3e-7)  # a cast rounds the state
    other = Ball(3).rotate(torch.eye(3))
    other.load_state_dict(Ball(3).rotate(turn, shift).state_dict())
    torch.testing.assert_close(other.prox(x, 0.5).point, expected, rtol=0, atol=3e-7)


def test_a_permutation_of_whole_numbers_is_a_rotation() -> None:
    swap = torch.tensor([[0, 1], [1, 0]])
    point = Ellipsoid([1.0, 2.0]).rotate(swap, torch.tensor([1, 0])).brenier_map(torch.eye(2))
    torch.testing.assert_close(point, torch.tensor([[3.0, 0.0], [1.0, 1.0]]))


# ------------------------------------------------------------------ dtypes of queries, steps, autocast


GROUP = Group(torch.stack([torch.eye(2), -torch.eye(2)]))


@pytest.mark.parametrize(
    ("potential", "dtype"),
    [
        (Discrete(normal(9, 2), torch.zeros(9)).rotate(rotation(2, f64)), torch.float32),
        (Discrete(normal(9, 2).to(torch.bfloat16), torch.zeros(9)).scale(2.0), torch.float32),
        (Product([Ellipsoid([1.0, 2.0]), Entropic(normal(9, 2), torch.zeros(9), 0.1)]), torch.float32),
        (Product([Ellipsoid(torch.ones(2)), Discrete(normal(9, 2, dtype=f64), torch.zeros(9, dtype=f64))]), f64),
        (SymmetricDiscrete(normal(9, 2), torch.zeros(9), GROUP).rotate(rotation(2, f64)).scale(2.0), torch.float32),
    ],
)
def test_samples_have_the_dtype_that_atoms_ask_for(potential: Potential, dtype: torch.dtype) -> None:
    assert potential.query_dtype == dtype
    assert pf.ProximalFlow(potential).sample(2).dtype == dtype


def test_closed_forms_ask_for_no_dtype() -> None:
    gaussian = Quadratic(torch.zeros(1, dtype=f64), torch.eye(1))
    assert Product([gaussian, Quantile(([0.0, 1.0], [0.0, 1.0]))]).rotate(torch.eye(2)).scale(2.0).query_dtype is None
    assert pf.ProximalFlow(gaussian).sample(2).dtype == f64  # as the mean


LINE: dict[str, Potential] = {
    "gaussian": Quadratic(torch.zeros(1), torch.eye(1)),
    "quantile": Quantile(lambda level: level),
    "radial": Radial(1, lambda level: level),
    "ball": Ball(1),
    "rotated": Quantile(lambda level: level).rotate(torch.eye(1)),
    "atoms": Discrete(torch.eye(1, dtype=f64), torch.zeros(1, dtype=f64)),
}


@pytest.mark.parametrize("name", LINE)
def test_derivatives_of_proxes_refuse_the_steps_that_proxes_refuse(name: str) -> None:
    potential, z = LINE[name], torch.tensor([[0.3], [0.3], [0.3]], dtype=f64)
    for step in (-3.0, 0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step must be a positive finite number"):
            potential.prox_jacobian(z, step)
    rows = potential.prox_jacobian(z, torch.tensor([-3.0, math.nan, 1.0], dtype=f64))
    assert rows.isnan().flatten().tolist() == [True, True, False]


def test_generalized_quadratics_are_taken_in_full_precision_under_autocast() -> None:
    diagonal = GeneralizedQuadratic(rotation(3)[None], torch.diag(torch.tensor([1.0, 2.0, 3.0]))[None])
    w, one = normal(1, 3), torch.ones(1)
    expected = diagonal(w), diagonal.resolvent(one, one)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = diagonal(w), diagonal.resolvent(one, one)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(expected, inside, strict=True))


def test_rotated_verdicts_are_given_under_autocast() -> None:
    potential, u = Entropic(normal(9, 2), torch.zeros(9), 0.1).rotate(rotation(2)), normal(5, 2, seed=1)
    y = potential.brenier_map(u)
    expected = potential.sees_one_atom(y, u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(potential.sees_one_atom(y, u), expected)


def test_a_rotated_bound_holds_far_off_trajectories() -> None:
    """Beside the flat side of an ellipsoid a query's own rounding moves the point: the bound was 26 times too small."""
    turn = torch.linalg.qr(normal(2, 2, dtype=f64))[0]
    potential = Ellipsoid(torch.tensor([1.0, 100.0], dtype=f64)).rotate(turn)
    assert isinstance(potential, pf.potentials.Rotated)
    x = 1e4 * normal(60, 1, seed=1, dtype=f64) * potential._rotation[:, 0] + 1e-3 * normal(60, 2, seed=2, dtype=f64)
    found = potential.decompose(x, 1.0, 1.0)
    exact = [projected(row, potential._rotation) for row in x]
    error = torch.tensor(
        [
            float(mpmath.hypot(mpmath.mpf(float(p[0])) - q[0], mpmath.mpf(float(p[1])) - q[1]))
            for p, q in zip(found.point, exact, strict=True)
        ]
    )
    assert (error <= found.error_bound).all()


def projected(x: torch.Tensor, turn: torch.Tensor) -> list[Any]:
    """The nearest point of the turned ellipse of semi-axes 1 and 100, x outside of it, in 40 digits."""
    with mpmath.workdps(40):
        q = mpmath.matrix(turn.tolist())
        inner, axes = q.T * mpmath.matrix(x.tolist()), (mpmath.mpf(1), mpmath.mpf(100))

        def missing(multiplier: Any) -> Any:
            return 1 / mpmath.norm([a * z / (a * a + multiplier) for a, z in zip(axes, inner, strict=True)]) - 1

        root = mpmath.findroot(missing, (0, 100 * mpmath.norm(inner)))
        nearest = mpmath.matrix([a * a * z / (a * a + root) for a, z in zip(axes, inner, strict=True)])
        return list(q * nearest)


def test_points_that_a_large_shift_has_rounded_off_a_plane_are_on_it() -> None:
    """Most of them were said to be off the support: their rounding is beyond the tolerance of the law about 0."""
    potential = flat(f64).rotate(rotation(3, f64), torch.full((3,), 1e9, dtype=f64))
    y = potential.brenier_map(normal(100, 3, dtype=f64))
    assert bool((potential.smooth_support(y) == int(Verdict.verified)).all())
    off = y + potential._rotation[:, 2] * 1e2
    assert bool((potential.smooth_support(off) == int(Verdict.failed)).all())
