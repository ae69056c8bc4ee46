"""Training velocity networks on couplings."""

from proxflow.matching.affine import AffineResidual
from proxflow.matching.guidance import field_of
from proxflow.matching.networks import MLP, ResidualMLP, UNet
from proxflow.matching.path import (
    LogitNormal,
    Network,
    PathSample,
    TimeSampler,
    Uniform,
    flow_matching_loss,
    sample_path,
)
from proxflow.matching.train_result import TrainRecord, TrainResult
from proxflow.matching.training import train

__all__ = [
    "MLP",
    "AffineResidual",
    "LogitNormal",
    "Network",
    "PathSample",
    "ResidualMLP",
    "TimeSampler",
    "TrainRecord",
    "TrainResult",
    "UNet",
    "Uniform",
    "field_of",
    "flow_matching_loss",
    "sample_path",
    "train",
]
