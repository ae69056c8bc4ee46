"""Algorithms: tensors in, records out, no objects; one algorithm per file."""
