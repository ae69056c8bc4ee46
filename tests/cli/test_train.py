"""proxflow train, and proxflow sample of what it leaves."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.font_manager import fontManager
from PIL import Image

import proxflow as pf
from proxflow import report
from proxflow.seeding import generator_of
from tests.cli.commands import call, refusal
from tests.marks import slow_beyond

QUICK = ["--steps", "20", "--width", "16", "--depth", "1", "--batch-size", "16"]
TRAINED = [
    "points.safetensors",
    "history.csv",
    "network.safetensors",
    "report.html",
    "run.json",
    "standardisation.safetensors",
    "training.safetensors",
]
FITTED = "checkpoint.safetensors"


@pytest.fixture(autouse=True)
def blank_training_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "render_training_page", lambda *_args, **_options: "<!doctype html>")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three classes, told by name, in a table."""
    generator = np.random.default_rng(0)
    rows = [f"{x:.6f},{y:.6f},{'abc'[i % 3]}" for i, (x, y) in enumerate(generator.normal(size=(60, 2)))]
    (tmp_path / "table.csv").write_text("x,y,kind\n" + "\n".join(rows) + "\n")
    return tmp_path / "table.csv"


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "tfevents" not in path.name)


def test_data_that_do_not_vary_are_trained_on_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No variance is a multiple of theirs."""
    (tmp_path / "equal.csv").write_text("x,y\n" + "1.5,3\n" * 20)
    for run in ("one", "two"):
        assert call("train", tmp_path / "equal.csv", "--out", tmp_path / run, *QUICK) == 0
    said = capsys.readouterr().out
    assert "total variance over the data's not defined, the data do not vary" in said
    quality = json.loads((tmp_path / "one" / "run.json").read_text())["result"]["quality"]
    assert set(quality["total_variance_over_data"]) == {None}
    assert call("compare", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "both") == 0
    assert "nan" not in said + capsys.readouterr().out


@pytest.mark.parametrize("coupling", slow_beyond(2, ["subspace", "minibatch", "semidiscrete", "independent"]))
def test_a_run_of_each_coupling_can_be_sampled(
    data: Path, tmp_path: Path, coupling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert call("train", data, "--out", folder, "--coupling", coupling, *QUICK) == 0
    assert "energy distance" in capsys.readouterr().out
    kept = {"semidiscrete": ["fit.safetensors", FITTED], "subspace": [FITTED]}.get(coupling, [])
    assert _files(folder) == sorted([*TRAINED, *kept])
    record = json.loads((folder / "run.json").read_text())
    assert record["command"] == "train"
    assert record["arguments"]["coupling"] == coupling
    assert record["result"]["steps"] == 20
    assert call("sample", folder, "--count", "7", "--steps", "2", "--method", "euler") == 0
    samples = np.load(folder / "samples.npy")
    assert samples.shape == (7, 2)
    assert abs(samples[:, 0].mean() - 1000) < 200  # in the units of the data


@pytest.mark.slow
def test_training_on_pairs_by_shortlists(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted: list[Any] = []
    whole = pf.couplings.Subspace.fit

    def noted(*arguments: Any, **options: Any) -> Any:
        fitted.append(whole(*arguments, **options))
        return fitted[-1]

    monkeypatch.setattr(pf.couplings.Subspace, "fit", noted)
    assert call("train", data, "--out", tmp_path / "run", "--shortlist", 2, *QUICK) == 0
    assert fitted[0].potential.count == 2
    assert (tmp_path / "run" / FITTED).exists()
    assert call("train", data, "--out", tmp_path / "run", "--shortlist", 2, *QUICK, "--resume") == 0


@pytest.mark.parametrize("options", [[], ["--directions", "1"]])
def test_the_directions_are_chosen_or_given(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any
) -> None:
    assert call("train", data, "--out", tmp_path / "run", *options, *QUICK) == 0
    said = capsys.readouterr().out
    assert ("principal directions coupled" in said) == (not options)
    assert "total variance over the data's" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["directions"] == (1 if options else None)


def test_classes_are_sampled_by_name(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call("train", labelled, "--label", "kind", "--out", folder, *QUICK) == 0
    assert call("sample", folder, "--label", "b", "--guidance", "2.5", "--count", "3") == 0
    first = np.load(folder / "samples.npy")
    assert call("sample", folder, "--label", "c", "--guidance", "2.5", "--count", "3") == 0
    assert not np.array_equal(first, np.load(folder / "samples.npy"))
    capsys.readouterr()
    assert "no class 'd'; known are a, b, c" in refusal(capsys, "sample", folder, "--label", "d")
    assert "--guidance 2 is towards a class; name it by --label" in refusal(capsys, "sample", folder, "--guidance", "2")


def test_names_of_classes_that_are_numbers_are_names_still(tmp_path: Path) -> None:
    """Clusters "0", "2" and "10", as scanpy names them, are the classes 0, 2 and 1 of a network."""
    clusters = np.repeat(["0", "2", "10"], 20)
    rows = clusters.astype(float)[:, None] + np.linspace(-0.1, 0.1, 60)[:, None]
    np.savez(tmp_path / "x.npz", points=rows, labels=clusters)
    folder = tmp_path / "run"
    assert call("train", tmp_path / "x.npz", "--conditional", "--out", folder, *QUICK) == 0
    assert call("sample", folder, "--label", "all", "--count", "3") == 0
    assert np.load(folder / "samples-labels.npy").tolist() == ["0"] * 3 + ["10"] * 3 + ["2"] * 3
    network, standardisation = (pf.load(folder / f"{name}.safetensors") for name in ("network", "standardisation"))
    for name, number in {"0": 0, "10": 1, "2": 2}.items():
        assert call("sample", folder, "--label", name, "--count", "3") == 0
        noise = torch.randn((3, 1), generator=generator_of(0))
        with torch.no_grad():
            end = pf.sampling.integrate(pf.matching.field_of(network, number), noise, steps=8, method="proximal").end
        assert np.allclose(np.load(folder / "samples.npy"), standardisation.undo(end), atol=1e-6), name


def test_all_classes_are_sampled_with_their_labels(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert call("train", labelled, "--label", "kind", "--out", folder, *QUICK) == 0
    capsys.readouterr()
    draw = ("sample", folder, "--label", "all", "--count", "4")
    assert call(*draw) == 0
    said = capsys.readouterr().out
    samples, labels = np.load(folder / "samples.npy"), np.load(folder / "samples-labels.npy")
    assert labels.tolist() == [*"aaaabbbbcccc"]
    assert f"12 samples of shape {samples.shape[1:]} of 3 classes: {folder / 'samples.npy'}" in said
    assert f"labels: {folder / 'samples-labels.npy'}" in said
    network, standardisation = (pf.load(folder / f"{name}.safetensors") for name in ("network", "standardisation"))
    noise = torch.randn(samples.shape, generator=generator_of(0))
    with torch.no_grad():
        field = pf.matching.field_of(network, torch.arange(3).repeat_interleave(4))
        expected = standardisation.undo(pf.sampling.integrate(field, noise, steps=8, method="proximal").end)
    assert np.allclose(samples, expected, atol=1e-6)
    assert call("sample", folder, "--label", "b", "--count", "4") == 0
    assert not (folder / "samples-labels.npy").exists()
    assert "of the class b" in capsys.readouterr().out
    assert call("sample", folder, "--count", "4") == 0
    assert "of all classes mixed" in capsys.readouterr().out
    assert call(*draw, "--out", tmp_path / "drawn.csv") == 0
    table = pf.data.load(tmp_path / "drawn.csv", standardise="none")
    assert table.label_names == ("a", "b", "c")
    assert np.allclose(table.points, samples, atol=1e-4)
    assert call(*draw, "--out", tmp_path / "drawn.npy") == 0
    assert np.load(tmp_path / "drawn-labels.npy").tolist() == labels.tolist()
    (tmp_path / "drawn.npy").unlink()
    capsys.readouterr()
    assert "drawn-labels.npy is already there" in refusal(capsys, *draw, "--out", tmp_path / "drawn.npy")


def test_all_of_one_class_are_labelled_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", points=np.random.default_rng(0).random((30, 2)), labels=np.zeros(30, dtype=int))
    assert call("train", tmp_path / "x.npz", "--conditional", "--out", tmp_path / "run", *QUICK) == 0
    assert call("sample", tmp_path / "run", "--label", "all", "--count", "3") == 0
    assert np.load(tmp_path / "run/samples-labels.npy").tolist() == ["0"] * 3
    assert "of 1 class:" in capsys.readouterr().out


@pytest.mark.slow
def test_images_of_all_classes_are_drawn_a_row_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, kinds = np.random.default_rng(0).random((40, 6, 6)), np.arange(40) % 3
    np.savez(tmp_path / "x.npz", points=images, labels=kinds)
    folder = tmp_path / "run"
    assert call("train", tmp_path / "x.npz", "--conditional", "--out", folder, *QUICK) == 0
    sizes = {}
    for count in (1, 4, 30):
        assert call("sample", folder, "--label", "all", "--count", count) == 0
        assert np.load(folder / "samples-labels.npy").tolist() == [name for name in "012" for _ in range(count)]
        with Image.open(folder / "samples.png") as picture:
            sizes[count] = picture.size
    assert sizes[1][0] < sizes[4][0] < sizes[30][0]
    assert sizes[30][0] < 4 * sizes[30][1]  # at most ten of a class
    capsys.readouterr()
    assert call("sample", folder, "--label", "all", "--count", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [said[name] for name in ("samples", "labels", "picture")] == [
        str(folder / name) for name in ("samples.npy", "samples-labels.npy", "samples.png")
    ]


def test_a_class_whose_letters_no_font_has_is_a_warning_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", own)
    images = np.random.default_rng(0).random((20, 6, 6))
    np.savez(tmp_path / "x.npz", points=images, labels=np.array(["猫", "b"] * 10))
    assert call("train", tmp_path / "x.npz", "--conditional", "--out", tmp_path / "run", *QUICK) == 0
    capsys.readouterr()
    assert call("sample", tmp_path / "run", "--label", "all", "--count", "2") == 0
    assert "\nwarning: no font that is installed has 猫: " in "\n" + capsys.readouterr().err


def test_the_command_on_the_page_repeats_the_run(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def kept(*given: Any, **_options: object) -> str:
        commands.append(given[-1])
        return ""

    monkeypatch.setattr(report, "render_training_page", kept)
    assert call("train", labelled, "--conditional", "--label", "kind", "--out", tmp_path / "one", *QUICK) == 0
    assert call(*shlex.split(commands[0])[1:], "--out", tmp_path / "two") == 0
    assert (tmp_path / "one/network.safetensors").read_bytes() == (tmp_path / "two/network.safetensors").read_bytes()


def test_a_fit_in_its_place_leaves_nothing_of_a_training(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert call("train", data, "--out", folder, *QUICK) == 0
    assert (folder / "history.csv").exists()
    assert call("fit", data, "--out", folder, "--overwrite") == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "fit.safetensors",
        "report.html",
        "rows.safetensors",
        "run.json",
        "standardisation.safetensors",
    ]


def test_minibatch_with_labels_says_what_it_does(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", labelled, "--label", "kind", "--coupling", "minibatch", "--out", tmp_path / "run", *QUICK) == 0
    assert "the noise is not normal in training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "classes coupled apart, so that the noise of a class is normal"),
        (
            ["--strength", "0", "--directions", "1"],
            "classes coupled at strength 0: the noise of the pairs tells the class",
        ),
    ],
)
def test_it_says_how_classes_are_coupled(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    given = ["train", labelled, "--label", "kind", *options, "--out", tmp_path / "run", *QUICK]
    assert call(*given) == 0
    assert words in capsys.readouterr().out
    assert call("sample", tmp_path / "run", "--label", "all", "--guidance", "2") == 0


def test_same_command_same_network(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert call("train", data, "--out", tmp_path / name, *QUICK) == 0
    assert (tmp_path / "one/network.safetensors").read_bytes() == (tmp_path / "two/network.safetensors").read_bytes()


def test_resume_after_interruption(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("proxflow.matching.training_run")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert call("train", data, "--out", whole, *QUICK) == 0
    step = module.Run.advance
    with monkeypatch.context() as patch:

        def stop(self: Any, pairs: Any, interrupted: Any) -> None:
            step(self, pairs, interrupted)
            if self.step == 9:
                self.save()
                raise KeyboardInterrupt

        patch.setattr(module.Run, "advance", stop)
        assert call("train", data, "--out", folder, *QUICK) == 130
    assert "training.safetensors" in _files(folder)
    assert "run.json" not in _files(folder)
    assert call("train", data, "--out", folder, "--resume", *QUICK) == 0
    assert (folder / "network.safetensors").read_bytes() == (whole / "network.safetensors").read_bytes()


def test_a_finished_run_is_lengthened(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call("train", data, "--out", folder, *QUICK) == 0
    short = (folder / "network.safetensors").read_bytes()
    capsys.readouterr()
    assert "--resume to continue it" in refusal(capsys, "train", data, "--out", folder, *QUICK)
    assert call("train", data, "--out", folder, "--resume", *QUICK, "--steps", 30) == 0
    assert json.loads((folder / "run.json").read_text())["result"]["steps"] == 30
    assert (folder / "network.safetensors").read_bytes() != short
    capsys.readouterr()
    message = refusal(capsys, "train", data, "--out", folder, "--resume", *QUICK, "--steps", 25)
    assert "has made 30 steps; ask for steps of at least that" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coupling", "best"], "'best' is not one of 'subspace', 'semidiscrete', 'minibatch', 'independent'"),
        (["--network", "transformer"], "'transformer' is not one of 'residual', 'mlp', 'unet'"),
        (["--conditional"], "has no labels; name their column by --label, or leave out --conditional"),
        (["--coupling", "minibatch", "--ot-batch", "1000"], "--ot-batch 1000 is more than the 24 points"),
        (["--ot-batch", "8"], "--ot-batch is for --coupling minibatch"),
        (["--coupling", "semidiscrete", "--shortlist", "8"], "--shortlist is for --coupling subspace; leave it out"),
        (["--directions", "1", "--coupling", "independent"], "--directions is for --coupling subspace"),
        (["--strength", "0"], "--strength is for labels"),
        (["--directions", "3"], "--directions 3 is more than the 2 coordinates"),
        (["--points", "1"], "a network needs at least two"),
        (["--network", "unet"], "use MLP for vectors"),
        (["--learning-rate", "nan"], "--learning-rate must be a positive number, got nan"),
        (["--learning-rate", "-1"], "--learning-rate must be a positive number, got -1"),
        (["--resume"], "holds nothing to resume"),
    ],
)
def test_refusals(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refusal(capsys, "train", data, "--out", tmp_path / "run", *QUICK, *options)
    assert not (tmp_path / "run").exists()  # nor a fit of the coupling, which takes long


def test_guidance_that_is_no_number_leaves_the_samples_alone(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("train", labelled, "--label", "kind", "--out", tmp_path / "run", *QUICK)
    capsys.readouterr()
    said = refusal(capsys, "sample", tmp_path / "run", "--label", "a", "--guidance", "nan")
    assert "guidance must be a finite number" in said
    assert "samples.npy" not in _files(tmp_path / "run")


def test_minibatches_are_no_larger_than_the_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", data, "--coupling", "minibatch", "--out", tmp_path / "run", *QUICK, "--batch-size", 100) == 0
    assert "noise itself" in capsys.readouterr().out


def test_a_fitted_flow_takes_no_label(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "takes no --label" in refusal(capsys, "sample", run, "--label", "1")
