"""proxflow compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from proxflow import report
from tests.cli.commands import call, refusal
from tests.report.run_records import audit_record, training_record


@pytest.fixture(autouse=True)
def blank_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in ("render_comparison_page", "render_training_page"):
        monkeypatch.setattr(report, page, lambda *_args, **_options: "<!doctype html>", raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with runs a and b, and one of an audit."""
    monkeypatch.chdir(tmp_path)
    for name, record in {
        "a": training_record(),
        "b": training_record((0.1, 0.1, 0.1, 0.06, 0.04), coupling="subspace"),
        "audit": audit_record({"recovered_drift": (0.5, 0.01)}),
        "audit-2": audit_record({"recovered_drift": (0.1, 0.01)}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_the_table_is_printed_and_the_page_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "a", "b") == 0
    printed = capsys.readouterr().out
    assert "b is nearer to the data at 1 to 8 steps; at 100 steps the runs do not differ beyond error." in printed
    lines = {line[:30].strip().partition("  ")[0]: line.split() for line in printed.splitlines()}
    assert lines["coupling"][1:] == ["independent", "subspace"]
    assert lines["energy distance, 1 step"][4:] == ["0.500", "+-", "0.01", "0.100", "+-", "0.01", "b"]
    assert printed.endswith("page: compare.html\n")
    assert (folder / "compare.html").read_text() == "<!doctype html>"


def test_nothing_is_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "page.html").write_text("mine")
    assert "page.html is already there" in refusal(capsys, "compare", "a", "b", "--out", "page.html")
    assert "nope" in refusal(capsys, "compare", "a", "nope", "--out", "page.html")  # what matters more is said first
    assert (folder / "page.html").read_text() == "mine"
    assert call("compare", "a", "b", "--out", "page.html", "--overwrite") == 0
    assert (folder / "page.html").read_text() == "<!doctype html>"


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "a", "b", "--json") == 0
    output = capsys.readouterr()
    record = json.loads(output.out)
    assert output.err == ""
    assert record["runs"] == ["a", "b"]
    assert record["differing"] == {"coupling": ["independent", "subspace"]}
    (one,) = [figure for figure in record["figures"] if figure["name"] == "energy distance, 1 step"]
    assert one == {
        "name": "energy distance, 1 step",
        "best": "at most 0",
        "values": [0.5, 0.1],
        "errors": [0.01, 0.01],
        "intervals": [pytest.approx([0.4804, 0.5196], rel=1e-4), pytest.approx([0.0804, 0.1196], rel=1e-4)],
        "leaders": ["b"],
    }
    assert record["not_ranked"] == []


def test_audits_are_compared_with_audits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "audit", "audit-2") == 0
    assert "audit-2 leads in recovered drift" in capsys.readouterr().out


def test_real_runs_hold_what_is_compared(data: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for coupling in ("independent", "minibatch"):
        call("train", data, "--out", coupling, "--coupling", coupling, "--steps", 4, "--width", 8, "--depth", 1)
    capsys.readouterr()
    assert call("compare", "independent", "minibatch", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["differing"] == {"coupling": ["independent", "minibatch"]}
    assert record["facts"]["samples measured"] == ["1,000", "1,000"]
    assert record["facts"]["rows compared with"] == ["24", "24"]
    assert all(None not in figure["values"] + figure["errors"] for figure in record["figures"])
    assert record["figures"][-1]["name"] == "nearest-row ratio"


def test_names_tell_runs_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other").mkdir()
    shutil.copytree(folder / "a", folder / "other" / "a")
    assert call("compare", "a", "other/a", "--json") == 0
    assert json.loads(capsys.readouterr().out)["names"] == [f"{folder.name}/a", "other/a"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "Missing argument"),
        (["a"], "compare needs two runs or more, got only a"),
        (["a", "b", "./a"], "a is given twice"),
        (["a", "none"], "none holds no run"),
        (["a", "a/run.json"], "a/run.json is a file; give the folder of a run"),
        (["a", "fit"], "fit is a run of proxflow fit; compare takes runs of proxflow train, or of proxflow audit"),
        (["audit", "a"], "a is a run of proxflow train and audit of proxflow audit; give runs of one command"),
        (["a", "unfinished"], "unfinished holds no run yet, only an unfinished one; continue it by the same command"),
        (["a", "damaged"], "run.json is damaged"),
        (["a", "half"], "run.json is damaged (KeyError('quality'))"),
        (["a", "b", "--out", "none/page.html"], "there is no folder none"),
    ],
)
def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str], runs: Any, message: str) -> None:
    for name, text in {
        "fit": json.dumps(training_record() | {"command": "fit"}),
        "damaged": json.dumps(training_record())[:200],
        "half": json.dumps(training_record(result={"quality": None}) | {"result": {"finished": True, "steps": 3}}),
    }.items():
        (folder / name).mkdir()
        (folder / name / "run.json").write_text(text)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "training.safetensors").touch()
    assert message in refusal(capsys, "compare", *runs)
    assert not (folder / "compare.html").exists()
