"""proxflow terminal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow import report
from tests.cli.commands import call, refusal

render = report.render_terminal_page
WRITTEN = ["report.html", "run.json", "terminal.safetensors"]


@pytest.fixture(autouse=True)
def blank_arrival_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "render_terminal_page", lambda *_args, **_options: "<!doctype html>", raising=False)


def test_data_are_fitted_and_studied(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("scale", [0.01, 20])
def test_a_flow_that_memorises_does_so_at_any_scale(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: float
) -> None:
    assert call("terminal", run, "--out", tmp_path / "out", "--scale", scale, "--count", 4) == 0
    assert "One data point alone explains 100%" in capsys.readouterr().out
    study = pf.load(tmp_path / "out" / "terminal.safetensors")
    torch.testing.assert_close(study.spectrum.rates[-1], torch.full((4, 2), -1.0, dtype=torch.float64))


def test_a_network_is_studied(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>", raising=False)
    call("train", data, "--out", tmp_path / "run", "--steps", 5, "--width", 8, "--depth", 1)
    monkeypatch.setattr(report, "render_terminal_page", render)
    assert call("terminal", tmp_path / "run", "--count", 3) == 0
    page = (tmp_path / "run-terminal" / "report.html").read_text()
    assert page.count("<figure") == 5
    assert "the network of" in page


@pytest.mark.slow
def test_a_network_at_the_scale_of_single_atoms_is_warned_of(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>", raising=False)
    call("train", data, "--out", tmp_path / "run", "--steps", 5, "--width", 8, "--depth", 1)
    for scale, warned in ((0.001, True), (20, False)):
        capsys.readouterr()
        assert call("terminal", tmp_path / "run", "--count", 3, "--scale", scale, "--overwrite") == 0
        assert ("One data point alone" in capsys.readouterr().out) == warned


@pytest.mark.slow
def test_a_network_that_is_no_gradient_is_warned_of(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>", raising=False)
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(30, 12)).astype("f4"))
    monkeypatch.setattr(pf.matching.AffineResidual, "fit", lambda network, *_args, **_options: network)  # a gradient
    options = ("--network", "mlp", "--steps", 1, "--width", 8, "--depth", 1)
    call("train", tmp_path / "wide.npy", "--out", tmp_path / "run", *options)
    monkeypatch.setattr(report, "render_terminal_page", render)
    capsys.readouterr()
    assert call("terminal", tmp_path / "run", "--count", 6, "--scale", 50) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "run-terminal" / "report.html").read_text()
    asymmetry = pf.load(tmp_path / "run-terminal" / "terminal.safetensors").spectrum.asymmetry[-1]
    warning = f"The antisymmetric part makes up {float(asymmetry.square().mean()) / 4:.0%} of the squared Jacobian"
    assert warning in printed
    assert warning in page
    assert "One data point" not in page
    assert call("terminal", run, "--count", 4, "--out", tmp_path / "exact") == 0
    assert "antisymmetric" not in capsys.readouterr().out


def test_the_page_of_a_flow_that_memorises_shows_no_scales(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_terminal_page", render)
    assert call("terminal", run, "--out", tmp_path / "out", "--count", 4) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "One data point alone" in page
    assert "<h2>Rates</h2>" in page
    assert "<h2>Scales</h2>" not in page


def test_times_can_be_chosen(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert call("terminal", run, "--out", folder, "--count", 2, "--times", "0.2,0.8") == 0
    assert pf.load(folder / "terminal.safetensors").spectrum.times.tolist() == [0.2, 0.8]
    capsys.readouterr()
    for times in ("0.8,0.2", "0.5,1", "nan", "half", ""):
        assert "--times" in refusal(capsys, "terminal", run, "--out", tmp_path / "other", "--times", times)


@pytest.mark.slow
def test_images_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "render_terminal_page", render)
    options = ["--points", 40, "--epsilon", 20, "--scale", 1, "--count", 4]
    assert call("terminal", "digits", "--out", tmp_path / "out", *options) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure") == 6
    assert "Samples moved" in page


def test_a_run_is_not_replaced_by_its_own_study(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "is the run that is studied" in refusal(capsys, "terminal", run, "--out", run, "--overwrite")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("options", [["--coupling", "minibatch"], ["--conditional"]])
def test_a_network_is_checked_by_the_data_that_its_run_keeps(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>", raising=False)
    rows = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(tmp_path / "x.npz", points=rows, labels=np.arange(40) % 2)
    quick = ("--steps", 5, "--width", 8, "--depth", 1)
    call("train", tmp_path / "x.npz", *options, "--out", tmp_path / "run", *quick)
    capsys.readouterr()
    assert call("terminal", tmp_path / "run", "--count", 3, "--scale", 1e-4) == 0
    assert "spacing" in capsys.readouterr().out
    (tmp_path / "run" / "points.safetensors").unlink()
    assert "keeps no data, as runs of earlier versions may; train it again" in refusal(
        capsys, "terminal", tmp_path / "run"
    )


def test_labels_of_a_table_are_no_coordinates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{k / 20},{k % 5},{'ab'[k % 2]}" for k in range(20)]
    (tmp_path / "table.csv").write_text("x,y,kind\n" + "\n".join(rows) + "\n")
    for options, left_out in (([], True), (["--label", "kind"], False)):
        assert (
            call("terminal", tmp_path / "table.csv", "--out", tmp_path / "out", "--count", 2, "--overwrite", *options)
            == 0
        )
        assert ("left out: kind" in capsys.readouterr().err) == left_out
        assert pf.load(tmp_path / "out" / "terminal.safetensors").spectrum.points.shape[2] == 2


def test_bad_input(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "see proxflow terminal --help" in refusal(capsys, "terminal", data, "--colour", "red")
    assert "scale" in refusal(capsys, "terminal", data, "--out", tmp_path / "out", "--scale", 0)
    assert "nowhere" in refusal(capsys, "terminal", tmp_path / "nowhere")
    assert "--epsilon: for data only" in refusal(capsys, "terminal", run, "--epsilon", 1)
    call("terminal", run, "--out", tmp_path / "out", "--count", 2)
    capsys.readouterr()
    assert "study by proxflow terminal" in refusal(capsys, "terminal", tmp_path / "out")
    assert "study by proxflow terminal" in refusal(capsys, "sample", tmp_path / "out")


@pytest.mark.slow
def test_a_conditional_network_is_told_a_label_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>", raising=False)
    monkeypatch.setattr(report, "render_terminal_page", render)
    rows = [f"{k / 20},{k % 5},{'ab'[k % 2]}" for k in range(40)]
    (tmp_path / "table.csv").write_text("x,y,kind\n" + "\n".join(rows) + "\n")
    quick = ("--steps", 60, "--learning-rate", 0.05, "--width", 8, "--depth", 1)
    call("train", tmp_path / "table.csv", "--label", "kind", "--out", tmp_path / "run", *quick)
    studies = []
    for options, said in (([], "told no label: the mixture of its classes"), (["--label", "b"], "told the label b")):
        assert call("terminal", tmp_path / "run", "--count", 3, "--out", tmp_path / "out", "--overwrite", *options) == 0
        assert said in (tmp_path / "out" / "report.html").read_text()
        studies.append(pf.load(tmp_path / "out" / "terminal.safetensors").spectrum.points)
    assert not torch.equal(*studies)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["arguments"]["label"] == "b"
    capsys.readouterr()
    assert "no class 'c'" in refusal(capsys, "terminal", tmp_path / "run", "--label", "c")


def test_a_fitted_flow_is_told_no_label(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "takes no --label" in refusal(capsys, "terminal", run, "--label", "1")
