"""What a file of pairs holds, and how good its pairs are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.couplings.numbered_pairs import NumberedPairs
from proxflow.results import brief_repr
from proxflow.semidiscrete.certificate import mass_error
from proxflow.semidiscrete.problem import Tally

__all__ = ["PairFileRecord", "record_of"]


@brief_repr
@dataclass(frozen=True)
class PairFileRecord:
    """What a file of pairs holds, and how good it is.

    Attributes:
        pairs: number of pairs P.
        rows: number of rows N of the points.
        dim: coordinates of a point.
        epochs: in each of which every row comes exactly once; None where pairs were drawn.
        seed: of the noise and of all else.
        chi2: sum_i (m_i - w_i)^2 / w_i, m_i the mass of the noise that the coupling gives to row i and w_i the row's
            weight, estimated without bias from ``draws`` vectors. Pairs by epochs have noise that is off N(0, I) by
            this chi2; drawn ones have exact noise, and rows whose weights are off by it.
        chi2_stderr: its standard error.
        visit_chi2: sum_i (v_i / P - w_i)^2 / w_i, v_i how often row i comes in the file: 0 by epochs; by chance alone
            (N - 1) / P.
        fewest: the least v_i / (P w_i), over rows of positive weight.
        most: the largest.
        draws: vectors of noise that were drawn for the pairs.
        approximated: pairs that got noise independent of their row, since too few draws fell to it.
    """

    pairs: int
    rows: int
    dim: int
    epochs: int | None
    seed: int
    chi2: float
    chi2_stderr: float
    visit_chi2: float
    fewest: float
    most: float
    draws: int
    approximated: int


def record_of(found: NumberedPairs, weights: Tensor, dim: int, epochs: int | None, seed: int) -> PairFileRecord:
    """What a file is worth that has these pairs of rows with weights (N,)."""
    kept = weights > 0
    counts, weight = found.counts[kept].double(), weights[kept]
    error = mass_error(Tally(counts, counts, found.draws), weight) if found.draws > 1 else None
    visits = torch.bincount(found.row, minlength=len(weights))[kept] / (len(found.row) * weight)
    return PairFileRecord(
        pairs=len(found.row),
        rows=len(weights),
        dim=dim,
        epochs=epochs,
        seed=seed,
        chi2=float("inf") if error is None else error.chi2,
        chi2_stderr=float("inf") if error is None else error.stderr,
        visit_chi2=float(weight @ (visits - 1).square()),
        fewest=float(visits.min()),
        most=float(visits.max()),
        draws=found.draws,
        approximated=found.approximated,
    )
