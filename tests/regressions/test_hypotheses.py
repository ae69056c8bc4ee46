"""Smooth support is a statement on a point: nothing is verified where there are no data."""

from __future__ import annotations

import math

import pytest
import torch

from proxflow.analysis.hypotheses import Verdict, check_terminal_hypotheses
from proxflow.potentials import Ball, Discrete, Ellipsoid, Entropic, Potential, Product, Quadratic, Quantile, Radial

f64 = torch.float64
FAILED, ASSUMED, VERIFIED = Verdict.failed, Verdict.assumed, Verdict.verified


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=f64)


def two_atoms() -> Discrete:
    return Discrete(rows([-1.0], [1.0]), torch.zeros(2, dtype=f64))


def three_atoms() -> Discrete:
    """The middle one lies above the envelope of the others: its cell is empty."""
    return Discrete(rows([-1.0], [0.0], [1.0]), torch.tensor([0.0, 1.0, 0.0], dtype=f64))


# intervals [-2, -1] and [0, 3] (with an atom at 1 inside), an isolated atom at 5
LINE = ([0.0, 0.2, 0.2, 0.4, 0.5, 0.7, 0.7, 1.0], [-2.0, -1.0, 0.0, 1.0, 1.0, 3.0, 5.0, 5.0])
# a ball of radius 1, a sphere of radius 2, a shell from 3 to 4
SHELLS = ([0.0, 0.3, 0.3, 0.6, 0.6, 1.0], [0.0, 1.0, 2.0, 2.0, 3.0, 4.0])

CASES: list[tuple[str, Potential, torch.Tensor, list[Verdict]]] = [
    ("atoms", two_atoms(), rows([-1.0], [0.3], [1.0], [2.0]), [VERIFIED, FAILED, VERIFIED, FAILED]),
    ("empty cell", three_atoms(), rows([-1.0], [0.0], [1.0]), [VERIFIED, FAILED, VERIFIED]),
    ("sphere", Ball(2, 3.0), rows([3.0, 0.0], [0.0, 0.0], [1.0, 1.0], [9.0, 0.0]), [VERIFIED, FAILED, FAILED, FAILED]),
    (
        "ellipse",
        Ellipsoid([1e-3, 2.0]),
        rows([1e-3, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 1.0], [1.1e-3, 0.0]),
        [VERIFIED, VERIFIED, FAILED, FAILED, FAILED],
    ),
    (
        "plane",
        Quadratic(torch.ones(2, dtype=f64), torch.diag(torch.tensor([1.0, 0.0], dtype=f64))),
        rows([7.0, 1.0], [7.0, 1.1]),
        [VERIFIED, FAILED],
    ),
    (
        "line",
        Quantile(LINE),
        rows([-3.0], [-2.0], [-1.5], [-1.0], [-0.5], [0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]),
        [FAILED, FAILED, VERIFIED, FAILED, FAILED, FAILED, VERIFIED, VERIFIED, FAILED, FAILED, VERIFIED, FAILED],
    ),
    (
        "callable on the line",
        Quantile(lambda p: torch.where(p < 0.5, p, 1 + p)),
        rows([-1.0], [0.0], [0.3], [1.0], [1.7], [2.0]),
        [FAILED, FAILED, ASSUMED, FAILED, ASSUMED, FAILED],
    ),
    (
        "shells",
        Radial(2, SHELLS),
        rows([0.0, 0.0], [0.0, 0.5], [0.0, 1.0], [0.0, 1.5], [0.0, 2.0], [0.0, 2.5], [0.0, 3.5], [0.0, 4.0]),
        [VERIFIED, VERIFIED, FAILED, FAILED, VERIFIED, FAILED, VERIFIED, FAILED],
    ),
    ("entropic", Entropic(rows([-1.0], [1.0]), torch.zeros(2, dtype=f64), 0.5), rows([0.2], [1.2]), [ASSUMED, FAILED]),
    (
        "product",
        Product([Ball(2), two_atoms(), Quantile(lambda p: torch.special.ndtri(p))]),
        rows([1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.5, 0.0], [0.5, 0.0, 1.0, 0.0]),
        [ASSUMED, FAILED, FAILED],
    ),
    (
        "moved",
        Ball(2).rotate(rows([0.0, -1.0], [1.0, 0.0]), torch.tensor([1e3, 0.0], dtype=f64)).scale(0.5),
        rows([500.5, 0.0], [500.0, 0.0]),
        [VERIFIED, FAILED],
    ),
]


@pytest.mark.parametrize(("potential", "y", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_smooth_support(potential: Potential, y: torch.Tensor, expected: list[Verdict]) -> None:
    assert potential.smooth_support(y).tolist() == [int(verdict) for verdict in expected]


def test_no_theorem_in_the_gap_of_two_atoms() -> None:
    verdict = check_terminal_hypotheses(two_atoms(), torch.zeros(1, 1, dtype=f64), rows([0.3]))
    assert verdict.smooth_support.tolist() == [FAILED]
    assert not verdict.holds.any()
    assert "smooth support: failed" in verdict.describe()


def test_no_theorem_inside_the_ball() -> None:
    verdict = check_terminal_hypotheses(Ball(2), torch.zeros(1, 2, dtype=f64), rows([0.3, 0.2]))
    assert verdict.smooth_support.tolist() == [FAILED]
    assert not verdict.holds.any()


def test_data_points_stay_verified() -> None:
    atoms = check_terminal_hypotheses(two_atoms(), rows([0.7]), manifold_dimension=0)
    sphere = check_terminal_hypotheses(Ball(3), rows([0.6, 0.0, 0.8]), manifold_dimension=2)
    assert atoms.smooth_support.tolist() == sphere.smooth_support.tolist() == [VERIFIED]
    assert atoms.holds.all()
    assert sphere.holds.all()


def test_a_point_that_is_no_number_is_no_data() -> None:
    for potential in (Ball(1), two_atoms(), Quantile(LINE)):
        assert potential.smooth_support(rows([math.nan])).tolist() == [FAILED]
