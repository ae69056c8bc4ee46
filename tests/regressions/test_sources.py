"""Laws that need a rotation-invariant source say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.measures import Empirical, Uniform
from proxflow.potentials import Ball, Ellipsoid, Quantile, Radial
from tests.semidiscrete.sources import Wide


class Invariant(pf.measures.Gaussian):
    """A user's own source that says what it is."""

    rotation_invariant = True


BUILT: dict[str, Callable[[Any], Any]] = {
    "Ball": lambda source: Ball(2, source=source),
    "Ellipsoid": lambda source: Ellipsoid([1.0, 2.0], source=source),
    "Radial": lambda source: Radial(2, lambda level: level, source=source),
}


@pytest.mark.parametrize(
    "source", [Uniform(2), Uniform(2, -1.0, 1.0), Empirical(torch.eye(2), bandwidth=0.1)], ids=repr
)
@pytest.mark.parametrize("name", BUILT)
def test_a_source_that_is_not_invariant_is_refused(name: str, source: object) -> None:
    """grad phi of a uniform square is not uniform on the circle."""
    with pytest.raises(ValueError, match=f"{name}: the source .* must be rotation-invariant"):
        BUILT[name](source)


@pytest.mark.parametrize("name", BUILT)
def test_an_invariant_source_is_taken(name: str) -> None:
    assert BUILT[name](Invariant(2)).source.rotation_invariant
    assert BUILT[name](None).source == pf.measures.Gaussian(2)


def test_what_to_do_instead_is_said() -> None:
    with pytest.raises(ValueError, match=r"rotation_invariant attribute is true; .* semidiscrete\.fit"):
        Ball(2, source=Uniform(2))
    with pytest.raises(ValueError, match="only a shift is possible"):
        Quantile(([0.0, 1.0], [0.0, 1.0]), source=Uniform(1)).rotate(-torch.ones(1, 1))


Draw = Callable[[torch.Tensor], Any]

GIVEN: dict[str, tuple[Draw, str]] = {
    "a row too many": (lambda noise: torch.cat([noise, noise[:1]]), r"asked for .* it gave \(\d+, 4\)"),
    "another dtype": (lambda noise: noise.float(), "of torch.float64 on cpu, it gave .* of torch.float32"),
    "NaN": (lambda noise: noise * torch.nan, "it gave NaN or inf"),
    "an array": (lambda noise: noise.numpy(), "it gave ndarray"),
}


class Own:
    """A source of a user's own in R^4: what ``change`` makes of normal noise."""

    dim = 4

    def __init__(self, change: Draw) -> None:
        self.change = change

    def sample(self, n: int, **options: Any) -> Any:
        return self.change(pf.measures.Gaussian(4).sample(n, **options))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return pf.measures.Gaussian(4).log_prob(x)


def _rows() -> torch.Tensor:
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


USES: dict[str, Callable[[Any], Any]] = {
    "fit": lambda source: pf.semidiscrete.fit(_rows(), source=source, tol=0.1, max_samples=5000),
    "fit of one row": lambda source: pf.semidiscrete.fit(_rows()[:1], source=source),
    "Independent": lambda source: pf.couplings.Independent(_rows(), source=source).sample(5),
    "Minibatch": lambda source: pf.couplings.Minibatch(_rows(), 5, source=source).sample(5),
}


def _flow(source: Any) -> pf.ProximalFlow:
    return pf.ProximalFlow(pf.potentials.Discrete(_rows(), torch.zeros(20, dtype=torch.float64), source=source))


STUDIES: dict[str, Callable[[Any], Any]] = {
    "samples": lambda source: _flow(source).sample(5),
    "audit": lambda source: pf.analysis.audit(_flow(source), count=64, steps=8, progress=False),
    "convergence": lambda source: pf.analysis.minibatch_convergence(
        _flow(source).potential, [2], max_pairs=64, progress=False
    ),
    "classes at a cost": lambda source: pf.couplings.Conditional.fit(
        _rows(), torch.arange(20) % 2, strength=0.5, source=source, tol=0.5
    ),
}


