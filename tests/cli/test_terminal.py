"""proxflow terminal."""

from __future__ import annotations

import json

import pytest
import torch

import proxflow as pf
from proxflow import report
from tests.cli.commands import call, refusal

render = report.render_terminal_page
WRITTEN = ["report.html", "run.json", "terminal.safetensors"]


@pytest.fixture(autouse=True)
def blank_arrival_page(monkeypatch):
    monkeypatch.setattr(report, "render_terminal_page", lambda *_args, **_options: "<!doctype html>", raising=False)


def test_data_are_fitted_and_studied(data, tmp_path, capsys) -> None:
    folder = tmp_path / "out"
    assert call("terminal", data, "--out", folder, "--epsilon", 1, "--scale", 1, "--count", 5) == 0
    printed = capsys.readouterr().out
    assert "local dimension at scale 1" in printed
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN
    study = pf.load(folder / "terminal.safetensors")
    assert study.spectrum.rates.shape == (7, 5, 2)
    assert float(study.spectrum.asymmetry.max()) < 1e-9
    assert study.dimension.scale == pytest.approx(1)
    record = json.loads((folder / "run.json").read_text())
    assert record["command"] == "terminal"
    assert record["arguments"]["epsilon"] == 1


def test_a_flow_that_memorises_is_warned_of(run, tmp_path, capsys) -> None:
    assert call("terminal", run, "--out", tmp_path / "out", "--scale", 0.01, "--count", 4) == 0
    assert "memorisation" in capsys.readouterr().out
    study = pf.load(tmp_path / "out" / "terminal.safetensors")
    torch.testing.assert_close(study.spectrum.rates[-1], torch.full((4, 2), -1.0, dtype=torch.float64))


def test_a_network_is_studied(data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>", raising=False)
    call("train", data, "--out", tmp_path / "run", "--steps", 5, "--width", 8, "--depth", 1)
    monkeypatch.setattr(report, "render_terminal_page", render)
    assert call("terminal", tmp_path / "run", "--count", 3) == 0
    page = (tmp_path / "run-terminal" / "report.html").read_text()
    assert page.count("<img") == 5
    assert "the network of" in page


def test_images_are_shown(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report, "render_terminal_page", render)
    options = ["--points", 40, "--epsilon", 20, "--scale", 1, "--count", 4]
    assert call("terminal", "digits", "--out", tmp_path / "out", *options) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 6
    assert "Samples pushed" in page


def test_bad_input(data, run, tmp_path, capsys) -> None:
    assert "scale" in refusal(capsys, "terminal", data, "--out", tmp_path / "out", "--scale", 0)
    assert "nowhere" in refusal(capsys, "terminal", tmp_path / "nowhere")
    assert "--epsilon: for data only" in refusal(capsys, "terminal", run, "--epsilon", 1)
    call("terminal", run, "--out", tmp_path / "out", "--count", 2)
    capsys.readouterr()
    assert "study by proxflow terminal" in refusal(capsys, "terminal", tmp_path / "out")
    assert "study by proxflow terminal" in refusal(capsys, "sample", tmp_path / "out")
