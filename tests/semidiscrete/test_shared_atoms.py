"""Processes that share the atoms of every search: the results of one process, and an error where one is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.kernels.search import Best, argmax_affine, best_affine
from proxflow.semidiscrete import Fit, fit, shared_atoms, split_atoms
from tests.processes import Processes
from tests.semidiscrete.test_checkpoint import cloud
from tests.semidiscrete.test_ranks import same

QUICK: dict[str, Any] = {"max_samples": 15_000, "max_memory": 1 << 20}


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def _in_small_parts() -> list[tuple[int, int]]:
    """Parts of 256 atoms; how many rows each search of this process has, and among how many atoms."""
    searched = []

    def counted(queries: Tensor, slopes: Tensor, offsets: Tensor | None) -> Best:
        searched.append((len(queries), len(slopes)))
        return best_affine(queries, slopes, offsets)

    shared_atoms._STEP = 256
    shared_atoms.best_affine = counted  # type: ignore[attr-defined, assignment]
    return searched


def searches(rank: int) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """With ties between parts, a row that is not a number, and too few slopes to share."""
    searched = _in_small_parts()
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-3, 4, (300, 3), generator=generator).float()
    slopes = torch.randint(-3, 4, (1100, 3), generator=generator).float()
    spoiled = queries.clone()
    spoiled[5] = torch.nan
    with split_atoms():
        found = [argmax_affine(queries, slopes), argmax_affine(queries, slopes, slopes[:, 0].contiguous())]
        found += [argmax_affine(spoiled, slopes), argmax_affine(queries, slopes[:200])]
    return [*found, argmax_affine(queries, slopes)], searched


def test_a_search_is_among_the_part_of_each_process_and_its_answer_that_of_all(processes: Processes) -> None:
    ((alone, none),) = processes.run(1, searches)
    assert not none
    others = torch.arange(300) != 5
    for size, widths in ((2, {512, 588}), (3, {256, 512, 332})):
        together = processes.run(size, searches)
        assert {searched[0][1] for _, searched in together} == widths
        for found, searched in together:
            assert all(torch.equal(mine[others], theirs[others]) for mine, theirs in zip(found, alone, strict=True))
            assert 0 <= int(found[2][5]) < 1100
            assert len(searched) == 4
            assert searched[3] == (300, 200)


def three_fits(rank: int, folder: Path) -> tuple[list[Fit], list[tuple[int, int]]]:
    searched = _in_small_parts()
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    with split_atoms():
        fits = [fit(mapped, **QUICK), fit(cloud(900, 30), **QUICK), fit(cloud(200, 2), seed=3)]
    return fits, searched


@pytest.mark.slow
def test_fits_are_those_of_one_process(processes: Processes, tmp_path: Path) -> None:
    """Of a mapped file, of rows in float64, and an exact one, which the first process solves alone."""
    np.save(tmp_path / "rows.npy", cloud(1500, 12).float().numpy())
    ((alone, _),) = processes.run(1, three_fits, tmp_path)
    assert [found.method for found in alone] == ["averaged gradient", "averaged gradient", "damped Newton"]
    for size in (2, 3):
        for together, searched in processes.run(size, three_fits, tmp_path):
            assert all(same(*pair) for pair in zip(together, alone, strict=True))
            assert searched
            assert max(columns for _, columns in searched) < 1500


def pairs(rank: int) -> tuple[pf.couplings.Pairs, int]:
    searched = _in_small_parts()
    points = cloud(1200, 4).float()
    potential = pf.potentials.Discrete(points, 0.5 * points.square().sum(1))
    with split_atoms():
        drawn = pf.couplings.Semidiscrete(potential, points).sample(300, generator=torch.Generator().manual_seed(1))
    return drawn, max((columns for _, columns in searched), default=0)


def test_couplings_share_the_atoms_of_their_potential(processes: Processes) -> None:
    ((alone, _),) = processes.run(1, pairs)
    found = processes.run(2, pairs)
    for together, _ in found:
        assert torch.equal(together.source, alone.source)
        assert torch.equal(together.target, alone.target)
    assert [columns for _, columns in found] == [512, 688]


def search_until_one_is_gone(rank: int) -> str:
    _in_small_parts()
    queries, slopes = torch.randn(50, 3), torch.randn(1100, 3)
    with split_atoms():
        argmax_affine(queries, slopes)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            argmax_affine(queries, slopes)
        except ConnectionError as error:
            return str(error)
    return "no error"


def test_a_process_that_is_gone_is_an_error_in_the_others(processes: Processes) -> None:
    assert "another process of this run stopped" in processes.run(2, search_until_one_is_gone)[0]
