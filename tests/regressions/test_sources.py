"""Laws that need a rotation-invariant source say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.measures import Empirical, Uniform
from proxflow.potentials import Ball, Ellipsoid, Quantile, Radial


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
