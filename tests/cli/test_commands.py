"""The command line: what fits and samples are, refusals in one line, help."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch
from PIL import Image
from typer.testing import CliRunner

import proxflow as pf
from proxflow import cli, report
from proxflow.cli import options
from proxflow.data import BUILT_IN
from proxflow.seeding import generator_of
from tests.cli.commands import POINTS, RUN_FILES, SAMPLE_FILES, call, refusal
from tests.data.sources import write_fashion_mnist

STANDARDISATION = "standardisation.safetensors"

# -------------------------------------------------------------------- fit


def test_fit_writes_a_run_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", data, "--out", tmp_path / "deep" / "run") == 0
    output = capsys.readouterr()
    assert sorted(os.listdir(tmp_path / "deep" / "run")) == RUN_FILES
    assert "points: 24 points in dimension 2, converged" in output.out
    assert str(tmp_path / "deep" / "run" / "report.html") in output.out
    assert output.err == ""


def test_another_seed_gives_another_fit(space: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        assert call("fit", space, "--out", tmp_path / name, "--seed", seed) == 0
    first, second, other = (
        pf.load(tmp_path / name / "fit.safetensors").potential.heights for name in ("first", "second", "other")
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_fit_is_that_of_the_library(finished: Path) -> None:
    dataset = pf.data.load(finished.parent / "points.npy", seed=3)
    expected = pf.semidiscrete.fit(dataset.points, seed=3)
    fitted = pf.load(finished / "fit.safetensors")
    assert torch.equal(fitted.potential.points, expected.potential.points)
    assert torch.equal(fitted.potential.heights, expected.potential.heights)


def test_an_exact_fit_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", data, "--out", tmp_path / "run") == 0
    lines = capsys.readouterr().out
    assert re.search(r"^  method               damped Newton; the cell masses are computed exactly$", lines, re.M)
    assert re.search(r"^  chi2 of the weights  \S+, exact \(tolerance 0.5\)$", lines, re.M)
    assert re.search(r"^  transport cost W2\^2  \S+, exact$", lines, re.M)
    assert re.search(r"^  noise samples        none to fit, 66,048 to check$", lines, re.M)
    assert "+-" not in lines
    assert "epsilon" not in lines


def test_a_fit_by_noise_says_so(space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", space, "--out", tmp_path / "run") == 0
    lines = capsys.readouterr().out
    assert re.search(r"^  method               averaged stochastic gradient; .* random draws$", lines, re.M)
    assert re.search(r"^  chi2 of the weights  \S+ \+- \S+ \(tolerance 0.5\)$", lines, re.M)
    assert re.search(r"^  transport cost W2\^2  \S+, 95% interval \[\S+, \S+\]$", lines, re.M)
    assert re.search(r"^  noise samples        [\d,]+ to fit, [\d,]+ to evaluate$", lines, re.M)


def test_one_point_needs_no_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "one.npy", np.ones((1, 2)))
    assert call("fit", tmp_path / "one.npy", "--out", tmp_path / "run") == 0
    lines = capsys.readouterr().out
    assert "chi2 of the weights  0, exact" in lines
    assert "noise samples" not in lines


def test_a_fit_that_does_not_converge_says_so_and_is_kept(
    real_page: None, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit", space, "--out", tmp_path / "run", "--max-samples", 1, "--tol", 1e-2) == 0
    output = capsys.readouterr()
    assert "NOT converged" in output.out
    assert "--max-samples" in output.out
    assert output.err == ""
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["max_samples"] == 1
    assert record["result"]["converged"] is False
    assert "Not converged" in (tmp_path / "run" / "report.html").read_text()


def test_a_smoothed_fit_is_that_of_the_library(
    real_page: None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit", data, "--out", tmp_path / "run", "--epsilon", 0.3) == 0
    assert "  smoothing epsilon    0.3\n" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["epsilon"] == record["result"]["epsilon"] == 0.3
    assert record["result"]["method"] == "averaged gradient"
    fitted = pf.load(tmp_path / "run" / "fit.safetensors")
    expected = pf.semidiscrete.fit(pf.data.load(data).points, epsilon=0.3, tol=0.5, max_samples=3000)
    assert isinstance(fitted.potential, pf.potentials.Entropic)
    assert torch.equal(fitted.potential.heights, expected.potential.heights)
    assert "smoothed" in (tmp_path / "run" / "report.html").read_text()


# -------------------------------------------------------------------- which data


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    kinds = [f"kind {'ba'[i % 2]}" for i in range(24)]
    obs = pd.DataFrame({"kind": kinds}, index=[f"cell{i}" for i in range(24)])
    anndata.AnnData(np.eye(24), obs=obs, obsm={"X_pca": POINTS}).write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_a_column_of_labels_and_a_representation_are_chosen_and_recorded(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--label", "kind", "--representation", "X_pca", "--points", 10]
    assert call("fit", cells, *options, "--out", tmp_path / "run") == 0
    assert "labels               2 classes of " in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    chosen = {name: record["arguments"][name] for name in ("label", "representation", "points", "data_dir")}
    assert chosen == {"label": "kind", "representation": "X_pca", "points": 10, "data_dir": None}
    expected = pf.data.load(cells, label="kind", representation="X_pca", n=10)
    assert record["data"]["labels"] == expected.class_counts
    assert record["data"]["sha256"] == expected.content_hash
    assert record["data"]["points"] == 10


def test_fashion_mnist_is_read_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_fashion_mnist(tmp_path)
    assert call("fit", "fashion-mnist", "--data-dir", folder, "--points", 5, "--out", tmp_path / "run") == 0
    assert "fashion-mnist: 5 points in dimension 784" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["data_dir"] == str(folder)
    assert record["data"]["event_shape"] == [28, 28]
    assert sum(record["data"]["labels"].values()) == 5
    assert call("sample", tmp_path / "run", "--count", 3) == 0
    assert np.load(tmp_path / "run" / "samples.npy").shape == (3, 28, 28)


def test_what_was_read_of_a_folder_of_images_is_said_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, side in (("train/cat/a", 5), ("train/dog/b", 6), ("test/cat/c", 7)):
        path = tmp_path / "pets" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), 10 * side, np.uint8)).save(path)
    assert "choose one with split='test' (--split test)" in refusal(capsys, "fit", tmp_path / "pets")
    assert call("fit", tmp_path / "pets", "--split", "train", "--size", 4, "--out", tmp_path / "run") == 0
    assert capsys.readouterr().err == "pets: 2 classes by sub-folder: cat, dog\n"
    arguments = json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]
    assert {name: arguments[name] for name in ("split", "size", "frames")} == {
        "split": "train",
        "size": 4,
        "frames": None,
    }


def test_missing_fashion_mnist_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "fit", "fashion-mnist", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert "Debian's package dataset-fashion-mnist" in message
    assert "--data-dir" in message


def test_many_points_say_how_many_and_how_to_take_fewer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert options.MANY_POINTS > 2000
    monkeypatch.setattr(options, "MANY_POINTS", 20)
    assert call("fit", data, "--out", tmp_path / "all") == 0
    assert capsys.readouterr().err == "points: fitting all 24 points; --points 5000 is a quicker random subset\n"
    assert call("fit", data, "--points", 24, "--out", tmp_path / "asked") == 0
    assert capsys.readouterr().err == ""


def test_the_command_on_the_page_repeats_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def kept(*_args: object, command: str, **_options: object) -> str:
        commands.append(command)
        return ""

    monkeypatch.setattr(report, "render_page", kept)
    spaced = tmp_path / "my points.npy"
    data.rename(spaced)
    assert call("fit", spaced, "--points", 20, "--seed", 3, "--out", tmp_path / "first") == 0
    program, *words = shlex.split(commands[0])
    assert program == "proxflow"
    cli.main([*words, "--out", str(tmp_path / "second")])
    assert commands[0] == commands[1]
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "second"))
    assert first["arguments"] == second["arguments"]
    assert first["result"]["chi2"] == second["result"]["chi2"]


# -------------------------------------------------------------------- refusals


def test_an_unknown_data_set_lists_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "fit", "didgits", "--out", tmp_path / "run")
    assert "'didgits'" in message
    assert all(name in message for name in BUILT_IN)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--schedule", "cubic"], "'cubic' is not one of 'linear', 'cosine'"),
        (["--tol", "-1"], "tol must be a positive number"),
        (["--tol", "nan"], "tol must be a positive number"),
        (["--tol", "small"], "--tol"),
        (["--epsilon", "-1"], "epsilon must be a number of at least 0"),
        (["--epsilon", "nan"], "epsilon must be a number of at least 0"),
        (["--max-samples", "0"], "max_samples must be at least 1"),
        (["--overwrite", "--resume"], "give one of them"),
        (["--points", "0"], "--points"),
        (["--points", "25"], "has 24 points, 25 were asked for"),
        (["--label", "kind"], "--label"),
        (["--representation", "X_pca"], "--representation"),
        (["--data-dir", "."], "--data-dir"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**32)], "--seed"),
        (["--device", "tpu"], "--device tpu is not one of cpu, cuda, cuda:0, cuda:1, ..."),
        (["--device", "cuda:one"], "--device cuda:one is not one of cpu"),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--colour", "red"], "--colour"),
        (["extra"], "extra"),
    ],
)
def test_wrong_options_of_fit_are_one_line(
    options: list[str], words: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, "fit", data, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("command", [["fit"], ["fit", "--estimate"], ["pairs", "--epochs", "2"]], ids=lambda c: c[-1])
def test_a_gpu_that_is_not_there_is_one_line(
    command: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    message = refusal(capsys, name, data, *options, "--device", "cuda", "--out", tmp_path / "run")
    assert "--device cuda: PyTorch" in message
    assert "sees no GPU here; leave it out" in message
    assert not (tmp_path / "run").exists()


def test_processes_take_the_gpus_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert options.device_named("cuda") == torch.device("cuda:0")
    for local, number in (("1", 1), ("3", 1)):  # more processes than GPUs share them
        monkeypatch.setenv("LOCAL_RANK", local)
        assert options.device_named("cuda") == torch.device("cuda", number)
    assert options.device_named("cuda:0") == torch.device("cuda:0")
    assert chosen == [0, 1, 1, 0]
    assert options.device_named("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="cuda:0 to cuda:1"):
        options.device_named("cuda:2")


def test_missing_and_unknown_commands_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data" in refusal(capsys, "fit").lower()
    assert "run" in refusal(capsys, "sample").lower()
    assert "paint" in refusal(capsys, "paint")


def test_a_damaged_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.pt").write_bytes(b"no such thing")
    assert str(tmp_path / "x.pt") in refusal(capsys, "fit", tmp_path / "x.pt", "--out", tmp_path / "run")


def test_a_missing_extra_is_one_line(
    real_page: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert 'pip install "proxflow[report]"' in refusal(capsys, "fit", data, "--out", tmp_path / "run")


def test_our_own_mistakes_are_not_hidden(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_options: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(report, "render_page", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fit", str(data), "--out", str(tmp_path / "run")])


# -------------------------------------------------------------------- sample


def test_samples_are_data_points_in_their_own_units(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample", run, "--count", 200, "--seed", 1) == 0
    samples = np.load(run / "samples.npy")
    assert samples.shape == (200, 2)
    assert samples.dtype == POINTS.dtype
    same = (samples[:, None] == POINTS[None]).all(2)
    assert same.any(1).all()  # bit for bit
    nearest = np.bincount(same.argmax(1), minlength=24)
    assert (nearest > 0).sum() >= 20
    assert str(run / "samples.npy") in capsys.readouterr().out
    assert sorted(os.listdir(run)) == sorted([*RUN_FILES, *SAMPLE_FILES])


def test_samples_follow_their_seed_and_record_it(run: Path) -> None:
    drawn = {}
    for label, seed in {"a": 1, "b": 1, "c": 2}.items():
        assert call("sample", run, "--count", 50, "--seed", seed) == 0
        drawn[label] = (run / "samples.npy").read_bytes()
    assert drawn["a"] == drawn["b"]
    assert drawn["a"] != drawn["c"]
    record = json.loads((run / "samples.json").read_text())
    assert record["command"] == "sample"
    assert record["arguments"] == {
        "count": 50,
        "steps": None,
        "method": "proximal",
        "label": None,
        "guidance": 1.0,
        "seed": 2,
    }
    assert record["versions"]["proxflow"] == pf.__version__


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "dopri5", "proximal"])
def test_every_method_ends_on_the_same_points(method: str, run: Path) -> None:
    assert call("sample", run, "--count", 20) == 0
    expected = np.load(run / "samples.npy")
    assert call("sample", run, "--count", 20, "--method", method, *([] if method == "dopri5" else ["--steps", 4])) == 0
    assert np.abs(np.load(run / "samples.npy") - expected).max() <= 1e-3 * np.abs(POINTS).max()


def test_the_cosine_schedule_is_kept_with_the_run(real_page: None, data: Path, tmp_path: Path) -> None:
    assert call("fit", data, "--out", tmp_path / "run", "--schedule", "cosine") == 0
    assert "Cosine()" in (tmp_path / "run" / "report.html").read_text()
    assert call("sample", tmp_path / "run", "--count", 10) == 0
    distances = np.abs(np.load(tmp_path / "run" / "samples.npy")[:, None] - POINTS[None]).max(2).min(1)
    assert distances.max() <= 1e-3


def test_samples_of_a_smoothed_fit_are_means_of_data_points(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert call("fit", data, "--out", folder, "--epsilon", 0.3) == 0
    potential, standardisation = pf.load(folder / "fit.safetensors").potential, pf.load(folder / STANDARDISATION)
    noise = torch.randn(10, 2, generator=generator_of(7))
    scores = (noise @ potential.points.T - potential.heights).double().numpy()
    means = torch.from_numpy(scipy.special.softmax(scores / 0.3, axis=1)) @ potential.points.double()
    expected = standardisation.undo(means).numpy()
    # trajectories are straight and run at constant speed: a few steps of Euler's method follow them
    for method, steps in (("proximal", 1), ("euler", 3)):
        assert call("sample", folder, "--count", 10, "--seed", 7, "--method", method, "--steps", steps) == 0
        samples = np.load(folder / "samples.npy")
        assert np.abs(samples - expected).max() <= 1e-5 * np.abs(POINTS).max(), method
    distances = np.abs(samples[:, None] - POINTS[None]).max(2).min(1)
    assert np.median(distances) > 1  # the data are tens apart


def test_images_get_a_picture(real_page: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    low, high = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["range"]
    assert 0 <= low < high <= 255
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
def test_wrong_options_of_sample_are_one_line(
    options: list[str], words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, "sample", run, *options)
    assert sorted(os.listdir(run)) == RUN_FILES


# -------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fit", ["--out", "--points", "--label", "--representation", "--data-dir"]),
        ("fit", ["--array", "--split", "--size", "--frames"]),
        ("fit", ["--tol", "--epsilon", "--max-samples", "--schedule", "--seed", "--overwrite", "--resume"]),
        ("sample", ["--count", "--steps", "--method", "--seed"]),
    ],
)
def test_help_mentions_every_option_and_an_example(command: str, options: list[str]) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert all(option in result.output for option in options)
    assert f"proxflow {command} " in result.output


@pytest.mark.parametrize("command", [[], ["fit"], ["audit"], ["compare"]])
def test_help_shows_no_value_for_options_that_take_none(command: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, [*command, "--help"]).output
    assert "--help" in shown
    assert "bool" not in shown.lower()


@pytest.mark.parametrize("command", ["pairs", "sample", "audit"])
def test_a_command_of_one_process_is_refused_under_torchrun(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process did all of it, and wrote the same file."""
    for name, value in {"TORCHELASTIC_RUN_ID": "a run", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert "runs in one process; start it without torchrun" in refusal(capsys, command, "moons")


def test_no_arguments_show_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    output = capsys.readouterr().out
    assert "fit" in output
    assert "sample" in output


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"proxflow {pf.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["fit"],
        ["train", "--steps", "2", "--width", "8", "--depth", "1"],
        ["batch-size", "--max-batch", "2"],
        ["terminal", "--count", "2"],
    ],
)
def test_json_is_one_object_that_says_what_the_record_says(
    command: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command[0], data, *command[1:], "--out", tmp_path / "run", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("run") == str(tmp_path / "run")
    assert printed.pop("report") == str(tmp_path / "run" / "report.html")
    assert printed == json.loads((tmp_path / "run" / "run.json").read_text())


def test_json_of_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample", run, "--count", 3, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["samples"] == str(run / "samples.npy")
    assert printed["arguments"]["count"] == 3


# -------------------------------------------------------------------- as a process


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from proxflow.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.mark.slow
def test_a_real_process_fits_and_one_refuses(data: Path, tmp_path: Path) -> None:
    done = process("fit", data, "--out", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES
    refused = process("fit", data, "--out", "run", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "already holds a run" in refused.stderr
