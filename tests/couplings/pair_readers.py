"""Reads a file of pairs by a DataLoader: python pair_readers.py FOLDER METHOD, alone or under torchrun.

Two workers by METHOD, fork or spawn; each process writes what it saw of each epoch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.utils.data import DataLoader

from proxflow.couplings import PairFile, PairSampler

ROWS, EPOCHS = 31, 2


def points() -> torch.Tensor:
    return torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))


def main(folder: Path, method: str) -> None:
    together = "RANK" in os.environ
    if together:
        torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank() if together else 0
    pairs = PairFile(folder / "pairs", points())
    sampler = PairSampler(pairs, rank=rank, processes=torch.distributed.get_world_size() if together else 1)
    options: dict[str, Any] = {}
    if method:
        options = {"num_workers": 2, "multiprocessing_context": method, "persistent_workers": True}
    loader = DataLoader(pairs, batch_size=4, sampler=sampler, **options)
    seen = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        seen.append([torch.cat([row[:, None], noise], dim=1) for noise, row in loader])
    torch.save([torch.cat(epoch) for epoch in seen], folder / f"{method}{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(0)  # all is written; under load a process with a gloo group aborts now and then in its static destructors
