"""What a fit is expected to take, beside what it takes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.semidiscrete.descent import Descent, Iterate
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.returned import Returned
from tests.cli.commands import call
from tests.marks import slow_beyond
from tests.semidiscrete.test_checkpoint import cloud


@pytest.mark.parametrize(
    ("points", "options"),
    slow_beyond(
        2,
        [
            (cloud(700, 5).float(), {"tol": 0.02}),
            (cloud(300, 4), {"tol": 0.05, "epsilon": 0.3}),
            (cloud(300, 5), {"tol": 0.02, "max_samples": 20_000}),
            (cloud(4000, 6).float(), {"tol": 0.1}),
        ],
    ),
)
def test_the_draws_are_those_of_the_fit(points: torch.Tensor, options: dict[str, Any]) -> None:
    expected = pf.semidiscrete.estimate(points, **options, seconds=0.5)
    if "max_samples" in options:
        with pytest.warns(pf.ConvergenceWarning):
            found = pf.semidiscrete.fit(points, **options)
    else:
        found = pf.semidiscrete.fit(points, **options)
    assert expected.method == found.method == "averaged gradient"
    assert expected.samples == pytest.approx(found.samples_used, rel=0.25)
    assert expected.evaluation_samples == pytest.approx(found.evaluation_samples, rel=0.25)
    assert found.seconds / 6 < expected.seconds < 6 * found.seconds  # the machine of the tests is shared


class MadeUpTime:
    """A clock that moves by what steps, searches and judgements are said to take, so that seconds are known exactly.

    A step takes as long for its own sake as for 400 draws; one of quite another size than the last, and a potential
    when it is made, take much longer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._last, self._patch = 0.0, 0, monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        self._takes(Descent, "step", self._of_step)
        self._takes(Descent, "mass", lambda _, draws, *__: 2e-5 * draws)
        self._takes(SemiDual, "count", lambda _, noise, __: 5e-6 * len(noise))
        self._takes(Returned, "judge", lambda _, __, draws, ___: 3e-5 * draws)
        self._takes(Returned, "_new", lambda *_: 0.2)

    def _of_step(self, descent: Descent, iterate: Iterate, _: torch.Generator) -> float:
        draws = descent.draws(iterate.moved)
        other, self._last = abs(draws - self._last) > 64, draws
        return 8e-3 + 0.3 * other

    def _takes(self, owner: type, name: str, seconds: Callable[..., float]) -> None:
        method = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            self.now += seconds(*arguments)
            return method(*arguments)

        self._patch.setattr(owner, name, timed)


def test_seconds_are_those_of_the_whole_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """First calls, and a potential that is made once, count once; steps get larger, and so cheaper, on the way."""
    MadeUpTime(monkeypatch)
    points = cloud(2000, 6).float()
    expected, found = pf.semidiscrete.estimate(points, tol=0.05), pf.semidiscrete.fit(points, tol=0.05)
    assert expected.samples == pytest.approx(found.samples_used, rel=0.01)
    assert found.seconds > 1
    assert expected.seconds == pytest.approx(found.seconds, rel=0.1)


@pytest.mark.slow
def test_fits_on_shortlists() -> None:
    points = cloud(3000, 6).float()
    expected = pf.semidiscrete.estimate(points, tol=0.05, shortlist=4, seconds=0.5)
    found = pf.semidiscrete.fit_shortlisted(points, tol=0.05, count=4)
    assert expected.samples == pytest.approx(found.samples_used, rel=0.25)
    assert expected.evaluation_samples == pytest.approx(found.evaluation_samples, rel=0.25)
    assert found.seconds / 6 < expected.seconds < 6 * found.seconds
    with pytest.raises(ValueError, match="a shortlist goes with neither a symmetry nor epsilon"):
        pf.semidiscrete.estimate(points, shortlist=4, epsilon=0.1)


def test_time_follows_the_tolerance() -> None:
    tolerances = (0.1, 0.002, 0.001)
    loose, half, tight = (pf.semidiscrete.estimate(cloud(2000, 8), tol=tol, seconds=0.3) for tol in tolerances)
    assert tight.samples == pytest.approx(2 * half.samples, rel=0.01)
    assert 1.2 * 2000 / 0.001 < tight.samples < 2 * 1.2 * 2000 / 0.001
    assert loose.samples == 1 << 17
    assert tight.seconds > 2 * loose.seconds


def test_exact_fits_are_timed_on_subsets() -> None:
    line, plane, one = (pf.semidiscrete.estimate(cloud(*size), seconds=0.5) for size in ((900, 1), (900, 2), (1, 7)))
    assert (line.method, plane.method, one.method) == ("quantiles", "damped Newton", "one atom")
    for found in (line, plane, one):
        assert found.samples == 0
        assert math.isfinite(found.seconds)
        assert found.seconds > 0
    more = pf.semidiscrete.estimate(cloud(9000, 2), seconds=0.5)
    assert more.seconds > 1.5 * plane.seconds


def test_bad_arguments_are_those_of_the_fit() -> None:
    with pytest.raises(ValueError, match="tol must be a positive number"):
        pf.semidiscrete.estimate(cloud(20, 4), tol=-1)


def test_the_command_prints_it_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", cloud(60, 5).numpy())
    assert call("fit", "x.npy", "--estimate") == 0
    said = capsys.readouterr().out
    assert "x: 60 points in dimension 5, about" in said
    assert "to fit" in said
    assert "GB" in said
    assert not (tmp_path / "runs").exists()
    assert call("fit", "x.npy", "--estimate", "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] > 0
