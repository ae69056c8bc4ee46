"""The law of every fit: what it says of its masses holds for the potential that it returns, by an argmax of its own."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from benchmarks.fit_certificates import STANDARD_ERRORS, Case, atom_weights, cases, deviation, measure

from proxflow.errors import ConvergenceWarning
from proxflow.potentials import Discrete
from proxflow.semidiscrete import Fit, fit
from tests.marks import slow_beyond


def fitted(case: Case) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(case.points(), case.row_weights(), max_samples=300_000)


@pytest.mark.parametrize("case", slow_beyond(10, cases(every=13)), ids=str)
def test_masses_measured_are_those_that_the_fit_states(case: Case) -> None:
    """``benchmarks/fit_certificates.py`` prints the table of all cells."""
    result = fitted(case)
    weights = atom_weights(result, case.row_weights())
    found = measure(result.potential, weights)
    assert deviation(result, found) <= STANDARD_ERRORS
    stated = 0.5 * float((result.cell_mass - weights).abs().sum())
    noise = 0.5 * float((weights * (1 / found.draws + 1 / (1 << 14))).sqrt().sum())
    assert found.total_variation == pytest.approx(stated, abs=STANDARD_ERRORS * noise)
    assert result.converged == (result.chi2 + 2 * result.chi2_stderr <= result.tol)


def test_the_law_sees_a_height_that_is_wrong() -> None:
    result = fitted(Case(torch.float64, 4, 0.0, 0.0, "equal"))
    weights = atom_weights(result, None)
    heights = result.potential.heights.clone()
    heights[3] += 5.0
    spoilt = dataclasses.replace(result, potential=Discrete(result.potential.points, heights))
    assert deviation(result, measure(result.potential, weights)) <= STANDARD_ERRORS
    assert deviation(spoilt, measure(spoilt.potential, weights)) > STANDARD_ERRORS
