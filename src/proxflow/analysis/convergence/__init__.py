"""Minibatch pairs against the population coupling: cost, excess, field error and rate, against the batch size."""
