"""Hashes that say whether two runs depend on the same things."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from torch import Tensor

__all__ = ["fingerprint"]


def fingerprint(description: object, tensors: Iterable[Tensor | None]) -> str:
    """SHA-256 of a description, as Python shows it, and of tensors with their dtypes and shapes."""
    digest = hashlib.sha256(repr(description).encode())
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
        else:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
