"""Run folders: their record, who may write over them, and what Ctrl-C leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

import proxflow as pf
from proxflow import cli, report, storage
from proxflow.semidiscrete.damped_newton import DampedNewton
from proxflow.semidiscrete.descent import Descent
from tests.cli.commands import POINTS, RUN_FILES, SPACE, UNFINISHED_FILES, call, digest, refusal

# -------------------------------------------------------------------- record


def test_the_record_holds_what_repeats_the_run(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    dataset = pf.data.load(finished.parent / "points.npy")
    assert record["command"] == "fit"
    assert record["arguments"] == {
        "data": str(finished.parent / "points.npy"),
        "points": None,
        "label": None,
        "representation": None,
        "data_dir": None,
        "array": None,
        "split": None,
        "size": None,
        "frames": None,
        "standardise": None,
        "columns": None,
        "drop": None,
        "drop_missing": False,
        "layer": None,
        "sep": None,
        "decimal": None,
        "encoding": None,
        "skip_lines": None,
        "tol": 0.01,
        "epsilon": 0.0,
        "max_samples": None,
        "schedule": "linear",
        "seed": 3,
        "device": None,
    }
    assert record["data"] == {
        "name": "points",
        "points": 24,
        "event_shape": [2],
        "sha256": dataset.content_hash,
        "labels": None,
        "label_numbers": None,
        "range": list(dataset.value_range),
        "standardise": "global",
        "columns": None,
        "left_out": {},
        "notes": [],
    }
    assert record["versions"]["proxflow"] == pf.__version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_record_holds_the_certificate(finished: Path) -> None:
    result = json.loads((finished / "run.json").read_text())["result"]
    fitted = pf.load(finished / "fit.safetensors")
    assert result.pop("atoms") == len(fitted.potential.points)
    assert result.pop("transport_cost_interval") == list(fitted.transport_cost_interval)
    for name, value in result.items():
        assert value == getattr(fitted, name), name
    assert set(result) == {
        "method",
        "epsilon",
        "converged",
        "chi2",
        "chi2_stderr",
        "transport_cost",
        "samples_used",
        "evaluation_samples",
        "seconds",
    }


def test_the_record_repeats_the_run(finished: Path, tmp_path: Path) -> None:
    arguments = json.loads((finished / "run.json").read_text())["arguments"]
    options = [str(part) for name in ("tol", "schedule", "seed") for part in (f"--{name}", arguments[name])]
    cli.main(["fit", arguments["data"], *options, "--out", str(tmp_path / "again")])
    first, second = pf.load(finished / "fit.safetensors"), pf.load(tmp_path / "again" / "fit.safetensors")
    assert torch.equal(first.potential.heights, second.potential.heights)
    assert first.chi2 == second.chi2
    assert first.transport_cost == second.transport_cost


def test_without_out_the_run_is_named_after_the_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("fit", data) == 0
    assert sorted(os.listdir(tmp_path / "runs" / "points")) == RUN_FILES


# -------------------------------------------------------------------- claims


def test_an_existing_run_is_refused(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(run)
    message = refusal(capsys, "fit", data, "--out", run)
    assert "already holds a run" in message
    assert "--overwrite" in message
    assert digest(run) == before


def test_overwrite_replaces_a_run_and_its_samples(run: Path, tmp_path: Path) -> None:
    assert call("sample", run, "--count", 3) == 0
    (run / "notes.txt").write_text("mine")
    np.save(tmp_path / "other.npy", POINTS[:5])
    assert call("fit", tmp_path / "other.npy", "--out", run, "--overwrite") == 0
    assert sorted(os.listdir(run)) == sorted([*RUN_FILES, "notes.txt"])
    assert json.loads((run / "run.json").read_text())["data"]["points"] == 5
    assert len(pf.load(run / "fit.safetensors").potential.points) == 5


def test_a_failing_fit_leaves_the_old_run(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(run)
    np.save(tmp_path / "bad.npy", np.array([[1.0, np.nan]]))
    assert "NaN" in refusal(capsys, "fit", tmp_path / "bad.npy", "--out", run, "--overwrite")
    assert "tol must be" in refusal(capsys, "fit", data, "--out", run, "--overwrite", "--tol", -1)
    assert digest(run) == before


def test_an_output_folder_that_cannot_be_is_one_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a file" in refusal(capsys, "fit", data, "--out", data)
    assert "cannot be made (Not a directory); give another --out" in refusal(capsys, "fit", data, "--out", data / "run")
    refusal(capsys, "fit", data, "--out", data / "below")


def test_a_run_is_no_data_and_data_are_no_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("fit", "train", "batch-size", "pairs"):
        more = ["--epochs", 1] if command == "pairs" else []
        assert "is a run folder; give what its run was made of" in refusal(capsys, command, finished, *more)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, shade in (("a.png", 0), ("b.png", 255)):
        Image.new("L", (4, 4), shade).save(pictures / name)
    assert "holds the data; give another folder" in refusal(capsys, "fit", pictures, "--out", pictures, "--overwrite")
    assert sorted(path.name for path in pictures.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 9 TiB"), RuntimeError("[enforce fail] can't allocate memory: 9 TiB")]
)
def test_a_lack_of_memory_is_one_line(
    error: Exception, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object, **_options: object) -> NoReturn:
        raise error

    monkeypatch.setattr(pf.data, "load", fails)
    assert "there is not enough memory" in refusal(capsys, "fit", data)


def test_an_empty_output_folder_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for empty in ("", " "):
        assert "--out': it is empty; give a folder" in refusal(capsys, "fit", data, "--out", empty)
    assert os.listdir(tmp_path) == ["points.npy"]


def test_the_home_directory_is_known(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert call("fit", "~/points.npy", "--out=~/run") == 0
    assert sorted(os.listdir(tmp_path)) == ["points.npy", "run"]


@pytest.mark.parametrize("below", ["run", "run/deep/er"])
def test_a_read_only_folder_is_refused_before_the_work(
    below: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs the tests may write anywhere, so the system's answer is put in its place."""
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path / "run")
    monkeypatch.setattr(pf.data, "load", None)
    (tmp_path / "run").mkdir()
    assert f"{tmp_path / 'run'} is read-only; give another --out" in refusal(
        capsys, "fit", data, "--out", tmp_path / below
    )


