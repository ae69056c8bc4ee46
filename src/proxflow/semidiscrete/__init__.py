"""Fitting a discrete potential to data: semidiscrete optimal transport, with a certificate."""

from proxflow.semidiscrete.fit import Evaluation, Fit, fit

__all__ = ["Evaluation", "Fit", "fit"]
