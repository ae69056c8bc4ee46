"""Metrics of samples: distance to the data, spread, whether they are new and fit their labels, and their paths."""

from proxflow.metrics.energy_distance import energy_distance, energy_distance_error
from proxflow.metrics.few_steps import FewSteps, few_steps
from proxflow.metrics.label_accuracy import LabelAccuracy, label_accuracy
from proxflow.metrics.memorisation import nearest_row_ratio
from proxflow.metrics.path import normalised_path_energy, path_energy, straightness
from proxflow.metrics.variances import Spread, spread
from proxflow.metrics.wasserstein import Wasserstein, wasserstein

__all__ = [
    "FewSteps",
    "LabelAccuracy",
    "Spread",
    "Wasserstein",
    "energy_distance",
    "energy_distance_error",
    "few_steps",
    "label_accuracy",
    "nearest_row_ratio",
    "normalised_path_energy",
    "path_energy",
    "spread",
    "straightness",
    "wasserstein",
]
