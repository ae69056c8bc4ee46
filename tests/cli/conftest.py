"""Data files, finished runs, and pages without pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from proxflow import cli, report
from tests.cli.commands import POINTS, RUN_FILES, SPACE

render_page = report.render_page


@pytest.fixture(autouse=True)
def blank_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are the business of tests/report; ``real_page`` asks for one here."""
    monkeypatch.setattr(report, "render_page", lambda *_args, **_options: "<!doctype html>")


@pytest.fixture
def real_page(monkeypatch: pytest.MonkeyPatch, blank_page: None) -> None:
    monkeypatch.setattr(report, "render_page", render_page)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "points.npy", POINTS)
    return tmp_path / "points.npy"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """Data that are fitted by noise."""
    np.save(tmp_path / "space.npy", SPACE)
    return tmp_path / "space.npy"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tests may read but not change."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "points.npy", POINTS)
    cli.main(["fit", str(folder / "points.npy"), "--out", str(folder / "run"), "--seed", "3"])
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in RUN_FILES:
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder
