"""Training velocity networks on couplings."""

from proxflow.matching.breaking import Breaking, BreakingLaw, break_pairs, breaking_law
from proxflow.matching.guidance import field_of
from proxflow.matching.networks import MLP, UNet
from proxflow.matching.path import Network, PathSample, flow_matching_loss, sample_path
from proxflow.matching.result import TrainRecord, TrainResult
from proxflow.matching.times import LogitNormal, TimeSampler, Uniform
from proxflow.matching.train import train

__all__ = [
    "MLP",
    "Breaking",
    "BreakingLaw",
    "LogitNormal",
    "Network",
    "PathSample",
    "TimeSampler",
    "TrainRecord",
    "TrainResult",
    "UNet",
    "Uniform",
    "break_pairs",
    "breaking_law",
    "field_of",
    "flow_matching_loss",
    "sample_path",
    "train",
]
