"""Potentials given by a quantile function: any law on the line, and any rotation-invariant law."""
