"""proxflow audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import proxflow as pf
from proxflow import report
from tests.adapters.models import NormalField, normal_field, normal_rows, write_export, write_script
from tests.cli.commands import call, refusal

QUICK = ("--count", 64, "--steps", 8, "--no-compare-independent")


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


def test_a_network_that_was_told_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows go back to noise with the number that the network was told of their class, by its name."""
    random = np.random.default_rng(0)
    names = np.array(["left", "right"])[random.integers(2, size=80)]
    rows = random.normal(size=(80, 2)) + np.where(names == "left", -1, 1)[:, None]
    np.savez(tmp_path / "x.npz", points=rows, labels=names)
    np.savez(tmp_path / "strange.npz", points=rows, labels=np.array(["up", "down"])[random.integers(2, size=80)])
    options = ("--conditional", "--steps", 5, "--width", 8, "--depth", 1)
    call("train", tmp_path / "x.npz", "--out", tmp_path / "run", *options)
    capsys.readouterr()
    assert call("audit", tmp_path / "run", *QUICK, "--data", tmp_path / "x.npz", "--likelihood", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["arguments"]["likelihood"] is True
    figures, grid = record["result"]["figures"], record["result"]["step_grid"]
    assert -1 <= figures["label_leakage"]["value"] <= 1
    assert 1 < figures["density_bits"]["value"] < 4
    assert (len(grid), grid[0], grid[-1]) == (5, 0, 1)
    assert call("audit", tmp_path / "run", *QUICK, "--likelihood", "--json", "--overwrite") == 0  # by the data it keeps
    kept = json.loads(capsys.readouterr().out)["result"]["figures"]
    assert kept.keys() == figures.keys()
    assert kept["label_leakage"] == figures["label_leakage"]
    named = pf.load(tmp_path / "run-audit" / "audit.safetensors").group_names
    assert set(named) == {"class left", "class right"}
    strange = ("--data", tmp_path / "strange.npz", "--json", "--overwrite")
    assert call("audit", tmp_path / "run", *QUICK, *strange) == 0
    assert "label_leakage" not in json.loads(capsys.readouterr().out)["result"]["figures"]


@pytest.mark.parametrize("labels", [np.array(["0", "2", "10"]), np.array([0, 2, 10])], ids=["text", "numbers"])
def test_classes_are_the_same_by_name(
    labels: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that was told the classes "0", "10" and "2" as 0, 1 and 2 is asked for them so."""
    rows, which = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    np.savez(tmp_path / "x.npz", points=rows, labels=np.array(["0", "2", "10"])[which])
    np.savez(tmp_path / "again.npz", points=rows, labels=labels[which])
    run, asked = tmp_path / "run", dict[str, Any]()
    assert call("train", tmp_path / "x.npz", "--out", run, "--conditional", "--steps", 5, "--width", 8) == 0
    monkeypatch.setattr(pf.analysis, "audit", lambda *_args, **options: asked.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("audit", run, *QUICK, "--data", tmp_path / "again.npz")
    assert asked["labels"].tolist() == np.array([0, 2, 1])[which].tolist()


def test_bad_input(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is the run that is audited" in refusal(capsys, "audit", run, "--out", run, "--overwrite")
    assert "holds no run" in refusal(capsys, "audit", tmp_path)
    assert "there is no likelihood, leave it out" in refusal(capsys, "audit", run, *QUICK, "--likelihood")
    np.save(tmp_path / "wide.npy", np.zeros((9, 5)) + np.arange(9)[:, None])
    assert "the model of (2,)" in refusal(capsys, "audit", run, "--data", tmp_path / "wide.npy")


@pytest.fixture
def normal_data(tmp_path: Path) -> Path:
    np.save(tmp_path / "normal.npy", normal_rows().numpy())
    return tmp_path / "normal.npy"


@pytest.mark.parametrize("form", ["script", "weights", "export"])
def test_a_model_in_a_file(normal_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """In the units of its data, with a convention that is found; nothing else is printed, warnings included."""
    path = tmp_path / "model.bin"
    options: tuple[str, ...] = ("--trust",) if form == "export" else ()
    if form == "script":
        write_script(normal_field(), path)
    elif form == "export":
        write_export(normal_field(), path)
    else:
        save_file(normal_field().state_dict(), path)
        options = ("--network", "tests.adapters.models:NormalField")
    assert call("audit", path, "--data", normal_data, *options, *QUICK) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = f"{path}: called as model(x,t) on points of 2 numbers; it predicts velocity at forward time, as the data"
    assert printed.out.startswith(found)
    assert "No fault was found." in printed.out
    record = json.loads((tmp_path / "model-audit" / "run.json").read_text())
    assert record["result"]["figures"]["variance_ratio"]["value"] == pytest.approx(1, abs=0.25)
    assert record["arguments"]["schedule"] == "linear"
    assert record["data"]["name"] == "normal"


def test_a_model_in_units_of_its_own(normal_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--standardise is what it was trained on, and held-out rows are standardised as the data were."""
    np.save(tmp_path / "other.npy", np.load(normal_data)[:50] + 100)
    write_script(NormalField(), tmp_path / "model.ts")
    options = ("--standardise", "columns", "--held-out", tmp_path / "other.npy", "--convention", "torchcfm")
    assert call("audit", tmp_path / "model.ts", "--data", normal_data, *options, *QUICK, "--json") == 0
    figures = json.loads(capsys.readouterr().out)["result"]["figures"]
    assert figures["variance_ratio_1"]["value"] == pytest.approx(1, abs=0.3)
    assert figures["nearest_row_ratio"]["value"] < 0.01


@pytest.mark.parametrize("kind", ["file", "run"])
def test_points_are_a_number_of_the_data_and_not_of_held_out_rows(
    normal_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given: dict[str, Any] = {}
    measure = pf.analysis.audit

    def watched(*args: Any, **options: Any) -> pf.analysis.Audit:
        given.update(options)
        return measure(*args, **options)

    monkeypatch.setattr(pf.analysis, "audit", watched)
    np.save(tmp_path / "other.npy", np.load(normal_data)[:150] + 0.1)
    model = write_script(normal_field(), tmp_path / "model.ts")
    if kind == "run":
        model = tmp_path / "run"
        call("train", normal_data, "--out", model, "--steps", 5, "--width", 8, "--depth", 1)
    options = ("--data", normal_data, "--held-out", tmp_path / "other.npy", "--points", 100)
    assert call("audit", model, *options, *QUICK) == 0
    assert (len(given["data"]), len(given["held_out"])) == (100, 150)


def test_bad_models(
    normal_data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, data = write_script(normal_field(), tmp_path / "model.ts"), ("--data", normal_data)
    monkeypatch.chdir(tmp_path)
    assert "keeps no data; give --data" in refusal(capsys, "audit", script)
    assert "give convention 'velocity'" in refusal(capsys, "audit", script, *data, "--convention", "diffusers")
    assert "convention must be one of" in refusal(capsys, "audit", script, *data, "--convention", "best")
    assert "leave out what tells how a file is read, --trust" in refusal(capsys, "audit", run, *data, "--trust")
    np.save("wide.npy", np.random.default_rng(0).normal(size=(90, 3)))
    assert "does not take the data" in refusal(capsys, "audit", script, "--data", "wide.npy")
    (tmp_path / "damaged.ts").write_bytes(script.read_bytes()[:2000])
    assert "damaged" in refusal(capsys, "audit", "damaged.ts", *data)
    torch.save(normal_field(), "whole.pt")
    assert "give trust=True (--trust)" in refusal(capsys, "audit", "whole.pt", *data)
    save_file(normal_field().state_dict(), "model.safetensors")
    assert "(--network)" in refusal(capsys, "audit", "model.safetensors", *data)
    (tmp_path / "mine_alone.py").write_text("def build():\n    raise KeyError('width')\n")
    network = ("--network", "mine_alone:build")
    assert "raised KeyError: 'width'" in refusal(capsys, "audit", "model.safetensors", *data, *network)
    assert "" not in sys.path
    assert not list(tmp_path.glob("*-audit"))
