"""Fitting a discrete potential to data: semidiscrete optimal transport, with a certificate."""

from proxflow.semidiscrete.fit import METHODS, fit
from proxflow.semidiscrete.result import Evaluation, Fit

__all__ = ["METHODS", "Evaluation", "Fit", "fit"]
