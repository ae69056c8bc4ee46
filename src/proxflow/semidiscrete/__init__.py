"""Fitting a discrete potential to data: semidiscrete optimal transport, with a certificate."""

from proxflow.semidiscrete.fit_estimate import Estimate, estimate
from proxflow.semidiscrete.fit_result import Evaluation, Fit
from proxflow.semidiscrete.fitting import METHODS, fit
from proxflow.semidiscrete.shared_atoms import split_atoms

__all__ = ["METHODS", "Estimate", "Evaluation", "Fit", "estimate", "fit", "split_atoms"]
