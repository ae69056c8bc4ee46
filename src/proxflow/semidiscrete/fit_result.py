"""What fits return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from torch import Tensor

from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.potentials.symmetric import SymmetricDiscrete
from proxflow.results import brief_repr
from proxflow.semidiscrete.pair_quality import PairQuality
from proxflow.storage import storable

__all__ = [
    "Evaluation",
    "Fit",
    "FitRecord",
    "FittedPotential",
    "ReturnedPotential",
    "ShortlistedFit",
    "Solution",
    "uninterrupted",
]

FittedPotential: TypeAlias = Discrete | Entropic | SymmetricDiscrete
"""What ``fit`` may return."""

ReturnedPotential: TypeAlias = FittedPotential | Shortlisted
"""What any fit may return."""


@storable
@dataclass(frozen=True)
class Evaluation:
    """The error of a fit at one moment: on fresh draws, or exact (``chi2_stderr`` 0)."""

    samples_used: int
    chi2: float
    chi2_stderr: float
    seconds: float


@dataclass(frozen=True)
class Solution:
    """What a method found: the potential, its masses (N,), its certificate and cost, what they took, advice, on
    shortlists the quality of the pairs, and whether Ctrl-C ended it."""

    method: str
    potential: ReturnedPotential
    mass: Tensor
    history: tuple[Evaluation, ...]
    transport_cost: float
    transport_cost_interval: tuple[float, float]
    samples_used: int
    evaluation_samples: int
    advice: str = "let it run longer"
    quality: PairQuality | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class FitRecord:
    """What all fits tell: see ``Fit``."""

    potential: ReturnedPotential
    method: str
    chi2: float
    chi2_stderr: float
    converged: bool
    history: tuple[Evaluation, ...]
    seconds: float
    cell_mass: Tensor
    transport_cost: float
    transport_cost_interval: tuple[float, float]
    samples_used: int
    evaluation_samples: int
    atom_of_row: Tensor
    epsilon: float
    seed: int
    tol: float
    interrupted: bool = field(default=False, kw_only=True)


@storable
@brief_repr
@dataclass(frozen=True)
class Fit(FitRecord):
    """A fitted potential and its certificate.

    Attributes:
        potential: on the distinct rows of the data: ``Discrete``, or ``Entropic`` where epsilon > 0; on one row of
            each orbit ``SymmetricDiscrete``, where a symmetry was given: N counts orbits there.
        method: how the heights were found: one of ``semidiscrete.METHODS``.
        chi2: sum_j (m_j - b_j)^2 / b_j of the cell masses m: exact, or estimated on fresh draws, others than those
            that ended the fit.
        chi2_stderr: its standard error; 0.0 when exact.
        converged: whether chi2 + 2 stderr <= tol.
        history: the evaluations on the way.
        seconds: wall time, that of interrupted runs included.
        cell_mass: (N,) float64, the weights of the flow as it is: exact, or counted on the last evaluation.
        transport_cost: W2^2 between source and data; for epsilon > 0 between the source and the flow's own target,
            E|X - grad phi(X)|^2.
        transport_cost_interval: its 95% interval; not converged, from the dual value up to a triangle inequality.
        samples_used: noise samples passed through the search to move the heights; 0 for exact methods.
        evaluation_samples: noise samples spent on chi2 and costs, or on checking an exact method.
        atom_of_row: (rows given,) int64, the atom of each row.
        epsilon: the smoothing asked for, in units of the scores <u, y>.
        seed: the seed of the run.
        tol: the tolerance asked for.
        interrupted: whether Ctrl-C ended it.
    """

    potential: FittedPotential


@storable
@brief_repr
@dataclass(frozen=True)
class ShortlistedFit(FitRecord):
    """A potential on shortlists and its certificate: the weights of its cells, and how near to optimal its pairs are.

    All that is not told here is as in ``Fit``.

    Attributes:
        potential: on the distinct rows of the data.
        transport_cost: E|X - T(X)|^2 of the pairs (X, T(X)), with the masses that their cells have.
        transport_cost_interval: a 95% interval for W2^2 between source and data: from the dual value of the heights
            with all atoms up to what pairs by shortlists with the data's weights would cost.
        optimality: the share of what optimal pairs with the same laws as these save over independent ones that these
            save at least, with 95% confidence; by 4,096 draws, which do not see losses that are rarer.
    """

    potential: Shortlisted
    optimality: float


R = TypeVar("R", bound=FitRecord | None)


def uninterrupted(record: R) -> R:
    """The record of a fit that is a part of something longer; None where nothing was fitted.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the fit, and so ends what it is a part of.
    """
    if record is not None and record.interrupted:
        raise KeyboardInterrupt
    return record