@pytest.mark.parametrize("use", USES | STUDIES)
@pytest.mark.parametrize("given", GIVEN)
def test_what_a_source_of_your_own_gives_is_checked(given: str, use: str) -> None:
    """A row too many counted in every mass of a fit, NaN went into pairs, the others ended in tracebacks of torch."""
    change, said = GIVEN[given]
    with pytest.raises(ValueError, match=r"Own\.sample: .*" + said):
        (USES | STUDIES)[use](Own(change))


@pytest.mark.parametrize("use", USES)
def test_gradients_of_a_source_of_your_own_are_left_behind(use: str) -> None:
    """As of a trained sampler: the fit failed in a product of torch, and pairs kept the graph."""
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    used = USES[use](Own(lambda noise: noise * scale.to(noise)))
    assert not (used.cell_mass if "fit" in use else used.source).requires_grad


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("source", [3, pf.measures.Gaussian, torch.zeros(5, 4)], ids=["number", "class", "rows"])
def test_what_is_no_source_is_refused_by_name(source: object, use: str) -> None:
    with pytest.raises(ValueError, match=r"source must be an object with dim, sample and log_prob, got"):
        USES[use](source)


class WideGaussian(pf.measures.Gaussian):
    """N(0, 4 I), by a subclass that leaves the moment and the comparison as they are."""

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        return Wide(self.dim).sample(n, **options)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return Wide(self.dim).log_prob(x)


PLANE = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ANSWERS: dict[str, Callable[[Any], Any]] = {
    "heights": lambda source: pf.semidiscrete.fit(PLANE, source=source, tol=0.1, progress=False).potential.heights,
    "cost": lambda source: pf.semidiscrete.fit(PLANE, source=source, tol=0.1, progress=False).transport_cost,
    "cost of one row": lambda source: pf.semidiscrete.fit(PLANE[:1], source=source, progress=False).transport_cost,
    "independent": lambda source: pf.IndependentField(PLANE, source=source)(0.4, PLANE),
    "classes": lambda source: (
        pf.couplings.Conditional.fit(PLANE, torch.arange(12) % 2, strength=0.5, source=source, tol=0.5)
        .sample(20, generator=torch.Generator().manual_seed(0))
        .source
    ),
    "excess": lambda source: (
        pf.analysis.minibatch_convergence(PLANE, [2], source=source, max_pairs=256, progress=False).excess
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_subclass_of_gaussian_with_another_law_is_another_law(answer: str) -> None:
    """It was taken as N(0, I), whose closed forms then gave the flow of other noise, and called it exact."""
    found, expected = (ANSWERS[answer](source) for source in (WideGaussian(2), Wide(2)))
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_a_subclass_of_gaussian_that_is_one_stays_one() -> None:
    assert Invariant(2) == pf.measures.Gaussian(2)
    assert WideGaussian(2) != pf.measures.Gaussian(2)
    assert WideGaussian(2) != WideGaussian(2)
    exact = pf.semidiscrete.fit(PLANE, source=Invariant(2), progress=False)
    assert exact.samples_used == 0
    with pytest.raises(ValueError, match="must be rotation-invariant"):
        Ball(2, source=WideGaussian(2))
    with pytest.raises(ValueError, match=r"needs a method cdf"):
        Quantile(([0.0, 1.0], [0.0, 1.0]), source=WideGaussian(1))


@pytest.mark.parametrize("source", [3, 0, [], torch.zeros(5, 4)], ids=["number", "zero", "list", "rows"])
def test_what_is_no_source_of_a_field_is_refused_by_name(source: Any) -> None:
    """Zero and an empty list were taken for none, and of rows PyTorch said that their truth is ambiguous."""
    with pytest.raises(ValueError, match=r"log_likelihood: the source must be a law as measures\.Gaussian\(d\), got"):
        pf.sampling.log_likelihood(lambda t, x: -x, _rows(), source=source)
    with pytest.raises(ValueError, match=r"audit: source must be an object with dim, sample and log_prob, got"):
        pf.analysis.audit(lambda t, x: -x, data=_rows(), source=source, progress=False)
