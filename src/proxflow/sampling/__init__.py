"""Sampling: integrate a velocity field, or a flow, from noise to data."""

from proxflow.sampling.integration import Trajectory, integrate

__all__ = ["Trajectory", "integrate"]
