"""Hashes that say whether two runs depend on the same things."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from proxflow.measures import Source

__all__ = ["fingerprint", "source_probes"]

_PROBES = 16  # draws that stand for a source: 16 vectors do not agree by chance


def fingerprint(description: object, tensors: Iterable[Tensor | None]) -> str:
    """SHA-256 of a description, as Python shows it, and of tensors with their dtypes and shapes."""
    digest = hashlib.sha256(repr(description).encode())
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
        else:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def source_probes(source: Source) -> Tensor:
    """What stands for a source in a fingerprint: its first draws, (16, d)."""
    return source.sample(_PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
