"""proxflow pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import proxflow as pf
from tests.cli.commands import call, refusal
from tests.marks import slow_beyond


def test_the_file_gives_every_row_once_an_epoch(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.safetensors"
    assert call("pairs", data, "--epochs", 3, "--out", file, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    dataset = pf.data.load(data)
    read = pf.couplings.PairFile(file, dataset.points)
    assert (printed["run"], printed["pairs"], printed["epochs"]) == (str(file), 3 * dataset.n, 3)
    for epoch in range(3):
        rows = [read[epoch * dataset.n + k][1] for k in range(dataset.n)]
        assert sorted(rows) == list(range(dataset.n))
    assert "already there" in refusal(capsys, "pairs", data, "--epochs", 1, "--out", file)
    assert call("pairs", data, "--epochs", 1, "--out", file, "--overwrite") == 0
    assert len(pf.couplings.PairFile(file, dataset.points)) == dataset.n


def test_pairs_by_shortlists(data: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("all.safetensors", "listed.safetensors")]
    assert call("pairs", data, "--epochs", 3, "--out", files[0]) == 0
    assert call("pairs", data, "--epochs", 3, "--out", files[1], "--shortlist", 1) == 0
    dataset = pf.data.load(data)
    plain, listed = (pf.couplings.PairFile(file, dataset.points) for file in files)
    assert sorted(listed[k][1] for k in range(dataset.n)) == list(range(dataset.n))
    assert any(not torch.equal(listed[k][0], plain[k][0]) for k in range(len(plain)))


@pytest.mark.parametrize("shortlist", slow_beyond(1, [[], ["--shortlist", 2]]))
def test_classes_are_coupled_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str], shortlist: list[Any]) -> None:
    file = tmp_path / "moons.safetensors"
    given = ["moons", "--points", 60, "--epochs", 40, "--out", file]
    assert call("pairs", *given, "--conditional", *shortlist) == 0
    assert "2,400 pairs of 60 rows" in capsys.readouterr().out
    dataset = pf.data.load("moons", n=60)
    read = pf.couplings.PairFile(file, dataset.points)
    noise, row = zip(*(read[k] for k in range(len(read))), strict=True)
    first = torch.stack(noise)[dataset.labels[list(row)] == 0]
    assert first.mean(0).abs().max() < 5 / len(first) ** 0.5  # given the class, the noise has mean 0


def test_a_label_that_is_named_is_coupled_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"{k % 7 + 0.5},{k % 5},{'ab'[k % 2]}\n" for k in range(40))
    (tmp_path / "table.csv").write_text(f"x,y,kind\n{rows}")
    monkeypatch.setattr(pf.couplings.Subspace, "fit", None)  # of all classes at once, their noise would tell the class
    assert call("pairs", tmp_path / "table.csv", "--label", "kind", "--epochs", 1, "--out", tmp_path / "pairs") == 0
    assert "40 pairs of 40 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "epochs"),
        (["--epochs", 0], "epochs"),
        (["--epochs", 1, "--directions", 3], "--directions 3 is more than the 2 coordinates"),
        (["--epochs", 1, "--conditional"], "has no labels; name their column by --label, or leave out --conditional"),
        (["--epochs", 1, "--shortlist", 0], "--shortlist"),
    ],
)
def test_refusals(options: Any, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, "pairs", data, "--out", tmp_path / "pairs", *options)
    assert not (tmp_path / "pairs").exists()


def test_a_folder_that_is_not_there_is_refused_before_the_fit(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pf.couplings.Subspace, "fit", None)
    message = refusal(capsys, "pairs", data, "--epochs", 1, "--out", tmp_path / "no" / "pairs")
    assert f"there is no folder {tmp_path / 'no'}; make it first" in message
