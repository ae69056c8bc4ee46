"""Ctrl-C during a fit: what a fit by itself returns, and that it ends what the fit is a part of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import Conditional
from proxflow.couplings.directions import choose_directions
from proxflow.semidiscrete import fit, fit_shortlisted
from proxflow.semidiscrete.damped_newton import DampedNewton
from proxflow.semidiscrete.stochastic_fit import Run
from tests.cli.commands import call, refusal
from tests.marks import slow_beyond

STEPS = {"stochastic": Run, "exact": DampedNewton}


def rows(dim: int, n: int = 120) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


def pressed(monkeypatch: pytest.MonkeyPatch, kind: Any, number: int, *, listed: bool = False) -> None:
    """Ctrl-C, once, in place of a step of a fit of this kind; of one on shortlists, if wanted, not of one for them."""
    step, made = kind.step, [0]

    def interrupted(self: Any) -> None:
        made[0] += not listed or self.problem.shortlist is not None
        if made[0] == number:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(kind, "step", interrupted)


@pytest.mark.parametrize(("kind", "dim"), [("stochastic", 5), ("exact", 2)])
def test_a_fit_says_that_it_was_interrupted(
    kind: str, dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not fit(rows(dim), tol=0.1).interrupted
    with monkeypatch.context() as patch:
        pressed(patch, STEPS[kind], 2)
        with pytest.warns(pf.ConvergenceWarning, match=r"fit was interrupted at chi2 = .* let it run longer, or use"):
            stopped = fit(rows(dim), tol=0.01)
    assert stopped.interrupted
    assert not stopped.converged
    pf.save(stopped, tmp_path / "fit")
    assert pf.load(tmp_path / "fit").interrupted
    if kind == "stochastic":
        pressed(monkeypatch, Run, 2, listed=True)
        with pytest.warns(pf.ConvergenceWarning, match="fit was interrupted"):
            assert fit_shortlisted(rows(dim), count=2, tol=0.01).interrupted


def test_atoms_beside_their_plane_end_with_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded onto a plane in R^20: draws are the certificate there, of half-made heights as well."""
    frame = torch.linalg.qr(torch.randn(20, 2, generator=torch.Generator().manual_seed(1)))[0]
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) ** 3 @ frame.T
    assert fit(points).method == "damped Newton"
    pressed(monkeypatch, DampedNewton, 2)
    with pytest.warns(pf.ConvergenceWarning, match="fit was interrupted"):
        stopped = fit(points)
    assert (stopped.method, stopped.interrupted, stopped.samples_used) == ("damped Newton", True, 0)
    assert stopped.chi2_stderr > 0


PARTS: dict[str, tuple[type, Callable[[], object]]] = {
    "classes": (Run, lambda: Conditional.fit(rows(5), torch.arange(120) % 3, tol=0.1)),
    "one group": (Run, lambda: Conditional.fit(rows(5), torch.arange(120) % 3, strength=0.0, tol=0.1)),
    "classes by shortlists": (Run, lambda: Conditional.fit(rows(5), torch.arange(120) % 3, shortlist=2, tol=0.1)),
    "directions": (DampedNewton, lambda: choose_directions(rows(5) * torch.tensor([9.0, 4.0, 1.0, 0.1, 0.1]))),
    "batch sizes": (Run, lambda: pf.analysis.minibatch_convergence(rows(5), [1, 2], fit_tol=0.1)),
    "audit": (Run, lambda: pf.analysis.audit(lambda t, x: -x, rows(5))),
}


