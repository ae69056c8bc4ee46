"""The dimension of raw data, point by point."""
