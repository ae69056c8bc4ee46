"""proxflow batch-size."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow import report
from tests.cli.commands import POINTS, call, refusal

STUDY = "batch-size.safetensors"
render = report.render_batch_size_page


@pytest.fixture(autouse=True)
def blank_study_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "render_batch_size_page", lambda *_args, **_options: "<!doctype html>", raising=False)


def test_a_study_is_printed_and_kept(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call("batch-size", data, "--out", folder, "--max-batch", 12, "--target-error", 0.2) == 0
    output = capsys.readouterr()
    study = pf.load(folder / STUDY)
    assert study.batch_sizes.tolist() == [1, 2, 4, 8, 12]
    assert study.wanted == 0.2
    assert output.err == ""
    assert output.out.splitlines()[-2:] == [study.advice, f"report: {folder / 'report.html'}"]
    rows = [line.split() for line in output.out.splitlines() if line.count(" +- ") == 2]
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 12]
    for column, values in ((1, study.cost), (2, study.excess), (5, 2 * study.gap), (9, study.bound(0.5))):
        printed = torch.tensor([float(row[column]) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(printed, values, rtol=1e-3, atol=0)
    torch.testing.assert_close(study.excess, 2 * study.gap, atol=5 * float(study.excess_stderr.max()), rtol=0)
    record = json.loads((folder / "run.json").read_text())
    assert record["command"] == "batch-size"
    assert record["arguments"]["max_batch"] == 12
    assert record["data"]["points"] == len(POINTS)
    assert sorted(path.name for path in folder.iterdir()) == [STUDY, "report.html", "run.json"]


def test_the_study_is_that_of_the_library(data: Path, tmp_path: Path) -> None:
    assert call("batch-size", data, "--out", tmp_path / "run", "--max-batch", 4, "--seed", 3) == 0
    points = pf.data.load(data, seed=3).points
    expected = pf.analysis.minibatch_convergence(points, [1, 2, 4], seed=3)
    study = pf.load(tmp_path / "run" / STUDY)
    torch.testing.assert_close(study.cost, expected.cost, rtol=1e-13, atol=0)  # sums of other alignment
    assert torch.equal(study.gap, expected.gap)


def test_the_page_shows_the_study_and_its_command_repeats_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_batch_size_page", render)
    folder = tmp_path / "run"
    assert call("batch-size", data, "--out", folder, "--max-batch", 2, "--schedule", "cosine") == 0
    page = (folder / "report.html").read_text()
    study = pf.load(folder / STUDY)
    assert page.count("<figure") == 1
    assert study.advice.replace("W2^2", "W₂²") in page
    assert f"{study.cost[1]:.4g}" in page
    (command,) = [re.sub("<.*?>", "", found) for found in re.findall(r'<div class="command">(.*?)</div>', page)]
    assert call(*shlex.split(command)[1:], "--out", tmp_path / "again") == 0
    again = pf.load(tmp_path / "again" / STUDY)
    assert torch.equal(again.gap, study.gap)
    assert again.schedule == study.schedule


def test_columns_of_labels_are_no_coordinates(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("x,y,kind\n" + "".join(f"{i % 5},{i % 7},{i % 2}\n" for i in range(20)))
    assert (
        call("batch-size", tmp_path / "table.csv", "--label", "kind", "--out", tmp_path / "run", "--max-batch", 1) == 0
    )
    assert pf.load(tmp_path / "run" / STUDY).potential.dim == 2


def test_interruption_keeps_the_sizes_that_are_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("proxflow.analysis.convergence.study")
    run_size = module.run_size

    def stopped(target: object, size: int, *rest: Any) -> Any:
        if size == 4:
            raise KeyboardInterrupt
        return run_size(target, size, *rest)

    monkeypatch.setattr(module, "run_size", stopped)
    assert call("batch-size", data, "--out", tmp_path / "run", "--max-batch", 8) == 0
    assert capsys.readouterr().err == "proxflow: interrupted: the batch sizes 4, 8 are missing\n"
    assert pf.load(tmp_path / "run" / STUDY).batch_sizes.tolist() == [1, 2]


def test_a_warning_of_every_batch_is_said_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("proxflow.analysis.convergence.batches")
    permutation = module.permutation

    def doubtful(x0: torch.Tensor, *rest: Any) -> Any:
        warnings.warn(f"the plan of {float(x0.sum())} is not converged", pf.ConvergenceWarning, stacklevel=2)
        return permutation(x0, *rest)

    monkeypatch.setattr(module, "permutation", doubtful)
    assert call("batch-size", data, "--out", tmp_path / "run", "--max-batch", 2) == 0
    assert capsys.readouterr().err.count("\n") == 1


def test_a_study_leaves_no_flow(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("batch-size", data, "--out", tmp_path / "run", "--max-batch", 1)
    capsys.readouterr()
    assert "study by proxflow batch-size" in refusal(capsys, "sample", tmp_path / "run")
    assert "already holds a run" in refusal(capsys, "batch-size", data, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--solver", "quick"], "'quick' is not one of 'exact', 'sinkhorn'"),
        (["--target-error", "0"], "--target-error must be a positive number, such as 0.05, got 0"),
        (["--target-error", "nan"], "--target-error must be a positive number"),
        (["--schedule", "bent"], "'bent' is not one of 'linear', 'cosine'"),
        (["--max-batch", "0"], "--max-batch"),
    ],
)
def test_refusals(
    data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "batch-size", data, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()