@pytest.mark.filterwarnings("ignore:fit was interrupted")
@pytest.mark.parametrize("part", PARTS)
def test_what_a_fit_is_a_part_of_ends_with_it(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, whole = PARTS[part]
    pressed(monkeypatch, kind, 2, listed="shortlist" in part)
    with pytest.raises(KeyboardInterrupt):
        whole()


# ------------------------------------------------------------------ going on


@pytest.mark.filterwarnings("ignore:fit was interrupted")
@pytest.mark.parametrize(("directions", "shortlist"), slow_beyond(1, [(None, None), (2, None), (2, 2)]))
def test_a_conditional_fit_goes_on_from_its_checkpoint(
    directions: int | None, shortlist: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = torch.arange(120) % 3 - 1
    options: dict[str, Any] = {"directions": directions, "shortlist": shortlist, "tol": 0.05, "seed": 3}
    whole = Conditional.fit(rows(5), labels, **options)
    folder = tmp_path / "fits"
    with monkeypatch.context() as patch:
        steps = DampedNewton if directions == 2 and shortlist is None else Run
        pressed(patch, steps, 2 if steps is DampedNewton else 60, listed=shortlist is not None)
        with pytest.raises(KeyboardInterrupt):
            Conditional.fit(rows(5), labels, **options, checkpoint=folder)
    assert folder.is_dir()
    again = Conditional.fit(rows(5), labels, **options, checkpoint=folder)
    assert sorted(file.name for file in folder.iterdir()) == [f"{k}.safetensors" for k in (-1, 0, 1)]
    for label in (-1, 0, 1):
        assert torch.equal(again.potentials[label].heights, whole.potentials[label].heights)
    with pytest.raises(ValueError, match="belongs to a fit of other points"):
        Conditional.fit(rows(5) + 1, labels, **options, checkpoint=folder)


def test_a_checkpoint_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "not" / "there"):
        with pytest.raises(ValueError, match="checkpoint must be a folder, or one that can be made, got"):
            Conditional.fit(rows(2), torch.arange(120) % 2, checkpoint=path)


@pytest.mark.filterwarnings("ignore:fit was interrupted")
@pytest.mark.parametrize("coupling", slow_beyond(1, ["semidiscrete", "subspace", "classes"]))
def test_ctrl_c_during_the_fit_does_not_begin_to_train(
    coupling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was trained on the pairs of half a fit could not be resumed: the fit goes on, and its pairs are others."""
    quick: list[Any] = ["--steps", 20, "--width", 16, "--depth", 1, "--batch-size", 16]
    options: dict[str, list[Any]] = {
        "semidiscrete": ["--coupling", "semidiscrete"],
        "subspace": ["--directions", 2],
        "classes": ["--conditional", "--directions", 2],
    }
    monkeypatch.setattr(pf.report, "render_training_page", lambda *_arguments, **_options: "<!doctype html>")
    given = ["moons", "--points", 60, *options[coupling], *quick]
    assert call("train", *given, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        pressed(patch, DampedNewton, 2)
        assert call("train", *given, "--out", tmp_path / "run") == 130
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "run" / "training.safetensors").exists()
    assert call("train", *given, "--out", tmp_path / "run", "--resume") == 0
    networks = [(tmp_path / name / "network.safetensors").read_bytes() for name in ("whole", "run")]
    assert networks[0] == networks[1]
    if coupling == "classes":
        checkpoints = tmp_path / "run" / "checkpoints"
        (checkpoints / "of_another_run").write_text("")
        assert call("train", *given, "--out", tmp_path / "run", "--overwrite") == 0
        assert sorted(file.name for file in checkpoints.iterdir()) == ["0.safetensors", "1.safetensors"]


@pytest.mark.filterwarnings("ignore:fit was interrupted")
def test_ctrl_c_during_the_fit_writes_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pressed(monkeypatch, DampedNewton, 2)
    file = tmp_path / "pairs.safetensors"
    assert call("pairs", "moons", "--points", 60, "--directions", 2, "--epochs", 1, "--out", file) == 130
    assert not file.exists()


@pytest.mark.slow
def test_another_tolerance_leaves_a_run_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pf.report, "render_training_page", lambda *_arguments, **_options: "<!doctype html>")
    quick: list[Any] = ["--width", 16, "--depth", 1, "--batch-size", 16]
    given = ["digits", "--points", 60, "--directions", 5, *quick, "--out", tmp_path / "run"]
    assert call("train", *given, "--tol", 0.5, "--steps", 4) == 0
    capsys.readouterr()
    assert "belongs to a run on other data" in refusal(
        capsys, "train", *given, "--tol", 0.0003, "--steps", 8, "--resume"
    )
    assert call("train", *given, "--tol", 0.5, "--steps", 8, "--resume") == 0
    assert call("train", *given, "--tol", 0.5, "--steps", 4, "--overwrite") == 0
    assert [file.name for file in (tmp_path / "run").glob("checkpoint*")] == ["checkpoint-0.5.safetensors"]


def test_a_wrong_argument_leaves_no_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["moons", "--points", 60, "--conditional", "--out", tmp_path / "run"]
    assert "tol must be a positive number" in refusal(capsys, "train", *given, "--tol", 0)
    assert not (tmp_path / "run").exists()
