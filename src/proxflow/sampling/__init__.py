"""Sampling: integrate a velocity field, or a flow, from noise to data and back; log-densities of what it generates."""

from proxflow.sampling.bits import BitsPerDimension, bits_per_dimension
from proxflow.sampling.integration import Trajectory, encode, integrate
from proxflow.sampling.likelihood import LogLikelihood, log_likelihood

__all__ = [
    "BitsPerDimension",
    "LogLikelihood",
    "Trajectory",
    "bits_per_dimension",
    "encode",
    "integrate",
    "log_likelihood",
]
