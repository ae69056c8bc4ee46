"""Fitting a discrete potential to data: semidiscrete optimal transport, with a certificate."""

from proxflow.semidiscrete.fit_estimate import Estimate, estimate
from proxflow.semidiscrete.fit_result import Evaluation, Fit, ShortlistedFit
from proxflow.semidiscrete.fitting import METHODS, fit
from proxflow.semidiscrete.shared_atoms import split_atoms
from proxflow.semidiscrete.shortlist_fit import fit_shortlisted

__all__ = [
    "METHODS",
    "Estimate",
    "Evaluation",
    "Fit",
    "ShortlistedFit",
    "estimate",
    "fit",
    "fit_shortlisted",
    "split_atoms",
]
