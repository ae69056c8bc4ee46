"""Metrics: how far two clouds of points are apart, how straight trajectories are, whether samples fit their labels."""

from proxflow.metrics.energy_distance import energy_distance
from proxflow.metrics.label_accuracy import LabelAccuracy, label_accuracy
from proxflow.metrics.path import normalised_path_energy, path_energy, straightness
from proxflow.metrics.wasserstein import Wasserstein, wasserstein

__all__ = [
    "LabelAccuracy",
    "Wasserstein",
    "energy_distance",
    "label_accuracy",
    "normalised_path_energy",
    "path_energy",
    "straightness",
    "wasserstein",
]
