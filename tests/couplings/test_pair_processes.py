"""A file of pairs in workers and in several processes: together they see what one would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from proxflow.couplings import PairFile, Semidiscrete
from proxflow.semidiscrete import fit
from tests.couplings import pair_readers

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_with_two_workers_each_see_the_pairs_of_one(tmp_path: Path, method: str) -> None:
    points = pair_readers.points()
    coupling = Semidiscrete(fit(points, tol=0.1).potential, points)
    PairFile.write(coupling, tmp_path / "pairs", epochs=pair_readers.EPOCHS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = [str(ROOT / "tests/couplings/pair_readers.py"), str(tmp_path), method]
    done = subprocess.run([sys.executable, *launcher, *script], cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    pair_readers.main(tmp_path, "")
    alone = torch.load(tmp_path / "0.pt")
    shares = [torch.load(tmp_path / f"{method}{rank}.pt") for rank in range(2)]
    for epoch, whole in enumerate(alone):
        parts = [share[epoch] for share in shares]
        assert [len(part) for part in parts] == [16, 15]
        assert sorted(map(tuple, torch.cat(parts).tolist())) == sorted(map(tuple, whole.tolist()))
        assert whole[:, 0].sort().values.tolist() == list(range(pair_readers.ROWS))
    assert not torch.isin(alone[0][:, 1:], alone[1][:, 1:]).any()  # other noise
