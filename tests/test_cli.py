"""The command line: run folders, refusals in one line, interruptions."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import proxflow as pf
from proxflow import cli, report, storage
from proxflow.data import BUILT_IN

POINTS = np.random.default_rng(0).normal(size=(24, 2)) * [30.0, 5.0] + [1000.0, -200.0]
RUN_FILES = ["fit.safetensors", "report.html", "run.json", "standardisation.safetensors"]
SAMPLE_FILES = ["samples.json", "samples.npy"]


QUICK = ["--max-samples", "3000", "--tol", "0.5"]
render_page = report.render_page


@pytest.fixture(autouse=True)
def blank_page(monkeypatch):
    """Pages are the business of test_report; ``real_page`` asks for one here."""
    monkeypatch.setattr(report, "render_page", lambda *_args, **_options: "<!doctype html>")


@pytest.fixture
def real_page(monkeypatch, blank_page):
    monkeypatch.setattr(report, "render_page", render_page)


@pytest.fixture
def data(tmp_path) -> Path:
    np.save(tmp_path / "points.npy", POINTS)
    return tmp_path / "points.npy"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that tests may read but not change."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "points.npy", POINTS)
    cli.main(["fit", str(folder / "points.npy"), "--out", str(folder / "run"), "--seed", "3"])
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of that run."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in RUN_FILES:
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder


def call(*arguments: object) -> int:
    """Exit status of a command; fits are quick ones unless the command says otherwise."""
    given = [str(argument) for argument in arguments]
    if given[:1] == ["fit"] and len(given) > 1:
        given[2:2] = [part for i in (0, 2) if QUICK[i] not in given for part in QUICK[i : i + 2]]
    try:
        cli.main(given)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refusal(capsys, *arguments: object) -> str:
    """The one line on standard error of a refused command."""
    assert call(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("proxflow: ")
    assert "Traceback" not in output.err
    return output.err


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


# -------------------------------------------------------------------- fit


def test_fit_writes_a_run_folder(data, tmp_path, capsys):
    assert call("fit", data, "--out", tmp_path / "deep" / "run") == 0
    output = capsys.readouterr()
    assert sorted(os.listdir(tmp_path / "deep" / "run")) == RUN_FILES
    assert "points: 24 points in dimension 2, converged" in output.out
    assert str(tmp_path / "deep" / "run" / "report.html") in output.out
    assert output.err == ""


def test_the_record_holds_what_repeats_the_run(finished):
    record = json.loads((finished / "run.json").read_text())
    dataset = pf.data.load(finished.parent / "points.npy")
    assert record["command"] == "fit"
    assert record["arguments"] == {
        "data": str(finished.parent / "points.npy"),
        "tol": 0.01,
        "max_samples": None,
        "schedule": "linear",
        "seed": 3,
    }
    assert record["data"] == {"name": "points", "points": 24, "event_shape": [2], "sha256": dataset.content_hash}
    assert record["versions"]["proxflow"] == pf.__version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_record_holds_the_certificate(finished):
    result = json.loads((finished / "run.json").read_text())["result"]
    fitted = pf.load(finished / "fit.safetensors")
    assert result.pop("atoms") == len(fitted.potential.points)
    assert result.pop("transport_cost_interval") == list(fitted.transport_cost_interval)
    for name, value in result.items():
        assert value == getattr(fitted, name), name
    assert set(result) == {
        "converged",
        "chi2",
        "chi2_stderr",
        "transport_cost",
        "samples_used",
        "evaluation_samples",
        "seconds",
    }


def test_the_record_repeats_the_run(finished, tmp_path):
    arguments = json.loads((finished / "run.json").read_text())["arguments"]
    options = [str(part) for name in ("tol", "schedule", "seed") for part in (f"--{name}", arguments[name])]
    cli.main(["fit", arguments["data"], *options, "--out", str(tmp_path / "again")])
    first, second = pf.load(finished / "fit.safetensors"), pf.load(tmp_path / "again" / "fit.safetensors")
    assert torch.equal(first.potential.heights, second.potential.heights)
    assert first.chi2 == second.chi2
    assert first.transport_cost == second.transport_cost


def test_another_seed_gives_another_fit(finished, data, tmp_path):
    assert call("fit", data, "--out", tmp_path / "run", "--seed", 4) == 0
    first, second = pf.load(finished / "fit.safetensors"), pf.load(tmp_path / "run" / "fit.safetensors")
    assert not torch.equal(first.potential.heights, second.potential.heights)


def test_the_fit_is_that_of_the_library(finished):
    dataset = pf.data.load(finished.parent / "points.npy", seed=3)
    expected = pf.semidiscrete.fit(dataset.points, seed=3)
    fitted = pf.load(finished / "fit.safetensors")
    assert torch.equal(fitted.potential.points, expected.potential.points)
    assert torch.equal(fitted.potential.heights, expected.potential.heights)


def test_without_out_the_run_is_named_after_the_data(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("fit", data) == 0
    assert sorted(os.listdir(tmp_path / "runs" / "points")) == RUN_FILES


def test_a_fit_that_does_not_converge_says_so_and_is_kept(real_page, data, tmp_path, capsys):
    assert call("fit", data, "--out", tmp_path / "run", "--max-samples", 1, "--tol", 1e-2) == 0
    output = capsys.readouterr()
    assert "NOT converged" in output.out
    assert "--max-samples" in output.out
    assert output.err == ""
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["max_samples"] == 1
    assert record["result"]["converged"] is False
    assert "Not converged" in (tmp_path / "run" / "report.html").read_text()


def test_an_existing_run_is_refused(run, data, capsys):
    before = digest(run)
    message = refusal(capsys, "fit", data, "--out", run)
    assert "already holds a run" in message
    assert "--overwrite" in message
    assert digest(run) == before


def test_overwrite_replaces_a_run_and_its_samples(run, tmp_path):
    assert call("sample", run, "--count", 3) == 0
    (run / "notes.txt").write_text("mine")
    np.save(tmp_path / "other.npy", POINTS[:5])
    assert call("fit", tmp_path / "other.npy", "--out", run, "--overwrite") == 0
    assert sorted(os.listdir(run)) == sorted([*RUN_FILES, "notes.txt"])
    assert json.loads((run / "run.json").read_text())["data"]["points"] == 5
    assert len(pf.load(run / "fit.safetensors").potential.points) == 5


def test_a_failing_fit_leaves_the_old_run(run, data, tmp_path, capsys):
    before = digest(run)
    np.save(tmp_path / "bad.npy", np.array([[1.0, np.nan]]))
    assert "NaN" in refusal(capsys, "fit", tmp_path / "bad.npy", "--out", run, "--overwrite")
    assert "tol must be" in refusal(capsys, "fit", data, "--out", run, "--overwrite", "--tol", -1)
    assert digest(run) == before


# -------------------------------------------------------------------- refusals


def test_an_unknown_data_set_lists_the_known_ones(tmp_path, capsys):
    message = refusal(capsys, "fit", "didgits", "--out", tmp_path / "run")
    assert "'didgits'" in message
    assert all(name in message for name in BUILT_IN)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--schedule", "cubic"], "unknown schedule 'cubic'; known: linear, cosine"),
        (["--tol", "-1"], "tol must be a positive number"),
        (["--tol", "nan"], "tol must be a positive number"),
        (["--tol", "small"], "--tol"),
        (["--max-samples", "0"], "max_samples must be at least 1"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**32)], "--seed"),
        (["--colour", "red"], "--colour"),
        (["extra"], "extra"),
    ],
)
def test_wrong_options_of_fit_are_one_line(options, words, data, tmp_path, capsys):
    assert words in refusal(capsys, "fit", data, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_missing_and_unknown_commands_are_one_line(capsys):
    assert "data" in refusal(capsys, "fit").lower()
    assert "run" in refusal(capsys, "sample").lower()
    assert "paint" in refusal(capsys, "paint")


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    (tmp_path / "x.pt").write_bytes(b"no such thing")
    assert str(tmp_path / "x.pt") in refusal(capsys, "fit", tmp_path / "x.pt", "--out", tmp_path / "run")


def test_an_output_folder_that_cannot_be_is_one_line(data, capsys):
    assert "is a file" in refusal(capsys, "fit", data, "--out", data)
    refusal(capsys, "fit", data, "--out", data / "below")


def test_a_full_disk_is_one_line_and_leaves_no_run(data, tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_atomically", full)
    assert "No space left on device" in refusal(capsys, "fit", data, "--out", tmp_path / "run")
    monkeypatch.undo()
    assert "holds no run" in refusal(capsys, "sample", tmp_path / "run")
    assert call("fit", data, "--out", tmp_path / "run") == 0


def test_a_missing_extra_is_one_line(real_page, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert 'pip install "proxflow[report]"' in refusal(capsys, "fit", data, "--out", tmp_path / "run")


def test_our_own_mistakes_are_not_hidden(data, tmp_path, monkeypatch):
    def broken(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(report, "render_page", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fit", str(data), "--out", str(tmp_path / "run")])


# -------------------------------------------------------------------- Ctrl-C


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["load", "render", "write"])
def test_ctrl_c_leaves_no_half_run(where, data, tmp_path, monkeypatch, capsys):
    target = {"load": (pf.data, "load"), "render": (report, "render_page"), "write": (storage, "write_atomically")}
    with monkeypatch.context() as patched:
        patched.setattr(*target[where], interrupt)
        assert call("fit", data, "--out", tmp_path / "run") == 130
    output = capsys.readouterr()
    assert output.err == "proxflow: interrupted\n"
    assert not (tmp_path / "run" / "run.json").exists()
    assert call("fit", data, "--out", tmp_path / "run") == 0
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES


@pytest.mark.parametrize("where", ["load", "render"])
def test_ctrl_c_before_the_end_keeps_the_old_run(where, run, data, monkeypatch):
    before = digest(run)
    target = {"load": (pf.data, "load"), "render": (report, "render_page")}
    monkeypatch.setattr(*target[where], interrupt)
    assert call("fit", data, "--out", run, "--overwrite") == 130
    assert digest(run) == before


@pytest.mark.parametrize("position", range(4))
def test_ctrl_c_between_two_files_never_mixes_two_runs(position, run, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "other.npy", POINTS[:5])
    written = []
    write = storage.write_atomically

    def counted(path, content):
        if len(written) == position:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_atomically", counted)
        assert call("fit", tmp_path / "other.npy", "--out", run, "--overwrite") == 130
    assert sorted(os.listdir(run)) == sorted(written)
    capsys.readouterr()
    assert "holds no run" in refusal(capsys, "sample", run)


def test_ctrl_c_in_the_fit_keeps_the_best_so_far(data, tmp_path, monkeypatch, capsys):
    from proxflow.semidiscrete.descent import Descent

    steps = []
    step = Descent.step

    def counted(self):
        if len(steps) == 3:
            steps.append(None)
            raise KeyboardInterrupt
        steps.append(None)
        step(self)

    monkeypatch.setattr(Descent, "step", counted)
    assert call("fit", data, "--out", tmp_path / "run", "--tol", 1e-3, "--max-samples", 10**9) == 0
    assert "NOT converged" in capsys.readouterr().out
    assert call("sample", tmp_path / "run", "--count", 4) == 0


def test_ctrl_c_while_sampling_keeps_the_old_samples(run, monkeypatch):
    assert call("sample", run, "--count", 3) == 0
    before = digest(run)
    monkeypatch.setattr(pf.sampling, "integrate", interrupt)
    assert call("sample", run, "--count", 4) == 130
    assert digest(run) == before


# -------------------------------------------------------------------- sample


def test_samples_are_data_points_in_their_own_units(run, capsys):
    assert call("sample", run, "--count", 200, "--seed", 1) == 0
    samples = np.load(run / "samples.npy")
    assert samples.shape == (200, 2)
    assert samples.dtype == np.float32
    distances = np.abs(samples[:, None].astype(float) - POINTS[None]).max(2)
    assert distances.min(1).max() <= 8 * np.finfo(np.float32).eps * np.abs(POINTS).max()
    nearest = np.bincount(distances.argmin(1), minlength=24)
    assert (nearest > 0).sum() >= 20
    assert str(run / "samples.npy") in capsys.readouterr().out
    assert sorted(os.listdir(run)) == sorted([*RUN_FILES, *SAMPLE_FILES])


def test_samples_follow_their_seed_and_record_it(run):
    drawn = {}
    for label, seed in {"a": 1, "b": 1, "c": 2}.items():
        assert call("sample", run, "--count", 50, "--seed", seed) == 0
        drawn[label] = (run / "samples.npy").read_bytes()
    assert drawn["a"] == drawn["b"]
    assert drawn["a"] != drawn["c"]
    record = json.loads((run / "samples.json").read_text())
    assert record["command"] == "sample"
    assert record["arguments"] == {"count": 50, "steps": None, "method": "proximal", "seed": 2}
    assert record["versions"]["proxflow"] == pf.__version__


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "dopri5", "proximal"])
def test_every_method_ends_on_the_same_points(method, run):
    assert call("sample", run, "--count", 20) == 0
    expected = np.load(run / "samples.npy")
    assert call("sample", run, "--count", 20, "--method", method, *([] if method == "dopri5" else ["--steps", 4])) == 0
    assert np.abs(np.load(run / "samples.npy") - expected).max() <= 1e-3 * np.abs(POINTS).max()


def test_the_cosine_schedule_is_kept_with_the_run(real_page, data, tmp_path):
    assert call("fit", data, "--out", tmp_path / "run", "--schedule", "cosine") == 0
    assert "Cosine()" in (tmp_path / "run" / "report.html").read_text()
    assert call("sample", tmp_path / "run", "--count", 10) == 0
    distances = np.abs(np.load(tmp_path / "run" / "samples.npy")[:, None] - POINTS[None]).max(2).min(1)
    assert distances.max() <= 1e-3


def test_images_get_a_picture(real_page, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(5):
        path = tmp_path / "pets" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=(6, 5, 3)).astype(np.uint8)).save(path)
    assert call("fit", tmp_path / "pets", "--out", tmp_path / "run") == 0
    assert call("sample", tmp_path / "run", "--count", 7) == 0
    assert np.load(tmp_path / "run" / "samples.npy").shape == (7, 3, 6, 5)
    with Image.open(tmp_path / "run" / "samples.png") as picture:
        picture.verify()
    assert "samples.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "magic"], "unknown method 'magic'"),
        (["--count", "0"], "--count"),
        (["--steps", "0"], "--steps"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_wrong_options_of_sample_are_one_line(options, words, run, capsys):
    assert words in refusal(capsys, "sample", run, *options)
    assert sorted(os.listdir(run)) == RUN_FILES


def test_sampling_without_a_run_says_how_to_make_one(tmp_path, capsys):
    assert "proxflow fit DATA" in refusal(capsys, "sample", tmp_path / "none")


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"data": {}}', '{"data": {"event_shape": ["a"]}}'])
def test_a_damaged_record_is_one_line(content, run, capsys):
    (run / "run.json").write_text(content)
    assert "is damaged" in refusal(capsys, "sample", run)


@pytest.mark.parametrize("name", ["fit.safetensors", "standardisation.safetensors"])
def test_a_missing_or_truncated_part_is_one_line(name, run, capsys):
    (run / name).write_bytes((run / name).read_bytes()[:50])
    assert "truncated" in refusal(capsys, "sample", run)
    (run / name).unlink()
    assert name in refusal(capsys, "sample", run)


def test_parts_of_two_runs_are_refused(run, tmp_path, capsys):
    pf.save(pf.schedules.Linear(), run / "fit.safetensors")
    assert "does not belong" in refusal(capsys, "sample", run)
    np.save(tmp_path / "line.npy", POINTS[:, :1])
    assert call("fit", tmp_path / "line.npy", "--out", tmp_path / "line") == 0
    (run / "fit.safetensors").write_bytes((tmp_path / "line" / "fit.safetensors").read_bytes())
    capsys.readouterr()
    assert "does not belong" in refusal(capsys, "sample", run)


# -------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fit", ["--out", "--tol", "--max-samples", "--schedule", "--seed", "--overwrite"]),
        ("sample", ["--count", "--steps", "--method", "--seed"]),
    ],
)
def test_help_mentions_every_option_and_an_example(command, options):
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert all(option in result.output for option in options)
    assert f"proxflow {command} " in result.output


def test_no_arguments_show_the_commands(capsys):
    assert call() == 0
    output = capsys.readouterr().out
    assert "fit" in output
    assert "sample" in output


# -------------------------------------------------------------------- as a process


def process(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from proxflow.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_a_real_process_fits_and_one_refuses(data, tmp_path):
    done = process("fit", data, "--out", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES
    refused = process("fit", data, "--out", "run", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "already holds a run" in refused.stderr
