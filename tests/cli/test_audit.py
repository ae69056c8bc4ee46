"""proxflow audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import proxflow as pf
from proxflow import report
from tests.cli.commands import call, refusal

QUICK = ("--count", 64, "--steps", 8, "--no-marks")


@pytest.fixture(autouse=True)
def blank_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in ("render_audit_page", "render_training_page"):
        monkeypatch.setattr(report, page, lambda *_args, **_options: "<!doctype html>", raising=False)


def test_a_fit_obeys_the_laws(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", run, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "It obeys the laws of exact optimal transport" in printed
    folder = run.with_name(f"{run.name}-audit")
    assert sorted(path.name for path in folder.iterdir()) == ["audit.safetensors", "report.html", "run.json"]
    record = json.loads((folder / "run.json").read_text())
    assert record["command"] == "audit"
    assert record["result"]["figures"]["recovered_drift"]["value"] < 1e-9
    assert pf.load(folder / "audit.safetensors").verdict == record["result"]["verdict"]


def test_a_network_is_audited_in_its_own_units(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data are read in units of their own and standardised as those of the training were."""
    call("train", data, "--out", tmp_path / "run", "--steps", 5, "--width", 8, "--depth", 1)
    rows = np.load(data)
    np.save(tmp_path / "half.npy", rows[:12])
    np.save(tmp_path / "other.npy", rows[12:])
    capsys.readouterr()
    options = ("--data", tmp_path / "half.npy", "--held-out", tmp_path / "other.npy", "--json")
    assert call("audit", tmp_path / "run", *QUICK, *options) == 0
    record = json.loads(capsys.readouterr().out)
    figures = record["result"]["figures"]
    assert figures["energy_distance"]["value"] < 0.5
    assert "nearest_row_ratio" in figures


def test_bad_input(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is the run that is audited" in refusal(capsys, "audit", run, "--out", run, "--overwrite")
    assert "holds no run" in refusal(capsys, "audit", tmp_path)
    np.save(tmp_path / "wide.npy", np.zeros((9, 5)) + np.arange(9)[:, None])
    assert "the model of (2,)" in refusal(capsys, "audit", run, "--data", tmp_path / "wide.npy")
