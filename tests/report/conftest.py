"""One page of each kind; all of them with pictures."""

from __future__ import annotations

import pytest

from tests.report.written import Written, written


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """An exact fit."""
    return written(tmp_path_factory.mktemp("plane"), 2)


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A fit by noise."""
    return written(tmp_path_factory.mktemp("space"), 5)


@pytest.fixture(scope="session")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A smoothed fit."""
    return written(tmp_path_factory.mktemp("smooth"), 2, epsilon=0.25)