def test_a_full_disk_is_one_line_and_leaves_no_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_atomically", full)
    assert "No space left on device" in refusal(capsys, "fit", data, "--out", tmp_path / "run")
    monkeypatch.undo()
    assert "holds no run" in refusal(capsys, "sample", tmp_path / "run")
    assert call("fit", data, "--out", tmp_path / "run") == 0


# -------------------------------------------------------------------- Ctrl-C


def interrupt(*_args: object, **_options: object) -> NoReturn:
    raise KeyboardInterrupt


TARGETS = {"load": (pf.data, "load"), "render": (report, "render_page"), "write": (storage, "write_atomically")}
HINT = "the same command with --resume continues it"


@pytest.mark.parametrize("where", ["load", "write"])
def test_ctrl_c_before_anything_is_written_leaves_nothing(
    where: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(*TARGETS[where], interrupt)
        assert call("fit", data, "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err == "proxflow: interrupted\n"
    assert not (tmp_path / "run").exists()
    assert call("fit", data, "--out", tmp_path / "run") == 0
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES


def test_ctrl_c_after_the_fit_keeps_its_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(*TARGETS["render"], interrupt)
        assert call("fit", data, "--out", tmp_path / "run") == 130
    hint, line = capsys.readouterr().err.splitlines()
    assert hint == f"the run is kept in {tmp_path / 'run'}; {HINT}"
    assert line == "proxflow: interrupted"
    assert os.listdir(tmp_path / "run") == ["checkpoint.safetensors"]
    assert "holds an unfinished run" in refusal(capsys, "fit", data, "--out", tmp_path / "run")
    assert "holds no run" in refusal(capsys, "sample", tmp_path / "run")
    assert call("fit", data, "--out", tmp_path / "run", "--resume") == 0
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES


@pytest.mark.parametrize("where", ["load", "render", "write"])
def test_ctrl_c_before_the_end_keeps_the_old_run(
    where: str, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(run)
    monkeypatch.setattr(*TARGETS[where], interrupt)
    assert call("fit", data, "--out", run, "--overwrite") == 130
    after = digest(run)
    assert ("checkpoint.safetensors" in after) == (where == "render")
    after.pop("checkpoint.safetensors", None)
    assert after == before


@pytest.mark.parametrize("position", range(1, 5))
def test_ctrl_c_between_two_files_never_mixes_two_runs(
    position: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "other.npy", POINTS[:5])
    command = ["fit", tmp_path / "other.npy", "--out", run]
    written: list[str] = []
    write = storage.write_atomically

    def counted(path: Path, content: bytes) -> None:
        if len(written) == position:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_atomically", counted)
        assert call(*command, "--overwrite") == 130
    assert written[0] == "checkpoint.safetensors"
    assert sorted(os.listdir(run)) == sorted(written)
    capsys.readouterr()
    assert "holds no run" in refusal(capsys, "sample", run)
    assert call(*command, "--resume") == 0
    assert sorted(os.listdir(run)) == RUN_FILES
    assert len(pf.load(run / "fit.safetensors").potential.points) == 5


def test_ctrl_c_while_sampling_keeps_the_old_samples(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("sample", run, "--count", 3) == 0
    before = digest(run)
    monkeypatch.setattr(pf.sampling, "integrate", interrupt)
    assert call("sample", run, "--count", 4) == 130
    assert digest(run) == before


# -------------------------------------------------------------------- resuming


@dataclasses.dataclass
class CtrlC:
    """Steps of a fit are counted, and one of them is where the user presses Ctrl-C."""

    at: int | None
    steps: int = 0

    def watch(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            if self.steps == self.at:
                self.at = None
                raise KeyboardInterrupt
            self.steps += 1
            return step(*arguments)

        return watched


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> CtrlC:
    """Not pressed until ``at`` is set."""
    pressed = CtrlC(None)
    monkeypatch.setattr(Descent, "step", pressed.watch(Descent.step))
    monkeypatch.setattr(DampedNewton, "step", pressed.watch(DampedNewton.step))
    return pressed


FITS = {
    "noise": (SPACE, ["--tol", 1e-3, "--max-samples", 10**6]),
    "smooth": (SPACE, ["--tol", 1e-3, "--max-samples", 10**6, "--epsilon", 0.3]),
    "Newton": (POINTS, ["--tol", 1e-6, "--max-samples", 10**6]),
}


@pytest.mark.parametrize("kind", FITS)
def test_an_interrupted_fit_is_kept_and_gone_on_with(
    kind: str, ctrl_c: CtrlC, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, options = FITS[kind]
    np.save(tmp_path / "data.npy", points)
    command = ["fit", tmp_path / "data.npy", *options, "--out"]
    assert call(*command, tmp_path / "whole") == 0
    needed = ctrl_c.steps
    ctrl_c.steps, ctrl_c.at = 0, min(3, needed // 2)
    capsys.readouterr()

    assert call(*command, tmp_path / "run") == 0
    assert "NOT converged" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "run")) == UNFINISHED_FILES
    assert call("sample", tmp_path / "run", "--count", 4) == 0
    capsys.readouterr()
    assert "--resume to continue it" in refusal(capsys, *command, tmp_path / "run")

    ctrl_c.steps = 0
    assert call(*command, tmp_path / "run", "--resume") == 0
    assert ctrl_c.steps < needed
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES
    whole, run = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "run"))
    assert run["result"].pop("seconds") > 0
    assert whole["result"].pop("seconds") > 0
    assert run == whole
    heights = [pf.load(tmp_path / name / "fit.safetensors").potential.heights for name in ("whole", "run")]
    assert torch.equal(*heights)


def test_the_printed_command_goes_on(
    ctrl_c: CtrlC, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    ctrl_c.at = 3
    assert call("fit", space, "--tol", 1e-3, "--max-samples", 10**6, "--out", folder) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    proxflow fit")]
    cli.main(shlex.split(line)[1:])
    assert sorted(os.listdir(folder)) == RUN_FILES
    assert json.loads((folder / "run.json").read_text())["result"]["converged"] is True


def test_a_capped_fit_goes_on_with_a_larger_cap(space: Path, tmp_path: Path) -> None:
    command = ["fit", space, "--tol", 1e-3, "--out", tmp_path / "run"]
    assert call(*command, "--max-samples", 1000) == 0
    assert sorted(os.listdir(tmp_path / "run")) == UNFINISHED_FILES
    capped = pf.load(tmp_path / "run" / "fit.safetensors")
    assert call(*command, "--max-samples", 10**6, "--resume") == 0
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES
    whole = pf.load(tmp_path / "run" / "fit.safetensors")
    assert (
        whole.history[0].samples_used == capped.history[-1].samples_used
    )  # told by other draws than judged on the way
    assert whole.samples_used > capped.samples_used
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]["max_samples"] == 10**6


def test_the_printed_command_of_a_capped_fit_raises_the_cap(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit", space, "--tol", 1e-3, "--max-samples", 1000, "--out", tmp_path / "run") == 0
    capped = pf.load(tmp_path / "run" / "fit.safetensors")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    proxflow fit")]
    assert f"--max-samples {2 * capped.samples_used}" in line
    cli.main(shlex.split(line)[1:])
    assert pf.load(tmp_path / "run" / "fit.safetensors").samples_used > capped.samples_used


def test_nothing_to_go_on_with_is_one_line(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(run)
    assert "nothing to resume" in refusal(capsys, "fit", data, "--out", run, "--resume")
    assert digest(run) == before
    assert "nothing to resume" in refusal(capsys, "fit", data, "--out", tmp_path / "new", "--resume")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def unfinished(space: Path, tmp_path: Path) -> Path:
    assert call("fit", space, "--out", tmp_path / "run", "--max-samples", 1, "--tol", 1e-2) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("other", [["--seed", 1], ["--epsilon", 0.1], ["--points", 20]], ids=lambda other: other[0])
def test_another_fit_is_not_gone_on_with(
    other: Any, unfinished: Path, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(unfinished)
    capsys.readouterr()
    assert "belongs to a fit of other" in refusal(capsys, "fit", space, *other, "--out", unfinished, "--resume")
    assert digest(unfinished) == before


def test_a_damaged_checkpoint_is_one_line(unfinished: Path, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = unfinished / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    before = digest(unfinished)
    capsys.readouterr()
    assert "truncated" in refusal(capsys, "fit", space, "--out", unfinished, "--resume")
    assert digest(unfinished) == before


def test_overwrite_begins_again(ctrl_c: CtrlC, unfinished: Path, space: Path, tmp_path: Path) -> None:
    command = ["fit", space, "--seed", 1, "--out"]
    ctrl_c.steps = 0
    assert call(*command, tmp_path / "new") == 0
    needed, ctrl_c.steps = ctrl_c.steps, 0
    assert call(*command, unfinished, "--overwrite") == 0
    assert ctrl_c.steps == needed
    assert sorted(os.listdir(unfinished)) == RUN_FILES


# -------------------------------------------------------------------- reading


def test_sampling_without_a_run_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "proxflow fit DATA" in refusal(capsys, "sample", tmp_path / "none")


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"data": {}}', '{"data": {"event_shape": ["a"]}}'])
def test_a_damaged_record_is_one_line(content: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "run.json").write_text(content)
    assert "is damaged" in refusal(capsys, "sample", run)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("arguments", {"schedule": "sigmoid"}),
        ("data", {"columns": ["one"]}),
        ("data", {"event_shape": [-1, -2]}),
        ("data", {"label_numbers": [0]}),
    ],
)
def test_a_record_that_says_what_cannot_be_is_damaged(
    part: str, change: dict[str, Any], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown schedule is not taken for the linear one, nor are the columns of other points for those of these."""
    record = json.loads((run / "run.json").read_text())
    record[part] |= change
    (run / "run.json").write_text(json.dumps(record))
    assert "is damaged" in refusal(capsys, "sample", run, "--out", tmp_path / "x.csv")


@pytest.mark.parametrize(("name", "wide"), [("rows", 2), ("rows", 3), ("standardisation", 3)])
def test_rows_and_units_of_another_run_are_refused(
    name: str, wide: int, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = np.random.default_rng(0).normal(size=(9, wide))
    np.save(tmp_path / "other.npy", other)
    assert call("fit", tmp_path / "other.npy", "--out", tmp_path / "other", "--standardise", "columns") == 0
    (run / f"{name}.safetensors").write_bytes((tmp_path / "other" / f"{name}.safetensors").read_bytes())
    capsys.readouterr()
    assert f"{name}.safetensors does not belong to" in refusal(capsys, "sample", run)


@pytest.mark.parametrize("name", ["fit.safetensors", "standardisation.safetensors"])
def test_a_missing_or_truncated_part_is_one_line(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:50])
    assert "truncated" in refusal(capsys, "sample", run)
    (run / name).unlink()
    assert name in refusal(capsys, "sample", run)


def test_parts_of_two_runs_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pf.save(pf.schedules.Linear(), run / "fit.safetensors")
    assert "does not belong" in refusal(capsys, "sample", run)
    np.save(tmp_path / "line.npy", POINTS[:, :1])
    assert call("fit", tmp_path / "line.npy", "--out", tmp_path / "line") == 0
    (run / "fit.safetensors").write_bytes((tmp_path / "line" / "fit.safetensors").read_bytes())
    capsys.readouterr()
    assert "does not belong" in refusal(capsys, "sample", run)
