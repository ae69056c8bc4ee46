"""A model of anyone's against the laws of the exact flow, in one record."""
