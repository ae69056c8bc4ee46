"""Metrics of samples (distance to the data, spread, labels, paths), and what paired noise tells of the label."""

from proxflow.metrics.classifier import LabelAccuracy, label_accuracy
from proxflow.metrics.energy import energy_distance, energy_distance_error
from proxflow.metrics.leakage import LabelLeakage, label_leakage
from proxflow.metrics.memorisation import NearestRows, nearest_row_ratio, nearest_rows
from proxflow.metrics.step_quality import FewSteps, few_steps
from proxflow.metrics.trajectories import normalised_path_energy, path_energy, straightness
from proxflow.metrics.transport import Wasserstein, wasserstein
from proxflow.metrics.variances import Spread, spread

__all__ = [
    "FewSteps",
    "LabelAccuracy",
    "LabelLeakage",
    "NearestRows",
    "Spread",
    "Wasserstein",
    "energy_distance",
    "energy_distance_error",
    "few_steps",
    "label_accuracy",
    "label_leakage",
    "nearest_row_ratio",
    "nearest_rows",
    "normalised_path_energy",
    "path_energy",
    "spread",
    "straightness",
    "wasserstein",
]
